// SPDX-License-Identifier: GPL-2.0
/*
 * export.c - the table of exports, and the way from an export to the store of a
 * client. The table only grows: a reload retires what is gone and appends what
 * is new, so those who look for an export need no lock, and those who have one
 * keep it. An export that is retired costs its settings, and a transaction log
 * stays open, until the server ends.
 */
#define _GNU_SOURCE
#include "export.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "access.h"
#include "image.h"
#include "log.h"
#include "pins.h"
#include "request.h"
#include "run.h"
#include "store-overlay.h"

static u16 export_flags(const struct export_settings *s,
			const struct store *store)
{
	/*
	 * One descriptor and one page cache serve all connections, so a flush
	 * on any of them covers what was answered on all: multi-conn holds.
	 */
	u16 flags = NBD_FLAG_HAS_FLAGS | NBD_FLAG_CAN_MULTI_CONN |
		    NBD_FLAG_SEND_CACHE;

	if (s->flush)
		flags |= NBD_FLAG_SEND_FLUSH;
	if (s->fua)
		flags |= NBD_FLAG_SEND_FUA;
	if (s->rotational || store->rotational)
		flags |= NBD_FLAG_ROTATIONAL;
	if (s->read_only)
		return flags | NBD_FLAG_READ_ONLY;
	if (s->trim)
		flags |= NBD_FLAG_SEND_TRIM;
	return flags | NBD_FLAG_SEND_WRITE_ZEROES | NBD_FLAG_SEND_FAST_ZERO;
}

/* Of ->image, which changes, and goes when an export is retired. */
static pthread_mutex_t image_lock = PTHREAD_MUTEX_INITIALIZER;

static void retire(struct export *e)
{
	struct image *i;

	pthread_mutex_lock(&image_lock);
	atomic_store(&e->retired, true);
	i = e->image;
	e->image = NULL;
	pthread_mutex_unlock(&image_lock);
	image_put(i);
}

struct image *export_image(const struct export *e)
{
	struct image *i;

	pthread_mutex_lock(&image_lock);
	i = e->image ? image_hold(e->image) : NULL;
	pthread_mutex_unlock(&image_lock);
	return i;
}

uint64_t export_size(const struct export *e)
{
	return atomic_load(&e->size);
}

/* @now, which is taken over, is current: the file before it may go. */
static void renew(struct export *e, struct image *now)
{
	struct image *old = now;

	pthread_mutex_lock(&image_lock);
	if (!atomic_load(&e->retired)) {
		old = e->image;
		e->image = now;
		atomic_store(&e->size, now->store->size);
	}
	pthread_mutex_unlock(&image_lock);
	image_put(old);
}

/* As renew(), of one that was its image before: whoever came meanwhile has a newer one. */
static void give_back(struct export *e, struct image *former)
{
	struct image *old = former;

	pthread_mutex_lock(&image_lock);
	if (!atomic_load(&e->retired) && !e->image) {
		old = NULL;
		e->image = former;
	}
	pthread_mutex_unlock(&image_lock);
	image_put(old);
}

static struct station_export station_export(const struct export_settings *s)
{
	return (struct station_export) {
		.name = s->name,
		.kind = s->overlay,
		.dir = s->overlay_dir,
		.max = s->overlay_max,
		.count = s->overlay_count,
		.rules = s->stations,
		.pins = s->pins,
		.image = {
			.path = s->path,
			.owner = s->name,
			.identity = s->identity,
			.size = s->size,
			/* An image under overlays is everybody's. */
			.read_only = s->read_only || s->overlay != OVERLAY_NONE,
		},
	};
}

static struct export *find_exactly(struct exports *x, const char *name,
				   size_t len)
{
	struct export *e;

	for (e = exports_next(x, NULL); e; e = exports_next(x, e))
		if (strlen(e->info.name) == len &&
		    !memcmp(e->info.name, name, len))
			return e;
	return NULL;
}

