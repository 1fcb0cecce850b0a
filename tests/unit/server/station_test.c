// SPDX-License-Identifier: GPL-2.0
/*
 * station_test.c - what is remembered of stations, for days that pass at once.
 */
#define _GNU_SOURCE
#include "unit.h"

#include <dirent.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "session.h"
#include "station.h"

#define HOUR	3600

static time_t now = 1000000000;

time_t __wrap_time(time_t *t);

time_t __wrap_time(time_t *t)
{
	if (t)
		*t = now;
	return now;
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

/* As long as it is connected, and for a day from its end on. */
static void pin_of_one_that_is_connected(void **state)
{
	const struct station_export x = export_of(name);

	(void)state;
	publish('1');
	assert_int_equal(reads("pc7", "b7", "7"), '1');
	station_enter(&x, "pc7", "b7");
	station_enter(&x, "pc7", "b7");
	publish('2');
	now += 100 * HOUR;
	assert_int_equal(reads("pc8", "b8", "8"), '2');
	station_leave(&x, "pc7", "b7");
	now += 100 * HOUR;
	assert_int_equal(reads("pc9", "b9", "9"), '2');
	station_leave(&x, "pc7", "b7");
	now += 23 * HOUR;
	assert_int_equal(reads("pc9", "b9", "9"), '2');
	assert_int_equal(reads("pc7", "b7", "7"), '1');
	now += 25 * HOUR;
	assert_int_equal(reads("pc9", "b9", "9"), '2');
	assert_int_equal(reads("pc7", "b7", "7"), 0);
	station_forget(true);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(pin_of_one_that_is_connected),
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
