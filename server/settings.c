// SPDX-License-Identifier: GPL-2.0
/*
 * settings.c - what is asked of an export, as a value: made, compared, freed. It
 * knows nothing of files, so that the configuration can be read without any.
 */
#include "export.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct export_settings *export_settings_new(const char *name, const char *path)
{
	struct export_settings *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	s->name = strdup(name);
	s->path = path ? strdup(path) : NULL;
	s->flush = s->fua = s->trim = true;
	if (!s->name || (path && !s->path)) {
		export_settings_free(s);
		return NULL;
	}
	return s;
}

void export_settings_free(struct export_settings *s)
{
	if (!s)
		return;
	free(s->name);
	free(s->path);
	free(s->description);
	free(s->authfile);
	free(s->identity);
	free(s->overlay_dir);
	free(s->stations);
	free(s->pins);
	free(s->prerun);
	free(s->postrun);
	free(s->transaction_log);
	free((char *)s->where);
	free(s);
}

void setting_line_add(struct setting_lines *l, size_t offset, int line)
{
	if (l->n == SETTING_LINES)
		return;
	l->at[l->n].offset = (unsigned short)offset;
	l->at[l->n++].line = line;
}

int setting_line(const struct setting_lines *l, size_t offset)
{
	unsigned int i;

	for (i = 0; i < l->n; i++)
		if (l->at[i].offset == offset)
			return l->at[i].line;
	return 0;
}

void export_settings_place(const struct export_settings *s, const void *field,
			   char *why, size_t why_size)
{
	int line = field ? setting_line(&s->lines, (size_t)((const char *)field -
							    (const char *)s)) : 0;
	const char *colon = s->where ? strrchr(s->where, ':') : NULL;
	char *said;

	if (!colon)
		return;
	said = strdup(why);
	snprintf(why, why_size, "%.*s:%d: %s", (int)(colon - s->where), s->where,
		 line ? line : atoi(colon + 1), said ? said : "out of memory");
	free(said);
}

static bool same_text(const char *a, const char *b)
{
	return a && b ? !strcmp(a, b) : a == b;
}

bool export_settings_same(const struct export_settings *a,
			  const struct export_settings *b)
{
	return same_text(a->name, b->name) && same_text(a->path, b->path) &&
	       same_text(a->description, b->description) &&
	       same_text(a->authfile, b->authfile) &&
	       same_text(a->identity, b->identity) &&
	       same_text(a->overlay_dir, b->overlay_dir) &&
	       same_text(a->stations, b->stations) &&
	       same_text(a->pins, b->pins) &&
	       same_text(a->prerun, b->prerun) &&
	       same_text(a->postrun, b->postrun) &&
	       same_text(a->transaction_log, b->transaction_log) &&
	       a->overlay == b->overlay && a->overlay_max == b->overlay_max &&
	       a->overlay_count == b->overlay_count &&
	       a->size == b->size && a->read_only == b->read_only &&
	       a->flush == b->flush && a->fua == b->fua && a->trim == b->trim &&
	       a->rotational == b->rotational &&
	       a->max_connections == b->max_connections;
}