/* All that @s names. *@at: the setting that is at fault. */
static bool open_files(struct export *e, const struct export_settings *s,
		       const void **at, char *why, size_t why_size)
{
	const struct station_export sx = station_export(s);

	*at = &s->authfile;
	if (s->authfile && !access_check_file(s->authfile, why, why_size))
		return false;
	*at = &s->stations;
	if (s->stations && !station_check_rules(s->stations, why, why_size))
		return false;
	*at = &s->path;
	e->image = image_current(&sx.image, why, why_size);
	if (!e->image)
		return false;
	*at = &s->transaction_log;
	if (s->transaction_log)
		e->translog = translog_open(s->transaction_log, why, why_size);
	return !s->transaction_log || e->translog;
}

/*
 * Open it. @former: an export of that name that it replaces, or NULL. Takes
 * @s if it succeeds.
 */
static struct export *export_new(struct export_settings *s,
				 const struct export *former,
				 char *why, size_t why_size)
{
	struct export *e = calloc(1, sizeof(*e));
	const void *at;

	if (e)
		e->counts = former ? former->counts : calloc(1, sizeof(*e->counts));
	if (!e || !e->counts) {
		free(e);
		snprintf(why, why_size, "out of memory");
		return NULL;
	}
	if (!open_files(e, s, &at, why, why_size)) {
		export_settings_place(s, at, why, why_size);
		image_put(e->image);
		if (!former)
			free(e->counts);
		free(e);
		return NULL;
	}
	e->settings = s;
	e->info.name = s->name;
	e->info.description = s->description;
	e->info.size = e->image->store->size;
	atomic_store(&e->size, e->info.size);
	e->info.flags = export_flags(s, e->image->store);
	e->info.min_block = NBD_DEFAULT_MIN_BLOCK;
	e->info.pref_block = e->image->store->pref_block;
	e->info.max_payload = REQUEST_MAX_PAYLOAD;
	if (e->info.size % 512)
		log_msg(LOG_NOTICE, "export \"%s\": %llu bytes are no multiple of 512; a disk of a Linux station ends before the last %u",
			s->name, (unsigned long long)e->info.size,
			(unsigned int)(e->info.size % 512));
	return e;
}

static bool check_files(const struct export_settings *s, const void **at,
			char *why, size_t why_size)
{
	const bool read_only = s->read_only || s->overlay != OVERLAY_NONE;
	struct stat st;

	*at = &s->authfile;
	if (s->authfile && !access_check_file(s->authfile, why, why_size))
		return false;
	*at = &s->stations;
	if (s->stations && !station_check_rules(s->stations, why, why_size))
		return false;
	*at = &s->transaction_log;
	if (s->transaction_log &&
	    !translog_check(s->transaction_log, why, why_size))
		return false;
	*at = &s->prerun;
	if (s->prerun && !run_check(s->prerun, why, why_size))
		return false;
	*at = &s->postrun;
	if (s->postrun && !run_check(s->postrun, why, why_size))
		return false;
	*at = &s->path;
	if (stat(s->path, &st) || access(s->path, read_only ? R_OK : R_OK | W_OK)) {
		snprintf(why, why_size, "%s: %s", s->path, strerror(errno));
		return false;
	}
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode)) {
		snprintf(why, why_size, "%s: not a regular file or a block device",
			 s->path);
		return false;
	}
	*at = st.st_size ? (const void *)&s->size : &s->path;
	if (S_ISREG(st.st_mode) && s->size + !s->size > (uint64_t)st.st_size) {
		snprintf(why, why_size, "%s: has %llu bytes%s", s->path,
			 (unsigned long long)st.st_size,
			 st.st_size ? ", fewer than filesize" : "; nothing to serve");
		return false;
	}
	return true;
}

bool export_check(const struct export_settings *s, char *why, size_t why_size)
{
	const void *at;
	bool ok = check_files(s, &at, why, why_size);

	if (!ok)
		export_settings_place(s, at, why, why_size);
	return ok;
}

static void append(struct exports *x, struct export *e)
{
	struct export *last = atomic_load(&x->first);

	if (!last) {
		atomic_store(&x->first, e);
		return;
	}
	while (atomic_load(&last->next))
		last = atomic_load(&last->next);
	atomic_store(&last->next, e);
}

