// SPDX-License-Identifier: GPL-2.0
/*
 * conn_world.c - what lies behind a connection, for the fuzz target conn.c: the
 * dice, a disk, one image of it, stations and rules that let in whom the dice
 * like, and a transaction log that counts.
 */
#include "conn_world.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "access.h"
#include "image.h"
#include "pins.h"
#include "run.h"
#include "store-overlay.h"
#include "translog.h"

/* The real log, into nowhere: its lines are composed all the same. */
static ssize_t swallow(int fd, const void *p, size_t len)
{
	(void)fd;
	(void)p;
	return (ssize_t)len;
}

#define write(fd, p, len) swallow(fd, p, len)
#include "log.c"
#undef write

static uint32_t dice;
static unsigned int asked, answered;

void world_begin(uint32_t seed)
{
	dice = seed;
	asked = answered = 0;
}

void check(bool ok)
{
	if (!ok)
		abort();
}

uint32_t roll(uint32_t sides)
{
	dice = dice * 1664525 + 1013904223;
	return (dice >> 8) % sides;
}

/* -- the disk ------------------------------------------------------------ */

static int outcome(uint64_t off, uint64_t len)
{
	static const int errors[] = { -EIO, -ENOSPC, -ENOTSUP, -ENOMEM };

	check(off < SIZE && len && len <= SIZE - off);
	return roll(10) ? 0 : errors[roll(4)];
}

static int disk_read(struct store *s, void *buf, uint32_t len, uint64_t off)
{
	(void)s;
	((uint8_t *)buf)[0] = ((uint8_t *)buf)[len - 1] = 1;
	return outcome(off, len);
}

static int disk_read_now(struct store *s, void *buf, uint32_t len, uint64_t off)
{
	return roll(3) ? disk_read(s, buf, len, off) : -EAGAIN;
}

static int disk_send_fd(struct store *s, uint32_t len, uint64_t off)
{
	(void)s;
	check(off < SIZE && len <= SIZE - off);
	return roll(2) ? 3 : -1;
}

static int disk_write(struct store *s, const void *buf, uint32_t len,
		      uint64_t off, bool fua)
{
	uint8_t first = *(const uint8_t *)buf, last = ((const uint8_t *)buf)[len - 1];

	(void)s;
	(void)fua;
	(void)(first ^ last);
	return outcome(off, len);
}

static int disk_zero(struct store *s, uint64_t off, uint64_t len,
		     unsigned int flags)
{
	(void)s;
	(void)flags;
	return outcome(off, len);
}

static int disk_trim(struct store *s, uint64_t off, uint64_t len)
{
	(void)s;
	return outcome(off, len);
}

static int disk_flush(struct store *s)
{
	(void)s;
	return roll(10) ? 0 : -EIO;
}

/* Holes and data in turns, of any length. */
static int disk_extents(struct store *s, uint64_t off, uint64_t len,
			struct store_extent *e, unsigned int max)
{
	unsigned int n;

	(void)s;
	check(max && off < SIZE && len && len <= SIZE - off);
	if (!roll(20))
		return -EIO;
	for (n = 0; n < max && len && roll(50); n++) {
		e[n].length = 1 + roll(20000);
		if (e[n].length > len)
			e[n].length = len;
		len -= e[n].length;
		e[n].flags = (n + dice) & 1 ? 0 : NBD_STATE_HOLE | NBD_STATE_ZERO;
	}
	if (n)
		return (int)n;
	e[0].length = len;
	e[0].flags = 0;
	return 1;
}

static void disk_close(struct store *s)
{
	(void)s;
}

static const struct store_ops disk_ops = {
	.name = "disk",
	.close = disk_close,
	.read = disk_read,
	.read_now = disk_read_now,
	.send_fd = disk_send_fd,
	.write = disk_write,
	.zero = disk_zero,
	.trim = disk_trim,
	.flush = disk_flush,
	.cache = disk_trim,
	.extents = disk_extents,
};

static struct store disk = {
	.ops = &disk_ops, .size = SIZE, .pref_block = 4096,
};

/* One image, and no station has anything of its own. */
static struct image image = { .store = &disk, .id = "1-2.3", .path = (char *)"/disk" };

struct image *image_current(const struct image_spec *spec, char *why,
			    size_t why_size)
{
	(void)why;
	(void)why_size;
	image.read_only = spec->read_only;
	return &image;
}

struct image *image_hold(struct image *i)
{
	return i;
}

