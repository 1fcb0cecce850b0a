/* SPDX-License-Identifier: GPL-2.0 */
/*
 * overlay-file.h - the file of one overlay.
 */
#ifndef SERVER_OVERLAY_FILE_H
#define SERVER_OVERLAY_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "nbd-session.h"

#define OVERLAY_BLOCK	4096U
/* Where map A begins; B follows it. */
#define OVERLAY_MAP_AT	8192U

/* What an overlay's file says of itself. */
struct overlay_info {
	char export_name[257];
	char station[NBD_SESSION_WORD];
	char image[NBD_SESSION_WORD];	/* identity of the image under it */
	char image_path[1024];		/* where that was */
	uint64_t size;			/* of the image, in bytes */
	uint64_t created;		/* seconds since 1970 */
	char station_boot[NBD_SESSION_WORD];	/* "-": not known */
	bool done;	/* its last client said that it is done with it */
	/* By overlay_inspect() with @count only. */
	uint64_t used;			/* bytes that are the station's */
};

/*
 * Read what the overlay at @path is. @count: find ->used too. Returns 0, or a
 * negative errno with a sentence in @why: -ENOENT, -EBADMSG when it is not an
 * overlay or damaged. Takes no lock.
 */
int overlay_inspect(const char *path, bool count, struct overlay_info *info,
		    char *why, size_t why_size);

/*
 * Lock the overlay at @path for this process (another's lock is waited for as
 * @patience milliseconds say). Returns a descriptor that holds the lock until
 * it is closed, or -errno: -ENOENT, -EWOULDBLOCK.
 */
int overlay_lock(const char *path, int patience);

/*
 * Create an empty overlay at @path, or put one in the place of what is there:
 * there is never half of one. @info: all but ->created and ->used. Returns 0
 * or a negative errno with a sentence in @why.
 */
int overlay_create(const char *path, const struct overlay_info *info,
		   char *why, size_t why_size);

/* -- for store-overlay.c and overlay-map.c --------------------------------- */

/* How many blocks an image of @size bytes has, and where things are then. */
uint64_t overlay_blocks(uint64_t size);
uint64_t overlay_map_length(uint64_t size);
uint64_t overlay_data_at(uint64_t size);

/* -EBADMSG, with what to do about it in @why. */
int overlay_bad(const char *path, const char *what, char *why, size_t why_size);

/* As overlay_inspect(), of an open file, and without the state. */
int overlay_read_header(int fd, const char *path, struct overlay_info *info,
			char *why, size_t why_size);

/*
 * The state: which boot of this machine wrote the map (NBD_SESSION_WORD bytes),
 * whether map A was brought up to it, and @info's ->station_boot and ->done.
 * Reading: false when there is no telling.
 */
int overlay_write_state(int fd, const char *server_boot,
			const struct overlay_info *info, bool clean);
bool overlay_read_state(int fd, char *server_boot, struct overlay_info *info,
			bool *clean);

/* All of it, or a negative errno; -ENODATA: the file ends before. */
int overlay_pread(int fd, void *buf, size_t len, uint64_t off);
int overlay_pwrite(int fd, const void *buf, size_t len, uint64_t off);
int overlay_sync(int fd);

#endif
