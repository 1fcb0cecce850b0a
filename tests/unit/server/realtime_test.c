// SPDX-License-Identifier: GPL-2.0
/*
 * realtime_test.c - loops that are to run before everything else, in the real
 * server: nobody is served until that is settled, and all of them do or none.
 */
#include "unit.h"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "engine.h"
#include "export.h"
#include "nbd-wire.h"
#include "os.h"

#define LOOPS	3

static struct {
	unsigned int asked, refused_from;	/* loops; 0: none */
	unsigned int now;	/* so many run before everything else */
	bool allowed;
	int early;		/* sockets that were answered before */
} seen;
static int client;

int __wrap_os_realtime(pthread_t thread, bool on);

int __wrap_os_realtime(pthread_t thread, bool on)
{
	(void)thread;
	if (!on) {
		seen.now--;
		return 0;
	}
	if (++seen.asked == seen.refused_from)
		return EPERM;
	seen.now++;
	return 0;
}

void __wrap_os_allow_realtime(bool on);

void __wrap_os_allow_realtime(bool on)
{
	struct pollfd p = { .fd = client, .events = POLLIN };

	seen.early = poll(&p, 1, 300);
	seen.allowed = on;
}

static void start_and_stop(void)
{
	struct exports exports = { .may_list = true };
	struct sockaddr_un place = { .sun_family = AF_UNIX };
	struct engine_settings engine = {
		.n_listeners = 1, .exports = &exports, .loops = LOOPS,
		.realtime = true,
	};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	u8 greeting[NBD_GREETING_SIZE];

	seen.allowed = true;
	/* A name that is no file. */
	snprintf(place.sun_path + 1, sizeof(place.sun_path) - 1,
		 "realtime-test-%ld", (long)getpid());
	assert_int_equal(bind(fd, (struct sockaddr *)&place, sizeof(place)), 0);
	assert_int_equal(listen(fd, 8), 0);
	client = socket(AF_UNIX, SOCK_STREAM, 0);
	assert_int_equal(connect(client, (struct sockaddr *)&place,
				 sizeof(place)), 0);
	engine.listeners = &fd;
	assert_true(engine_start(&engine));
	assert_int_equal(recv(client, greeting, sizeof(greeting), MSG_WAITALL),
			 sizeof(greeting));
	engine_stop();
	close(client);
	close(fd);
	assert_false(seen.allowed);
	assert_int_equal(seen.early, 0);
}

static void all_loops(void **state)
{
	(void)state;
	memset(&seen, 0, sizeof(seen));
	start_and_stop();
	assert_int_equal(seen.now, LOOPS);
}

static void or_none(void **state)
{
	unsigned int i;

	(void)state;
	for (i = 1; i <= LOOPS; i++) {
		memset(&seen, 0, sizeof(seen));
		seen.refused_from = i;
		start_and_stop();
		assert_int_equal(seen.asked, i);
		assert_int_equal(seen.now, 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(all_loops),
		cmocka_unit_test(or_none),
	};

	return cmocka_run_group_tests_name("server realtime", tests, NULL, NULL);
}
