// SPDX-License-Identifier: GPL-2.0
/*
 * config-keys.c - the keys of the configuration file: which there are, what
 * their values may be, and where in the settings they go.
 *
 * Keys of nbd-server(5) that name something this server does not have are known
 * too: the error says so, and their "false" is accepted, so that a file written
 * for the other server needs as few edits as can be.
 */
#define _GNU_SOURCE
#include "config-keys.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "args.h"
#include "log.h"
#include "nbd-session.h"

enum type {
	T_TEXT,		/* any string */
	T_PATH,		/* an absolute path */
	T_PROGRAM,	/* the same, and words behind it */
	T_BOOL,
	T_SIZE,
	T_COUNT,
	T_THREADS,
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
	GENERIC("lockmemory", T_BOOL, lock_memory),
	GENERIC("max_threads", T_THREADS, workers),
	GENERIC("maxperaddress", T_COUNT, max_per_address),
	GENERIC("metricsport", T_PORT, metrics_port),
	GENERIC("port", T_PORT, port),
	GENERIC("realtime", T_BOOL, realtime),
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
	EXPORT("overlay_count", T_COUNT, overlay_count),
	EXPORT("overlay_dir", T_PATH, overlay_dir),
	EXPORT("overlay_max", T_SIZE, overlay_max),
	EXPORT("postrun", T_PROGRAM, postrun),
	EXPORT("prerun", T_PROGRAM, prerun),
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

_Static_assert(sizeof(generic_keys) / sizeof(*generic_keys) <= MAX_KEYS &&
	       sizeof(export_keys) / sizeof(*export_keys) <= MAX_KEYS &&
	       MAX_KEYS <= SETTING_LINES,
	       "there is room for the line of each key");

const struct key *config_keys(bool of_export)
{
	return of_export ? export_keys : generic_keys;
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
	const size_t len = strlen(word);
	const struct key *k, *best = NULL;
	/* With some changes every short word is another. */
	unsigned int d, best_d = len < 4 ? 2 : len < 8 ? 3 : 4;

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
			return config_fail(r, "\"%s\" belongs into %s", word,
					   r->export ? "[generic]" :
					   "the section of an export");
	log_quote(quoted, sizeof(quoted), word, strlen(word));
	if (near)
		return config_fail(r, "unknown key \"%s\"; did you mean \"%s\"?",
				   quoted, near);
	return config_fail(r, "unknown key \"%s\"; nbd-server(5) lists those there are",
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

/* More than any machine has a use for. */
#define MAX_COUNT	1000000U
#define MAX_THREADS	1024U

static bool parse_count(const char *s, unsigned int *out)
{
	unsigned int n = 0;

	if (!*s)
		return false;
	for (; *s; s++) {
		if (*s < '0' || *s > '9')
			return false;
		n = n * 10 + (unsigned int)(*s - '0');
		if (n > MAX_COUNT)
			return false;
	}
	*out = n;
	return true;
}

bool config_text(struct reader *r, char **field, const char *value)
{
	char *copy = strdup(value);

	if (!copy)
		return config_fail(r, "out of memory");
	free(*field);
	*field = copy;
	return true;
}

static bool set_key(struct reader *r, const struct key *k, const char *value)
{
	char *base = r->export ? (char *)r->export : (char *)r->c;
	void *field = base + k->offset;
	char quoted[100];
	unsigned int n;
	bool on;

	log_quote(quoted, sizeof(quoted), value, strlen(value));
	switch (k->type) {
	case T_TEXT:
		if (strlen(value) > 1024)
			return config_fail(r, "%s: longer than 1024 bytes", k->name);
		return config_text(r, field, value);
	case T_PATH:
		if (*value != '/')
			return config_fail(r, "%s = \"%s\": not an absolute path; write it from the root: %s",
					   k->name, quoted,
					   strcmp(k->name, "exportname") ?
					   "/..." : "/srv/root.img");
		return config_text(r, field, value);
	case T_PROGRAM:
		if (*value != '/')
			return config_fail(r, "%s = \"%s\": not an absolute path; write the program from the root, no shell looks for it: /usr/bin/logger",
					   k->name, quoted);
		return config_text(r, field, value);
	case T_PORT:
		if (!args_port(value))
			return config_fail(r, "%s = \"%s\": not a port; write a number from 1 to 65535: 10809",
					   k->name, quoted);
		return config_text(r, field, value);
	case T_BOOL:
		if (!parse_bool(value, field))
			return config_fail(r, "%s = \"%s\": write true or false",
					   k->name, quoted);
		return true;
	case T_SIZE:
		if (!args_size(value, field))
			return config_fail(r, "%s = \"%s\": not a size; write bytes, or a number with k, m, g or t: 512m",
					   k->name, quoted);
		return true;
	case T_COUNT:
		if (!parse_count(value, field))
			return config_fail(r, "%s = \"%s\": not a number up to %u; 0 is any number",
					   k->name, quoted, MAX_COUNT);
		return true;
	case T_THREADS:
		if (!parse_count(value, &n) || n > MAX_THREADS)
			return config_fail(r, "%s = \"%s\": not a number up to %u; 0 is as many as seems good",
					   k->name, quoted, MAX_THREADS);
		*(unsigned int *)field = n;
		return true;
	case T_INCLUDE:
		if (r->included)
			return config_fail(r, "%s in a file that is included itself",
					   k->name);
		if (*value != '/' || strlen(value) >= sizeof(r->include))
			return config_fail(r, "%s = \"%s\": not an absolute path",
					   k->name, quoted);
		strcpy(r->include, value);
		r->include_line = r->line;
		return true;
	case T_OVERLAY:
		if (!strcmp(value, "none"))
			*(enum overlay_kind *)field = OVERLAY_NONE;
		else if (!strcmp(value, "keep"))
			*(enum overlay_kind *)field = OVERLAY_KEEP;
		else if (!strcmp(value, "fresh"))
			*(enum overlay_kind *)field = OVERLAY_FRESH;
		else
			return config_fail(r, "%s = \"%s\": write keep (a station's writes stay), fresh (they go at its next boot) or none",
					   k->name, quoted);
		return true;
	case T_COW:
		if (!parse_bool(value, &on))
			return config_fail(r, "%s = \"%s\": write true or false",
					   k->name, quoted);
		*(enum overlay_kind *)field = on ? OVERLAY_FRESH : OVERLAY_NONE;
		return true;
	case T_WORD:
		if (!nbd_session_word(value) || !strcmp(value, "-"))
			return config_fail(r, "%s = \"%s\": write 1 to 64 of A-Z a-z 0-9 . _ : -, such as lab-2026-11",
					   k->name, quoted);
		return config_text(r, field, value);
	case T_VIRTSTYLE:
		if (!strcmp(value, "none") || !strcmp(value, "ipliteral"))
			return true;	/* without %s they are the same */
		return config_fail(r, "%s = \"%s\": this server does not put addresses into names of files; give each station its own writes over one image with overlay = keep",
				   k->name, quoted);
	case T_EITHER:
		if (parse_bool(value, &on))
			return true;
		return config_fail(r, "%s = \"%s\": write true or false", k->name,
				   quoted);
	case T_ONLY_FALSE:
		if (parse_bool(value, &on) && !on)
			return true;
		return config_fail(r, "%s: this server does not have it; take the line out, or set it to false",
				   k->name);
	case T_NOT_HERE:
		return config_fail(r, "%s: this server does not have it; take the line out",
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
	case T_PROGRAM:
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
	case T_THREADS:
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
			ok = config_fail(r, "%s = \"%s\": %s:%d sets %s to something else; take one of them out",
					 k->name, log_quote(quoted, sizeof(quoted),
							    value, strlen(value)),
					 r->name, r->lines[earlier - r->keys],
					 earlier->name);
		free(after);
	}
	free(before);
	if (!earlier) {
		r->lines[k - r->keys] = r->line;
		if (sets_a_field(k))
			setting_line_add(r->export ? &r->export->lines :
					 &r->c->lines, k->offset, r->line);
	}
	return ok;
}

bool config_key(struct reader *r, char *line)
{
	char *eq = strchr(line, '='), *value, *end;
	const struct key *k;
	char quoted[100];

	if (!eq) {
		log_quote(quoted, sizeof(quoted), line, strlen(line));
		return config_fail(r, "\"%s\": neither [SECTION] nor KEY = VALUE",
				   quoted);
	}
	if (!r->keys)
		return config_fail(r, "a key before the first section; begin with [generic], or with the name of an export in brackets");
	value = eq + 1 + strspn(eq + 1, " \t");
	for (end = eq; end > line && strchr(" \t", end[-1]); end--)
		;
	*end = '\0';
	for (k = r->keys; k->name; k++)
		if (!strcmp(k->name, line))
			return set_key_once(r, k, value);
	return unknown_key(r, line);
}
