// SPDX-License-Identifier: GPL-2.0
/*
 * overlay-map.c - which blocks of an overlay are whose: the two maps in its
 * file, and the one in memory that readers go by.
 *
 * A block is BASE (the image's), DATA (here) or ZERO (reads as zeroes, and its
 * space here was given back). Never does a block go back to BASE: what a
 * station trimmed or zeroed does not show the image's bytes again.
 *
 * Why two maps. Two things must hold:
 *
 * 1. What was answered survives kill -9: so B is written (into the page cache,
 *    like the data) before the answer. In this boot of the machine, B is true.
 * 2. After a power cut a block is wholly there or wholly as it was before, and
 *    is there if a flush covered it. The page cache reaches the disk in any
 *    order, so B may then say DATA of a block that never arrived. A does not:
 *    a flush syncs the data first, then writes A, then syncs again. After
 *    another boot of the machine, A is true.
 *
 * The state names the boot in which B was written. When it is another one, B is
 * made from A before the state says that this boot goes on: a kill between
 * finds the old boot there, and starts over. A page of A that was torn by the
 * power cut mixes two states of blocks, and both are true ones: the data of the
 * newer was synced before, that of the older is only replaced by what was
 * written to the same block since, as on any disk.
 */
#define _GNU_SOURCE
#include "overlay-map.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "nbd-wire.h"
#include "os.h"
#include "overlay-file.h"

#define PAGE		4096U		/* of a map */
#define PAGE_BLOCKS	OVERLAY_PAGE_BLOCKS
/* Pages of map A that one sync makes way for. */
#define BATCH		64U

/* A page of map A: does it say what B says? */
enum { CLEAN, DIRTY, SYNCING };

uint64_t overlay_map_run(const struct overlay_map *m, uint64_t block,
			 uint64_t max, unsigned int *state)
{
	uint64_t n = 1;
	uint8_t four;

	*state = overlay_map_state(m, block);
	four = (uint8_t)(*state * 0x55U);
	while (n < max) {
		if (!((block + n) % 4) && n + 4 <= max &&
		    atomic_load_explicit(&m->four[(block + n) / 4],
					 memory_order_acquire) == four)
			n += 4;
		else if (overlay_map_state(m, block + n) == *state)
			n++;
		else
			break;
	}
	return n;
}

int overlay_map_set(struct overlay_map *m, uint64_t first, uint64_t n,
		    unsigned int state)
{
	uint64_t from = first / 4, to = (first + n - 1) / 4, i;
	uint8_t bytes[PAGE];
	int err;

	for (i = from; i <= to; i++)
		bytes[i - from] = atomic_load(&m->four[i]);
	for (i = first; i < first + n; i++) {
		uint8_t *b = &bytes[i / 4 - from];
		unsigned int shift = i % 4 * 2;

		*b = (uint8_t)((*b & ~(3U << shift)) | state << shift);
	}
	err = overlay_pwrite(m->fd, bytes, to - from + 1, m->at_b + from);
	if (err)
		return err;
	for (i = from; i <= to; i++)
		atomic_store_explicit(&m->four[i], bytes[i - from],
				      memory_order_release);
	atomic_store(&m->page[first / PAGE_BLOCKS], DIRTY);
	return 0;
}

/* The kernel says it once: whoever waits for the lock must hear it too. */
static int sync_data(struct overlay_map *m)
{
	int err = overlay_sync(m->fd);

	if (err)
		atomic_store(&m->lost, true);
	return err;
}

/*
 * Bring up to BATCH pages of A, from *@next on, to what B says at this moment;
 * *@next is then where to go on. Returns how many, or a negative errno. What A
 * is to say is copied before the sync of the data: bits that come later stand
 * for data that may not have arrived.
 */
