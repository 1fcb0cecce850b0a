// SPDX-License-Identifier: GPL-2.0
/*
 * store_test.c - the file store on a system that cannot do what Linux can, or
 * whose disk fails: os.h is played by this test.
 */
#define _GNU_SOURCE
#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdbool.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "os.h"
#include "store.h"

#define SIZE 65536

/* What the system says; 0: it works. */
static struct {
	int punch, zero_range, durable, pread_now, sync, reopen;
	int lost;		/* each descriptor is told once */
	uint64_t told;
	unsigned int punches, zero_ranges, durables, syncs, writes;
	ssize_t short_now;
	bool residency_is_a_lie, device;
	struct store *loses;	/* during the next fdatasync */
	bool dawdles;		/* the next fdatasync, when it has its answer */
} os;

ssize_t os_pread_now(int fd, void *buf, size_t len, uint64_t off)
{
	if (os.pread_now)
		return os.pread_now;
	if (os.short_now && (size_t)os.short_now < len)
		len = (size_t)os.short_now;
	return pread(fd, buf, len, (off_t)off);
}

int os_reopen(int fd)
{
	char link[64];

	if (os.reopen)
		return os.reopen;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	return open(link, O_WRONLY | O_CLOEXEC);
}

static bool is_told(int fd)
{
	const uint64_t bit = 1ULL << fd, told = os.told;

	os.told |= bit;
	return os.lost && !(told & bit);
}

ssize_t os_pwrite_durable(int fd, const void *buf, size_t len, uint64_t off)
{
	os.durables++;
	if (os.durable)
		return os.durable;
	if (is_told(fd))
		return -os.lost;
	/* Never more than 1000 bytes: short writes go on. */
	return pwrite(fd, buf, len > 1000 ? 1000 : len, (off_t)off);
}

ssize_t __real_pwrite(int fd, const void *buf, size_t len, off_t off);
ssize_t __wrap_pwrite(int fd, const void *buf, size_t len, off_t off);

ssize_t __wrap_pwrite(int fd, const void *buf, size_t len, off_t off)
{
	os.writes++;
	return __real_pwrite(fd, buf, len, off);
}

/* What was lost is known here, and not yet to the one who asked. */
static sem_t is_late, may_go;

static void dawdle(void)
{
	struct timespec until;

	sem_post(&is_late);
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec++;
	(void)sem_timedwait(&may_go, &until);
}

int __wrap_fdatasync(int fd);

int __wrap_fdatasync(int fd)
{
	struct store *s = os.loses;

	os.syncs++;
	if (os.dawdles) {
		os.dawdles = false;
		dawdle();
		errno = EIO;
		return -1;
	}
	if (s) {
		os.loses = NULL;
		os.durable = -EIO;
		assert_int_equal(s->ops->write(s, "x", 1, 0, true), -EIO);
		os.durable = 0;
	}
	errno = is_told(fd) ? os.lost : os.sync;
	return errno ? -1 : 0;
}

/* All tests have the same file, and mostly each begins anew. */
static bool remembers;

bool __real_loss_is_known(int fd);
bool __wrap_loss_is_known(int fd);

bool __wrap_loss_is_known(int fd)
{
	return remembers && __real_loss_is_known(fd);
}

static int zero_out(int fd, uint64_t off, uint64_t len)
{
	char zero = 0;

	while (len--)
		if (pwrite(fd, &zero, 1, (off_t)off++) != 1)
			return -EIO;
	return 0;
}

int os_punch_hole(int fd, uint64_t off, uint64_t len)
{
	os.punches++;
	return os.punch ? os.punch : zero_out(fd, off, len);
}

int os_zero_range(int fd, uint64_t off, uint64_t len)
{
	os.zero_ranges++;
	return os.zero_range ? os.zero_range : zero_out(fd, off, len);
}

int __real_fstat(int fd, struct stat *st);
int __wrap_fstat(int fd, struct stat *st);

int __wrap_fstat(int fd, struct stat *st)
{
	int r = __real_fstat(fd, st);

	if (os.device)
		st->st_mode = (st->st_mode & ~(mode_t)S_IFMT) | S_IFBLK;
	return r;
}

int os_device_size(int fd, uint64_t *size)
{
	(void)fd;
	*size = SIZE;
	return os.device ? 0 : -ENOTTY;
}

int os_device_block(int fd, uint32_t *logical)
{
	(void)fd;
	*logical = 512;
	return os.device ? 0 : -ENOTTY;
}

int os_device_discard(int fd, uint64_t off, uint64_t len)
{
	(void)fd;
	(void)off;
	(void)len;
	return -ENOTTY;
}

