// SPDX-License-Identifier: GPL-2.0
/*
 * store-overlay.c - a store that is an image plus one station's changes to it.
 *
 * overlay-file.c tells what the file looks like, overlay-map.c how it is known
 * which blocks are the station's.
 *
 * The order within a write to a block that is not DATA: its 4096 bytes (partly
 * the base's or zeroes), then B, then the map in memory, which readers go by. A
 * kill between leaves bytes that no map speaks of. That happens under one lock,
 * for two writes to parts of one such block must not each bring their own
 * rest of it. A write to DATA blocks is a plain write, without the lock.
 */
#define _GNU_SOURCE
#include "store-overlay.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "log.h"
#include "loss.h"
#include "nbd-wire.h"
#include "os.h"
#include "overlay-map.h"

#define BLOCK		OVERLAY_BLOCK
#define PAGE_BLOCKS	OVERLAY_PAGE_BLOCKS
/* How long a killed server may keep its locks, in milliseconds. */
#define LOCK_PATIENCE	5000

enum { BASE = OVERLAY_BASE, DATA = OVERLAY_DATA, ZERO = OVERLAY_ZERO };

struct overlay {
	struct store store;
	struct store *base;
	int fd;
	int durable_fd;		/* as that of store-file.c */
	bool opened;
	struct overlay_info info;
	char server_boot[NBD_SESSION_WORD];
	struct overlay_map map;
	uint64_t data_at, max_blocks;
	atomic_bool no_punch, said_full, said_lost, changed;
	char path[];
};

static struct overlay *overlay_of(const struct store *s)
{
	return (struct overlay *)(uintptr_t)s;
}

/* -- reading --------------------------------------------------------------- */

static uint64_t end_block(uint64_t off, uint64_t len)
{
	return overlay_blocks(off + len);
}

/* Bytes from @off to the end of the run that it is in, @len at most. */
static uint64_t run_bytes(const struct overlay *o, uint64_t off, uint64_t len,
			  unsigned int *state)
{
	uint64_t first = off / BLOCK;
	uint64_t n = overlay_map_run(&o->map, first,
				     end_block(off, len) - first, state);
	uint64_t bytes = (first + n) * BLOCK - off;

	return bytes < len ? bytes : len;
}

static int overlay_read(struct store *s, void *buf, uint32_t len, uint64_t off)
{
	struct overlay *o = overlay_of(s);
	uint8_t *p = buf;

	while (len) {
		unsigned int state;
		uint32_t n = (uint32_t)run_bytes(o, off, len, &state);
		int err = 0;

		if (state == BASE)
			err = o->base->ops->read(o->base, p, n, off);
		else if (state == DATA)
			err = overlay_pread(o->fd, p, n, o->data_at + off);
		else
			memset(p, 0, n);
		if (err)
			return err;
		p += n;
		off += n;
		len -= n;
	}
	return 0;
}

/* One run of one state, if it is in memory. */
static int read_run_now(struct overlay *o, uint8_t *p, uint32_t n, uint64_t off,
			unsigned int state)
{
	ssize_t got;

	if (state == BASE)
		return o->base->ops->read_now(o->base, p, n, off);
	if (state == ZERO) {
		memset(p, 0, n);
		return 0;
	}
	got = os_pread_now(o->fd, p, n, o->data_at + off);
	if (got < 0)
		return (int)got;
	return (uint32_t)got == n ? 0 : -EAGAIN;
}

/* Longer runs are worth a call of their own. */
#define LONG_RUN	(32U << 10)

static int overlay_read_now(struct store *s, void *buf, uint32_t len,
			    uint64_t off)
{
	struct overlay *o = overlay_of(s);
	bool under = false;
	uint8_t *p = buf;

	while (len) {
		unsigned int state;
		uint32_t n = (uint32_t)run_bytes(o, off, len, &state);
		int err = 0;

		/*
		 * Mostly a station has written few blocks here and there: all
		 * of the image's bytes by one call, and its own over them, are
		 * fewer calls than one for each run.
		 */
		if (!under && n < LONG_RUN && n != len &&
		    (state == BASE || p == buf) &&
		    !o->base->ops->read_now(o->base, p, len, off))
			under = true;
		if (!under || state != BASE)
			err = read_run_now(o, p, n, off, state);
		if (err)
			return err;
		p += n;
		off += n;
		len -= n;
	}
	return 0;
}