static int flush_batch(struct overlay_map *m, uint64_t *next)
{
	uint8_t (*copy)[PAGE];
	uint64_t at[BATCH], i;
	unsigned int n = 0, k, b;
	int err;

	copy = malloc(BATCH * PAGE);
	if (!copy)
		return -ENOMEM;
	/* A block that is DATA to a reader, its page is DIRTY to us. */
	pthread_mutex_lock(&m->lock);
	for (i = *next; i < m->pages && n < BATCH; i++) {
		if (atomic_load(&m->page[i]) == CLEAN)
			continue;
		/* Marked anew by whoever changes the page after this. */
		atomic_store(&m->page[i], SYNCING);
		for (b = 0; b < PAGE; b++)
			copy[n][b] = atomic_load(&m->four[i * PAGE + b]);
		at[n++] = i;
	}
	pthread_mutex_unlock(&m->lock);
	*next = i;
	err = sync_data(m);
	/* No room for a page of A: it stays dirty, and nothing is lost. */
	for (k = 0; k < n && !err; k++)
		err = overlay_pwrite(m->fd, copy[k], PAGE,
				     OVERLAY_MAP_AT + at[k] * PAGE);
	if (n && !err)
		err = sync_data(m);
	for (k = 0; k < n; k++) {
		uint8_t was = SYNCING;

		if (err)
			atomic_store(&m->page[at[k]], DIRTY);
		else
			atomic_compare_exchange_strong(&m->page[at[k]], &was,
						       CLEAN);
	}
	free(copy);
	return err ? err : (int)n;
}

int overlay_map_flush(struct overlay_map *m)
{
	uint64_t next = 0;
	int n = 0;

	pthread_mutex_lock(&m->flush_lock);
	while (n >= 0 && next < m->pages && !atomic_load(&m->lost))
		n = flush_batch(m, &next);
	pthread_mutex_unlock(&m->flush_lock);
	return n < 0 ? n : atomic_load(&m->lost) ? -EIO : 0;
}

bool overlay_map_settled(const struct overlay_map *m, uint64_t off, uint64_t len)
{
	uint64_t i, last = (off + len - 1) / OVERLAY_BLOCK / PAGE_BLOCKS;

	for (i = off / OVERLAY_BLOCK / PAGE_BLOCKS; i <= last; i++)
		if (atomic_load(&m->page[i]) != CLEAN)
			return false;
	return true;
}

/*
 * Call @fn for every page of the map at @at that may have something in it; the
 * holes of a map are all BASE.
 */
static int each_page(int fd, uint64_t at, uint64_t len, void *ctx,
		     int (*fn)(void *ctx, uint64_t page, const uint8_t *bytes))
{
	uint64_t off = at, end = at + len;
	uint8_t bytes[PAGE];
	int err;

	while (off < end) {
		off_t next = lseek(fd, (off_t)off, SEEK_DATA);

		if (next < 0 && errno == ENXIO)
			break;
		if (next > (off_t)off)
			off = (uint64_t)next / PAGE * PAGE;
		if (off >= end)
			break;
		err = overlay_pread(fd, bytes, PAGE, off);
		if (!err)
			err = fn(ctx, (off - at) / PAGE, bytes);
		if (err)
			return err;
		off += PAGE;
	}
	return 0;
}

static unsigned int data_blocks(uint8_t four)
{
	unsigned int i, n = 0;

	for (i = 0; i < 8; i += 2)
		n += (four >> i & 3) == OVERLAY_DATA;
	return n;
}

static int load_page(void *ctx, uint64_t page, const uint8_t *bytes)
{
	struct overlay_map *m = ctx;
	bool any = false;
	unsigned int i;

	for (i = 0; i < PAGE; i++) {
		if (!bytes[i])
			continue;
		if (bytes[i] & bytes[i] >> 1 & 0x55)
			return -EBADMSG;
		any = true;
		atomic_store_explicit(&m->four[page * PAGE + i], bytes[i],
				      memory_order_relaxed);
		m->used += data_blocks(bytes[i]);
	}
	if (any)
		atomic_store(&m->page[page], DIRTY);
	return 0;
}

static int copy_page(void *ctx, uint64_t page, const uint8_t *bytes)
{
	struct overlay_map *m = ctx;

	return overlay_pwrite(m->fd, bytes, PAGE, m->at_b + page * PAGE);
}

