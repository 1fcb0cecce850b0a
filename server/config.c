// SPDX-License-Identifier: GPL-2.0
/*
 * config.c - the configuration file. Strict: nbd-server has always taken a key
 * it does not know for a comment, so that "read_only = true" gave a writable
 * export. Here every line is understood or the server does not start, and says
 * which line, and which key was probably meant.
 *
 * Keys of nbd-server(5) that name something this server does not have are known
 * too: the error says so, and their "false" is accepted, so that a file written
 * for the other server needs as few edits as can be.
 */
#define _GNU_SOURCE
#include "config.h"

#include <dirent.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "args.h"
#include "log.h"
#include "nbd-session.h"

/* Files larger than this are not configuration. */
#define MAX_FILE	(1U << 20)

enum type {
	T_TEXT,		/* any string */
	T_PATH,		/* an absolute path */
	T_BOOL,
	T_SIZE,
	T_COUNT,
	T_PORT,
	T_INCLUDE,	/* a directory of further files */
	T_OVERLAY,	/* none, keep or fresh */
	T_COW,		/* true: fresh */
	T_WORD,		/* of nbd-session.h */
	T_VIRTSTYLE,
	T_EITHER,	/* true or false: it makes no difference here */
	T_ONLY_FALSE,	/* a feature of nbd-server(5) that is not here */
	T_NOT_HERE,	/* the same, that cannot be switched off */
};

struct key {
	const char *name;
	enum type type;
	size_t offset;		/* in struct config or export_settings */
};

#define GENERIC(name, type, field) { name, type, offsetof(struct config, field) }
#define EXPORT(name, type, field) \
	{ name, type, offsetof(struct export_settings, field) }

static const struct key generic_keys[] = {
	GENERIC("allowlist", T_BOOL, allow_list),
	GENERIC("controlsock", T_PATH, control),
	GENERIC("duallisten", T_BOOL, dual_listen),
	GENERIC("group", T_TEXT, group),
	{ "includedir", T_INCLUDE, 0 },
	GENERIC("listenaddr", T_TEXT, address),
	GENERIC("max_threads", T_COUNT, workers),
	GENERIC("maxperaddress", T_COUNT, max_per_address),
	GENERIC("metricsport", T_PORT, metrics_port),
	GENERIC("port", T_PORT, port),
	GENERIC("statedir", T_PATH, state_dir),
	GENERIC("unixsock", T_PATH, unix_socket),
	GENERIC("user", T_TEXT, user),
	{ "cacertfile", T_NOT_HERE, 0 },
	{ "certfile", T_NOT_HERE, 0 },
	{ "force_tls", T_ONLY_FALSE, 0 },
	{ "keyfile", T_NOT_HERE, 0 },
	{ "oldstyle", T_ONLY_FALSE, 0 },
	{ "tlsprio", T_NOT_HERE, 0 },
	{ NULL, 0, 0 },
};

static const struct key export_keys[] = {
	EXPORT("authfile", T_PATH, authfile),
	EXPORT("copyonwrite", T_COW, overlay),
	EXPORT("cowdir", T_PATH, overlay_dir),
	EXPORT("description", T_TEXT, description),
	EXPORT("exportname", T_PATH, path),
	EXPORT("filesize", T_SIZE, size),
	EXPORT("flush", T_BOOL, flush),
	EXPORT("fua", T_BOOL, fua),
	EXPORT("identity", T_WORD, identity),
	EXPORT("maxconnections", T_COUNT, max_connections),
	EXPORT("overlay", T_OVERLAY, overlay),
	EXPORT("overlay_dir", T_PATH, overlay_dir),
	EXPORT("overlay_max", T_SIZE, overlay_max),
	EXPORT("postrun", T_PATH, postrun),
	EXPORT("prerun", T_PATH, prerun),
	EXPORT("readonly", T_BOOL, read_only),
	EXPORT("rotational", T_BOOL, rotational),
	EXPORT("stations", T_PATH, stations),
	EXPORT("transactionlog", T_PATH, transaction_log),
	EXPORT("trim", T_BOOL, trim),
	{ "datalog", T_ONLY_FALSE, 0 },
	{ "force_tls", T_ONLY_FALSE, 0 },
	{ "listenaddr", T_NOT_HERE, 0 },
	{ "multifile", T_ONLY_FALSE, 0 },
	{ "sdp", T_ONLY_FALSE, 0 },
	{ "sparse_cow", T_EITHER, 0 },
	{ "splice", T_EITHER, 0 },
	{ "sync", T_ONLY_FALSE, 0 },
	{ "temporary", T_ONLY_FALSE, 0 },
	{ "treefiles", T_ONLY_FALSE, 0 },
	{ "virtstyle", T_VIRTSTYLE, 0 },
	{ "waitfile", T_ONLY_FALSE, 0 },
	{ NULL, 0, 0 },
};

