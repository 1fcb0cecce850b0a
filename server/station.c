// SPDX-License-Identifier: GPL-2.0
/*
 * station.c - stations: their names, their images, their overlays.
 *
 * A station that says which boot it is (proto/nbd-session.h) is pinned to the
 * image it began with: pins.c. An overlay says in its header which image it was
 * made on, and pins its station the same way.
 *
 * An overlay is open once and shared by the connections of one client: those
 * that name the same boot, or, of clients that name none, those of one
 * address. Any other is refused while they last: two writers of one file
 * system are its end.
 */
#define _GNU_SOURCE
#include "station.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "access.h"
#include "away.h"
#include "log.h"
#include "loss.h"
#include "pins.h"
#include "session.h"
#include "store-overlay.h"

struct open_overlay {
	struct open_overlay *next;
	char *path;
	char station[NBD_SESSION_WORD], boot[NBD_SESSION_WORD];
	char address[NBD_SESSION_WORD];
	char export_name[257];
	struct store *store;
	struct image *base;
	unsigned int refs;
	bool busy;		/* being opened or closed */
	bool done;		/* all who left said that they were done */
	bool created;		/* was not there, or not this one, before */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static struct open_overlay *overlays;

/* How long a worker may wait for one. */
#define SETTLE_NS	50000000

/* -- names ------------------------------------------------------------------ */

void station_address(const struct sockaddr *peer, char word[NBD_SESSION_WORD])
{
	const struct sockaddr_in6 *in6 = (const void *)peer;
	const struct sockaddr_in *in = (const void *)peer;
	char text[INET6_ADDRSTRLEN] = "unix";

	if (peer->sa_family == AF_INET)
		inet_ntop(AF_INET, &in->sin_addr, text, sizeof(text));
	else if (peer->sa_family == AF_INET6 &&
		 IN6_IS_ADDR_V4MAPPED(&in6->sin6_addr))
		inet_ntop(AF_INET, in6->sin6_addr.s6_addr + 12, text,
			  sizeof(text));
	else if (peer->sa_family == AF_INET6)
		inet_ntop(AF_INET6, &in6->sin6_addr, text, sizeof(text));
	snprintf(word, NBD_SESSION_WORD, "%s", text);
}

/*
 * Lines "ADDRESS[/BITS] NAME". @found: the name for @peer, "" if none, the first
 * that fits; @others: is @said a name that is given to other addresses only?
 */
static bool read_rules(const char *path, const struct sockaddr *peer,
		       const char *said, char found[NBD_SESSION_WORD],
		       bool *others, char *why, size_t why_size)
{
	FILE *f = fopen(path, "re");
	char *line = NULL, quoted[80];
	size_t room = 0;
	bool ok = true;
	int n = 0;

	*found = '\0';
	*others = false;
	if (!f) {
		snprintf(why, why_size, "%s: %s; without its stations file an export is closed to everybody",
			 path, strerror(errno));
		return false;
	}
	while (ok && getline(&line, &room, f) >= 0) {
		char *save, *rule, *name, *more;
		int match;

		n++;
		line[strcspn(line, "#\r\n")] = '\0';
		rule = strtok_r(line, " \t", &save);
		name = strtok_r(NULL, " \t", &save);
		more = strtok_r(NULL, " \t", &save);
		if (!rule)
			continue;
		match = access_match(rule, peer);
		if (match < 0 || !name || more || !nbd_session_word(name)) {
			snprintf(why, why_size, "%s:%d: \"%s%s%s\" is not ADDRESS NAME; write 192.0.2.7 lab07",
				 path, n, log_quote(quoted, sizeof(quoted), rule,
						    strlen(rule)),
				 name ? " " : "", name && nbd_session_word(name) ?
				 name : name ? "..." : "");
			ok = false;
		} else if (match && !*found) {
			snprintf(found, NBD_SESSION_WORD, "%s", name);
		} else if (!match && said && !strcmp(name, said)) {
			*others = true;
		}
	}
	free(line);
	fclose(f);
	return ok;
}

bool station_check_rules(const char *path, char *why, size_t why_size)
{
	const struct sockaddr_in nobody = { .sin_family = AF_INET };
	char found[NBD_SESSION_WORD];
	bool others;

	return read_rules(path, (const struct sockaddr *)&nobody, NULL, found,
			  &others, why, why_size);
}

bool station_name(const struct station_export *x, const struct station_client *c,
		  char station[NBD_SESSION_WORD], char *why, size_t why_size)
{
	char said[NBD_SESSION_WORD] = "", ruled[NBD_SESSION_WORD] = "";
	bool others = false;
	char quoted[300];

	if (c->said) {
		if (c->said_len < sizeof(said)) {
			memcpy(said, c->said, c->said_len);
			said[c->said_len] = '\0';
		}
		if (strlen(said) != c->said_len || !nbd_session_word(said) ||
		    !strcmp(said, "-")) {
			snprintf(why, why_size, "\"%s\" is not a station's name; it has 1 to 64 of A-Z a-z 0-9 . _ : -",
				 log_quote(quoted, sizeof(quoted), c->said,
					   c->said_len));
			return false;
		}
	} else if (c->session && strcmp(c->session->station, "-")) {
		strcpy(said, c->session->station);
	}
	if (x->rules && !read_rules(x->rules, c->peer, *said ? said : NULL,
				    ruled, &others, why, why_size)) {
		log_peer(LOG_ERR, "%s", why);
		return false;
	}
	if (*ruled && *said && strcmp(ruled, said)) {
		snprintf(why, why_size, "this address is station \"%s\", not \"%s\" (stations = %s)",
			 ruled, said, x->rules);
		return false;
	}
	if (others && !*ruled) {
		snprintf(why, why_size, "station \"%s\" has another address (stations = %s)",
			 said, x->rules);
		return false;
	}
	if (*ruled)
		strcpy(station, ruled);
	else if (*said)
		strcpy(station, said);
	else
		station_address(c->peer, station);
	return true;
}

/* A name of a file holds 255 bytes; ".new" must fit behind it. */
#define FILE_NAME	250

char *station_path(const char *dir, const char *export_name,
		   const char *station, const char *suffix)
{
	static const char plain[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-:";
	char name[4 * 256 + 1], *path;
	const char *p;
	size_t n = 0;

	for (p = export_name; *p && n + 4 < sizeof(name); p++) {
		/* No file that begins with a dot. */
		if (strchr(plain, *p) && (n || *p != '.'))
			name[n++] = *p;
		else
			n += (size_t)snprintf(name + n, 4, "%%%02x",
					      (unsigned char)*p);
	}
	name[n] = '\0';
	if (n + 1 + strlen(station) + strlen(suffix) > FILE_NAME ||
	    asprintf(&path, "%s/%s@%s%s", dir, name, station, suffix) < 0)
		return NULL;
	return path;
}

static const char *boot_of(const struct station_client *c)
{
	return c->session ? c->session->boot : "-";
}

/* -- the image of a station ------------------------------------------------------ */

/* Does the overlay there stay, for this client? */
static bool overlay_stays(const struct station_export *x,
			  const struct station_client *c,
			  const struct overlay_info *info)
{
	if (x->kind == OVERLAY_KEEP)
		return true;
	/*
	 * Fresh: empty at each boot. A client that does not say which boot it
	 * is may have lost its connection only, unless it said goodbye.
	 */
	if (pins_known(boot_of(c)))
		return !strcmp(info->station_boot, boot_of(c));
	return !info->done;
}

/*
 * The current image; while there is none to be had (a file that is just being
 * replaced, a folder that is closed to the user we have become), the one that
 * was it last.
 */
static struct image *current(struct station_export *x, char *why,
			     size_t why_size)
{
	struct image *i = image_current(&x->image, why, why_size);

	if (i)
		x->now = image_hold(i);
	if (i || !x->fallback)
		return i;
	log_peer(LOG_WARNING, "export \"%s\": %s; the image that was there last is used, %s",
		 x->name, why, x->fallback->id);
	return image_hold(x->fallback);
}

static struct image *image_gone(const struct station_export *x,
				const char *station, const char *id,
				const char *last, char *why, size_t why_size)
{
	struct image *now = image_current(&x->image, why, why_size);
	const char *does = x->kind == OVERLAY_NONE ? "runs from" :
			   "has an overlay on";
	const char *or = x->kind == OVERLAY_KEEP ?
			 "drop the overlay (nbd-server overlays drop)" :
			 "start the station again";

	/* No file says of itself that it is the one with that word. */
	if (x->image.identity)
		snprintf(why, why_size, "station %s %s image %s, and this export is image %s now (identity): no file can be found by such a word; serve the old file with identity = %s again until the station has ended, or %s",
			 station, does, id, x->image.identity, id, or);
	else
		snprintf(why, why_size, "station %s %s image %s (%s), which is not there any more; %s is image %s now: put the old file back into its folder, under any name, or %s",
			 station, does, id, *last ? last : "?", x->image.path,
			 now ? now->id : "-", or);
	image_put(now);
	return NULL;
}

struct image *station_image(struct station_export *x,
			    const struct station_client *c,
			    const char *station, char *why, size_t why_size)
{
	const char *boot = boot_of(c);
	char id[NBD_SESSION_WORD] = "", last[1024] = "", sink[256];
	struct overlay_info info;
	struct image *i = NULL;
	char *path;

	pins_forget(false);
	if (pins_known(boot)) {
		i = pins_find(x, station, boot);
		if (i)
			return i;
	}
	if (x->kind != OVERLAY_NONE) {
		path = station_path(x->dir, x->name, station, STATION_OVERLAY);
		if (path && !overlay_inspect(path, false, &info, sink,
					     sizeof(sink)) &&
		    overlay_stays(x, c, &info)) {
			strcpy(id, info.image);
			snprintf(last, sizeof(last), "%s", info.image_path);
		}
		free(path);
	} else if (pins_known(boot) && !pins_load(x, station, boot, id, last)) {
		*id = '\0';
	}
	if (*id) {
		i = x->fallback && !strcmp(x->fallback->id, id) ?
		    image_hold(x->fallback) :
		    image_version(&x->image, id, last, why, why_size);
		if (!i)
			return image_gone(x, station, id, last, why, why_size);
	} else {
		i = current(x, why, why_size);
	}
	if (i && pins_known(boot))
		pins_add(x, c, station, boot, i);
	return i;
}

/* -- overlays ----------------------------------------------------------------------- */

/*
 * A client that recovers has a file system that believes in what it wrote: an
 * empty overlay under that would be its end.
 */
static int refuse_recovery(const char *station, const char *path, bool missing,
			   char *why, size_t why_size)
{
	snprintf(why, why_size, "the overlay that station %s runs from is gone: %s %s; start the station again, it begins with an empty one",
		 station, path, missing ? "is not there any more (dropped, or on a disk that forgets)" :
		 "has begun anew for another boot of it");
	return -ESTALE;
}

/* Of one overlay that is not there: the look for others and its making. */
static pthread_mutex_t making = PTHREAD_MUTEX_INITIALIZER;

/* Overlays of the export, in use or not: 0 with their number in @n, or -errno. */
static int count_overlays(const struct station_export *x, unsigned int *n)
{
	char *first = station_path(x->dir, x->name, "", STATION_OVERLAY);
	const size_t end = strlen(STATION_OVERLAY);
	DIR *dir = first ? opendir(x->dir) : NULL;
	struct dirent *d;
	const char *name;
	size_t begin;
	int err = 0;

	*n = 0;
	if (!first) {
		err = -ENOMEM;
	} else if (dir) {
		name = strrchr(first, '/') + 1;
		begin = strlen(name) - end;
		while (errno = 0, (d = readdir(dir))) {
			size_t len = strlen(d->d_name);

			*n += len > begin + end &&
			      !strncmp(d->d_name, name, begin) &&
			      !strcmp(d->d_name + len - end, STATION_OVERLAY);
		}
		err = -errno;
		closedir(dir);
	} else if (errno != ENOENT) {
		err = -errno;
	}
	/* No folder: whoever makes a file in it will say so. */
	free(first);
	return err;
}

/* One that is @new, or that takes the place of what is there. */
static int create(const struct station_export *x, const char *path,
		  const struct overlay_info *info, bool new, char *why,
		  size_t why_size)
{
	unsigned int n;
	int err;

	if (!new || !x->count)
		return overlay_create(path, info, why, why_size);
	pthread_mutex_lock(&making);
	err = count_overlays(x, &n);
	if (err) {
		snprintf(why, why_size, "%s: the overlays in it cannot be counted (overlay_count = %u), so nobody gets a new one: %s",
			 x->dir, x->count, strerror(-err));
	} else if (n < x->count) {
		err = overlay_create(path, info, why, why_size);
	} else {
		err = -EDQUOT;
		snprintf(why, why_size, "the export has as many overlays as it may have (overlay_count = %u), so no other station gets one; drop those of stations that are gone (nbd-server overlays list, drop), or allow more",
			 x->count);
	}
	pthread_mutex_unlock(&making);
	return err;
}

/*
 * Make what has to be there before it can be opened. @created: it is empty, and
 * was not there before.
 */
static int prepare(const struct station_export *x, const struct station_client *c,
		   const char *station, const char *path,
		   const struct image *base, bool *created, char *why,
		   size_t why_size)
{
	struct overlay_info info;
	int err = overlay_inspect(path, false, &info, why, why_size), fd;
	const bool new = err == -ENOENT;

	*created = false;
	if (err && err != -ENOENT)
		return err;
	if (!err && overlay_stays(x, c, &info))
		return 0;
	if (c->session && c->session->generation > NBD_SESSION_FIRST)
		return refuse_recovery(station, path, err, why, why_size);
	/* Nobody may be using what is about to be replaced. */
	fd = overlay_lock(path, err ? 0 : 5000);
	if (fd == -EWOULDBLOCK) {
		snprintf(why, why_size, "%s: in use by another process (another nbd-server?)",
			 path);
		return fd;
	}
	memset(&info, 0, sizeof(info));
	snprintf(info.export_name, sizeof(info.export_name), "%s", x->name);
	strcpy(info.station, station);
	strcpy(info.image, base->id);
	snprintf(info.image_path, sizeof(info.image_path), "%s", base->path);
	info.size = base->store->size;
	strcpy(info.station_boot, boot_of(c));
	if (!err)
		log_peer(LOG_INFO, "export \"%s\", station %s: starts anew, its overlay is empty",
			 x->name, station);
	err = create(x, path, &info, new, why, why_size);
	*created = !err;
	if (fd >= 0)
		close(fd);
	return err;
}

void station_boot_word(const struct station_export *x,
		       const struct station_client *c, const char *station,
		       const struct image *i, char boot[NBD_SESSION_WORD])
{
	struct overlay_info info;
	char *path, sink[256];
	int fd;

	if (x->kind == OVERLAY_NONE) {
		if (!x->image.read_only)
			loss_rename_boot(store_file_fd(i->store), boot);
		return;
	}
	path = station_path(x->dir, x->name, station, STATION_OVERLAY);
	fd = path ? open(path, O_PATH | O_CLOEXEC | O_NOFOLLOW) : -1;
	/* One that is about to be replaced has lost nothing of this boot's. */
	if (fd >= 0 &&
	    !overlay_inspect(path, false, &info, sink, sizeof(sink)) &&
	    overlay_stays(x, c, &info))
		loss_rename_boot(fd, boot);
	if (fd >= 0)
		close(fd);
	free(path);
}

static struct store *open_new(const struct station_export *x,
			      const struct station_client *c,
			      const char *station, const char *path,
			      struct image *base, bool *created, char *why,
			      size_t why_size)
{
	struct nbd_identity server;
	struct store *s;
	int err;

	if (prepare(x, c, station, path, base, created, why, why_size))
		return NULL;
	session_server(&server);
	s = store_overlay_open(path, base->store, base->id, server.boot, x->max,
			       why, why_size);
	if (!s)
		return NULL;
	/* Who says no boot may be a visitor while the owner is away. */
	err = store_overlay_mark(s, pins_known(boot_of(c)) ? boot_of(c) : NULL,
				 false);
	if (err) {
		snprintf(why, why_size, "%s: %s", path, strerror(-err));
		s->ops->close(s);
		return NULL;
	}
	return s;
}

/* Is the overlay there for this client too? */
static bool same_client(const struct open_overlay *o,
			const struct station_client *c, const char *address)
{
	if (pins_known(o->boot) || pins_known(boot_of(c)))
		return !strcmp(o->boot, boot_of(c));
	return !strcmp(o->address, address);
}

static struct open_overlay *find_overlay(const char *path)
{
	struct open_overlay *o;

	for (o = overlays; o && strcmp(o->path, path); o = o->next)
		;
	return o;
}

bool station_overlay_settled(const struct station_export *x, const char *station)
{
	char *path = station_path(x->dir, x->name, station, STATION_OVERLAY);
	struct open_overlay *o;
	struct timespec end;
	bool busy;

	if (!path)
		return true;
	clock_gettime(CLOCK_REALTIME, &end);
	end.tv_nsec += SETTLE_NS;
	end.tv_sec += end.tv_nsec / 1000000000;
	end.tv_nsec %= 1000000000;
	pthread_mutex_lock(&lock);
	do {
		o = find_overlay(path);
		busy = o && o->busy;
	} while (busy && !pthread_cond_timedwait(&changed, &lock, &end));
	pthread_mutex_unlock(&lock);
	free(path);
	return !busy;
}

static void remove_overlay(struct open_overlay *o)
{
	struct open_overlay **p = &overlays;

	while (*p != o)
		p = &(*p)->next;
	*p = o->next;
	free(o->path);
	free(o);
}

struct store *station_overlay_open(const struct station_export *x,
				   const struct station_client *c,
				   const char *station, struct image *base,
				   char *why, size_t why_size)
{
	char *path = station_path(x->dir, x->name, station, STATION_OVERLAY);
	char address[NBD_SESSION_WORD];
	struct store *s = NULL;
	struct open_overlay *o;
	bool created;

	station_address(c->peer, address);
	if (!path) {
		snprintf(why, why_size, "the names of export \"%s\" and station \"%s\" are too long for a file's",
			 x->name, station);
		return NULL;
	}
	pthread_mutex_lock(&lock);
	while ((o = find_overlay(path)) && o->busy)
		pthread_cond_wait(&changed, &lock);
	if (o) {
		if (!same_client(o, c, address)) {
			snprintf(why, why_size, "station \"%s\" is in use by another client, at %s; give each station a name of its own",
				 station, o->address);
		} else if (o->base != base) {
			snprintf(why, why_size, "station \"%s\" is in use with image %s, not %s",
				 station, o->base->id, base->id);
		} else {
			o->refs++;
			s = o->store;
		}
		pthread_mutex_unlock(&lock);
		free(path);
		return s;
	}
	o = calloc(1, sizeof(*o));
	if (!o) {
		pthread_mutex_unlock(&lock);
		snprintf(why, why_size, "the server is out of memory");
		free(path);
		return NULL;
	}
	o->path = path;
	strcpy(o->station, station);
	strcpy(o->boot, boot_of(c));
	strcpy(o->address, address);
	snprintf(o->export_name, sizeof(o->export_name), "%s", x->name);
	o->busy = true;
	o->done = true;
	o->next = overlays;
	overlays = o;
	pthread_mutex_unlock(&lock);

	s = open_new(x, c, station, path, base, &created, why, why_size);

	pthread_mutex_lock(&lock);
	if (s) {
		o->store = s;
		o->base = image_hold(base);
		o->refs = 1;
		o->created = created;
		o->busy = false;
	} else {
		remove_overlay(o);
	}
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
	return s;
}

void station_overlay_close(struct store *s, bool done)
{
	struct open_overlay *o;

	pthread_mutex_lock(&lock);
	for (o = overlays; o && o->store != s; o = o->next)
		;
	if (!o) {
		pthread_mutex_unlock(&lock);
		return;
	}
	o->done &= done;
	if (--o->refs) {
		pthread_mutex_unlock(&lock);
		return;
	}
	o->busy = true;
	pthread_mutex_unlock(&lock);

	/*
	 * Of those that say no boot, one that only looked (nbdinfo) is not the
	 * one whose overlay it is: his goodbye is not the station's.
	 */
	if (!pins_known(o->boot) && !o->created && !store_overlay_changed(s))
		o->done = false;
	/*
	 * A visitor's own, which holds nothing: it would count, and stand in the
	 * list, for nobody. (A boot's stays: the boot may come back to it.)
	 */
	if (!pins_known(o->boot) && o->created && o->done &&
	    !store_overlay_changed(s) && !unlink(o->path))
		away_remove(o->export_name, o->station);
	(void)store_overlay_mark(s, pins_known(o->boot) ? o->boot : NULL, o->done);
	s->ops->close(s);
	image_put(o->base);

	pthread_mutex_lock(&lock);
	remove_overlay(o);
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
}

bool station_overlays_sync(void)
{
	struct open_overlay *o;
	bool ok = true;

	pthread_mutex_lock(&lock);
	for (o = overlays; o; o = o->next)
		if (!o->busy && o->store->ops->flush(o->store)) {
			log_msg(LOG_ERR, "%s: last sync failed", o->path);
			ok = false;
		}
	pthread_mutex_unlock(&lock);
	/* Of one whose last connection has just ended, too. */
	return ok && !loss_any();
}