bool exports_add(struct exports *x, struct export_settings *s,
		 char *why, size_t why_size)
{
	struct export *e;

	if (find_exactly(x, s->name, strlen(s->name))) {
		snprintf(why, why_size, "export \"%s\": defined twice; give one of them another name",
			 s->name);
		export_settings_place(s, NULL, why, why_size);
		export_settings_free(s);
		return false;
	}
	e = export_new(s, NULL, why, why_size);
	if (!e) {
		export_settings_free(s);
		return false;
	}
	append(x, e);
	return true;
}

/* -- reload ---------------------------------------------------------------- */

static void drop_new(struct export *list, struct exports *x)
{
	struct export *e;

	while ((e = list)) {
		list = atomic_load(&e->next);
		if (!find_exactly(x, e->info.name, strlen(e->info.name)))
			free(e->counts);
		image_put(e->image);
		translog_put(e->translog);
		export_settings_free(e->settings);
		free(e);
	}
}

static const struct export_settings *in_list(const struct export_settings *list,
					     const char *name)
{
	while (list && strcmp(list->name, name))
		list = list->next;
	return list;
}

/*
 * An export that is replaced or removed may be all that keeps the file at @path
 * from being opened in another way. Those that @list leaves as they are keep
 * theirs. (Stations that are away find it again: it is at its path.)
 */
static void let_go(struct exports *x, const struct export_settings *list,
		   const char *path)
{
	struct export *e;

	for (e = exports_next(x, NULL); e; e = exports_next(x, e)) {
		const struct export_settings *s = in_list(list, e->info.name);
		struct image *i;

		/* Settings that are taken have only their name left. */
		if (s && s->path && export_settings_same(e->settings, s))
			continue;
		pthread_mutex_lock(&image_lock);
		i = e->image;
		e->image = NULL;
		pthread_mutex_unlock(&image_lock);
		if (i && image_is_at(i, path)) {
			pins_drop(i);
			if (image_held_once(i)) {
				image_put(i);
				continue;
			}
		}
		if (i)
			give_back(e, i);
	}
}

/* Who publishes an image and says so need not wait for a client to come. */
static void look_again(struct exports *x)
{
	struct export *e;
	char why[800];

	for (e = exports_next(x, NULL); e; e = exports_next(x, e)) {
		const struct station_export sx = station_export(e->settings);
		struct image *i = image_current(&sx.image, why, sizeof(why));

		if (i)
			renew(e, i);
		else
			log_msg(LOG_WARNING, "export \"%s\": %s; the image that was there last is kept",
				e->info.name, why);
	}
}

/* It came to nothing. */
static void take_back(struct exports *x)
{
	struct image *i;
	struct export *e;
	char why[800];

	for (e = exports_next(x, NULL); e; e = exports_next(x, e)) {
		const struct station_export sx = station_export(e->settings);

		i = export_image(e);
		image_put(i);
		if (i)
			continue;
		i = image_current(&sx.image, why, sizeof(why));
		if (i)
			renew(e, i);
		else
			log_msg(LOG_ERR, "export \"%s\": %s", e->info.name, why);
	}
}

