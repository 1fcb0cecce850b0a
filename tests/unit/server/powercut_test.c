// SPDX-License-Identifier: GPL-2.0
/*
 * powercut_test.c - an overlay on a machine that loses power, at any moment.
 *
 * What is written and not synced is in the page cache: a file. A second one is
 * the disk, which a sync brings up to the first. When the power goes, each page
 * that was written since has reached the disk as it was at some moment, or not at
 * all, whatever the others have done. Of the map not even whole pages.
 */
#define _GNU_SOURCE
#include "unit.h"

#include <fcntl.h>
#include <stdbool.h>
#include <sys/stat.h>
#include <unistd.h>

#include "os.h"
#include "overlay-map.h"
#include "store-overlay.h"

#define SIZE	(256U << 20)	/* its maps have several pages */
#define BLOCK	OVERLAY_BLOCK
#define SECTOR	512U
#define CUTS	400
/* Those that are used: some at the beginning of each page of the map, and after. */
#define BLOCKS	64U
#define GROUP	8U

static char path[] = "/tmp/powercut_test.XXXXXX", disk_path[64];
static int disk;
static unsigned int seed;

struct change {
	struct change *next;
	uint64_t off;
	size_t len;
	bool durable;
	uint8_t data[];
};

static struct change *changes, **last_change = &changes;
static int steps;	/* until the power goes; below 0: it has gone */

static unsigned int any(unsigned int n)
{
	return (unsigned int)rand_r(&seed) % n;
}

static bool power(void)
{
	if (steps >= 0)
		steps--;
	return steps >= 0;
}

/* Zeroes, if @data is NULL. */
static struct change *note(const void *data, uint64_t len, uint64_t off)
{
	struct change *c = calloc(1, sizeof(*c) + len);

	assert_non_null(c);
	c->off = off;
	c->len = len;
	if (data)
		memcpy(c->data, data, len);
	*last_change = c;
	last_change = &c->next;
	return c;
}

static void to_disk(const struct change *c, uint64_t from, uint64_t len)
{
	assert_int_equal(pwrite(disk, c->data + from, len, (off_t)(c->off + from)),
			 len);
}

static void forget_changes(void)
{
	struct change *c;

	while ((c = changes)) {
		changes = c->next;
		free(c);
	}
	last_change = &changes;
}

/* Up to where @c's sector or block that begins at @at goes. */
static uint64_t unit_at(const struct change *c, uint64_t at)
{
	uint64_t unit = c->off + at < overlay_data_at(SIZE) ? SECTOR : BLOCK;

	unit -= (c->off + at) % unit;
	return unit < c->len - at ? unit : c->len - at;
}

static void power_goes(void)
{
	const uint64_t sectors = (overlay_data_at(SIZE) + SIZE) / SECTOR;
	unsigned int *durable = calloc(sectors, sizeof(*durable)), n;
	bool *late = calloc(sectors, sizeof(*late));
	const struct change *c;
	uint64_t at;

	assert_true(durable && late);
	for (c = changes, n = 1; c; c = c->next, n++)
		for (at = 0; c->durable && at < c->len; at += unit_at(c, at))
			durable[(c->off + at) / SECTOR] = n;
	for (c = changes, n = 1; c; c = c->next, n++)
		for (at = 0; at < c->len; at += unit_at(c, at)) {
			const uint64_t sector = (c->off + at) / SECTOR;

			late[sector] |= n > durable[sector] && !any(3);
			if (!late[sector])
				to_disk(c, at, unit_at(c, at));
		}
	free(durable);
	free(late);
	forget_changes();
}

int __real_overlay_pwrite(int fd, const void *buf, size_t len, uint64_t off);
int __wrap_overlay_pwrite(int fd, const void *buf, size_t len, uint64_t off);
int __real_overlay_write_state(int fd, const char *server_boot,
			       const struct overlay_info *info, bool clean);
int __wrap_overlay_write_state(int fd, const char *server_boot,
			       const struct overlay_info *info, bool clean);
int __wrap_overlay_sync(int fd);
int __real_os_punch_hole(int fd, uint64_t off, uint64_t len);
int __wrap_os_punch_hole(int fd, uint64_t off, uint64_t len);
ssize_t __wrap_os_pwrite_durable(int fd, const void *buf, size_t len,
				 uint64_t off);

int __wrap_overlay_pwrite(int fd, const void *buf, size_t len, uint64_t off)
{
	if (power())
		note(buf, len, off);
	return __real_overlay_pwrite(fd, buf, len, off);
}

int __wrap_overlay_write_state(int fd, const char *server_boot,
			       const struct overlay_info *info, bool clean)
{
	int err = __real_overlay_write_state(fd, server_boot, info, clean);
	uint8_t s[SECTOR];

	assert_int_equal(pread(fd, s, sizeof(s), BLOCK), sizeof(s));
	if (power())
		note(s, sizeof(s), BLOCK);
	return err;
}

int __wrap_os_punch_hole(int fd, uint64_t off, uint64_t len)
{
	if (power())
		note(NULL, len, off);
	return __real_os_punch_hole(fd, off, len);
}

int __wrap_overlay_sync(int fd)
{
	const struct change *c;

	(void)fd;
	if (!power())
		return 0;
	for (c = changes; c; c = c->next)
		to_disk(c, 0, c->len);
	forget_changes();
	return 0;
}

/* Its blocks, with what was written there before; all else waits for a sync. */
ssize_t __wrap_os_pwrite_durable(int fd, const void *buf, size_t len,
				 uint64_t off)
{
	if (power())
		note(buf, len, off)->durable = true;
	return pwrite(fd, buf, len, (off_t)off);
}

