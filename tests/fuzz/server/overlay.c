// SPDX-License-Identifier: GPL-2.0
/*
 * overlay.c - fuzz target: an overlay's file of any content. It is refused, or
 * it serves: reads stay within the image, and writes are read back.
 *
 * The first pages come from the input (with checksums put right half of the
 * time, else hardly any would get past them), the length from the header.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "log.h"
#include "nbd-wire.h"
#include "store-overlay.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define SIZE	(5 * 4096 + 100)

static void check(bool ok)
{
	if (!ok)
		abort();
}

static int base_read(struct store *s, void *buf, uint32_t len, uint64_t off)
{
	(void)s;
	check(off <= SIZE && len <= SIZE - off);
	memset(buf, 'b', len);
	return 0;
}

static int base_send_fd(struct store *s, uint32_t len, uint64_t off)
{
	(void)s;
	check(off <= SIZE && len <= SIZE - off);
	return -1;
}

static const struct store_ops base_ops = {
	.name = "base",
	.read = base_read,
	.read_now = base_read,
	.send_fd = base_send_fd,
};

static uint32_t crc(const uint8_t *p, size_t len)
{
	uint32_t c = ~0U;
	int bit;

	while (len--)
		for (c ^= *p++, bit = 0; bit < 8; bit++)
			c = c >> 1 ^ (c & 1 ? 0xedb88320U : 0);
	return ~c;
}

static void use(struct store *s)
{
	uint8_t buf[SIZE], now[SIZE];
	struct store_extent e[8];
	int err;

	check(s->size == SIZE);
	check(!s->ops->read(s, buf, SIZE, 0));
	/* tmpfs does not tell what is in memory. */
	err = s->ops->read_now(s, now, SIZE, 0);
	check(err == -EAGAIN || (!err && !memcmp(buf, now, SIZE)));
	check(s->ops->extents(s, 0, SIZE, e, 8) > 0);
	check(!s->ops->write(s, "hello", 5, 4094, false));
	memcpy(buf + 4094, "hello", 5);
	check(!s->ops->zero(s, 9000, 9000, 0));
	memset(buf + 9000, 0, 9000);
	check(!s->ops->flush(s));
	check(!s->ops->read(s, now, SIZE, 0) && !memcmp(buf, now, SIZE));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct store base = { .ops = &base_ops, .size = SIZE };
	static char path[] = "/dev/shm/fuzz-overlay-XXXXXX";
	static bool made;	/* in memory: syncs cost nothing there */
	static uint8_t file[16384];
	struct overlay_info info = { .size = SIZE };
	char why[1024] = "";
	struct store *s;
	int fd;

	if (!made) {
		fd = mkstemp(path);
		check(fd >= 0);
		close(fd);
		made = true;
	}
	if (size < 1)
		return 0;
	strcpy(info.export_name, "lab");
	strcpy(info.station, "pc");
	strcpy(info.image, "1-2.3");
	strcpy(info.image_path, "/srv/lab.img");
	strcpy(info.station_boot, "-");
	check(!overlay_create(path, &info, why, sizeof(why)));
	fd = open(path, O_RDWR);
	check(fd >= 0 && pread(fd, file, sizeof(file), 0) == sizeof(file));
	/* Changes: where, and what byte. */
	for (data++, size--; size >= 3; data += 3, size -= 3)
		file[(data[0] << 8 | data[1]) % sizeof(file)] = data[2];
	if (data[-1] & 1 || size) {
		nbd_put32(file + 4092, crc(file, 4092));
		nbd_put32(file + 4096 + 508, crc(file + 4096, 508));
	}
	check(pwrite(fd, file, sizeof(file), 0) == sizeof(file));
	close(fd);

	(void)overlay_inspect(path, true, &info, why, sizeof(why));
	s = store_overlay_open(path, &base, "1-2.3", "boot-1", 0, why,
			       sizeof(why));
	if (!s) {
		check(*why && strlen(why) < sizeof(why));
		return 0;
	}
	use(s);
	s->ops->close(s);
	/* And again as it was left. */
	s = store_overlay_open(path, &base, "1-2.3", "boot-2", 0, why,
			       sizeof(why));
	check(s);
	use(s);
	s->ops->close(s);
	return 0;
}
