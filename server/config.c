// SPDX-License-Identifier: GPL-2.0
/*
 * config.c - the configuration file. Strict: nbd-server has always taken a key
 * it does not know for a comment, so that "read_only = true" gave a writable
 * export. Here every line is understood or the server does not start, and says
 * which line, and which key was probably meant. Here is how files, sections and
 * lines are read; config-keys.c knows the keys.
 */
#define _GNU_SOURCE
#include "config.h"

#include <dirent.h>
#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config-keys.h"
#include "log.h"

/* Files larger than this are not configuration. */
#define MAX_FILE	(1U << 20)

bool config_fail(struct reader *r, const char *fmt, ...)
{
	int n = snprintf(r->why, r->why_size, "%s:%d: ", r->name, r->line);
	va_list ap;

	if (n < 0 || (size_t)n >= r->why_size)
		return false;
	va_start(ap, fmt);
	vsnprintf(r->why + n, r->why_size - (size_t)n, fmt, ap);
	va_end(ap);
	return false;
}

/* What can be told only when all of a section is read. */
static bool end_section(struct reader *r)
{
	const struct export_settings *e = r->export;
	char quoted[300];
	int said;

	if (!e)
		return true;
	log_quote(quoted, sizeof(quoted), e->name, strlen(e->name));
	if (!e->path)
		return config_fail(r, "export \"%s\" (%s) has no exportname; say what to serve: exportname = /srv/root.img",
				   quoted, e->where);
	if (strstr(e->path, "%s"))
		return config_fail(r, "export \"%s\" (%s): this server does not put addresses into names of files (%%s); give each station its own writes over one image with overlay = keep",
				   quoted, e->where);
	if (e->read_only && e->overlay != OVERLAY_NONE)
		return config_fail(r, "export \"%s\" (%s) is read-only and has an overlay, which is for writing; take one of them out",
				   quoted, e->where);
	/* A folder may stay for an overlay that is switched off. */
	said = setting_line(&e->lines, offsetof(struct export_settings, overlay));
	if (e->overlay == OVERLAY_NONE &&
	    (e->overlay_max || e->overlay_count || e->stations ||
	     (e->overlay_dir && !said)))
		return config_fail(r, "export \"%s\" (%s) has %s, but no overlay; say which: overlay = keep, or overlay = fresh",
				   quoted, e->where, e->overlay_max ? "overlay_max" :
				   e->overlay_count ? "overlay_count" :
				   e->stations ? "stations" : "overlay_dir");
	return true;
}

static bool section_line(struct reader *r, char *line)
{
	char *close = strchr(line, ']'), *where;
	const char *name = line + 1;
	char quoted[100];

	if (!close || close[1]) {
		log_quote(quoted, sizeof(quoted), line, strlen(line));
		return config_fail(r, "\"%s\": a section is a name in brackets: [root]",
				   quoted);
	}
	if (!end_section(r))
		return false;
	*close = '\0';
	if (!strcmp(name, "generic")) {
		if (r->included)
			return config_fail(r, "[generic] in a file that is included; put it into the main one");
		r->export = NULL;
		r->keys = config_keys(false);
		r->lines = r->generic_lines;
		return true;
	}
	if (strlen(name) > 256)
		return config_fail(r, "the name of an export has at most 256 bytes");
	r->export = export_settings_new(name, NULL);
	if (!r->export || asprintf(&where, "%s:%d", r->name, r->line) < 0)
		return config_fail(r, "out of memory");
	r->export->where = where;
	r->keys = config_keys(true);
	r->lines = r->export_lines;
	memset(r->export_lines, 0, sizeof(r->export_lines));
	*r->end = r->export;
	r->end = &r->export->next;
	return true;
}

/* @line is writable, without its newline. */
static bool one_line(struct reader *r, char *line)
{
	size_t len = strlen(line);

	while (len && strchr(" \t\r", line[len - 1]))
		line[--len] = '\0';
	line += strspn(line, " \t");
	if (!*line || *line == '#' || *line == ';')
		return true;
	return *line == '[' ? section_line(r, line) : config_key(r, line);
}

static bool parse_text(struct reader *r, const char *text, size_t len)
{
	const char *end = text + len;

	/* What editors of another system begin a text with. */
	if (len >= 3 && !memcmp(text, "\xef\xbb\xbf", 3))
		text += 3;
	r->line = 0;
	r->keys = NULL;
	r->export = NULL;
	while (text < end) {
		const char *nl = memchr(text, '\n', (size_t)(end - text));
		size_t n = (size_t)((nl ? nl : end) - text);
		char *line = strndup(text, n);
		bool ok;

		r->line++;
		if (!line)
			return config_fail(r, "out of memory");
		ok = strlen(line) == n ? one_line(r, line) :
		     config_fail(r, "a zero byte; not a text file");
		free(line);
		if (!ok)
			return false;
		text += n + (nl != NULL);
	}
	return end_section(r);
}