/* The image never changes, so its part may leave without a copy. */
static int overlay_send_fd(struct store *s, uint32_t len, uint64_t off)
{
	struct overlay *o = overlay_of(s);
	unsigned int state;

	if (run_bytes(o, off, len, &state) != len || state != BASE)
		return -1;
	return o->base->ops->send_fd(o->base, len, off);
}

static struct store *overlay_origin(struct store *s, uint32_t len, uint64_t off)
{
	struct overlay *o = overlay_of(s);
	unsigned int state;

	return run_bytes(o, off, len, &state) == len && state == BASE ? o->base : s;
}

static int overlay_cache(struct store *s, uint64_t off, uint64_t len)
{
	struct overlay *o = overlay_of(s);

	(void)posix_fadvise(o->fd, (off_t)(o->data_at + off), (off_t)len,
			    POSIX_FADV_WILLNEED);
	return o->base->ops->cache(o->base, off, len);
}

static void note_change(struct overlay *o)
{
	/* Most often it is known: no cache line changes its owner for that. */
	if (!atomic_load_explicit(&o->changed, memory_order_relaxed))
		atomic_store(&o->changed, true);
}

/* -- writing --------------------------------------------------------------- */

static int full(struct overlay *o)
{
	char size[32];

	if (!atomic_exchange(&o->said_full, true))
		log_peer(LOG_WARNING, "export \"%s\", station %s: its overlay is full (overlay_max = %s): its writes fail until it trims something",
			 o->info.export_name, o->info.station,
			 log_bytes(size, sizeof(size), o->max_blocks * BLOCK));
	return -ENOSPC;
}

static int read_base(struct overlay *o, uint64_t block, uint8_t *out)
{
	uint64_t off = block * BLOCK, left = o->store.size - off;
	uint32_t n = left < BLOCK ? (uint32_t)left : BLOCK;

	memset(out + n, 0, BLOCK - n);
	return o->base->ops->read(o->base, out, n, off);
}

/* A part of one block. */
static int write_part(struct overlay *o, const uint8_t *p, uint32_t len,
		      uint64_t off)
{
	const uint64_t block = off / BLOCK;
	uint8_t whole[BLOCK];
	unsigned int state;
	int err;

	/* The image may be slow, but it does not change: ask before the lock. */
	if (overlay_map_state(&o->map, block) == BASE) {
		err = read_base(o, block, whole);
		if (err)
			return err;
	}
	pthread_mutex_lock(&o->map.lock);
	state = overlay_map_state(&o->map, block);
	if (state == DATA) {
		pthread_mutex_unlock(&o->map.lock);
		return overlay_pwrite(o->fd, p, len, o->data_at + off);
	}
	if (o->max_blocks && atomic_load(&o->map.used) >= o->max_blocks) {
		err = full(o);
	} else {
		/* It cannot have become BASE since; ZERO it can. */
		if (state == ZERO)
			memset(whole, 0, BLOCK);
		memcpy(whole + off % BLOCK, p, len);
		err = overlay_pwrite(o->fd, whole, BLOCK, o->data_at + block * BLOCK);
		if (!err)
			err = overlay_map_set(&o->map, block, 1, DATA);
		if (!err)
			atomic_fetch_add(&o->map.used, 1);
	}
	pthread_mutex_unlock(&o->map.lock);
	return err;
}

/* @n whole blocks, within one page of the map. */
static int write_blocks(struct overlay *o, const uint8_t *p, uint64_t first,
			uint64_t n)
{
	uint64_t i, new = 0;
	int err;

	pthread_mutex_lock(&o->map.lock);
	for (i = first; i < first + n; i++)
		new += overlay_map_state(&o->map, i) != DATA;
	if (o->max_blocks && atomic_load(&o->map.used) + new > o->max_blocks && new)
		err = full(o);
	else
		err = overlay_pwrite(o->fd, p, n * BLOCK, o->data_at + first * BLOCK);
	if (!err && new)
		err = overlay_map_set(&o->map, first, n, DATA);
	if (!err)
		atomic_fetch_add(&o->map.used, new);
	pthread_mutex_unlock(&o->map.lock);
	return err;
}

