// SPDX-License-Identifier: GPL-2.0
/*
 * text.c - see text.h.
 */
#include "text.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool room(struct text *t, size_t n)
{
	size_t cap = t->cap ? t->cap : 1024;
	char *s;

	if (t->failed)
		return false;
	if (t->len + n + 1 <= t->cap)
		return true;
	while (cap < t->len + n + 1)
		cap *= 2;
	s = realloc(t->s, cap);
	if (!s) {
		text_free(t);
		t->failed = true;
		return false;
	}
	t->s = s;
	t->cap = cap;
	return true;
}

void text_add(struct text *t, const char *fmt, ...)
{
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(NULL, 0, fmt, ap);
	va_end(ap);
	if (n < 0 || !room(t, (size_t)n))
		return;
	va_start(ap, fmt);
	vsnprintf(t->s + t->len, (size_t)n + 1, fmt, ap);
	va_end(ap);
	t->len += (size_t)n;
}

static void add_bytes(struct text *t, const char *p, size_t n)
{
	if (!room(t, n))
		return;
	memcpy(t->s + t->len, p, n);
	t->len += n;
	t->s[t->len] = '\0';
}

/*
 * How many bytes the character at @s has, which ends with a NUL; 0: it is none of
 * UTF-8, or the one that stands for what is none.
 */
static size_t utf8(const char *s)
{
	const unsigned char *p = (const unsigned char *)s;
	size_t n = *p < 0x80 ? 1 : *p < 0xc2 ? 0 : *p < 0xe0 ? 2 :
		   *p < 0xf0 ? 3 : *p < 0xf5 ? 4 : 0, i;

	for (i = 1; i < n; i++)
		if ((p[i] & 0xc0) != 0x80)
			return 0;
	/* Longer than need be, a surrogate, beyond the last one. */
	if ((*p == 0xe0 && p[1] < 0xa0) || (*p == 0xed && p[1] > 0x9f) ||
	    (*p == 0xf0 && p[1] < 0x90) || (*p == 0xf4 && p[1] > 0x8f))
		return 0;
	return memcmp(s, "\xef\xbf\xbd", n == 3 ? 3 : 1) ? n : 0;
}

/* Does it move the cursor, or worse? C1 is the two bytes c2 80 to c2 9f. */
static bool is_control(const char *s)
{
	const unsigned char *p = (const unsigned char *)s;

	return *p < 0x20 || *p == 0x7f || (*p == 0xc2 && p[1] < 0xa0);
}

enum how { JSON, LABEL, PLAIN };

/* One byte that is not taken as it is. */
static void escape(struct text *t, enum how how, unsigned char c)
{
	if (how == PLAIN)
		text_add(t, "\\%03o", c);
	else if (c == '"' || c == '\\')
		text_add(t, "\\%c", c);
	else if (how == LABEL && c == '\n')
		text_add(t, "\\n");
	else if (how == JSON && c < 0x80)
		text_add(t, "\\u%04x", c);
	else
		text_add(t, "\xef\xbf\xbd%02x", c);
}

/* Returns how many characters of a terminal that makes; not of escapes. */
static size_t add_name(struct text *t, enum how how, const char *s)
{
	const char *from = s;
	size_t wide = 0, n;

	while (*s) {
		n = utf8(s);
		if (n && !is_control(s) && *s != '\\' &&
		    (*s != '"' || how == PLAIN)) {
			s += n;
			wide++;
			continue;
		}
		add_bytes(t, from, (size_t)(s - from));
		/* All of a control character; one byte of what is no character. */
		for (n = n ? n : 1; n; n--) {
			escape(t, how, (unsigned char)*s++);
			wide += 4;
		}
		from = s;
	}
	add_bytes(t, from, (size_t)(s - from));
	return wide;
}

void text_quoted(struct text *t, const char *s)
{
	add_bytes(t, "\"", 1);
	add_name(t, JSON, s);
	add_bytes(t, "\"", 1);
}

void text_label(struct text *t, const char *s)
{
	add_bytes(t, "\"", 1);
	add_name(t, LABEL, s);
	add_bytes(t, "\"", 1);
}

void text_column(struct text *t, const char *s, size_t width)
{
	size_t wide = add_name(t, PLAIN, s);

	for (; wide < width; wide++)
		add_bytes(t, " ", 1);
	add_bytes(t, " ", 1);
}

void text_free(struct text *t)
{
	free(t->s);
	t->s = NULL;
	t->len = t->cap = 0;
}
