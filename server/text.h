/* SPDX-License-Identifier: GPL-2.0 */
/*
 * text.h - a string that grows, and what JSON and Prometheus make of a name.
 */
#ifndef SERVER_TEXT_H
#define SERVER_TEXT_H

#include <stdbool.h>
#include <stddef.h>

/* Begins as { 0 }. Without memory it loses its content and says so. */
struct text {
	char *s;	/* with a NUL once anything was added */
	size_t len, cap;
	bool failed;
};

void text_add(struct text *t, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

/*
 * @s in double quotes with everything escaped that JSON, or a label of
 * Prometheus, does not take as it is. UTF-8 is left as it is. A byte that is none
 * becomes U+FFFD and its two hexadecimal digits; so do the three bytes of a U+FFFD
 * itself, and what a label has no escape for: no two names ever look the same.
 */
void text_quoted(struct text *t, const char *s);
void text_label(struct text *t, const char *s);

/*
 * The same for people: without quotes, with \ooo for what would upset a terminal,
 * and with blanks up to @width characters, and one more.
 */
void text_column(struct text *t, const char *s, size_t width);

void text_free(struct text *t);

#endif