void os_unlock_memory(void *map, size_t len)
{
	(void)map;
	(void)len;
}

bool os_resident(const void *map, uint64_t off, size_t len)
{
	(void)map;
	return off + len <= 4096;
}

bool os_resident_usable(int fd)
{
	return fd >= 0 && !os.residency_is_a_lie;
}

/* -- a file of 64 KiB of 'x' ------------------------------------------- */

static char path[] = "/tmp/store_test.XXXXXX";

static bool cannot_reopen;

static struct store *open_as(bool device, bool read_only)
{
	char data[SIZE], why[512];
	struct store *s;
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	memset(&os, 0, sizeof(os));
	os.device = device;
	os.reopen = cannot_reopen ? -ENOENT : 0;
	memset(data, 'x', sizeof(data));
	assert_int_equal(write(fd, data, SIZE), SIZE);
	close(fd);
	s = store_file_open(path, read_only, 0, why, sizeof(why));
	assert_non_null(s);
	assert_int_equal(s->size, SIZE);
	return s;
}

static struct store *open_file(bool read_only)
{
	return open_as(false, read_only);
}

static void assert_content(struct store *s, size_t zero_from, size_t zero_to)
{
	char data[SIZE];
	size_t i;

	assert_int_equal(s->ops->read(s, data, SIZE, 0), 0);
	for (i = 0; i < SIZE; i++)
		if (data[i] != (i >= zero_from && i < zero_to ? 0 : 'x'))
			fail_msg("byte %zu is %d", i, data[i]);
}

static void zero_by_hole(void **state)
{
	struct store *s = open_file(false);

	(void)state;
	assert_int_equal(s->ops->zero(s, 10, 5000, 0), 0);
	assert_int_equal(os.punches, 1);
	assert_int_equal(os.zero_ranges, 0);
	assert_content(s, 10, 5010);
	s->ops->close(s);
}

static void zero_without_hole(void **state)
{
	struct store *s = open_file(false);

	(void)state;
	assert_int_equal(s->ops->zero(s, 10, 5000, STORE_ZERO_NO_HOLE), 0);
	assert_int_equal(os.punches, 0);
	assert_int_equal(os.zero_ranges, 1);
	assert_content(s, 10, 5010);
	s->ops->close(s);
}

static void zero_by_writing(void **state)
{
	struct store *s = open_file(false);

	(void)state;
	os.punch = os.zero_range = -EOPNOTSUPP;
	assert_int_equal(s->ops->zero(s, 10, 5000, STORE_ZERO_FAST), -ENOTSUP);
	assert_content(s, 0, 0);
	assert_int_equal(s->ops->zero(s, 10, 5000, 0), 0);
	assert_content(s, 10, 5010);
	/* It asks once and remembers. */
	assert_int_equal(os.punches, 1);
	assert_int_equal(os.zero_ranges, 1);
	s->ops->close(s);
}

/* ZERO_RANGE of a device may be the kernel's writing. */
static void zero_of_a_device(void **state)
{
	static const int errors[] = { -EINVAL, -EOPNOTSUPP };
	unsigned int i;

	(void)state;
	for (i = 0; i < 2; i++) {
		struct store *s = open_as(true, false);

		assert_int_equal(s->ops->zero(s, 512, 1024, STORE_ZERO_FAST), 0);
		assert_content(s, 512, 1536);
		assert_int_equal(os.punches, 1);
		os.punch = errors[i];
		assert_int_equal(s->ops->zero(s, 512, 4096, STORE_ZERO_FAST),
				 -ENOTSUP);
		assert_int_equal(s->ops->zero(s, 512, 4096, STORE_ZERO_FAST |
					      STORE_ZERO_NO_HOLE), -ENOTSUP);
		assert_content(s, 512, 1536);
		assert_int_equal(os.zero_ranges, 0);
		assert_int_equal(s->ops->zero(s, 512, 4096, 0), 0);
		assert_content(s, 512, 4608);
		assert_int_equal(os.zero_ranges, 1);
		s->ops->close(s);
	}
}

static void zero_on_a_full_disk(void **state)
{
	struct store *s = open_file(false);

	(void)state;
	os.punch = -ENOSPC;
	assert_int_equal(s->ops->zero(s, 10, 5000, 0), -ENOSPC);
	os.punch = 0;
	os.zero_range = -EIO;
	assert_int_equal(s->ops->zero(s, 10, 5000, STORE_ZERO_NO_HOLE), -EIO);
	s->ops->close(s);
}

