// SPDX-License-Identifier: GPL-2.0
/*
 * image_test.c - an image that is replaced just while it is being opened.
 */
#define _GNU_SOURCE
#include "unit.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
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

static struct image *open_image(char *why)
{
	const struct image_spec spec = {
		.path = name, .owner = "x", .read_only = true,
	};

	return image_current(&spec, why, 512);
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

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(replaced_meanwhile),
		cmocka_unit_test(replaced_for_ever),
	};
	int r;

	if (!mkdtemp(dir))
		return 1;
	snprintf(name, sizeof(name), "%s/img", dir);
	snprintf(other, sizeof(other), "%s/new", dir);
	r = cmocka_run_group_tests_name("server image", tests, NULL, NULL);
	unlink(name);
	rmdir(dir);
	return r;
}