/* B of another boot of this machine is not to be believed: A is. */
static int recover(struct overlay_map *m)
{
	static const uint8_t zeroes[PAGE];
	uint64_t i;
	int err = 0;

	if (os_punch_hole(m->fd, m->at_b, m->len))
		for (i = 0; i < m->pages && !err; i++)
			err = overlay_pwrite(m->fd, zeroes, PAGE,
					     m->at_b + i * PAGE);
	return err ? err : each_page(m->fd, OVERLAY_MAP_AT, m->len, m, copy_page);
}

static int count_page(void *ctx, uint64_t page, const uint8_t *bytes)
{
	uint64_t *used = ctx;
	unsigned int i;

	(void)page;
	for (i = 0; i < PAGE; i++)
		if (bytes[i])
			*used += data_blocks(bytes[i]);
	return 0;
}

int overlay_map_count(int fd, uint64_t size, uint64_t *used)
{
	uint64_t len = overlay_map_length(size);

	*used = 0;
	return each_page(fd, OVERLAY_MAP_AT + len, len, used, count_page);
}

int overlay_map_load(struct overlay_map *m, bool same_boot, bool clean)
{
	uint64_t i;
	int err = 0;

	if (!same_boot)
		err = recover(m);
	if (!err)
		err = each_page(m->fd, m->at_b, m->len, m, load_page);
	/* B is A, or was synced into it at the last close. */
	if (!same_boot || clean)
		for (i = 0; i < m->pages; i++)
			atomic_store(&m->page[i], CLEAN);
	return err;
}

void overlay_map_sweep(struct overlay_map *m, uint64_t data_at)
{
	uint64_t off = data_at, end = off + m->blocks * OVERLAY_BLOCK;

	while (off < end) {
		off_t from = lseek(m->fd, (off_t)off, SEEK_DATA), to;
		uint64_t b, last;

		to = from < 0 ? -1 : lseek(m->fd, from, SEEK_HOLE);
		if (to < 0)
			return;
		last = ((uint64_t)to - data_at + OVERLAY_BLOCK - 1) /
		       OVERLAY_BLOCK;
		if (last > m->blocks)
			last = m->blocks;
		for (b = ((uint64_t)from - data_at) / OVERLAY_BLOCK; b < last; ) {
			unsigned int state;
			uint64_t n = overlay_map_run(m, b, last - b, &state);

			if (state != OVERLAY_DATA &&
			    os_punch_hole(m->fd, data_at + b * OVERLAY_BLOCK,
					  n * OVERLAY_BLOCK))
				return;
			b += n;
		}
		off = (uint64_t)to;
	}
}

/*
 * Most stations write few blocks, and hundreds of them are idle: pages that the
 * system gives when they are written, and gets back when the station leaves.
 * What comes from the heap was somebody else's and is filled with zeroes.
 */
static void *new_map(uint64_t len)
{
	void *map = mmap(NULL, len, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (map == MAP_FAILED)
		return NULL;
#ifdef MADV_NOHUGEPAGE
	/* The maps lie side by side: the first block written is not 2 MiB. */
	(void)madvise(map, len, MADV_NOHUGEPAGE);
#endif
	return map;
}

bool overlay_map_init(struct overlay_map *m, int fd, uint64_t size)
{
	m->fd = fd;
	m->blocks = overlay_blocks(size);
	m->len = overlay_map_length(size);
	m->pages = m->len / PAGE;
	m->at_b = OVERLAY_MAP_AT + m->len;
	m->four = new_map(m->len);
	m->page = calloc(1, m->pages);
	pthread_mutex_init(&m->lock, NULL);
	pthread_mutex_init(&m->flush_lock, NULL);
	return m->four && m->page;
}

void overlay_map_free(struct overlay_map *m)
{
	if (!m->len)
		return;
	pthread_mutex_destroy(&m->lock);
	pthread_mutex_destroy(&m->flush_lock);
	if (m->four)
		munmap((void *)(uintptr_t)m->four, m->len);
	free((void *)(uintptr_t)m->page);
}
