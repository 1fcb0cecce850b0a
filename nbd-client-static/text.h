/* SPDX-License-Identifier: GPL-2.0 */
/*
 * text.h - small strings, small files, messages and time.
 */
#ifndef CLIENT_TEXT_H
#define CLIENT_TEXT_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * One line on stderr, "nbd-client: ...", written at once so that the lines of
 * several programs on a console do not mix. Whatever was quoted cannot steer the
 * terminal: control characters and broken UTF-8 are shown as '?'.
 */
__attribute__((format(printf, 1, 2)))
void say(const char *fmt, ...);

/* All of @s on stdout. printed() says whether all of all calls could be written. */
void print(const char *s);
bool printed(void);

/*
 * Append to the string in @buf, cutting what does not fit in @size bytes;
 * @buf must hold a string. True when everything fitted.
 */
__attribute__((format(printf, 3, 4)))
bool append(char *buf, size_t size, const char *fmt, ...);

/* The same from the start of @buf: what it held is lost. */
__attribute__((format(printf, 3, 4)))
bool put(char *buf, size_t size, const char *fmt, ...);

/* append() for somebody else's arguments. */
__attribute__((format(printf, 3, 0)))
bool append_args(char *buf, size_t size, const char *fmt, va_list args);

/* 0 to 15, or -1. */
int hex_digit(char c);

/* Decimal digits only, no more than @max; false for anything else. */
bool parse_number(const char *s, size_t len, uint64_t max, uint64_t *value);

bool starts_with(const char *s, const char *prefix);

/* Is @part somewhere in @s? (klibc's strstr() is twenty times as long.) */
bool contains(const char *s, const char *part);

/*
 * A table as one string: entries "KEY VALUE", each with its NUL, and an empty
 * one at the end. The value of @word, or NULL.
 */
const char *packed_find(const char *list, const char *word);

/* ASCII letters compared without case, whatever the locale. */
bool same_name(const char *a, const char *b);

/*
 * What an errno means. Not strerror(): its table is a tenth of the program,
 * and the C libraries differ in their words.
 */
const char *error_text(int error);

/*
 * Read at most @size - 1 bytes of a file into @buf and end them with a NUL.
 * Returns their number, or -1 with errno (@buf is then an empty string).
 */
long read_file(const char *path, char *buf, size_t size);

/* Let the file @path hold @text. False, with errno, where that failed. */
bool write_file(const char *path, const char *text);

/* read_file() without the newline at the end. */
long read_line(const char *path, char *buf, size_t size);

/*
 * The next name after @last in @dir, in the order of strcmp, of those that
 * begin with @prefix and end in @suffix. At the end false, and @last is "".
 */
#define FILE_NAME 64	/* longer names are passed over */
bool next_file(const char *dir, const char *prefix, const char *suffix,
	       char last[FILE_NAME]);

/*
 * Take the next line (without its newline) off *@text, in place; NULL at the
 * end. The same for words between blanks.
 */
char *next_line(char **text);
char *next_word(char **text);

/* Milliseconds, from 10 at the first call, in steps of 10; never goes back. */
unsigned long long clock_ms(void);

/* Sleep; a signal may end it early. */
void sleep_ms(unsigned int ms);

/* Fill with @len (up to 8) random bytes, of lesser quality without urandom. */
void random_bytes(void *p, size_t len);

#endif /* CLIENT_TEXT_H */