static bool parse_file(struct reader *r, const char *path)
{
	FILE *f = fopen(path, "re");
	const char *outer = r->name;
	const int line = r->line;
	size_t len = 0;
	char *text;
	bool ok;

	if (!f) {
		snprintf(r->why, r->why_size, "%s: %s", path, strerror(errno));
		return false;
	}
	text = malloc(MAX_FILE + 1);
	if (text)
		len = fread(text, 1, MAX_FILE + 1, f);
	r->name = path;
	if (!text) {
		snprintf(r->why, r->why_size, "%s: out of memory", path);
		ok = false;
	} else if (ferror(f)) {
		snprintf(r->why, r->why_size, "%s: %s", path, strerror(errno));
		ok = false;
	} else if (len > MAX_FILE) {
		snprintf(r->why, r->why_size, "%s: larger than %u bytes: not a configuration file",
			 path, MAX_FILE);
		ok = false;
	} else {
		ok = parse_text(r, text, len);
	}
	free(text);
	fclose(f);
	/* @path is the caller's: what is said from here on is of another file. */
	r->name = outer;
	r->line = line;
	return ok;
}

static int is_conf(const struct dirent *d)
{
	size_t len = strlen(d->d_name);

	return len > 5 && !strcmp(d->d_name + len - 5, ".conf");
}

static bool parse_directory(struct reader *r)
{
	struct dirent **list;
	int n = scandir(r->include, &list, is_conf, alphasort), i;
	bool ok = true;

	if (n < 0)
		return config_fail(r, "includedir %s: %s", r->include, strerror(errno));
	for (i = 0; i < n; i++) {
		char path[600];

		snprintf(path, sizeof(path), "%s/%s", r->include,
			 list[i]->d_name);
		ok = ok && parse_file(r, path);
		free(list[i]);
	}
	free(list);
	return ok;
}

static void reader_init(struct reader *r, struct config *c, const char *name,
			char *why, size_t why_size)
{
	memset(c, 0, sizeof(*c));
	c->realtime = true;
	memset(r, 0, sizeof(*r));
	r->c = c;
	r->name = name;
	r->end = &c->exports;
	r->why = why;
	r->why_size = why_size;
}

static bool default_path(char **field, const char *dir, const char *name)
{
	return *field || asprintf(field, "%s/%s", dir, name) >= 0;
}

/* Where what outlives the server is kept; systemd's StateDirectory= says so. */
static const char *default_state_dir(void)
{
	const char *dir = getenv("STATE_DIRECTORY");

	return dir && *dir == '/' ? dir : CONFIG_STATE_DIR;
}

static bool finish(struct reader *r)
{
	struct config *c = r->c;
	struct export_settings *e;
	bool ok = config_text(r, &c->file, r->name);

	if (ok && !c->port)
		ok = config_text(r, &c->port, "10809");
	if (ok && !c->state_dir)
		ok = config_text(r, &c->state_dir, default_state_dir());
	for (e = c->exports; e && ok; e = e->next) {
		ok = default_path(&e->pins, c->state_dir, "pins");
		if (ok && e->overlay != OVERLAY_NONE)
			ok = default_path(&e->overlay_dir, c->state_dir,
					  "overlays");
		if (!ok)
			return config_fail(r, "out of memory");
	}
	r->line = setting_line(&c->lines, offsetof(struct config, dual_listen));
	if (ok && c->dual_listen && !c->unix_socket)
		return config_fail(r, "duallisten needs a Unix socket besides; name it: unixsock = /run/nbdroot/nbd.sock");
	return ok;
}

bool config_load(struct config *c, const char *path, char *why, size_t why_size)
{
	struct reader r;

	reader_init(&r, c, path, why, why_size);
	if (!parse_file(&r, path))
		return false;
	if (*r.include) {
		r.included = true;
		r.line = r.include_line;
		if (!parse_directory(&r))
			return false;
	}
	return finish(&r);
}

bool config_parse(struct config *c, const char *name, const char *text,
		  size_t len, char *why, size_t why_size)
{
	struct reader r;

	reader_init(&r, c, name, why, why_size);
	return parse_text(&r, text, len) && finish(&r);
}

const char *config_place(const struct config *c, const void *field, char *buf,
			 size_t size)
{
	const int line = setting_line(&c->lines, (size_t)((const char *)field -
							  (const char *)c));

	buf[0] = '\0';
	if (line)
		snprintf(buf, size, "%s:%d: ", c->file, line);
	return buf;
}

void config_free(struct config *c)
{
	struct export_settings *s;

	while ((s = c->exports)) {
		c->exports = s->next;
		export_settings_free(s);
	}
	free(c->file);
	free(c->address);
	free(c->port);
	free(c->user);
	free(c->group);
	free(c->unix_socket);
	free(c->control);
	free(c->metrics_port);
	free(c->state_dir);
	memset(c, 0, sizeof(*c));
}
