// SPDX-License-Identifier: GPL-2.0
/* When a loop looks again before it sleeps, by a clock and an epoll of our own. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>

#include <cmocka.h>

#include "events.h"
#include "os.h"

#define US	1000U
#define PATIENCE_MS	250

static uint64_t now;		/* ns */
static uint64_t next_event;	/* when there is one */
static uint64_t waking = 30 * US;
static unsigned int looks, sleeps;
static unsigned int reads;	/* of the disk */
static bool reading;
static unsigned int asked;	/* calls of os_realtime() */
static bool is_first;
static int refused;		/* errno's value */

int __wrap_os_realtime(pthread_t thread, bool on);

int __wrap_os_realtime(pthread_t thread, bool on)
{
	(void)thread;
	asked++;
	if (!refused)
		is_first = on;
	return refused;
}

static bool allowed = true, scheduled;

bool __wrap_os_is_scheduled(pthread_t thread);

bool __wrap_os_is_scheduled(pthread_t thread)
{
	(void)thread;
	return scheduled;
}

void __wrap_os_allow_realtime(bool on);

void __wrap_os_allow_realtime(bool on)
{
	allowed = on;
}

static bool disk_busy(unsigned int *since)
{
	const bool busy = reading || *since != reads;

	*since = reads;
	return busy;
}

int __wrap_clock_gettime(clockid_t id, struct timespec *t);
int __wrap_epoll_wait(int fd, struct epoll_event *e, int max, int ms);

int __wrap_clock_gettime(clockid_t id, struct timespec *t)
{
	assert_int_equal(id, CLOCK_MONOTONIC);
	t->tv_sec = (time_t)(now / 1000000000U);
	t->tv_nsec = (long)(now % 1000000000U);
	return 0;
}

/* A look takes a microsecond; to be woken takes thirty, as a rule. */
int __wrap_epoll_wait(int fd, struct epoll_event *e, int max, int ms)
{
	uint64_t end = now + (uint64_t)ms * 1000000U;

	(void)fd;
	(void)e;
	(void)max;
	if (!ms) {
		looks++;
		now += US;
		return now >= next_event;
	}
	sleeps++;
	if (next_event > end) {
		now = end;
		return 0;
	}
	now = (next_event > now ? next_event : now) + waking;
	return 1;
}

/* The next event comes @after ns from now. What epoll_wait() was asked for. */
static int wait_for(struct events *w, uint64_t after)
{
	struct epoll_event e;

	looks = sleeps = 0;
	next_event = now + after;
	return events_wait(w, 3, &e, 1, PATIENCE_MS);
}

static void short_pauses(struct events *w, unsigned int n)
{
	while (n--)
		assert_int_equal(wait_for(w, 20 * US), 1);
}

static void looks_after_short_pauses(void **state)
{
	struct events w = { 0 };
	unsigned int i;

	(void)state;
	for (i = 0; i < 8; i++) {
		assert_int_equal(wait_for(&w, 20 * US), 1);
		assert_int_equal(looks, 0);
	}
	for (i = 0; i < 100; i++) {
		assert_int_equal(wait_for(&w, 20 * US), 1);
		assert_int_equal(sleeps, 0);
		assert_in_range(looks, 1, 21);
	}
}

static void sleeps_once_it_was_in_vain(void **state)
{
	struct events w = { 0 };
	uint64_t began;

	(void)state;
	short_pauses(&w, 10);
	began = now;
	assert_int_equal(wait_for(&w, 1000 * US), 1);
	assert_int_equal(sleeps, 1);
	assert_in_range(looks, 1, 60);		/* some 50 us, and no more */
	assert_in_range(now - began, 1000 * US, 1031 * US);
	/* And does not look again at the next. */
	assert_int_equal(wait_for(&w, 20 * US), 1);
	assert_int_equal(looks, 0);
}

/* However soon it is woken. */
static void in_vain_by_little(void **state)
{
	struct events w = { 0 };

	(void)state;
	short_pauses(&w, 10);
	waking = 5 * US;
	assert_int_equal(wait_for(&w, 55 * US), 1);
	assert_int_equal(sleeps, 1);
	assert_int_equal(wait_for(&w, 20 * US), 1);
	assert_int_equal(looks, 0);
	waking = 30 * US;
}

/* A thread that all others wait for must not look: they would not get to run. */
static void one_that_comes_first_never_looks(void **state)
{
	struct events w = { .disk_busy = disk_busy };
	unsigned int i;

	(void)state;
	reading = true;
	wait_for(&w, 200000 * US);
	short_pauses(&w, 10);
	assert_true(is_first);
	for (i = 0; i < 50; i++) {
		assert_int_equal(wait_for(&w, 20 * US), 1);
		assert_int_equal(looks, 0);
		assert_int_equal(sleeps, 1);
	}
}