bool exports_reload(struct exports *x, struct export_settings *list,
		    char *did, size_t did_size, char *why, size_t why_size)
{
	unsigned int added = 0, changed = 0, removed = 0, same = 0;
	struct export *e, *next, *new = NULL;
	struct export_settings *s, *rest;
	bool ok = true, let_go_of_any = false;

	/* First all that can fail. */
	for (s = list; s && ok; s = s->next) {
		if (in_list(s->next, s->name)) {
			snprintf(why, why_size, "export \"%s\": defined twice; give one of them another name",
				 s->name);
			export_settings_place(s, NULL, why, why_size);
			ok = false;
		}
	}
	for (s = list; s && ok; s = rest) {
		struct export *old = find_exactly(x, s->name, strlen(s->name));

		rest = s->next;
		if (old && export_settings_same(old->settings, s)) {
			same++;
			continue;
		}
		e = export_new(s, old, why, why_size);
		if (!e) {
			let_go_of_any = true;
			let_go(x, list, s->path);
			e = export_new(s, old, why, why_size);
		}
		if (!e) {
			ok = false;
			break;
		}
		/* Its settings are the export's now. */
		e->settings = malloc(sizeof(*s));
		if (!e->settings)
			abort();
		*e->settings = *s;
		memset(s, 0, sizeof(*s));
		s->next = rest;
		s->name = strdup(e->settings->name);
		e->settings->next = NULL;
		atomic_store(&e->next, new);
		new = e;
		if (old)
			changed++;
		else
			added++;
	}
	if (ok) {
		for (e = exports_next(x, NULL); e; e = exports_next(x, e))
			if (!in_list(list, e->info.name)) {
				retire(e);
				removed++;
			}
		/* In the order of the file: they are the other way round. */
		struct export *order = NULL;

		for (e = new; e; e = next) {
			next = atomic_load(&e->next);
			atomic_store(&e->next, order);
			order = e;
		}
		for (e = order; e; e = next) {
			struct export *old = find_exactly(x, e->info.name,
							  strlen(e->info.name));

			next = atomic_load(&e->next);
			atomic_store(&e->next, NULL);
			append(x, e);
			if (old)
				retire(old);
		}
		snprintf(did, did_size, "%u added, %u changed, %u removed, %u as before",
			 added, changed, removed, same);
		look_again(x);
	} else {
		drop_new(new, x);
		if (let_go_of_any)
			take_back(x);
	}
	while ((s = list)) {
		list = s->next;
		export_settings_free(s);
	}
	return ok;
}

bool exports_sync(struct exports *x)
{
	bool ok = station_overlays_sync();
	struct export *e;

	for (e = exports_next(x, NULL); e; e = exports_next(x, e)) {
		struct image *i = export_image(e);
		int err = i && !i->read_only ?
			  i->store->ops->flush(i->store) : 0;

		image_put(i);
		if (!err)
			continue;
		log_msg(LOG_ERR, "export \"%s\": last sync failed: %s",
			e->info.name, strerror(-err));
		ok = false;
	}
	return ok;
}

void exports_free(struct exports *x)
{
	struct export *e, *o;

	pins_forget(true);
	/* The same counts may be those of several. */
	for (e = atomic_load(&x->first); e; e = atomic_load(&e->next)) {
		struct export_counts *c = e->counts;

		if (!c)
			continue;
		for (o = e; o; o = atomic_load(&o->next))
			if (o->counts == c)
				o->counts = NULL;
		free(c);
	}
	while ((e = atomic_load(&x->first))) {
		atomic_store(&x->first, atomic_load(&e->next));
		image_put(e->image);
		translog_put(e->translog);
		export_settings_free(e->settings);
		free(e);
	}
}

/* -- finding ------------------------------------------------------------------ */

struct export *exports_next(struct exports *x, const struct export *e)
{
	struct export *n = e ? atomic_load(&e->next) : atomic_load(&x->first);

	while (n && atomic_load(&n->retired))
		n = atomic_load(&n->next);
	return n;
}

struct export *exports_find(struct exports *x, const char *name, size_t len)
{
	struct export *e = find_exactly(x, name, len);
	const char *slash;

	if (e)
		return e;
	slash = memrchr(name, '/', len);
	if (!slash)
		return NULL;
	e = find_exactly(x, name, (size_t)(slash - name));
	return e && e->settings->overlay != OVERLAY_NONE ? e : NULL;
}

bool export_allows(const struct export *e, const struct sockaddr *peer,
		   bool *read_only)
{
	*read_only = false;
	if (!e->settings->authfile)
		return true;
	return access_allows(e->settings->authfile, peer, read_only);
}

/* -- opening ------------------------------------------------------------------ */

/* What is behind the export's name, in what the client wrote. */
static struct station_client client_of(const struct export *e,
				       const struct export_client *who)
{
	const size_t own = strlen(e->info.name);
	struct station_client c = {
		.peer = who->peer,
		.session = who->session,
	};

	if (who->name_len > own) {
		c.said = who->name + own + 1;
		c.said_len = who->name_len - own - 1;
	}
	return c;
}

