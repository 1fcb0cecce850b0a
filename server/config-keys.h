/* SPDX-License-Identifier: GPL-2.0 */
/*
 * config-keys.h - between config.c, which reads files, and config-keys.c, which
 * knows what may stand in a section.
 */
#ifndef SERVER_CONFIG_KEYS_H
#define SERVER_CONFIG_KEYS_H

#include "config.h"

struct key;

/* Keys of one kind of section, at most. */
#define MAX_KEYS	40

/* A file on its way through. */
struct reader {
	struct config *c;
	const char *name;
	int line;
	bool included;
	const struct key *keys;		/* of the section; NULL before one */
	struct export_settings *export;	/* the section; NULL: [generic] */
	struct export_settings **end;
	char include[256];		/* directory, or "" */
	int include_line;
	/* In which line of the section each key was; 0: not there. */
	int *lines, generic_lines[MAX_KEYS], export_lines[MAX_KEYS];
	char *why;
	size_t why_size;
};

/* Always false: for ->why, "FILE:LINE: " and the sentence. */
bool config_fail(struct reader *r, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

/* A copy of @value for *@field, whose former one is freed. */
bool config_text(struct reader *r, char **field, const char *value);

/* Those of the section of an export, or those of [generic]. */
const struct key *config_keys(bool of_export);

/* A line of the section that is being read, KEY = VALUE; it is taken apart. */
bool config_key(struct reader *r, char *line);

#endif
