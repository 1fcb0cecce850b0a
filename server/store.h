/* SPDX-License-Identifier: GPL-2.0 */
/*
 * store.h - what an export's bytes live in. The engine and the protocol know
 * only this interface; `file` (store-file.c) implements it.
 *
 * Every operation returns 0 or a negative errno and does all of its work or
 * reports an error: there are no short reads. Ranges were checked by the
 * caller to lie inside ->size. All may be called from several threads at
 * once; overlapping writes in flight together end in either's bytes, a byte
 * each. Unless it says otherwise an operation may block for as long as the
 * medium does.
 */
#ifndef SERVER_STORE_H
#define SERVER_STORE_H

#include <stddef.h>
#include <stdint.h>
#include <stdbool.h>

struct job;
struct store;

/* Of store_ops.zero. */
#define STORE_ZERO_NO_HOLE	1U	/* keep the space allocated */
#define STORE_ZERO_FAST		2U	/* -ENOTSUP rather than write zeroes */

/* Of store_ops.write: written, and durable after the next flush. */
#define STORE_UNSYNCED		1

/* A stretch of a store. */
struct store_extent {
	uint64_t length;	/* bytes */
	uint32_t flags;		/* NBD_STATE_* of base:allocation; 0: data */
};

struct store_ops {
	const char *name;

	/* Free the store. Nothing is synced. */
	void (*close)(struct store *s);

	int (*read)(struct store *s, void *buf, uint32_t len, uint64_t off);

	/*
	 * The same without waiting for the medium: -EAGAIN when the bytes
	 * are not all in memory. May leave half of an answer in @buf then.
	 */
	int (*read_now)(struct store *s, void *buf, uint32_t len, uint64_t off);

	/*
	 * A file descriptor whose bytes @off .. @off + @len are the answer
	 * and in memory at this moment: fit for sendfile(2). -1 when there is
	 * none. The descriptor stays the store's. Does not block.
	 */
	int (*send_fd)(struct store *s, uint32_t len, uint64_t off);

	/*
	 * The store whose bytes @off .. @off + @len are: two stores that name the
	 * same one would read the same from the medium. NULL: always itself.
	 * Does not block.
	 */
	struct store *(*origin)(struct store *s, uint32_t len, uint64_t off);

	/* @fua: durable on return, or STORE_UNSYNCED: the caller has yet to flush. */
	int (*write)(struct store *s, const void *buf, uint32_t len,
		     uint64_t off, bool fua);

	/* Read as zeroes from now on; @flags are STORE_ZERO_*. */
	int (*zero)(struct store *s, uint64_t off, uint64_t len,
		    unsigned int flags);

	/* A hint: these bytes are not needed any more. */
	int (*trim)(struct store *s, uint64_t off, uint64_t len);

	/* All writes that returned before this call are durable on return. */
	int (*flush)(struct store *s);

	/* A hint: these bytes will be read soon. */
	int (*cache)(struct store *s, uint64_t off, uint64_t len);

	/*
	 * What lies from @off on: up to @max extents into @e, one after the
	 * other without a gap, neighbours of different flags, the last one
	 * ending at @off + @len at the latest. Returns how many (at least 1;
	 * fewer than it takes to cover @len where there are more), or a
	 * negative errno. NULL: all of it is data.
	 */
	int (*extents)(struct store *s, uint64_t off, uint64_t len,
		       struct store_extent *e, unsigned int max);

	/*
	 * Is it known, without asking anybody, that a long hole lies in this
	 * range, so that ->extents() is worth its while? NULL: never.
	 */
	bool (*has_hole)(struct store *s, uint64_t off, uint64_t len);
};

struct store {
	const struct store_ops *ops;
	uint64_t size;		/* of the export, in bytes */
	uint32_t pref_block;	/* preferred I/O size, a power of two */
	bool rotational;	/* seeks are dear */

	/* Group commit of flushes: job.c's, under its lock. */
	bool flushing;
	struct job *flush_waiting;
};

/*
 * Open a regular file or a block device. @size: serve that many bytes from
 * its start; 0 for all of it. Refuses what another process uses in a way that
 * would harm either. On failure returns NULL, with one sentence in @why that
 * names neither the program nor the export, but the file.
 */
struct store *store_file_open(const char *path, bool read_only, uint64_t size,
			      char *why, size_t why_size);

/* What it reads and writes; it stays the store's. */
int store_file_fd(const struct store *s);

#endif