static struct image *pick(struct export *e, struct station_export *x,
			  const struct station_client *c,
			  char station[NBD_SESSION_WORD], u32 *error, char *text)
{
	struct image *i;

	*error = NBD_REP_ERR_POLICY;
	if (!station_name(x, c, station, text, NEGO_TEXT))
		return NULL;
	x->fallback = export_image(e);
	i = station_image(x, c, station, text, NEGO_TEXT);
	image_put(x->fallback);
	x->fallback = NULL;
	if (x->now)
		renew(e, x->now);
	x->now = NULL;
	if (!i)
		log_peer(LOG_ERR, "export \"%s\", station %s: %s", x->name,
			 station, text);
	return i;
}

static bool run_program(const struct export *e, const struct export_client *who,
			const char *program, const char *path)
{
	char address[NBD_SESSION_WORD];

	station_address(who->peer, address);
	return !program || run_command(program, path, e->info.name, address);
}

struct store *export_open(struct export *e, const struct export_client *who,
			  struct nego_export *info, struct export_opened *got,
			  u32 *error, char *text)
{
	struct station_export x = station_export(e->settings);
	const struct station_client c = client_of(e, who);
	struct image *i = pick(e, &x, &c, got->station, error, text);
	const char *station = got->station;
	struct store *s;

	if (!i)
		return NULL;
	if (x.kind != OVERLAY_NONE && !station_overlay_settled(&x, station)) {
		image_put(i);
		*error = EXPORT_AGAIN;
		return NULL;
	}
	strcpy(got->image, i->id);
	if (!run_program(e, who, e->settings->prerun, i->path)) {
		snprintf(text, NEGO_TEXT, "the server's prerun program refuses it");
		image_put(i);
		return NULL;
	}
	s = i->store;
	if (x.kind != OVERLAY_NONE) {
		s = station_overlay_open(&x, &c, station, i, text, NEGO_TEXT);
		if (!s)
			log_peer(LOG_ERR, "export \"%s\", station %s: %s", x.name, station, text);
		/* The overlay holds it. */
		image_put(i);
	}
	if (!s) {
		run_program(e, who, e->settings->postrun, e->settings->path);
		return NULL;
	}
	strcpy(got->boot, who->session ? who->session->boot : "-");
	pins_enter(&x, station, got->boot);
	info->size = s->size;
	info->pref_block = s->pref_block;
	return s;
}

void export_close(struct export *e, const struct export_client *who,
		  const struct export_opened *got, struct store *s, bool done)
{
	const struct station_export x = station_export(e->settings);

	/* Before its image can be let go. */
	pins_leave(&x, got->station, got->boot);
	if (store_is_overlay(s))
		station_overlay_close(s, done);
	else
		image_put(image_of(s));
	run_program(e, who, e->settings->postrun, e->settings->path);
}

bool export_identity(struct export *e, const struct export_client *who,
		     struct nbd_identity *id, u32 *error, char *text)
{
	struct station_export x = station_export(e->settings);
	const struct station_client c = client_of(e, who);
	char station[NBD_SESSION_WORD];
	struct image *i = pick(e, &x, &c, station, error, text);

	if (!i)
		return false;
	strcpy(id->image, i->id);
	station_boot_word(&x, &c, station, i, id->boot);
	/*
	 * An overlay is this host's, whatever the image is: a station must not
	 * go on over another host's overlay.
	 */
	if (e->settings->identity && x.kind == OVERLAY_NONE)
		strcpy(id->host, "-");
	image_put(i);
	return true;
}

bool export_claim(struct export *e)
{
	unsigned int max = e->settings->max_connections;

	if (atomic_fetch_add(&e->counts->connections, 1) < max || !max)
		return true;
	atomic_fetch_sub(&e->counts->connections, 1);
	return false;
}

void export_release(struct export *e)
{
	atomic_fetch_sub(&e->counts->connections, 1);
}
