// SPDX-License-Identifier: GPL-2.0
/*
 * pins.c - which image a boot of a station began with.
 *
 * For as long as a boot lasts its station gets the image it began with, whatever
 * the export's file is replaced by meanwhile. A pin is kept in memory, which also
 * keeps the file open when nothing else does (until nobody has been connected
 * for a day), and as a small file, by which another run of the server finds the
 * image again.
 */
#define _GNU_SOURCE
#include "pins.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "log.h"

/* How long a station that is gone keeps its image open, in seconds. */
#define PIN_SECONDS	(24 * 3600)
/*
 * How long its file is kept, and how often old ones are looked for. A file is
 * touched when a connection begins or ends, and by the look while there is one.
 */
#define FILE_SECONDS	(30 * 24 * 3600)
#define SWEEP_SECONDS	3600
/* Pins that one address may have, but for those that are in use. */
#define ADDRESS_PINS	256U

struct pin {
	struct pin *next;
	char *export_name;
	char station[NBD_SESSION_WORD], boot[NBD_SESSION_WORD];
	char address[NBD_SESSION_WORD];
	struct image *image;
	unsigned int users;	/* connections */
	time_t used;		/* when there was one last */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct pin *pins;

static void free_pin(struct pin *p)
{
	image_put(p->image);
	free(p->export_name);
	free(p);
}

/* Those that are idle for longer than @seconds, of @i unless that is NULL. */
static void forget(const struct image *i, time_t seconds, bool all)
{
	struct pin **p, *old, *dead = NULL;
	time_t now = time(NULL);

	pthread_mutex_lock(&lock);
	for (p = &pins; (old = *p); ) {
		if (all || (!old->users && (!i || old->image == i) &&
			    now - old->used > seconds)) {
			*p = old->next;
			old->next = dead;
			dead = old;
		} else {
			p = &old->next;
		}
	}
	pthread_mutex_unlock(&lock);
	while ((old = dead)) {
		dead = old->next;
		free_pin(old);
	}
}

void pins_forget(bool all)
{
	forget(NULL, PIN_SECONDS, all);
}

void pins_drop(const struct image *i)
{
	forget(i, -1, false);
}

struct image *pins_find(const struct station_export *x, const char *station, const char *boot)
{
	struct image *i = NULL;
	struct pin *p;

	pthread_mutex_lock(&lock);
	for (p = pins; p && !i; p = p->next)
		if (!strcmp(p->export_name, x->name) &&
		    !strcmp(p->station, station) && !strcmp(p->boot, boot) &&
		    p->image->read_only == x->image.read_only &&
		    p->image->want_size == x->image.size) {
			p->used = time(NULL);
			i = image_hold(p->image);
		}
	pthread_mutex_unlock(&lock);
	return i;
}

static void save_pin(const struct station_export *x, const char *station,
		     const char *boot, const struct image *i)
{
	char *path = x->pins ? station_path(x->pins, x->name, station,
					    STATION_PIN) : NULL;
	char *temp = NULL;
	FILE *f = NULL;

	if (path && asprintf(&temp, "%s.new", path) > 0)
		f = fopen(temp, "we");
	if (f) {
		fprintf(f, "boot %s\nimage %s\npath %s\n", boot, i->id, i->path);
		/*
		 * Not synced: lost, it costs the station of a machine that
		 * crashed a refusal, not its data.
		 */
		if (fclose(f) || rename(temp, path))
			unlink(temp);
	}
	if (path && !f)
		log_peer(LOG_WARNING, "%s: %s: which image station %s runs from will not be known after a restart",
			 path, strerror(errno), station);
	free(temp);
	free(path);
}

/* What a former run of the server wrote: true if it is of this boot. */
bool pins_load(const struct station_export *x, const char *station,
	       const char *boot, char id[NBD_SESSION_WORD], char last[1024])
{
	char *path = x->pins ? station_path(x->pins, x->name, station,
					    STATION_PIN) : NULL;
	FILE *f = path ? fopen(path, "re") : NULL;
	char line[1200], was[NBD_SESSION_WORD] = "";

	free(path);
	*id = *last = '\0';
	if (!f)
		return false;
	while (fgets(line, sizeof(line), f)) {
		line[strcspn(line, "\n")] = '\0';
		if (!strncmp(line, "boot ", 5) && nbd_session_word(line + 5))
			strcpy(was, line + 5);
		else if (!strncmp(line, "image ", 6) &&
			 nbd_session_word(line + 6))
			strcpy(id, line + 6);
		else if (!strncmp(line, "path ", 5))
			snprintf(last, 1024, "%.1023s", line + 5);
	}
	fclose(f);
	return *id && !strcmp(was, boot);
}

static char *pin_path(const struct station_export *x, const struct pin *p)
{
	return x->pins ? station_path(x->pins, p->export_name, p->station,
				      STATION_PIN) : NULL;
}

void pins_sweep(const char *pins_dir)
{
	DIR *dir = opendir(pins_dir);
	const time_t now = time(NULL);
	struct dirent *d;
	struct stat st;

	while (dir && (d = readdir(dir)))
		/* ".pin.new", too, that somebody was killed over. */
		if (strstr(d->d_name, STATION_PIN) &&
		    !fstatat(dirfd(dir), d->d_name, &st, AT_SYMLINK_NOFOLLOW) &&
		    S_ISREG(st.st_mode) && now - st.st_mtime > FILE_SECONDS)
			(void)unlinkat(dirfd(dir), d->d_name, 0);
	if (dir)
		closedir(dir);
}

static void touch(char *path)
{
	const struct timespec t[2] = {
		{ .tv_nsec = UTIME_OMIT }, { .tv_sec = time(NULL) },
	};

	if (path)
		(void)utimensat(AT_FDCWD, path, t, 0);
	free(path);
}

/* Once in a while, but for those that somebody runs from. */
static void sweep_sometimes(const struct station_export *x)
{
	static time_t last;
	time_t now = time(NULL);
	struct pin *p;

	pthread_mutex_lock(&lock);
	if (!x->pins || (last && now - last < SWEEP_SECONDS)) {
		pthread_mutex_unlock(&lock);
		return;
	}
	last = now;
	for (p = pins; p; p = p->next)
		if (p->users)
			touch(pin_path(x, p));
	pthread_mutex_unlock(&lock);
	pins_sweep(x->pins);
}

/* The one of @address that was idle for longest, if it has as many as it may. */
static struct pin *take_surplus(const char *address)
{
	struct pin **p, **oldest = NULL, *taken;
	unsigned int n = 0;