static int write_plain(struct overlay *o, const uint8_t *p, uint64_t len,
		       uint64_t off)
{
	while (len) {
		const uint64_t block = off / BLOCK;
		uint64_t n, to_page;
		unsigned int state;
		int err;

		n = run_bytes(o, off, len, &state);
		if (state == DATA) {
			err = overlay_pwrite(o->fd, p, n, o->data_at + off);
		} else if (off % BLOCK || n < BLOCK) {
			n = BLOCK - off % BLOCK;
			if (n > len)
				n = len;
			err = write_part(o, p, (uint32_t)n, off);
		} else {
			to_page = PAGE_BLOCKS - block % PAGE_BLOCKS;
			n /= BLOCK;
			if (n > to_page)
				n = to_page;
			err = write_blocks(o, p, block, n);
			n *= BLOCK;
		}
		if (err)
			return err;
		p += n;
		off += n;
		len -= n;
	}
	return 0;
}

static void sync_failed(struct overlay *o, int err)
{
	atomic_store(&o->map.lost, true);
	if (atomic_exchange(&o->said_lost, true))
		return;
	log_msg(LOG_CRIT, "%s: sync failed: %s: writes of station %s may be lost, so every flush fails until the server is restarted; check the disk under it",
		o->path, strerror(-err), o->info.station);
	loss_note(o->fd, o->path);
}

static int overlay_flush(struct store *s)
{
	struct overlay *o = overlay_of(s);
	int err;

	note_change(o);
	err = overlay_map_flush(&o->map);
	if (err && atomic_load(&o->map.lost))
		sync_failed(o, err);
	return err;
}

/* FUA where nothing but the data is to be synced; -EAGAIN: otherwise. */
static int write_durable(struct overlay *o, const uint8_t *p, uint64_t len,
			 uint64_t off)
{
	unsigned int state;
	bool settled;
	int err;

	/* Not while a block has become DATA and its page is not marked yet. */
	pthread_mutex_lock(&o->map.lock);
	settled = o->durable_fd >= 0 &&
		  run_bytes(o, off, len, &state) == len && state == DATA &&
		  overlay_map_settled(&o->map, off, len);
	pthread_mutex_unlock(&o->map.lock);
	if (!settled)
		return -EAGAIN;
	while (len) {
		ssize_t n = os_pwrite_durable(o->durable_fd, p, len,
					      o->data_at + off);

		if (n == -EINTR)
			continue;
		if (n == -EOPNOTSUPP || n == -ENOSYS)
			return -EAGAIN;
		if (n <= 0) {
			err = n ? (int)n : -EIO;
			/* Of others the flush is told too: see store-file.c. */
			if (err == -EIO)
				sync_failed(o, err);
			return err;
		}
		p += n;
		off += (uint64_t)n;
		len -= (uint64_t)n;
	}
	/* What another one's sync was told meanwhile, this one was not. */
	return atomic_load(&o->map.lost) ? -EIO : 0;
}

static int overlay_write(struct store *s, const void *buf, uint32_t len,
			 uint64_t off, bool fua)
{
	struct overlay *o = overlay_of(s);
	int err;

	note_change(o);
	if (fua) {
		if (atomic_load(&o->map.lost))
			return -EIO;
		err = write_durable(o, buf, len, off);
		if (err != -EAGAIN)
			return err;
	}
	err = write_plain(o, buf, len, off);
	return err || !fua ? err : STORE_UNSYNCED;
}

/* -- zeroes ---------------------------------------------------------------- */

/*
 * @n whole blocks within one page of the map read as zeroes, and give their
 * space back. -EOPNOTSUPP: the file system cannot give space back.
 */
static int zero_blocks(struct overlay *o, uint64_t first, uint64_t n)
{
	uint64_t i, data = 0, other = 0;
	int err = 0;

	pthread_mutex_lock(&o->map.lock);
	for (i = first; i < first + n; i++) {
		data += overlay_map_state(&o->map, i) == DATA;
		other += overlay_map_state(&o->map, i) != ZERO;
	}
	if (data && atomic_load(&o->no_punch)) {
		err = -EOPNOTSUPP;
	} else if (data) {
		err = os_punch_hole(o->fd, o->data_at + first * BLOCK,
				    n * BLOCK);
		if (err == -ENOSYS || err == -ENODEV)
			err = -EOPNOTSUPP;
		if (err == -EOPNOTSUPP)
			atomic_store(&o->no_punch, true);
	}
	if (!err && other)
		err = overlay_map_set(&o->map, first, n, ZERO);
	if (!err) {
		atomic_fetch_sub(&o->map.used, data);
		if (data)
			atomic_store(&o->said_full, false);
	}
	pthread_mutex_unlock(&o->map.lock);
	return err;
}

