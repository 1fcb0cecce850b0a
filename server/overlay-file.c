// SPDX-License-Identifier: GPL-2.0
/*
 * overlay-file.c - the file of one overlay: what is where in it, how it begins,
 * and how it is made, locked and looked at. Numbers are big-endian; everything
 * begins at a multiple of 4096:
 *
 *	header	what it is: never changes
 *	state	which boot of this machine wrote the map last, and for whom
 *	map A	2 bits for each block of 4096 bytes, 4 blocks a byte
 *	map B	the same; overlay-map.c says why there are two
 *	data	block N of the image at data + N * 4096; sparse
 */
#define _GNU_SOURCE
#include "overlay-file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "nbd-wire.h"
#include "overlay-map.h"

#define BLOCK		OVERLAY_BLOCK
#define VERSION_1	1U
#define STATE_AT	4096U

static const char magic[16] = "nbdroot overlay\n";
static const char state_magic[8] = "boot/1\n";

int overlay_pread(int fd, void *buf, size_t len, uint64_t off)
{
	uint8_t *p = buf;

	while (len) {
		ssize_t n = pread(fd, p, len, (off_t)off);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? -errno : -ENODATA;
		p += n;
		off += (uint64_t)n;
		len -= (size_t)n;
	}
	return 0;
}

int overlay_pwrite(int fd, const void *buf, size_t len, uint64_t off)
{
	const uint8_t *p = buf;

	while (len) {
		ssize_t n = pwrite(fd, p, len, (off_t)off);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? -errno : -EIO;
		p += n;
		off += (uint64_t)n;
		len -= (size_t)n;
	}
	return 0;
}

int overlay_sync(int fd)
{
	while (fdatasync(fd) < 0)
		if (errno != EINTR)
			return -errno;
	return 0;
}

