/* SPDX-License-Identifier: GPL-2.0 */
/*
 * image.h - the files behind exports, as they are open at the moment. A name
 * (/srv/root.img) can come to mean another file; whoever holds an image keeps
 * the file that it meant when he asked.
 */
#ifndef SERVER_IMAGE_H
#define SERVER_IMAGE_H

#include "nbd-session.h"
#include "store.h"

struct image {
	struct store *store;
	char id[NBD_SESSION_WORD];	/* a word of nbd-session.h */
	char *path;			/* of this file, links resolved */

	/* image.c's. */
	char *owner;
	bool read_only;
	uint64_t want_size, dev, ino;
	unsigned int refs;
	struct image *next;
};

/* What to open. */
struct image_spec {
	const char *path;
	const char *owner;	/* the export's name: it alone may write it */
	const char *identity;	/* its id; NULL: the file says */
	uint64_t size;		/* serve that many bytes; 0: all */
	bool read_only;
};

/*
 * The image that ->path means now. NULL with one sentence in @why. May block.
 * Give it back with image_put().
 */
struct image *image_current(const struct image_spec *spec, char *why,
			    size_t why_size);

/*
 * The image of this id: the current one, one that is still open, the file that
 * was at @last (may be NULL), or any other in the directory of ->path: whoever
 * publishes a new image may rename the old one, or let a link point to the new
 * one, and the id leads to the old one as long as it is there.
 */
struct image *image_version(const struct image_spec *spec, const char *id,
			    const char *last, char *why, size_t why_size);

struct image *image_hold(struct image *i);

/* May block. */
void image_put(struct image *i);

/* Does @path mean this file now, whatever it is called? */
bool image_is_at(const struct image *i, const char *path);

/* Does nobody hold it but one? */
bool image_held_once(const struct image *i);

/* The image that this store is of, or NULL. It is not held by that. */
struct image *image_of(const struct store *s);

#endif
