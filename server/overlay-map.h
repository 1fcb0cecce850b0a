/* SPDX-License-Identifier: GPL-2.0 */
/*
 * overlay-map.h - whose each block of an overlay is. Of store-overlay.c and
 * overlay-file.c only.
 */
#ifndef SERVER_OVERLAY_MAP_H
#define SERVER_OVERLAY_MAP_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* Blocks that one page of a map speaks of. */
#define OVERLAY_PAGE_BLOCKS	(4096U * 4U)

enum { OVERLAY_BASE = 0, OVERLAY_DATA = 1, OVERLAY_ZERO = 2 };

struct overlay_map {
	int fd;
	uint64_t blocks, len, pages, at_b;
	_Atomic uint8_t *four;		/* B, as readers see it: 4 blocks each */
	_Atomic uint8_t *page;		/* of each page: does A say the same? */
	pthread_mutex_t lock;		/* every change of ->four, marked in ->page */
	pthread_mutex_t flush_lock;	/* taken before ->lock */
	_Atomic uint64_t used;		/* blocks that are DATA */
	atomic_bool lost;		/* a sync failed: no flush succeeds now */
};

/* For the open overlay @fd of an image of @size bytes, zeroed before. */
bool overlay_map_init(struct overlay_map *m, int fd, uint64_t size);
void overlay_map_free(struct overlay_map *m);

/*
 * Read the map, as it was left by this boot of the machine (@clean: and synced)
 * or by another. 0 or a negative errno; -EBADMSG: it makes no sense.
 */
int overlay_map_load(struct overlay_map *m, bool same_boot, bool clean);

/*
 * Give back what was written, after @data_at in the file, and never came into the
 * map. Best effort.
 */
void overlay_map_sweep(struct overlay_map *m, uint64_t data_at);

static inline unsigned int overlay_map_state(const struct overlay_map *m,
					     uint64_t block)
{
	return atomic_load_explicit(&m->four[block / 4], memory_order_acquire) >>
	       block % 4 * 2 & 3;
}

/* How many blocks from @block on, @max at most, are what the first one is. */
uint64_t overlay_map_run(const struct overlay_map *m, uint64_t block,
			 uint64_t max, unsigned int *state);

/*
 * Blocks @first .. @first + @n become @state, in B and then in memory. Under
 * ->lock; they are within one page of the map. 0 or a negative errno.
 */
int overlay_map_set(struct overlay_map *m, uint64_t first, uint64_t n,
		    unsigned int state);

/* Is A true of all these bytes of the image? Under ->lock. */
bool overlay_map_settled(const struct overlay_map *m, uint64_t off,
			 uint64_t len);

/*
 * Sync the data, and bring A up to what B said when this was called. 0 or a
 * negative errno: of the first failure, and -EIO from then on.
 */
int overlay_map_flush(struct overlay_map *m);

/* How many blocks the map in the file @fd calls the station's. */
int overlay_map_count(int fd, uint64_t size, uint64_t *used);

#endif