/* Of one kind of section. */
#define MAX_KEYS	40

_Static_assert(sizeof(generic_keys) / sizeof(*generic_keys) <= MAX_KEYS &&
	       sizeof(export_keys) / sizeof(*export_keys) <= MAX_KEYS,
	       "struct reader has a line for each key");

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
	/* In which line of the section each key was; 0: not there. */
	int *lines, generic_lines[MAX_KEYS], export_lines[MAX_KEYS];
	char *why;
	size_t why_size;
};

static bool fail(struct reader *r, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

static bool fail(struct reader *r, const char *fmt, ...)
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

/* Edit distance of two short words; long ones count as far apart. */
static unsigned int distance(const char *a, const char *b)
{
	size_t la = strlen(a), lb = strlen(b), i, j;
	unsigned int row[33];

	if (la > 32 || lb > 32)
		return 99;
	for (j = 0; j <= lb; j++)
		row[j] = (unsigned int)j;
	for (i = 1; i <= la; i++) {
		unsigned int corner = row[0];

		row[0] = (unsigned int)i;
		for (j = 1; j <= lb; j++) {
			unsigned int up = row[j];
			unsigned int best = corner + (a[i - 1] != b[j - 1]);

			if (up + 1 < best)
				best = up + 1;
			if (row[j - 1] + 1 < best)
				best = row[j - 1] + 1;
			corner = up;
			row[j] = best;
		}
	}
	return row[lb];
}

static const char *nearest(const struct key *keys, const char *word)
{
	const struct key *k, *best = NULL;
	unsigned int d, best_d = 4;

	for (k = keys; k->name; k++) {
		if (k->type == T_ONLY_FALSE || k->type == T_NOT_HERE ||
		    k->type == T_EITHER || k->type == T_VIRTSTYLE)
			continue;
		d = distance(k->name, word);
		if (d < best_d) {
			best_d = d;
			best = k;
		}
	}
	return best ? best->name : NULL;
}

static bool unknown_key(struct reader *r, const char *word)
{
	const struct key *other = r->export ? generic_keys : export_keys;
	const char *near = nearest(r->keys, word);
	const struct key *k;
	char quoted[100];

	for (k = other; k->name; k++)
		if (!strcmp(k->name, word))
			return fail(r, "\"%s\" belongs into %s", word,
				    r->export ? "[generic]" :
				    "the section of an export");
	log_quote(quoted, sizeof(quoted), word, strlen(word));
	if (near)
		return fail(r, "unknown key \"%s\"; did you mean \"%s\"?",
			    quoted, near);
	return fail(r, "unknown key \"%s\"; nbd-server(5) lists those there are",
		    quoted);
}

static bool parse_bool(const char *s, bool *out)
{
	if (!strcmp(s, "true") || !strcmp(s, "1"))
		*out = true;
	else if (!strcmp(s, "false") || !strcmp(s, "0"))
		*out = false;
	else
		return false;
	return true;
}

static bool parse_count(const char *s, unsigned int *out)
{
	unsigned int n = 0;

	if (!*s)
		return false;
	for (; *s; s++) {
		if (*s < '0' || *s > '9' || n > 100000)
			return false;
		n = n * 10 + (unsigned int)(*s - '0');
	}
	*out = n;
	return true;
}

static bool set_text(struct reader *r, char **field, const char *value)
{
	char *copy = strdup(value);

	if (!copy)
		return fail(r, "out of memory");
	free(*field);
	*field = copy;
	return true;
}

static bool set_key(struct reader *r, const struct key *k, const char *value)
{
	char *base = r->export ? (char *)r->export : (char *)r->c;
	void *field = base + k->offset;
	char quoted[100];
	bool on;

	log_quote(quoted, sizeof(quoted), value, strlen(value));
	switch (k->type) {
	case T_TEXT:
		if (strlen(value) > 1024)
			return fail(r, "%s: longer than 1024 bytes", k->name);
		return set_text(r, field, value);
	case T_PATH:
		if (*value != '/')
			return fail(r, "%s = \"%s\": not an absolute path; write it from the root: /srv/root.img",
				    k->name, quoted);
		return set_text(r, field, value);
	case T_PORT:
		if (!args_port(value))
			return fail(r, "%s = \"%s\": not a port; write a number from 1 to 65535: 10809",
				    k->name, quoted);
		return set_text(r, field, value);
	case T_BOOL:
		if (!parse_bool(value, field))
			return fail(r, "%s = \"%s\": write true or false",
				    k->name, quoted);
		return true;
	case T_SIZE:
		if (!args_size(value, field))
			return fail(r, "%s = \"%s\": not a size; write bytes, or a number with k, m, g or t: 512m",
				    k->name, quoted);
		return true;
	case T_COUNT:
		if (!parse_count(value, field))
			return fail(r, "%s = \"%s\": not a number; 0 is any number",
				    k->name, quoted);
		return true;
	case T_INCLUDE:
		if (r->included)
			return fail(r, "%s in a file that is included itself",
				    k->name);
		if (*value != '/' || strlen(value) >= sizeof(r->include))
			return fail(r, "%s = \"%s\": not an absolute path",
				    k->name, quoted);
		strcpy(r->include, value);
		return true;
	case T_OVERLAY:
		if (!strcmp(value, "none"))
			*(enum overlay_kind *)field = OVERLAY_NONE;
		else if (!strcmp(value, "keep"))
			*(enum overlay_kind *)field = OVERLAY_KEEP;
		else if (!strcmp(value, "fresh"))
			*(enum overlay_kind *)field = OVERLAY_FRESH;
		else
			return fail(r, "%s = \"%s\": write keep (a station's writes stay), fresh (they go at its next boot) or none",
				    k->name, quoted);
		return true;
	case T_COW:
		if (!parse_bool(value, &on))
			return fail(r, "%s = \"%s\": write true or false",
				    k->name, quoted);
		*(enum overlay_kind *)field = on ? OVERLAY_FRESH : OVERLAY_NONE;
		return true;
	case T_WORD:
		if (!nbd_session_word(value) || !strcmp(value, "-"))
			return fail(r, "%s = \"%s\": write 1 to 64 of A-Z a-z 0-9 . _ : -, such as lab-2026-11",
				    k->name, quoted);
		return set_text(r, field, value);
	case T_VIRTSTYLE:
		if (!strcmp(value, "none") || !strcmp(value, "ipliteral"))
			return true;	/* without %s they are the same */
		return fail(r, "%s = \"%s\": this server does not put addresses into names of files; give each station its own writes over one image with overlay = keep",
			    k->name, quoted);
	case T_EITHER:
		if (parse_bool(value, &on))
			return true;
		return fail(r, "%s = \"%s\": write true or false", k->name,
			    quoted);
	case T_ONLY_FALSE:
		if (parse_bool(value, &on) && !on)
			return true;
		return fail(r, "%s: this server does not have it; take the line out, or set it to false",
			    k->name);
	case T_NOT_HERE:
		return fail(r, "%s: this server does not have it; take the line out",
			    k->name);
	}
	return false;
}

/* What a key has set, to be compared and freed; NULL: it sets nothing. */
static char *field_text(const struct reader *r, const struct key *k)
{
	const char *base = r->export ? (char *)r->export : (char *)r->c;
	const void *field = base + k->offset;
	char *text = NULL;
	int n = 0;

	switch (k->type) {
	case T_TEXT:
	case T_PATH:
	case T_PORT:
	case T_WORD:
		return strdup(*(char *const *)field);
	case T_INCLUDE:
		return strdup(r->include);
	case T_BOOL:
		n = asprintf(&text, "%d", *(const bool *)field);
		break;
	case T_SIZE:
		n = asprintf(&text, "%llu",
			     (unsigned long long)*(const uint64_t *)field);
		break;
	case T_COUNT:
		n = asprintf(&text, "%u", *(const unsigned int *)field);
		break;
	case T_OVERLAY:
	case T_COW:
		n = asprintf(&text, "%d", (int)*(const enum overlay_kind *)field);
		break;
	default:
		break;
	}
	return n < 0 ? NULL : text;
}

static bool sets_a_field(const struct key *k)
{
	switch (k->type) {
	case T_INCLUDE:
	case T_VIRTSTYLE:
	case T_EITHER:
	case T_ONLY_FALSE:
	case T_NOT_HERE:
		return false;
	default:
		return true;
	}
}

/* The key, maybe by its other name, that was in this section before. */
static const struct key *find_earlier(const struct reader *r,
				      const struct key *k)
{
	const struct key *other;

	for (other = r->keys; other->name; other++)
		if (r->lines[other - r->keys] &&
		    (other == k || (sets_a_field(k) && sets_a_field(other) &&
				    other->offset == k->offset)))
			return other;
	return NULL;
}

/*
 * Twice is once too often: who reads the one line does not know of the other.
 * "overlay = keep" that some "copyonwrite = false" took back would let every
 * station write the image.
 */
static bool set_key_once(struct reader *r, const struct key *k,
			 const char *value)
{
	const struct key *earlier = find_earlier(r, k);
	char *before = earlier ? field_text(r, earlier) : NULL, *after;
	char quoted[100];
	bool ok = set_key(r, k, value);

	if (ok && before) {
		after = field_text(r, k);
		if (!after || strcmp(before, after))
			ok = fail(r, "%s = \"%s\": %s:%d sets %s to something else; take one of them out",
				  k->name, log_quote(quoted, sizeof(quoted),
						     value, strlen(value)),
				  r->name, r->lines[earlier - r->keys],
				  earlier->name);
		free(after);
	}
	free(before);
	if (!earlier)
		r->lines[k - r->keys] = r->line;
	return ok;
}

static bool key_line(struct reader *r, char *line)
{
	char *eq = strchr(line, '='), *value, *end;
	const struct key *k;
	char quoted[100];

	if (!eq) {
		log_quote(quoted, sizeof(quoted), line, strlen(line));
		return fail(r, "\"%s\": neither [SECTION] nor KEY = VALUE",
			    quoted);
	}
	if (!r->keys)
		return fail(r, "a key before the first section; begin with [generic], or with the name of an export in brackets");
	value = eq + 1 + strspn(eq + 1, " \t");
	for (end = eq; end > line && strchr(" \t", end[-1]); end--)
		;
	*end = '\0';
	for (k = r->keys; k->name; k++)
		if (!strcmp(k->name, line))
			return set_key_once(r, k, value);
	return unknown_key(r, line);
}

/* What can be told only when all of a section is read. */
static bool end_section(struct reader *r)
{
	const struct export_settings *e = r->export;
	char quoted[300];

	if (!e)
		return true;
	log_quote(quoted, sizeof(quoted), e->name, strlen(e->name));
	if (!e->path)
		return fail(r, "export \"%s\" (%s) has no exportname; say what to serve: exportname = /srv/root.img",
			    quoted, e->where);
	if (strstr(e->path, "%s"))
		return fail(r, "export \"%s\" (%s): this server does not put addresses into names of files (%%s); give each station its own writes over one image with overlay = keep",
			    quoted, e->where);
	if (e->read_only && e->overlay != OVERLAY_NONE)
		return fail(r, "export \"%s\" (%s) is read-only and has an overlay, which is for writing; take one of them out",
			    quoted, e->where);
	if (e->overlay == OVERLAY_NONE && (e->overlay_max || e->stations))
		return fail(r, "export \"%s\" (%s) has %s, but no overlay; say which: overlay = keep, or overlay = fresh",
			    quoted, e->where, e->overlay_max ? "overlay_max" :
			    "stations");
	return true;
}

static bool section_line(struct reader *r, char *line)
{
	char *close = strchr(line, ']'), *where;
	const char *name = line + 1;
	char quoted[100];

	if (!close || close[1]) {
		log_quote(quoted, sizeof(quoted), line, strlen(line));
		return fail(r, "\"%s\": a section is a name in brackets: [root]",
			    quoted);
	}
	if (!end_section(r))
		return false;
	*close = '\0';
	if (!strcmp(name, "generic")) {
		if (r->included)
			return fail(r, "[generic] in a file that is included; put it into the main one");
		r->export = NULL;
		r->keys = generic_keys;
		r->lines = r->generic_lines;
		return true;
	}
	if (strlen(name) > 256)
		return fail(r, "the name of an export has at most 256 bytes");
	r->export = export_settings_new(name, NULL);
	if (!r->export || asprintf(&where, "%s:%d", r->name, r->line) < 0)
		return fail(r, "out of memory");
	r->export->where = where;
	r->keys = export_keys;
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
	return *line == '[' ? section_line(r, line) : key_line(r, line);
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
			return fail(r, "out of memory");
		ok = strlen(line) == n ? one_line(r, line) :
		     fail(r, "a zero byte; not a text file");
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
		return fail(r, "includedir %s: %s", r->include, strerror(errno));
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

static void reader_init(struct reader *r, struct config *c, char *why,
			size_t why_size)
{
	memset(c, 0, sizeof(*c));
	memset(r, 0, sizeof(*r));
	r->c = c;
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
	bool ok = true;

	if (!c->port)
		ok = set_text(r, &c->port, "10809");
	if (ok && !c->state_dir)
		ok = set_text(r, &c->state_dir, default_state_dir());
	for (e = c->exports; e && ok; e = e->next) {
		ok = default_path(&e->pins, c->state_dir, "pins");
		if (ok && e->overlay != OVERLAY_NONE)
			ok = default_path(&e->overlay_dir, c->state_dir,
					  "overlays");
		if (!ok)
			return fail(r, "out of memory");
	}
	if (ok && c->dual_listen && !c->unix_socket)
		return fail(r, "duallisten needs a Unix socket besides; name it: unixsock = /run/nbdroot/nbd.sock");
	return ok;
}

bool config_load(struct config *c, const char *path, char *why, size_t why_size)
{
	struct reader r;

	reader_init(&r, c, why, why_size);
	if (!parse_file(&r, path))
		return false;
	if (*r.include) {
		r.included = true;
		if (!parse_directory(&r))
			return false;
	}
	return finish(&r);
}

bool config_parse(struct config *c, const char *name, const char *text,
		  size_t len, char *why, size_t why_size)
{
	struct reader r;

	reader_init(&r, c, why, why_size);
	r.name = name;
	return parse_text(&r, text, len) && finish(&r);
}

void config_free(struct config *c)
{
	struct export_settings *s;

	while ((s = c->exports)) {
		c->exports = s->next;
		export_settings_free(s);
	}
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