static void trim_is_a_hint(void **state)
{
	struct store *s = open_file(false);

	(void)state;
	os.punch = -EOPNOTSUPP;
	assert_int_equal(s->ops->trim(s, 0, 4096), 0);
	assert_int_equal(s->ops->trim(s, 0, 4096), 0);
	assert_int_equal(os.punches, 1);
	s->ops->close(s);

	s = open_file(false);
	os.punch = -EIO;
	assert_int_equal(s->ops->trim(s, 0, 4096), -EIO);
	s->ops->close(s);
}

static void durable_writes(void **state)
{
	struct store *s = open_file(false);
	char zeroes[5000] = { 0 };

	(void)state;
	assert_int_equal(s->ops->write(s, zeroes, 5000, 7, true), 0);
	assert_int_equal(os.durables, 5);
	/* By which each byte is written once. */
	assert_int_equal(os.writes, 5);
	assert_content(s, 7, 5007);
	/* A system without: written, and to be synced. */
	os.durable = -EOPNOTSUPP;
	assert_int_equal(s->ops->write(s, zeroes, 5000, 7, true),
			 STORE_UNSYNCED);
	assert_int_equal(os.durables, 6);
	s->ops->close(s);
}

static void lost_sync_is_not_forgotten(void **state)
{
	struct store *s = open_file(false);
	char zeroes[512] = { 0 };

	(void)state;
	assert_int_equal(s->ops->flush(s), 0);
	os.durable = -EIO;
	assert_int_equal(s->ops->write(s, zeroes, 512, 0, true), -EIO);
	os.durable = 0;
	/* The disk seems well again; what is lost stays lost. */
	assert_int_equal(s->ops->flush(s), -EIO);
	assert_int_equal(s->ops->flush(s), -EIO);
	assert_int_equal(s->ops->write(s, zeroes, 512, 0, true), -EIO);
	assert_int_equal(s->ops->write(s, zeroes, 512, 0, false), 0);
	s->ops->close(s);
}

/* Of pages written long before: a flush is told as well, and remembers. */
static void full_disk_in_a_sync(void **state)
{
	static const int errors[] = { ENOSPC, EDQUOT, ENOMEM };
	unsigned int i;

	(void)state;
	for (i = 0; i < 3; i++) {
		struct store *s = open_file(false);

		os.lost = errors[i];
		assert_int_equal(s->ops->write(s, "x", 1, 9, true), -errors[i]);
		/* And the disk stays full, or not. */
		os.durable = i ? 0 : -errors[i];
		assert_int_equal(s->ops->flush(s), -errors[i]);
		os.durable = 0;
		assert_int_equal(s->ops->flush(s), -EIO);
		assert_int_equal(s->ops->write(s, "x", 1, 9, true), -EIO);
		s->ops->close(s);
	}
}

/* It never came to a sync, so nothing is lost. */
static void full_disk_in_a_write(void **state)
{
	static const int errors[] = { ENOSPC, EDQUOT, ENOMEM };
	unsigned int i;

	(void)state;
	for (i = 0; i < 3; i++) {
		struct store *s = open_file(false);

		os.durable = -errors[i];
		assert_int_equal(s->ops->write(s, "x", 1, 9, true), -errors[i]);
		os.durable = 0;
		assert_int_equal(s->ops->flush(s), 0);
		assert_int_equal(s->ops->write(s, "x", 1, 9, true), 0);
		s->ops->close(s);
	}
}

/* Then it is a write, and the caller's flush. */
static void no_second_description(void **state)
{
	struct store *s;

	(void)state;
	cannot_reopen = true;
	s = open_file(false);
	cannot_reopen = false;
	assert_int_equal(s->ops->write(s, "x", 1, 9, true),
			 STORE_UNSYNCED);
	assert_int_equal(os.durables, 0);
	assert_int_equal(os.syncs, 0);
	s->ops->close(s);
}

/* The kernel tells one of two that sync: it was a durable write this time. */
static void lost_during_a_flush(void **state)
{
	struct store *s = open_file(false);

	(void)state;
	os.loses = s;
	assert_int_equal(s->ops->flush(s), -EIO);
	s->ops->close(s);
}

static void *late_flush(void *arg)
{
	struct store *s = arg;
	int err = s->ops->flush(s);

	sem_post(&may_go);
	return (void *)(intptr_t)err;
}

static void *second_flush(void *arg)
{
	sem_wait(&is_late);
	return late_flush(arg);
}

/* The kernel tells one of two that flush, and the other one is quicker. */
static void lost_between_two_flushes(void **state)
{
	struct store *s = open_file(false);
	pthread_t first, second;
	void *of_first, *of_second;

	(void)state;
	sem_init(&is_late, 0, 0);
	sem_init(&may_go, 0, 0);
	os.dawdles = true;
	pthread_create(&first, NULL, late_flush, s);
	pthread_create(&second, NULL, second_flush, s);
	pthread_join(first, &of_first);
	pthread_join(second, &of_second);
	assert_int_equal((int)(intptr_t)of_first, -EIO);
	assert_int_equal((int)(intptr_t)of_second, -EIO);
	s->ops->close(s);
}

