// SPDX-License-Identifier: GPL-2.0
/*
 * station_test.c - what is remembered of stations, for days that pass at once.
 */
#define _GNU_SOURCE
#include "unit.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "session.h"
#include "pins.h"
#include "station.h"

#define HOUR	3600

static time_t now;

time_t __real_time(time_t *t);
time_t __wrap_time(time_t *t);

time_t __wrap_time(time_t *t)
{
	if (t)
		*t = now;
	return now;
}

/* What a folder says when it is opened, or read, if it does not work. */
static int open_error, read_error;

DIR *__real_opendir(const char *path);
DIR *__wrap_opendir(const char *path);

DIR *__wrap_opendir(const char *path)
{
	errno = open_error;
	return open_error ? NULL : __real_opendir(path);
}

struct dirent *__real_readdir(DIR *d);
struct dirent *__wrap_readdir(DIR *d);

struct dirent *__wrap_readdir(DIR *d)
{
	if (!read_error)
		return __real_readdir(d);
	errno = read_error;
	return NULL;
}

void session_server(struct nbd_identity *id)
{
	memset(id, 0, sizeof(*id));
	strcpy(id->boot, "server-boot");
	strcpy(id->host, "host");
}

static char dir[] = "/tmp/station_test.XXXXXX";
static char name[64], pins[64];

static struct station_export export_of(const char *path)
{
	return (struct station_export) {
		.name = "x", .pins = pins,
		.image = { .path = path, .owner = "x", .read_only = true },
	};
}

