// SPDX-License-Identifier: GPL-2.0
/*
 * image.c - which files are open, each once however many exports and stations
 * read it, and what tells one from another.
 *
 * The id of a file is its inode number and the time of its birth: a file keeps
 * both for life, whatever it is called, and no other file of its file system
 * has them. Device numbers are left out, since they change from boot to boot. A
 * device has its path for an id. An operator who keeps the same image on several
 * hosts says so with `identity`.
 */
#define _GNU_SOURCE
#include "image.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "log.h"

/* Files of a directory that are looked at for a former image. */
#define SCAN_MAX	10000
/* How often a name may come to mean another file while it is opened. */
#define OPEN_TRIES	10

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;	/* ->refs, list */
static pthread_mutex_t opening = PTHREAD_MUTEX_INITIALIZER;	/* one at a time */
static pthread_cond_t closed = PTHREAD_COND_INITIALIZER;
/* One without ->refs is being closed: nobody's any more, but in the way. */
static struct image *images;

/* What a path means now. */
struct meaning {
	uint64_t dev, ino;
	char id[NBD_SESSION_WORD];
};

static void device_id(const char *path, char *id)
{
	uint64_t h = 0xcbf29ce484222325ULL;	/* FNV-1a */

	while (*path)
		h = (h ^ (unsigned char)*path++) * 0x100000001b3ULL;
	snprintf(id, NBD_SESSION_WORD, "dev-%016llx", (unsigned long long)h);
}

/* @fd: of the file that is open as @path; AT_FDCWD: the one that is there now. */
static int find_meaning(const struct image_spec *spec, int fd, const char *path,
			struct meaning *m)
{
	const bool open = fd != AT_FDCWD;
	struct statx st;

	memset(&st, 0, sizeof(st));
	if (statx(fd, open ? "" : path, open ? AT_EMPTY_PATH : 0,
		  STATX_BASIC_STATS | STATX_BTIME, &st))
		return -errno;
	m->dev = (uint64_t)st.stx_dev_major << 32 | st.stx_dev_minor;
	m->ino = st.stx_ino;
	if (S_ISBLK(st.stx_mode)) {
		m->dev = 1ULL << 63;
		m->ino = (uint64_t)st.stx_rdev_major << 32 | st.stx_rdev_minor;
	}
	if (spec && spec->identity)
		snprintf(m->id, sizeof(m->id), "%s", spec->identity);
	else if (!S_ISREG(st.stx_mode))
		device_id(path, m->id);
	else if (st.stx_mask & STATX_BTIME)
		snprintf(m->id, sizeof(m->id), "%llx-%llx.%x",
			 (unsigned long long)st.stx_ino,
			 (unsigned long long)st.stx_btime.tv_sec,
			 st.stx_btime.tv_nsec);
	else
		/* The next best thing where files have no birth. */
		snprintf(m->id, sizeof(m->id), "%llx-%llu",
			 (unsigned long long)st.stx_ino,
			 (unsigned long long)st.stx_size);
	return 0;
}

struct image *image_hold(struct image *i)
{
	pthread_mutex_lock(&lock);
	i->refs++;
	pthread_mutex_unlock(&lock);
	return i;
}

/*
 * Without the lock, for a close takes as long as the storage does. Only then is
 * it out of the list: who wants to write the same file has to wait for that.
 */
static void close_last(struct image *i)
{
	struct image **p;

	i->store->ops->close(i->store);
	pthread_mutex_lock(&lock);
	for (p = &images; *p != i; p = &(*p)->next)
		;
	*p = i->next;
	pthread_cond_broadcast(&closed);
	pthread_mutex_unlock(&lock);
	free(i->path);
	free(i->owner);
	free(i);
}

void image_put(struct image *i)
{
	bool last;

	if (!i)
		return;
	pthread_mutex_lock(&lock);
	if (i->refs == 1 && !i->read_only) {
		/* Nobody is left to ask for a flush. It is still ours. */
		pthread_mutex_unlock(&lock);
		(void)i->store->ops->flush(i->store);
		pthread_mutex_lock(&lock);
	}
	last = !--i->refs;
	pthread_mutex_unlock(&lock);
	if (last)
		close_last(i);
}