bool image_is_at(const struct image *i, const char *path)
{
	(void)i;
	(void)path;
	return false;
}

bool image_held_once(const struct image *i)
{
	(void)i;
	return false;
}

void image_put(struct image *i)
{
	(void)i;
}

struct image *image_of(const struct store *s)
{
	check(s == &disk);
	return &image;
}

bool station_name(const struct station_export *x, const struct station_client *c,
		  char station[NBD_SESSION_WORD], char *why, size_t why_size)
{
	(void)x;
	(void)c;
	strcpy(station, "pc");
	snprintf(why, why_size, "no");
	return roll(8);
}

struct image *station_image(struct station_export *x,
			    const struct station_client *c,
			    const char *station, char *why, size_t why_size)
{
	(void)x;
	(void)c;
	(void)station;
	snprintf(why, why_size, "gone");
	return roll(8) ? &image : NULL;
}

bool station_overlay_settled(const struct station_export *x, const char *station)
{
	(void)x;
	(void)station;
	return true;
}

struct store *station_overlay_open(const struct station_export *x,
				   const struct station_client *c,
				   const char *station, struct image *base,
				   char *why, size_t why_size)
{
	(void)x;
	(void)c;
	(void)station;
	(void)base;
	(void)why;
	(void)why_size;
	return &disk;
}

void station_overlay_close(struct store *s, bool done)
{
	(void)s;
	(void)done;
}

bool station_overlays_sync(void)
{
	return true;
}

void pins_enter(const struct station_export *x, const char *station,
		   const char *boot)
{
	check(x && station && boot);
}

void pins_leave(const struct station_export *x, const char *station,
		   const char *boot)
{
	check(x && station && boot);
}

void pins_drop(const struct image *i)
{
	(void)i;
}

void pins_forget(bool all)
{
	(void)all;
}

void station_address(const struct sockaddr *peer, char word[NBD_SESSION_WORD])
{
	(void)peer;
	strcpy(word, "192.0.2.1");
}

bool station_check_rules(const char *path, char *why, size_t why_size)
{
	(void)path;
	(void)why;
	(void)why_size;
	return true;
}

uint64_t store_overlay_used(const struct store *s)
{
	(void)s;
	return 0;
}

bool store_is_overlay(const struct store *s)
{
	(void)s;
	return false;
}

const char *store_overlay_path(const struct store *s)
{
	(void)s;
	return "overlay";
}

void station_boot_word(const struct station_export *x,
		       const struct station_client *c, const char *station,
		       const struct image *i, char boot[NBD_SESSION_WORD])
{
	(void)x;
	(void)c;
	(void)station;
	(void)i;
	(void)boot;
}

bool run_command(const char *line, const char *path, const char *export_name,
		 const char *address)
{
	(void)line;
	(void)path;
	(void)export_name;
	(void)address;
	return true;
}

bool run_check(const char *line, char *why, size_t why_size)
{
	(void)line;
	(void)why;
	(void)why_size;
	return true;
}

bool access_check_file(const char *path, char *why, size_t why_size)
{
	(void)path;
	(void)why;
	(void)why_size;
	return true;
}

unsigned int access_group(const struct sockaddr *peer)
{
	(void)peer;
	return 0;
}

bool access_allows(const char *path, const struct sockaddr *peer,
		   bool *read_only)
{
	*read_only = !roll(4);
	(void)path;
	(void)peer;
	return roll(4);
}

/* -- the transaction log --------------------------------------------------- */

bool translog_check(const char *path, char *why, size_t why_size)
{
	(void)path;
	(void)why;
	(void)why_size;
	return true;
}

struct translog *translog_open(const char *path, char *why, size_t why_size)
{
	(void)path;
	(void)why;
	(void)why_size;
	return (struct translog *)&asked;
}

void translog_put(struct translog *t)
{
	check(t == (struct translog *)&asked);
}

void translog_request(struct translog *t, const struct nbd_request *r)
{
	check(t == (struct translog *)&asked);
	asked += r->type != NBD_CMD_DISC;
}

void translog_reply(struct translog *t, const struct nbd_simple_reply *r)
{
	(void)r;
	check(t == (struct translog *)&asked);
	check(++answered <= asked);
}

void translog_chunk(struct translog *t, const struct nbd_chunk *k)
{
	check(t == (struct translog *)&asked);
	if (k->flags & NBD_REPLY_FLAG_DONE)
		answered++;
	check(answered <= asked);
}
