// SPDX-License-Identifier: GPL-2.0
/*
 * config.c - fuzz target: arbitrary configuration files. A refusal names a file
 * that there is, and a line that it has; what is accepted has an image for every
 * export.
 *
 * A form feed ends the main file: what is between that and the next ones are the
 * files of whatever directory it includes. They are in memory only: the linker
 * leads fopen(3) and scandir(3) here.
 */
#include <dirent.h>
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config.h"

#define FILES	4U

static struct {
	const char *text;
	size_t len;
} file[FILES];
static unsigned int files;
static bool in_memory;

static void check(bool ok)
{
	if (!ok)
		abort();
}

/* Which one is it? FILES: none. */
static unsigned int number_of(const char *path)
{
	const char *slash = strrchr(path, '/');

	if (!strcmp(path, "conf"))
		return 0;
	return slash && slash[1] >= '1' && slash[1] < (char)('0' + files) &&
	       !strcmp(slash + 2, ".conf") ? (unsigned int)(slash[1] - '0') : FILES;
}

FILE *__real_fopen(const char *path, const char *mode);
FILE *__wrap_fopen(const char *path, const char *mode);
FILE *__wrap_fopen(const char *path, const char *mode)
{
	unsigned int i;

	if (!in_memory)
		return __real_fopen(path, mode);
	i = number_of(path);
	check(i < files);
	/* One that has gone since the directory was read. */
	errno = ENOENT;
	return file[i].len ? fmemopen((char *)file[i].text, file[i].len, "r") : NULL;
}

int __wrap_scandir(const char *dir, struct dirent ***list,
		   int (*want)(const struct dirent *),
		   int (*order)(const struct dirent **, const struct dirent **));
int __wrap_scandir(const char *dir, struct dirent ***list,
		   int (*want)(const struct dirent *),
		   int (*order)(const struct dirent **, const struct dirent **))
{
	unsigned int i;
	int n = 0;

	(void)order;
	check(*dir == '/');
	if (dir[1] == '-') {
		errno = ENOENT;
		return -1;
	}
	*list = calloc(FILES, sizeof(**list));
	check(*list);
	for (i = 1; i < files; i++) {
		struct dirent *d = calloc(1, sizeof(*d));

		check(d);
		snprintf(d->d_name, sizeof(d->d_name), "%u.conf", i);
		check(want(d));
		(*list)[n++] = d;
	}
	return n;
}

/* "FILE:LINE: ", of one of them; the directory may have colons as well. */
static void check_refusal(const char *why, const char *include)
{
	size_t lines = 1, len = strlen(include), i;
	unsigned int n = 0;
	char *end;
	long line;

	if (!strncmp(why, "conf:", 5)) {
		line = strtol(why + 5, &end, 10);
	} else {
		check(len && !strncmp(why, include, len) && why[len] == '/');
		n = (unsigned int)(why[len + 1] - '0');
		check(n && n < files && !strncmp(why + len + 2, ".conf:", 6));
		if (!file[n].len)
			return;
		line = strtol(why + len + 8, &end, 10);
	}
	check(!strncmp(end, ": ", 2));
	for (i = 0; i < file[n].len; i++)
		lines += file[n].text[i] == '\n';
	check(line >= 0 && (size_t)line <= lines);
}

/* What the directory was, to be told by the message: as the reader takes lines. */
static void find_include(char *include, size_t size)
{
	const char *p = file[0].text, *end = p + file[0].len;

	*include = '\0';
	while (p < end) {
		const char *nl = memchr(p, '\n', (size_t)(end - p)), *eq;
		const char *stop = nl ? nl : end;

		while (p < stop && strchr(" \t", *p) && *p)
			p++;
		eq = memchr(p, '=', (size_t)(stop - p));
		if (eq && (size_t)(eq - p) >= 10 && !memcmp(p, "includedir", 10)) {
			for (eq++; eq < stop && *eq && strchr(" \t", *eq); eq++)
				;
			while (stop > eq && stop[-1] && strchr(" \t\r", stop[-1]))
				stop--;
			snprintf(include, size, "%.*s", (int)(stop - eq), eq);
		}
		p = nl ? nl + 1 : end;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *p = (const char *)data, *end = p + size, *cut;
	struct export_settings *e;
	char why[512] = "", include[300];
	struct config c;
	bool ok;

	for (files = 0; files < FILES; files++, p = cut + 1) {
		cut = memchr(p, '\f', (size_t)(end - p));
		file[files].text = p;
		file[files].len = (size_t)((cut ? cut : end) - p);
		if (!cut) {
			files++;
			break;
		}
	}
	find_include(include, sizeof(include));
	in_memory = true;
	ok = file[0].len ? config_load(&c, "conf", why, sizeof(why)) :
	     config_parse(&c, "conf", "", 0, why, sizeof(why));
	in_memory = false;
	if (!ok) {
		check(strlen(why) < sizeof(why));
		check_refusal(why, include);
	} else {
		check(c.port);
		for (e = c.exports; e; e = e->next)
			check(e->path && *e->path == '/' &&
			      strlen(e->name) <= 256 &&
			      (e->overlay == OVERLAY_NONE ||
			       (e->overlay_dir && !e->read_only)));
	}
	config_free(&c);
	return 0;
}
