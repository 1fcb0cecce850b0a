// SPDX-License-Identifier: GPL-2.0
/*
 * translog_test.c - the transaction log against a disk that is slow or full.
 * What is in it is tests/server/test_translog.py's.
 */
#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "translog.h"

/* More than both of its buffers take. */
#define MANY	(400 * 1000U)

static enum { GOOD, SLOW, FULL } disk;
static sem_t begun, go_on;
static unsigned int lines;
/* The next close, or line of the log, waits for go_on, but not for ever. */
static atomic_bool slow_close, slow_line, nobody_came;

int __real_close(int fd);
int __wrap_close(int fd);

static void take_long(void)
{
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += 5;
	sem_post(&begun);
	if (sem_timedwait(&go_on, &until))
		atomic_store(&nobody_came, true);
}

int __wrap_close(int fd)
{
	if (atomic_exchange(&slow_close, false))
		take_long();
	return __real_close(fd);
}

ssize_t __real_write(int fd, const void *p, size_t len);
ssize_t __wrap_write(int fd, const void *p, size_t len);

ssize_t __wrap_write(int fd, const void *p, size_t len)
{
	if (fd == STDERR_FILENO) {
		/* What it logs is counted, not shown. */
		if (atomic_exchange(&slow_line, false))
			take_long();
		lines++;
		return (ssize_t)len;
	}
	switch (disk) {
	case GOOD:
		break;
	case SLOW:
		sem_post(&begun);
		sem_wait(&go_on);
		disk = GOOD;
		break;
	case FULL:
		if (len > 40)
			return __real_write(fd, p, 40);
		errno = ENOSPC;
		return -1;
	}
	return __real_write(fd, p, len);
}

static char path[64];

static struct translog *open_log(void)
{
	struct translog *t;
	char why[512] = "";

	strcpy(path, "/tmp/translog-test-XXXXXX");
	close(mkstemp(path));
	t = translog_open(path, why, sizeof(why));
	if (!t)
		fail_msg("%s", why);
	lines = 0;
	return t;
}

static off_t size_of(void)
{
	struct stat st;

	assert_int_equal(stat(path, &st), 0);
	return st.st_size;
}

static void slow_disk(void **state)
{
	const struct nbd_request r = { .cookie = 1 };
	struct translog *t;
	unsigned int i, kept;

	(void)state;
	t = open_log();
	disk = SLOW;
	translog_request(t, &r);
	sem_wait(&begun);
	/* Nobody takes them, and yet this comes to an end. */
	for (i = 1; i < MANY; i++)
		translog_request(t, &r);
	sem_post(&go_on);
	translog_put(t);
	kept = (unsigned int)size_of() / NBD_REQUEST_SIZE;
	assert_int_equal(size_of() % NBD_REQUEST_SIZE, 0);
	assert_in_range(kept, 100 * 1000, MANY - 1);
	assert_int_equal(lines, 2);
	unlink(path);
}

static void full_disk(void **state)
{
	const struct nbd_request r = { .cookie = 1 };
	const struct nbd_simple_reply ok = { .cookie = 1 };
	struct translog *t;
	unsigned int i;

	(void)state;
	t = open_log();
	translog_request(t, &r);
	translog_put(t);
	assert_int_equal(size_of(), NBD_REQUEST_SIZE);

	/* 40 bytes go in, and then no more: not even those stay. */
	t = translog_open(path, (char[512]){ 0 }, 512);
	assert_non_null(t);
	disk = FULL;
	for (i = 0; i < 3; i++) {
		translog_reply(t, &ok);
		translog_request(t, &r);
	}
	translog_put(t);
	disk = GOOD;
	assert_int_equal(size_of(), NBD_REQUEST_SIZE);
	assert_int_equal(lines, 1);
	unlink(path);
}

static void shared(void **state)
{
	const struct nbd_request r = { .cookie = 1 };
	struct translog *t, *u;

	(void)state;
	t = open_log();
	u = translog_open(path, (char[512]){ 0 }, 512);
	assert_ptr_equal(t, u);
	translog_request(t, &r);
	translog_put(t);
	translog_request(u, &r);
	translog_put(u);
	assert_int_equal(size_of(), 2 * NBD_REQUEST_SIZE);
	assert_int_equal(lines, 0);
	unlink(path);
}

/* The end of a big file that was rotated away. */
static void slow_end_of_the_old_file(void **state)
{
	const struct nbd_request r = { .cookie = 1 };
	struct translog *t;

	(void)state;
	t = open_log();
	unlink(path);
	atomic_store(&slow_close, true);
	translog_reopen();
	sem_wait(&begun);
	/* By an event loop, which must not wait for it. */
	translog_request(t, &r);
	sem_post(&go_on);
	translog_put(t);
	assert_false(atomic_load(&nobody_came));
	assert_int_equal(size_of(), NBD_REQUEST_SIZE);
	unlink(path);
}

/* Standard error is a pipe that somebody reads now and then. */
static void slow_to_say_it(void **state)
{
	const struct nbd_request r = { .cookie = 1 };
	struct translog *t;
	unsigned int i;

	(void)state;
	t = open_log();
	disk = SLOW;
	translog_request(t, &r);
	sem_wait(&begun);
	for (i = 1; i < MANY; i++)
		translog_request(t, &r);
	atomic_store(&slow_line, true);
	sem_post(&go_on);
	sem_wait(&begun);
	/* By an event loop, which must not wait for it. */
	translog_request(t, &r);
	sem_post(&go_on);
	translog_put(t);
	assert_false(atomic_load(&nobody_came));
	assert_int_equal(lines, 2);
	unlink(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(slow_disk),
		cmocka_unit_test(full_disk),
		cmocka_unit_test(shared),
		cmocka_unit_test(slow_end_of_the_old_file),
		cmocka_unit_test(slow_to_say_it),
	};

	sem_init(&begun, 0, 0);
	sem_init(&go_on, 0, 0);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