static int write_zeroes(struct overlay *o, uint64_t off, uint64_t len)
{
	static const uint8_t zeroes[64 << 10];

	while (len) {
		uint64_t n = len < sizeof(zeroes) ? len : sizeof(zeroes);
		int err = write_plain(o, zeroes, n, off);

		if (err)
			return err;
		off += n;
		len -= n;
	}
	return 0;
}

/* What becomes of data whose space cannot be given back. */
enum otherwise { STAYS, IS_OVERWRITTEN, IS_REFUSED };

/* Blocks @first up to @end. */
static int zero_range(struct overlay *o, uint64_t first, uint64_t end,
		      enum otherwise data)
{
	while (first < end) {
		uint64_t n = PAGE_BLOCKS - first % PAGE_BLOCKS;
		int err;

		if (n > end - first)
			n = end - first;
		err = zero_blocks(o, first, n);
		if (err == -EOPNOTSUPP && data == STAYS)
			err = 0;
		else if (err == -EOPNOTSUPP && data == IS_OVERWRITTEN)
			err = write_zeroes(o, first * BLOCK, n * BLOCK);
		else if (err == -EOPNOTSUPP)
			err = -ENOTSUP;
		if (err)
			return err;
		first += n;
	}
	return 0;
}

/* The last block of a size that is no multiple of it is whole at that end. */
static uint64_t whole_end(const struct overlay *o, uint64_t end)
{
	return end == o->store.size ? o->map.blocks : end / BLOCK;
}

static int overlay_zero(struct store *s, uint64_t off, uint64_t len,
			unsigned int flags)
{
	struct overlay *o = overlay_of(s);
	uint64_t first = (off + BLOCK - 1) / BLOCK, end = off + len;
	uint64_t last = whole_end(o, end);
	int err;

	note_change(o);
	if (flags & STORE_ZERO_NO_HOLE)
		return flags & STORE_ZERO_FAST ? -ENOTSUP :
		       write_zeroes(o, off, len);
	if (first >= last)
		return write_zeroes(o, off, len);
	err = zero_range(o, first, last, flags & STORE_ZERO_FAST ?
			 IS_REFUSED : IS_OVERWRITTEN);
	if (!err && off % BLOCK)
		err = write_zeroes(o, off, first * BLOCK - off);
	if (!err && last * BLOCK < end)
		err = write_zeroes(o, last * BLOCK, end - last * BLOCK);
	return err;
}

static int overlay_trim(struct store *s, uint64_t off, uint64_t len)
{
	struct overlay *o = overlay_of(s);
	uint64_t first = (off + BLOCK - 1) / BLOCK;
	uint64_t last = whole_end(o, off + len);

	note_change(o);
	return first < last ? zero_range(o, first, last, STAYS) : 0;
}

/* -- what is where ---------------------------------------------------------- */

static int overlay_extents(struct store *s, uint64_t off, uint64_t len,
			   struct store_extent *e, unsigned int max)
{
	struct overlay *o = overlay_of(s);
	const uint64_t end = off + len;
	unsigned int n = 0;

	while (off < end && n < max) {
		unsigned int state;
		uint64_t bytes = run_bytes(o, off, end - off, &state);
		int got = 1, i;

		e[n].length = bytes;
		e[n].flags = state == ZERO ? NBD_STATE_HOLE | NBD_STATE_ZERO : 0;
		if (state == BASE && o->base->ops->extents) {
			got = o->base->ops->extents(o->base, off, bytes, e + n,
						    max - n);
			if (got < 0)
				return got;
		}
		for (i = 0; i < got; i++) {
			struct store_extent now = e[n];

			off += now.length;
			if (n && e[n - 1].flags == now.flags) {
				e[n - 1].length += now.length;
				memmove(e + n, e + n + 1,
					sizeof(*e) * (size_t)(got - i - 1));
			} else {
				n++;
			}
		}
	}
	return (int)n;
}

/* -- life -------------------------------------------------------------------- */

static void overlay_close(struct store *s)
{
	struct overlay *o = overlay_of(s);

	/* So that the next one need not copy what is the same in both maps. */
	if (o->opened && !overlay_flush(s))
		(void)overlay_write_state(o->fd, o->server_boot, &o->info, true);
	if (o->durable_fd >= 0)
		close(o->durable_fd);
	if (o->fd >= 0)
		close(o->fd);	/* and the lock with it */
	overlay_map_free(&o->map);
	free(o);
}