static void failed_sync_is_told_for_ever(void **state)
{
	struct store *s = open_file(false);
	char why[512];

	(void)state;
	os.sync = EIO;
	assert_int_equal(s->ops->flush(s), -EIO);
	/* Linux reports it once, and then all is well. */
	os.sync = 0;
	assert_int_equal(s->ops->flush(s), -EIO);
	s->ops->close(s);
	/* To another store of this file, too. */
	remembers = true;
	s = store_file_open(path, false, 0, why, sizeof(why));
	remembers = false;
	assert_non_null(s);
	assert_int_equal(s->ops->flush(s), -EIO);
	assert_int_equal(s->ops->write(s, "x", 1, 0, true), -EIO);
	s->ops->close(s);
}

static void read_now(void **state)
{
	struct store *s = open_file(false);
	char data[4096];

	(void)state;
	assert_int_equal(s->ops->read_now(s, data, 4096, 0), 0);
	os.short_now = 1000;
	assert_int_equal(s->ops->read_now(s, data, 4096, 0), -EAGAIN);
	os.pread_now = -EAGAIN;
	assert_int_equal(s->ops->read_now(s, data, 4096, 0), -EAGAIN);
	s->ops->close(s);
}

static void sendfile_of_what_is_in_memory(void **state)
{
	(void)state;
	for (int read_only = 0; read_only < 2; read_only++) {
		struct store *s = open_file(read_only);

		assert_true(s->ops->send_fd(s, 4096, 0) >= 0);
		assert_int_equal(s->ops->send_fd(s, 4096, 1), -1);
		s->ops->close(s);
	}
}

/* Opened as root, read as another user. */
static void sendfile_as_another_user(void **state)
{
	(void)state;
	for (int read_only = 0; read_only < 2; read_only++) {
		struct store *s = open_file(read_only);

		os.residency_is_a_lie = true;
		assert_int_equal(s->ops->send_fd(s, 4096, 0), -1);
		s->ops->close(s);
	}
}

static void shorter_than_it_was(void **state)
{
	struct store *s = open_file(false);
	char data[SIZE];

	(void)state;
	assert_int_equal(truncate(path, 1000), 0);
	assert_int_equal(s->ops->read(s, data, 1000, 0), 0);
	assert_int_equal(s->ops->read(s, data, 1001, 0), -EIO);
	assert_int_equal(s->ops->read(s, data, 4096, 8192), -EIO);
	assert_int_equal(s->ops->read_now(s, data, 4096, 8192), -EAGAIN);
	s->ops->close(s);
}

static void part_of_it(void **state)
{
	char why[512];
	struct store *s = open_file(false);

	(void)state;
	s->ops->close(s);
	s = store_file_open(path, false, 512, why, sizeof(why));
	assert_non_null(s);
	assert_int_equal(s->size, 512);
	s->ops->close(s);
	assert_null(store_file_open(path, false, SIZE + 1, why, sizeof(why)));
	assert_non_null(strstr(why, "truncate -s 65537"));
	assert_null(store_file_open("/nonexistent", false, 0, why,
				    sizeof(why)));
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(zero_by_hole),
		cmocka_unit_test(zero_without_hole),
		cmocka_unit_test(zero_by_writing),
		cmocka_unit_test(zero_of_a_device),
		cmocka_unit_test(zero_on_a_full_disk),
		cmocka_unit_test(trim_is_a_hint),
		cmocka_unit_test(durable_writes),
		cmocka_unit_test(lost_sync_is_not_forgotten),
		cmocka_unit_test(full_disk_in_a_sync),
		cmocka_unit_test(full_disk_in_a_write),
		cmocka_unit_test(no_second_description),
		cmocka_unit_test(lost_during_a_flush),
		cmocka_unit_test(lost_between_two_flushes),
		cmocka_unit_test(failed_sync_is_told_for_ever),
		cmocka_unit_test(read_now),
		cmocka_unit_test(sendfile_of_what_is_in_memory),
		cmocka_unit_test(sendfile_as_another_user),
		cmocka_unit_test(shorter_than_it_was),
		cmocka_unit_test(part_of_it),
	};
	int r, fd = mkstemp(path);

	if (fd < 0)
		return 1;
	close(fd);
	r = cmocka_run_group_tests_name("server store", tests, NULL, NULL);
	unlink(path);
	return r;
}
