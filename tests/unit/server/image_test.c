// SPDX-License-Identifier: GPL-2.0
/*
 * image_test.c - an image that is replaced just while it is being opened, or that
 * takes long to be closed.
 */
#define _GNU_SOURCE
#include "unit.h"

#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "image.h"

static char dir[] = "/tmp/image_test.XXXXXX";
static char name[64], other[64];

static void make(const char *path, char byte)
{
	char data[8192];
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	memset(data, byte, sizeof(data));
	assert_int_equal(write(fd, data, sizeof(data)), sizeof(data));
	close(fd);
}

/* How often another file is to come into the place of the one to be opened. */
static int replacements;

struct store *__real_store_file_open(const char *path, bool read_only,
				     uint64_t size, char *why, size_t why_size);
struct store *__wrap_store_file_open(const char *path, bool read_only,
				     uint64_t size, char *why, size_t why_size);

struct store *__wrap_store_file_open(const char *path, bool read_only,
				     uint64_t size, char *why, size_t why_size)
{
	if (replacements) {
		replacements--;
		make(other, (char)('a' + replacements));
		assert_int_equal(rename(other, name), 0);
	}
	return __real_store_file_open(path, read_only, size, why, why_size);
}

static struct image *open_as(const char *path, bool read_only, char *why)
{
	const struct image_spec spec = {
		.path = path, .owner = "x", .read_only = read_only,
	};

	return image_current(&spec, why, 512);
}

static struct image *open_image(char *why)
{
	return open_as(name, true, why);
}

static char first_byte(struct image *i)
{
	char byte;

	assert_int_equal(i->store->ops->read(i->store, &byte, 1, 0), 0);
	return byte;
}

static void assert_same(struct image *i)
{
	char inode[32];
	struct stat st;

	assert_int_equal(stat(name, &st), 0);
	snprintf(inode, sizeof(inode), "%llx-", (unsigned long long)st.st_ino);
	assert_memory_equal(i->id, inode, strlen(inode));
}

/* The id is that of the bytes that are served, whatever the name meant before. */
static void replaced_meanwhile(void **state)
{
	struct image *i, *again;
	char why[512];

	(void)state;
	make(name, '1');
	replacements = 1;
	i = open_image(why);
	assert_non_null(i);
	assert_int_equal(first_byte(i), 'a');
	assert_same(i);
	/* Nor is it opened twice because of that. */
	again = open_image(why);
	assert_ptr_equal(again, i);
	image_put(again);
	image_put(i);
}

static void replaced_for_ever(void **state)
{
	char why[512];

	(void)state;
	make(name, '1');
	replacements = 1000;
	assert_null(open_image(why));
	assert_non_null(strstr(why, "replaced all the time"));
	replacements = 0;
}

static sem_t begun, go_on;
/* The next close waits for go_on, but not for ever. */
static atomic_bool slow_close, nobody_came;

int __real_close(int fd);
int __wrap_close(int fd);

int __wrap_close(int fd)
{
	struct timespec until;

	if (atomic_exchange(&slow_close, false)) {
		clock_gettime(CLOCK_REALTIME, &until);
		until.tv_sec += 3;
		sem_post(&begun);
		if (sem_timedwait(&go_on, &until))
			atomic_store(&nobody_came, true);
	}
	return __real_close(fd);
}

static void *put(void *image)
{
	image_put(image);
	return NULL;
}

/* Storage that takes long for a close; stations of other images come and go. */
static void slow_to_close(void **state)
{
	struct image *i, *o;
	pthread_t thread;
	char why[512];

	(void)state;
	make(name, '1');
	make(other, '2');
	i = open_image(why);
	o = open_as(other, true, why);
	assert_non_null(i);
	assert_non_null(o);
	atomic_store(&slow_close, true);
	pthread_create(&thread, NULL, put, i);
	sem_wait(&begun);
	image_put(image_hold(o));
	assert_ptr_equal(image_of(o->store), o);
	/* Nor has who only reads to wait for another who only read. */
	i = open_image(why);
	assert_non_null(i);
	assert_int_equal(first_byte(i), '1');
	image_put(i);
	sem_post(&go_on);
	pthread_join(thread, NULL);
	assert_false(atomic_load(&nobody_came));
	image_put(o);
	unlink(other);
}

static char why_not[512];

static void *open_to_write(void *arg)
{
	(void)arg;
	return open_as(name, false, why_not);
}

/* Who wants to write a file waits until it is closed, and then has it. */
static void opened_while_it_is_closed(void **state)
{
	const struct timespec moment = { .tv_nsec = 100 * 1000000L };
	pthread_t closes, opens;
	struct image *i;
	void *again;

	(void)state;
	make(name, '1');
	i = open_as(name, false, why_not);
	assert_non_null(i);
	atomic_store(&slow_close, true);
	pthread_create(&closes, NULL, put, i);
	sem_wait(&begun);
	pthread_create(&opens, NULL, open_to_write, NULL);
	nanosleep(&moment, NULL);
	sem_post(&go_on);
	pthread_join(closes, NULL);
	pthread_join(opens, &again);
	assert_non_null(again);
	image_put(again);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(replaced_meanwhile),
		cmocka_unit_test(replaced_for_ever),
		cmocka_unit_test(slow_to_close),
		cmocka_unit_test(opened_while_it_is_closed),
	};
	int r;

	if (!mkdtemp(dir))
		return 1;
	snprintf(name, sizeof(name), "%s/img", dir);
	snprintf(other, sizeof(other), "%s/new", dir);
	sem_init(&begun, 0, 0);
	sem_init(&go_on, 0, 0);
	r = cmocka_run_group_tests_name("server image", tests, NULL, NULL);
	unlink(name);
	rmdir(dir);
	return r;
}