static const struct store_ops overlay_ops = {
	.name = "overlay",
	.close = overlay_close,
	.read = overlay_read,
	.read_now = overlay_read_now,
	.send_fd = overlay_send_fd,
	.origin = overlay_origin,
	.write = overlay_write,
	.zero = overlay_zero,
	.trim = overlay_trim,
	.flush = overlay_flush,
	.cache = overlay_cache,
	.extents = overlay_extents,
};

/* Everything after the lock. */
static int open_locked(struct overlay *o, const char *image, uint64_t max,
		       char *why, size_t why_size)
{
	char boot[NBD_SESSION_WORD];
	bool clean, same;
	int err = overlay_read_header(o->fd, o->path, &o->info, why, why_size);

	if (err)
		return err;
	if (strcmp(o->info.image, image) || o->info.size != o->base->size) {
		snprintf(why, why_size, "%s: was made on image %s (%s, %llu bytes), and the image is now %s (%llu bytes)",
			 o->path, o->info.image, o->info.image_path,
			 (unsigned long long)o->info.size, image,
			 (unsigned long long)o->base->size);
		return -ESTALE;
	}
	o->store.size = o->info.size;
	o->store.pref_block = BLOCK;
	o->store.rotational = o->base->rotational;
	o->max_blocks = max / BLOCK;
	if (max && !o->max_blocks)
		o->max_blocks = 1;
	o->data_at = overlay_data_at(o->info.size);
	if (!overlay_map_init(&o->map, o->fd, o->info.size)) {
		snprintf(why, why_size, "%s: out of memory", o->path);
		return -ENOMEM;
	}
	if (loss_is_known(o->fd)) {
		atomic_store(&o->map.lost, true);
		atomic_store(&o->said_lost, true);
		log_peer(LOG_ERR, "%s: a sync of it has failed before: every flush fails until the server is restarted; check the disk under it",
			 o->path);
	}
	same = overlay_read_state(o->fd, boot, &o->info, &clean) &&
	       strcmp(o->server_boot, "-") && !strcmp(boot, o->server_boot);
	err = overlay_map_load(&o->map, same, clean);
	if (err == -EBADMSG)
		return overlay_bad(o->path, "its map is damaged", why, why_size);
	if (!err && (!same || !clean))
		overlay_map_sweep(&o->map, o->data_at);
	if (!err)
		err = overlay_write_state(o->fd, o->server_boot, &o->info, false);
	if (err)
		snprintf(why, why_size, "%s: %s", o->path, strerror(-err));
	return err;
}

struct store *store_overlay_open(const char *path, struct store *base,
				 const char *image, const char *server_boot,
				 uint64_t max, char *why, size_t why_size)
{
	struct overlay *o = calloc(1, sizeof(*o) + strlen(path) + 1);

	if (!o) {
		snprintf(why, why_size, "%s: out of memory", path);
		return NULL;
	}
	strcpy(o->path, path);
	o->store.ops = &overlay_ops;
	o->base = base;
	o->durable_fd = -1;
	snprintf(o->server_boot, sizeof(o->server_boot), "%s", server_boot);
	o->fd = overlay_lock(path, LOCK_PATIENCE);
	if (o->fd == -EWOULDBLOCK)
		snprintf(why, why_size, "%s: in use by another process (another nbd-server?)",
			 path);
	else if (o->fd < 0)
		snprintf(why, why_size, "%s: %s", path, strerror(-o->fd));
	if (o->fd < 0 || open_locked(o, image, max, why, why_size)) {
		overlay_close(&o->store);
		return NULL;
	}
	o->durable_fd = os_reopen(o->fd);
	o->opened = true;
	return &o->store;
}

bool store_is_overlay(const struct store *s)
{
	return s->ops == &overlay_ops;
}

const char *store_overlay_path(const struct store *s)
{
	return overlay_of(s)->path;
}

uint64_t store_overlay_used(const struct store *s)
{
	return atomic_load(&overlay_of(s)->map.used) * BLOCK;
}

bool store_overlay_changed(const struct store *s)
{
	return atomic_load(&overlay_of(s)->changed);
}

int store_overlay_mark(struct store *s, const char *station_boot, bool done)
{
	struct overlay *o = overlay_of(s);

	if (station_boot)
		snprintf(o->info.station_boot, sizeof(o->info.station_boot),
			 "%s", station_boot);
	o->info.done = done;
	return overlay_write_state(o->fd, o->server_boot, &o->info, false);
}