bool image_is_at(const struct image *i, const char *path)
{
	struct meaning m;

	return !find_meaning(NULL, AT_FDCWD, path, &m) && m.dev == i->dev &&
	       m.ino == i->ino;
}

bool image_held_once(const struct image *i)
{
	bool once;

	pthread_mutex_lock(&lock);
	once = i->refs == 1;
	pthread_mutex_unlock(&lock);
	return once;
}

struct image *image_of(const struct store *s)
{
	struct image *i;

	pthread_mutex_lock(&lock);
	for (i = images; i && (!i->refs || i->store != s); i = i->next)
		;
	pthread_mutex_unlock(&lock);
	return i;
}

/* Under the lock: until nobody closes the file in a way that keeps it busy. */
static void wait_for_close(const struct image_spec *spec,
			   const struct meaning *m)
{
	struct image *i = images;

	while (i) {
		if (i->refs || i->dev != m->dev || i->ino != m->ino ||
		    (i->read_only && spec->read_only)) {
			i = i->next;
			continue;
		}
		pthread_cond_wait(&closed, &lock);
		i = images;
	}
}

/*
 * One that is open and fits. False, with @why set, when one is open that keeps
 * this one from being opened.
 */
static bool find_open(const struct image_spec *spec, const struct meaning *m,
		      struct image **found, char *why, size_t why_size)
{
	struct image *i;
	bool ok = true;

	*found = NULL;
	pthread_mutex_lock(&lock);
	wait_for_close(spec, m);
	for (i = images; i && ok && !*found; i = i->next) {
		if (!i->refs || i->dev != m->dev || i->ino != m->ino)
			continue;
		if (i->read_only == spec->read_only &&
		    i->want_size == spec->size && !strcmp(i->id, m->id) &&
		    (i->read_only || !strcmp(i->owner, spec->owner))) {
			i->refs++;
			*found = i;
		} else if (!i->read_only || !spec->read_only) {
			ok = false;
			snprintf(why, why_size, "%s: is served already, %s, as export \"%s\"; %s",
				 spec->path, i->read_only ? "read-only" : "read-write",
				 i->owner, strcmp(i->owner, spec->owner) ?
				 "two exports can share a file if both are read-only or have an overlay" :
				 "and its clients are still connected");
		}
	}
	pthread_mutex_unlock(&lock);
	return ok;
}

/*
 * @replaced: the name came to mean another file between the look at it and the
 * open, so that @m is not what was opened.
 */
static struct image *image_open(const struct image_spec *spec, const char *path,
				const struct meaning *m, bool *replaced,
				char *why, size_t why_size)
{
	struct image *i = calloc(1, sizeof(*i));
	struct meaning now;

	if (i) {
		i->path = realpath(path, NULL);
		if (!i->path)
			i->path = strdup(path);
		i->owner = strdup(spec->owner);
	}
	if (!i || !i->path || !i->owner) {
		snprintf(why, why_size, "%s: out of memory", path);
		goto fail;
	}
	strcpy(i->id, m->id);
	i->read_only = spec->read_only;
	i->want_size = spec->size;
	i->dev = m->dev;
	i->ino = m->ino;
	i->refs = 1;
	i->store = store_file_open(path, spec->read_only, spec->size, why,
				   why_size);
	if (!i->store)
		goto fail;
	if (find_meaning(spec, store_file_fd(i->store), path, &now) ||
	    now.dev != m->dev || now.ino != m->ino || strcmp(now.id, m->id)) {
		snprintf(why, why_size, "%s: is being replaced all the time", path);
		*replaced = true;
		i->store->ops->close(i->store);
		goto fail;
	}
	pthread_mutex_lock(&lock);
	i->next = images;
	images = i;
	pthread_mutex_unlock(&lock);
	return i;
fail:
	if (i) {
		free(i->path);
		free(i->owner);
		free(i);
	}
	return NULL;
}