	for (p = &pins; *p; p = &(*p)->next) {
		if (strcmp((*p)->address, address))
			continue;
		n++;
		/* They are in the order of their making, the newest first. */
		if (!(*p)->users && (!oldest || (*p)->used <= (*oldest)->used))
			oldest = p;
	}
	if (n < ADDRESS_PINS || !oldest)
		return NULL;
	taken = *oldest;
	*oldest = taken->next;
	return taken;
}

static void drop_surplus(const struct station_export *x, struct pin *p)
{
	char *path = pin_path(x, p);

	log_peer(LOG_NOTICE, "%s has given more than %u names of stations: which image %s runs from is forgotten",
		 p->address, ADDRESS_PINS, p->station);
	if (path)
		unlink(path);
	free(path);
	free_pin(p);
}

void pins_add(const struct station_export *x, const struct station_client *c,
	      const char *station, const char *boot, struct image *i)
{
	struct pin *new = calloc(1, sizeof(*new)), **p, *old = NULL, *surplus;

	if (new)
		new->export_name = strdup(x->name);
	if (!new || !new->export_name) {
		free(new);
		return;
	}
	snprintf(new->station, sizeof(new->station), "%s", station);
	snprintf(new->boot, sizeof(new->boot), "%s", boot);
	station_address(c->peer, new->address);
	new->image = image_hold(i);
	new->used = time(NULL);
	pthread_mutex_lock(&lock);
	/* A station has one boot at a time. */
	for (p = &pins; *p; p = &(*p)->next)
		if (!strcmp((*p)->export_name, x->name) &&
		    !strcmp((*p)->station, station)) {
			old = *p;
			*p = old->next;
			if (!strcmp(old->boot, boot))
				new->users = old->users;
			break;
		}
	surplus = take_surplus(new->address);
	new->next = pins;
	pins = new;
	pthread_mutex_unlock(&lock);
	if (old)
		free_pin(old);
	if (surplus)
		drop_surplus(x, surplus);
	if (x->kind == OVERLAY_NONE) {
		save_pin(x, station, boot, i);
		sweep_sometimes(x);
	}
}

static void count_user(const struct station_export *x, const char *station,
		       const char *boot, bool enters)
{
	struct pin *p;

	if (!pins_known(boot))
		return;
	if (x->kind == OVERLAY_NONE && x->pins)
		touch(station_path(x->pins, x->name, station, STATION_PIN));
	pthread_mutex_lock(&lock);
	for (p = pins; p; p = p->next) {
		if (strcmp(p->export_name, x->name) ||
		    strcmp(p->station, station) || strcmp(p->boot, boot))
			continue;
		if (enters)
			p->users++;
		else if (p->users)
			p->users--;
		p->used = time(NULL);
	}
	pthread_mutex_unlock(&lock);
}

void pins_enter(const struct station_export *x, const char *station,
		   const char *boot)
{
	count_user(x, station, boot, true);
}

void pins_leave(const struct station_export *x, const char *station,
		   const char *boot)
{
	count_user(x, station, boot, false);
}