static int base_read(struct store *s, void *buf, uint32_t len, uint64_t off)
{
	(void)s;
	(void)off;
	memset(buf, 'i', len);
	return 0;
}

static const struct store_ops base_ops = { .name = "base", .read = base_read };
static struct store base = { .ops = &base_ops, .size = SIZE };

static struct store *open_it(unsigned int boot)
{
	char name[32], why[512];
	struct store *s;

	snprintf(name, sizeof(name), "boot-%u", boot);
	s = store_overlay_open(path, &base, "1-2.3", name, 0, why, sizeof(why));
	if (!s)
		fail_msg("boot %u: %s", boot, why);
	return s;
}

static void copy(int from, int to)
{
	uint64_t end = overlay_data_at(SIZE) + SIZE;
	off_t at = 0, hole;
	uint8_t page[4096];

	assert_int_equal(ftruncate(to, 0), 0);
	assert_int_equal(ftruncate(to, (off_t)end), 0);
	while ((at = lseek(from, at, SEEK_DATA)) >= 0) {
		hole = lseek(from, at, SEEK_HOLE);
		for (; at < hole; at += (off_t)sizeof(page)) {
			assert_int_equal(pread(from, page, sizeof(page), at),
					 sizeof(page));
			assert_int_equal(pwrite(to, page, sizeof(page), at),
					 sizeof(page));
		}
	}
}

/* -- what each block may be ---------------------------------------------------- */

static uint8_t now[BLOCKS];
static bool may[BLOCKS][256];

static uint64_t place(unsigned int b)
{
	const uint64_t page = (uint64_t)OVERLAY_PAGE_BLOCKS * BLOCK;

	return b / GROUP % 4 * page + (b / GROUP / 4 ? page / 2 : 0) +
	       b % GROUP * BLOCK;
}

/* From now on it is this, and nothing else. */
static void settle(unsigned int b)
{
	memset(may[b], 0, sizeof(may[b]));
	may[b][now[b]] = true;
}

static void settle_all(void)
{
	unsigned int b;

	for (b = 0; b < BLOCKS; b++)
		settle(b);
}

static void do_something(struct store *s)
{
	const unsigned int b = any(BLOCKS), what = any(10);
	unsigned int n = 1 + any(GROUP - b % GROUP), i;
	uint8_t data[GROUP * BLOCK], value = (uint8_t)(1 + any(255));
	int err;

	if (!what) {
		assert_int_equal(s->ops->flush(s), 0);
		if (steps >= 0)
			settle_all();
		return;
	}
	if (what < 3)
		value = 0;
	for (i = b; i < b + n; i++)
		may[i][value] = true;
	memset(data, value, sizeof(data));
	if (what == 1)
		err = s->ops->trim(s, place(b), n * BLOCK);
	else if (what == 2)
		err = s->ops->zero(s, place(b), n * BLOCK, 0);
	else
		err = s->ops->write(s, data, n * BLOCK, place(b), what > 7);
	/* As job.c does it. */
	if (err == STORE_UNSYNCED)
		err = s->ops->flush(s);
	assert_int_equal(err, 0);
	for (i = b; i < b + n; i++) {
		now[i] = value;
		if (what > 7 && steps >= 0)
			settle(i);
	}
}

static void look(struct store *s, unsigned int boot)
{
	uint8_t data[BLOCK];
	unsigned int b, i;

	for (b = 0; b < BLOCKS; b++) {
		assert_int_equal(s->ops->read(s, data, BLOCK, place(b)), 0);
		for (i = 1; i < BLOCK; i++)
			if (data[i] != data[0])
				fail_msg("boot %u: block %u is not whole", boot, b);
		if (!may[b][data[0]])
			fail_msg("boot %u: block %u is %02x", boot, b, data[0]);
		now[b] = data[0];
	}
	settle_all();
}

/* What a flush or FUA covered is there, anything else wholly or not at all. */
static void power_cuts(void **state)
{
	struct overlay_info info = {
		.export_name = "lab", .station = "pc", .image = "1-2.3",
		.image_path = "/srv/lab.img", .size = SIZE, .station_boot = "-",
	};
	unsigned int boot;
	char why[512];
	int fd = -1;

	(void)state;
	for (boot = 0; boot < CUTS; boot++) {
		struct store *s;

		/* Only in a new one are there blocks of the image. */
		if (!(boot % 8)) {
			close(fd);
			assert_int_equal(overlay_create(path, &info, why,
							sizeof(why)), 0);
			fd = open(path, O_RDWR);
			copy(fd, disk);
			memset(now, 'i', sizeof(now));
			settle_all();
		}
		seed = boot;
		/* Sometimes while it is being opened. */
		steps = (int)any(any(4) ? 200 : 10);
		s = open_it(boot);
		if (steps >= 0)
			look(s, boot);
		while (steps >= 0)
			do_something(s);
		s->ops->close(s);
		power_goes();
		copy(disk, fd);
	}
	close(fd);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(power_cuts),
	};
	int r, fd = mkstemp(path);

	if (fd < 0)
		return 1;
	close(fd);
	snprintf(disk_path, sizeof(disk_path), "%s.disk", path);
	disk = open(disk_path, O_RDWR | O_CREAT | O_EXCL, 0600);
	if (disk < 0)
		return 1;
	r = cmocka_run_group_tests_name("server powercut", tests, NULL, NULL);
	unlink(path);
	unlink(disk_path);
	return r;
}