/* If it is open. *@absent: it is not, and @m is what is to be opened. */
static struct image *get_open(const struct image_spec *spec, const char *path,
			      const char *id, struct meaning *m, bool *absent,
			      char *why, size_t why_size)
{
	struct image *i = NULL;
	int err = find_meaning(spec, AT_FDCWD, path, m);

	*absent = false;
	if (err == -ENOENT)
		snprintf(why, why_size, "%s: %s; name an image or a block device that exists (truncate -s 1G FILE makes an empty one)",
			 path, strerror(-err));
	else if (err)
		snprintf(why, why_size, "%s: %s", path, strerror(-err));
	else if (id && strcmp(m->id, id))
		snprintf(why, why_size, "%s: is image %s", path, m->id);
	else if (find_open(spec, m, &i, why, why_size))
		*absent = !i;
	return i;
}

/* The file at @path, which must be @id unless that is NULL. */
static struct image *get(const struct image_spec *spec, const char *path,
			 const char *id, char *why, size_t why_size)
{
	struct image *i;
	struct meaning m;
	bool absent, replaced;
	int tries = 0;

	/* Stations of this one do not wait while another is waited for. */
	i = get_open(spec, path, id, &m, &absent, why, why_size);
	if (!absent)
		return i;
	pthread_mutex_lock(&opening);
	do {
		replaced = false;
		i = get_open(spec, path, id, &m, &absent, why, why_size);
		if (absent)
			i = image_open(spec, path, &m, &replaced, why, why_size);
	} while (replaced && ++tries < OPEN_TRIES);
	pthread_mutex_unlock(&opening);
	return i;
}

struct image *image_current(const struct image_spec *spec, char *why,
			    size_t why_size)
{
	return get(spec, spec->path, NULL, why, why_size);
}

static struct image *find_id(const struct image_spec *spec, const char *id)
{
	struct image *i;

	pthread_mutex_lock(&lock);
	for (i = images; i; i = i->next) {
		if (!i->refs || strcmp(i->id, id) || strcmp(i->owner, spec->owner) ||
		    i->read_only != spec->read_only ||
		    i->want_size != spec->size)
			continue;
		i->refs++;
		break;
	}
	pthread_mutex_unlock(&lock);
	return i;
}

static struct image *scan_directory(const struct image_spec *spec,
				    const char *id, char *why, size_t why_size)
{
	char *real = realpath(spec->path, NULL), *path = NULL, *slash;
	struct image *i = NULL;
	struct dirent *d;
	int n = 0, pass;
	DIR *dir;

	/* Where the name is, and where a link leads. */
	for (pass = 0; pass < 2 && !i; pass++) {
		char *folder = strdup(pass ? real ? real : "" : spec->path);

		slash = folder ? strrchr(folder, '/') : NULL;
		if (slash)
			*slash = '\0';
		dir = slash ? opendir(*folder ? folder : "/") : NULL;
		while (dir && !i && n++ < SCAN_MAX && (d = readdir(dir))) {
			struct meaning m;

			if (d->d_type == DT_DIR || asprintf(&path, "%s/%s",
							    folder, d->d_name) < 0)
				continue;
			if (!find_meaning(NULL, AT_FDCWD, path, &m) && !strcmp(m.id, id))
				i = get(spec, path, id, why, why_size);
			free(path);
		}
		if (dir)
			closedir(dir);
		free(folder);
	}
	free(real);
	return i;
}

struct image *image_version(const struct image_spec *spec, const char *id,
			    const char *last, char *why, size_t why_size)
{
	struct image *i = get(spec, spec->path, id, why, why_size);

	if (!i)
		i = find_id(spec, id);
	/* With an identity every file would be taken for it. */
	if (!i && last && *last && !spec->identity)
		i = get(spec, last, id, why, why_size);
	if (!i && !spec->identity)
		i = scan_directory(spec, id, why, why_size);
	return i;
}