static void publish(char byte)
{
	char data[4096], other[64];
	int fd;

	snprintf(other, sizeof(other), "%s/new", dir);
	fd = open(other, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	memset(data, byte, sizeof(data));
	assert_int_equal(write(fd, data, sizeof(data)), sizeof(data));
	close(fd);
	assert_int_equal(rename(other, name), 0);
}

/* What this boot of the station reads; 0: it is refused. */
static char reads(const char *station, const char *boot, const char *address_end)
{
	struct sockaddr_in peer = { .sin_family = AF_INET };
	struct station_export x = export_of(name);
	struct nbd_session session = { .attach = 1 };
	struct station_client c = {
		.peer = (struct sockaddr *)&peer, .session = &session,
	};
	char why[1024], byte = 0;
	struct image *i;

	peer.sin_addr.s_addr = htonl(0xc0000200U + (unsigned int)atoi(address_end));
	strcpy(session.station, station);
	strcpy(session.boot, boot);
	i = station_image(&x, &c, station, why, sizeof(why));
	image_put(x.now);
	if (!i)
		return 0;
	assert_int_equal(i->store->ops->read(i->store, &byte, 1, 0), 0);
	image_put(i);
	return byte;
}

/* Files are made at the time that it really is. */
static int start_now(void **state)
{
	(void)state;
	now = __real_time(NULL);
	return 0;
}

/* As long as it is connected, and for a day from its end on. */
static void pin_of_one_that_is_connected(void **state)
{
	const struct station_export x = export_of(name);

	(void)state;
	publish('1');
	assert_int_equal(reads("pc7", "b7", "7"), '1');
	pins_enter(&x, "pc7", "b7");
	pins_enter(&x, "pc7", "b7");
	publish('2');
	now += 100 * HOUR;
	assert_int_equal(reads("pc8", "b8", "8"), '2');
	pins_leave(&x, "pc7", "b7");
	now += 100 * HOUR;
	assert_int_equal(reads("pc9", "b9", "9"), '2');
	pins_leave(&x, "pc7", "b7");
	now += 23 * HOUR;
	assert_int_equal(reads("pc9", "b9", "9"), '2');
	assert_int_equal(reads("pc7", "b7", "7"), '1');
	now += 25 * HOUR;
	assert_int_equal(reads("pc9", "b9", "9"), '2');
	assert_int_equal(reads("pc7", "b7", "7"), 0);
	pins_forget(true);
}

static unsigned int pin_files(void)
{
	DIR *d = opendir(pins);
	unsigned int n = 0;

	assert_non_null(d);
	while (readdir(d))
		n++;
	closedir(d);
	return n - 2;
}

static void age(const char *station, int hours)
{
	const struct timespec t[2] = {
		{ .tv_sec = now - hours * HOUR }, { .tv_sec = now - hours * HOUR },
	};
	char *path = station_path(pins, "x", station, STATION_PIN);

	assert_non_null(path);
	assert_int_equal(utimensat(AT_FDCWD, path, t, 0), 0);
	free(path);
}

/* Files go when nobody has used them for a month, and not those in use. */
static void files_of_pins(void **state)
{
	const struct station_export x = export_of(name);

	(void)state;
	publish('1');
	assert_int_equal(reads("runs", "b1", "1"), '1');
	pins_enter(&x, "runs", "b1");
	assert_int_equal(reads("left", "b2", "2"), '1');
	assert_int_equal(reads("old", "b3", "3"), '1');
	age("runs", 31 * 24);
	age("left", 29 * 24);
	age("old", 31 * 24);
	/* When one is added. */
	now += 2 * HOUR;
	age("old", 31 * 24);
	assert_int_equal(reads("new", "b4", "4"), '1');
	age("new", 0);
	assert_int_equal(pin_files(), 3);
	pins_leave(&x, "runs", "b1");
	/* And when the server starts. */
	now += 29 * 24 * HOUR;
	pins_sweep(pins);
	assert_int_equal(pin_files(), 2);
	now += 2 * 24 * HOUR;
	pins_sweep(pins);
	assert_int_equal(pin_files(), 0);
	pins_forget(true);
}

/* One client cannot fill the disk; nor can it push out what others have. */
static void many_names_of_one_address(void **state)
{
	const struct station_export x = export_of(name);
	char station[16];
	int i;

	(void)state;
	publish('1');
	assert_int_equal(reads("good", "b", "1"), '1');
	assert_int_equal(reads("used", "b", "66"), '1');
	pins_enter(&x, "used", "b");
	for (i = 0; i < 600; i++) {
		snprintf(station, sizeof(station), "s%d", i);
		assert_int_equal(reads(station, "b", "66"), '1');
	}
	assert_int_equal(pin_files(), 1 + 256);
	publish('2');
	assert_int_equal(reads("good", "b", "1"), '1');
	assert_int_equal(reads("used", "b", "66"), '1');
	assert_int_equal(reads("s599", "b", "66"), '1');
	assert_int_equal(reads("s0", "b", "66"), '2');
	pins_leave(&x, "used", "b");
	pins_forget(true);
	now += 31 * 24 * HOUR;
	pins_sweep(pins);
}

static bool gets_overlay(const char *station, char *why, size_t why_size)
{
	const struct sockaddr_in peer = { .sin_family = AF_INET };
	const struct station_client c = { .peer = (const void *)&peer };
	struct station_export x = export_of(name);
	struct image *base;
	struct store *s;

	x.dir = dir;
	x.kind = OVERLAY_KEEP;
	x.count = 2;
	base = image_current(&x.image, why, why_size);
	assert_non_null(base);
	s = station_overlay_open(&x, &c, station, base, why, why_size);
	if (s)
		station_overlay_close(s, false);
	image_put(base);
	return s != NULL;
}

/* As many as there may be; where they cannot be counted, no more of them. */
static void count_of_overlays(void **state)
{
	char why[1024];

	(void)state;
	publish('1');
	assert_true(gets_overlay("a", why, sizeof(why)));
	open_error = EACCES;
	assert_false(gets_overlay("b", why, sizeof(why)));
	assert_non_null(strstr(why, "cannot be counted"));
	assert_true(gets_overlay("a", why, sizeof(why)));
	open_error = 0;
	read_error = EIO;
	assert_false(gets_overlay("b", why, sizeof(why)));
	assert_non_null(strstr(why, strerror(EIO)));
	read_error = 0;
	assert_true(gets_overlay("b", why, sizeof(why)));
	assert_false(gets_overlay("c", why, sizeof(why)));
	assert_non_null(strstr(why, "as many overlays as it may have"));
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(files_of_pins, start_now),
		cmocka_unit_test_setup(count_of_overlays, start_now),
		cmocka_unit_test_setup(many_names_of_one_address, start_now),
		cmocka_unit_test_setup(pin_of_one_that_is_connected, start_now),
	};
	char command[100];
	int r;

	if (!mkdtemp(dir))
		return 1;
	snprintf(name, sizeof(name), "%s/img", dir);
	snprintf(pins, sizeof(pins), "%s/pins", dir);
	if (mkdir(pins, 0700))
		return 1;
	r = cmocka_run_group_tests_name("server station", tests, NULL, NULL);
	snprintf(command, sizeof(command), "rm -r %s", dir);
	return system(command) ? 1 : r;
}