static uint32_t crc32_of(const uint8_t *p, size_t len)
{
	uint32_t crc = ~0U;
	int bit;

	while (len--) {
		crc ^= *p++;
		for (bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (crc & 1 ? 0xedb88320U : 0);
	}
	return ~crc;
}

/* Fields of the header page, in bytes from its start. */
enum {
	H_VERSION = 16, H_BLOCK = 20, H_SIZE = 24, H_CREATED = 32,
	H_EXPORT = 64, H_STATION = 384, H_IMAGE = 512, H_PATH = 1024,
	H_CRC = 4092,
};

/* And of the state, which one sector holds. */
enum { S_SERVER = 8, S_STATION = 128, S_CLEAN = 256, S_DONE = 257, S_CRC = 508,
       S_SIZE = 512 };

static void put_text(uint8_t *page, unsigned int at, const char *s)
{
	memcpy(page + at, s, strlen(s) + 1);
}

static bool get_text(const uint8_t *page, unsigned int at, char *s, size_t size)
{
	if (!memchr(page + at, 0, size))
		return false;
	memcpy(s, page + at, size);
	return true;
}

int overlay_write_state(int fd, const char *server_boot,
			const struct overlay_info *info, bool clean)
{
	uint8_t s[S_SIZE] = { 0 };

	memcpy(s, state_magic, sizeof(state_magic));
	put_text(s, S_SERVER, server_boot);
	put_text(s, S_STATION, info->station_boot);
	s[S_CLEAN] = clean;
	s[S_DONE] = info->done;
	nbd_put32(s + S_CRC, crc32_of(s, S_CRC));
	return overlay_pwrite(fd, s, sizeof(s), STATE_AT);
}

/* False: there is no telling who wrote it last. */
bool overlay_read_state(int fd, char *server_boot, struct overlay_info *info,
			bool *clean)
{
	uint8_t s[S_SIZE];

	strcpy(server_boot, "-");
	strcpy(info->station_boot, "-");
	info->done = false;
	*clean = false;
	if (overlay_pread(fd, s, sizeof(s), STATE_AT) ||
	    memcmp(s, state_magic, sizeof(state_magic)) ||
	    nbd_get32(s + S_CRC) != crc32_of(s, S_CRC) ||
	    !get_text(s, S_SERVER, server_boot, NBD_SESSION_WORD) ||
	    !get_text(s, S_STATION, info->station_boot, NBD_SESSION_WORD)) {
		strcpy(server_boot, "-");
		strcpy(info->station_boot, "-");
		return false;
	}
	*clean = s[S_CLEAN];
	info->done = s[S_DONE];
	return true;
}

uint64_t overlay_blocks(uint64_t size)
{
	return size / BLOCK + (size % BLOCK != 0);
}

uint64_t overlay_map_length(uint64_t size)
{
	uint64_t bytes = (overlay_blocks(size) + 3) / 4;

	return (bytes + BLOCK - 1) / BLOCK * BLOCK;
}

uint64_t overlay_data_at(uint64_t size)
{
	return OVERLAY_MAP_AT + 2 * overlay_map_length(size);
}

int overlay_bad(const char *path, const char *what, char *why, size_t why_size)
{
	snprintf(why, why_size, "%s: %s; take it away (nbd-server overlays drop) and the station starts with an empty one",
		 path, what);
	return -EBADMSG;
}

int overlay_read_header(int fd, const char *path, struct overlay_info *info,
			char *why, size_t why_size)
{
	uint8_t h[BLOCK];
	struct stat st;
	int err = overlay_pread(fd, h, sizeof(h), 0);

	memset(info, 0, sizeof(*info));
	if (err == -ENODATA || (!err && memcmp(h, magic, sizeof(magic))))
		return overlay_bad(path, "not an overlay of nbd-server", why, why_size);
	if (err || fstat(fd, &st) < 0) {
		snprintf(why, why_size, "%s: %s", path, strerror(-err));
		return err ? err : -errno;
	}
	if (nbd_get32(h + H_CRC) != crc32_of(h, H_CRC))
		return overlay_bad(path, "its header is damaged", why, why_size);
	if (nbd_get32(h + H_VERSION) != VERSION_1 ||
	    nbd_get32(h + H_BLOCK) != BLOCK)
		return overlay_bad(path, "an overlay of another version of nbd-server",
			   why, why_size);
	info->size = nbd_get64(h + H_SIZE);
	info->created = nbd_get64(h + H_CREATED);
	if (!info->size || info->size > INT64_MAX / 4 ||
	    !get_text(h, H_EXPORT, info->export_name, sizeof(info->export_name)) ||
	    !get_text(h, H_STATION, info->station, sizeof(info->station)) ||
	    !get_text(h, H_IMAGE, info->image, sizeof(info->image)) ||
	    !get_text(h, H_PATH, info->image_path, sizeof(info->image_path)))
		return overlay_bad(path, "its header makes no sense", why, why_size);
	if ((uint64_t)st.st_size != overlay_data_at(info->size) +
				    overlay_blocks(info->size) * BLOCK)
		return overlay_bad(path, "its length is not what its header says", why,
			   why_size);
	return 0;
}

int overlay_create(const char *path, const struct overlay_info *info,
		   char *why, size_t why_size)
{
	uint8_t h[BLOCK] = { 0 };
	char *temp = NULL, *slash;
	int fd = -1, dir, err = 0;

	memcpy(h, magic, sizeof(magic));
	nbd_put32(h + H_VERSION, VERSION_1);
	nbd_put32(h + H_BLOCK, BLOCK);
	nbd_put64(h + H_SIZE, info->size);
	nbd_put64(h + H_CREATED, (uint64_t)time(NULL));
	put_text(h, H_EXPORT, info->export_name);
	put_text(h, H_STATION, info->station);
	put_text(h, H_IMAGE, info->image);
	put_text(h, H_PATH, info->image_path);
	nbd_put32(h + H_CRC, crc32_of(h, H_CRC));

	/* Under a name that nothing looks for until all of it is there. */
	if (asprintf(&temp, "%s.new", path) < 0) {
		snprintf(why, why_size, "%s: out of memory", path);
		return -ENOMEM;
	}
	fd = open(temp, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW,
		  0600);
	if (fd < 0)
		err = -errno;
	if (!err && ftruncate(fd, (off_t)(overlay_data_at(info->size) +
					  overlay_blocks(info->size) * BLOCK)) < 0)
		err = -errno;
	if (!err)
		err = overlay_pwrite(fd, h, sizeof(h), 0);
	if (!err)
		err = overlay_write_state(fd, "-", info, true);
	if (!err)
		err = overlay_sync(fd);
	if (!err && rename(temp, path) < 0)
		err = -errno;
	if (err) {
		snprintf(why, why_size, "%s: cannot be created: %s%s", path,
			 strerror(-err), err == -ENOENT || err == -EACCES ||
			 err == -EROFS ? "; overlay_dir must be a directory that the server may write" : "");
		unlink(temp);
	} else {
		slash = strrchr(temp, '/');
		if (slash)
			*slash = '\0';
		dir = open(slash ? temp : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (dir >= 0) {
			(void)fsync(dir);
			close(dir);
		}
	}
	if (fd >= 0)
		close(fd);
	free(temp);
	return err;
}

int overlay_lock(const char *path, int patience)
{
	const struct timespec step = { .tv_nsec = 20 * 1000000L };
	struct stat st, now;
	int waited = 0, fd;

again:
	fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	if (fd < 0)
		return -errno;
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
		close(fd);
		return -EBADMSG;
	}
	while (flock(fd, LOCK_EX | LOCK_NB)) {
		if (errno != EWOULDBLOCK)
			return fd;	/* no locks here: see store-file.c */
		if (waited >= patience) {
			close(fd);
			return -EWOULDBLOCK;
		}
		nanosleep(&step, NULL);
		waited += 20;
	}
	/* Dropped or replaced before the lock was ours? */
	if (!stat(path, &now) && now.st_ino == st.st_ino &&
	    now.st_dev == st.st_dev)
		return fd;
	close(fd);
	goto again;
}

int overlay_inspect(const char *path, bool count, struct overlay_info *info,
		    char *why, size_t why_size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK), err;
	char boot[NBD_SESSION_WORD];
	bool clean;

	if (fd < 0) {
		err = -errno;
		snprintf(why, why_size, "%s: %s", path, strerror(errno));
		return err;
	}
	err = overlay_read_header(fd, path, info, why, why_size);
	if (!err) {
		overlay_read_state(fd, boot, info, &clean);
		if (count)
			err = overlay_map_count(fd, info->size, &info->used);
		info->used *= BLOCK;
		if (err)
			snprintf(why, why_size, "%s: %s", path, strerror(-err));
	}
	close(fd);
	return err;
}