/* Rounds of a millisecond, of which @busy percent go to the loop's own work. */
static void serve_for(struct events *w, unsigned int ms, unsigned int busy)
{
	while (ms--) {
		now += busy * 10 * US;
		wait_for(w, (970 - busy * 10) * US);
	}
}

/* For how many of the next @ms milliseconds it comes first. */
static unsigned int first_of(struct events *w, unsigned int ms, unsigned int busy)
{
	unsigned int n = 0;

	while (ms--) {
		serve_for(w, 1, busy);
		n += is_first;
	}
	return n;
}

static void comes_first_while_the_disk_is_read(void **state)
{
	struct events w = { .disk_busy = disk_busy };
	unsigned int i;

	(void)state;
	serve_for(&w, 50, 10);
	assert_int_equal(asked, 0);
	/* One long read. */
	reading = true;
	assert_in_range(first_of(&w, 50, 10), 38, 50);
	reading = false;
	serve_for(&w, 12, 10);
	assert_false(is_first);
	/* Many short ones, none of which it happens to see. */
	for (i = 0; i < 100; i++) {
		reads++;
		serve_for(&w, 1, 10);
	}
	assert_true(is_first);
	assert_int_equal(asked, 3);
	serve_for(&w, 1000, 10);
	assert_int_equal(asked, 4);
}

/* Nobody can take the processors from all else. */
static void not_if_it_uses_much_itself(void **state)
{
	struct events w = { .disk_busy = disk_busy };

	(void)state;
	reading = true;
	serve_for(&w, 250, 60);
	assert_true(is_first);
	serve_for(&w, 250, 90);
	assert_false(is_first);
	assert_int_equal(first_of(&w, 2000, 97), 0);
	serve_for(&w, 250, 60);
	assert_true(is_first);
	/* What it does in the first tenth of a second is not known yet. */
	wait_for(&w, 200000 * US);
	wait_for(&w, 200000 * US);
	assert_in_range(first_of(&w, 500, 90), 90, 120);
}

static void a_right_that_is_lost(void **state)
{
	struct events w = { .disk_busy = disk_busy };

	(void)state;
	assert_true(events_may_come_first(&w, true));
	assert_false(is_first);
	scheduled = true;
	asked = 0;
	assert_false(events_may_come_first(&w, true));
	assert_int_equal(asked, 0);
	scheduled = false;
	refused = 1;
	assert_false(events_may_come_first(&w, true));
	assert_false(allowed);
	reading = true;
	asked = 0;
	serve_for(&w, 100, 10);
	assert_int_equal(asked, 1);
	/* So it looks before it sleeps, as others do. */
	short_pauses(&w, 10);
	assert_int_equal(sleeps, 0);
}

static int begin(void **state)
{
	(void)state;
	reading = is_first = false;
	reads = asked = 0;
	refused = 0;
	return 0;
}

static void long_pauses_never_make_it_look(void **state)
{
	struct events w = { 0 };
	unsigned int i;

	(void)state;
	for (i = 0; i < 50; i++) {
		assert_int_equal(wait_for(&w, i % 8 ? 20 * US : 90 * US), 1);
		assert_int_equal(looks, 0);
	}
}

static void no_event_at_all(void **state)
{
	struct events w = { 0 };
	uint64_t began;

	(void)state;
	short_pauses(&w, 10);
	began = now;
	assert_int_equal(wait_for(&w, 3600 * 1000000000ULL), 0);
	assert_in_range(now - began, PATIENCE_MS * 1000000ULL,
			PATIENCE_MS * 1000000ULL + 60 * US);
}

/* Who is to wait for nothing is not kept. */
static void no_patience(void **state)
{
	struct events w = { 0 };
	struct epoll_event e;

	(void)state;
	short_pauses(&w, 10);
	looks = sleeps = 0;
	next_event = now + 1000 * US;
	assert_int_equal(events_wait(&w, 3, &e, 1, 0), 0);
	assert_int_equal(looks, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(looks_after_short_pauses),
		cmocka_unit_test(sleeps_once_it_was_in_vain),
		cmocka_unit_test(in_vain_by_little),
		cmocka_unit_test_setup(one_that_comes_first_never_looks, begin),
		cmocka_unit_test_setup(comes_first_while_the_disk_is_read, begin),
		cmocka_unit_test_setup(not_if_it_uses_much_itself, begin),
		cmocka_unit_test_setup(a_right_that_is_lost, begin),
		cmocka_unit_test(long_pauses_never_make_it_look),
		cmocka_unit_test(no_event_at_all),
		cmocka_unit_test(no_patience),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
