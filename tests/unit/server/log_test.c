// SPDX-License-Identifier: GPL-2.0
/*
 * log_test.c - hostile strings made fit for a log line, sizes for people, and who
 * may write how many lines.
 */
#include "unit.h"

#include <time.h>
#include <unistd.h>

#include "log.h"

static void quoting(void **state)
{
	char buf[64], all[256], tiny[8];
	size_t i;

	(void)state;
	assert_string_equal(log_quote(buf, sizeof(buf), "root", 4), "root");
	assert_string_equal(log_quote(buf, sizeof(buf), "", 0), "");
	assert_string_equal(log_quote(buf, sizeof(buf), "a\n\"\\\0\x7f", 6),
			    "a\\012\\042\\134\\000\\177");
	assert_string_equal(log_quote(buf, sizeof(buf), "\xc3\xa4", 2),
			    "\\303\\244");
	for (i = 0; i < sizeof(all); i++)
		all[i] = (char)i;
	for (i = 8; i < sizeof(buf); i++) {
		/* Never beyond its end; ASan sees to that. */
		char *exact = malloc(i);

		log_quote(exact, i, all, sizeof(all));
		assert_true(strlen(exact) < i);
		assert_string_equal(exact + strlen(exact) - 3, "...");
		free(exact);
	}
	assert_string_equal(log_quote(tiny, sizeof(tiny), "abcd", 4), "abcd");
	assert_string_equal(log_quote(tiny, sizeof(tiny), "abcdefghi", 9),
			    "abcd...");
}

/* What of a piece of work is in the log, in lines. */
static unsigned int logged(void (*work)(void))
{
	FILE *f = tmpfile();
	int was = dup(STDERR_FILENO), ch;
	unsigned int n = 0;

	assert_non_null(f);
	dup2(fileno(f), STDERR_FILENO);
	work();
	dup2(was, STDERR_FILENO);
	close(was);
	rewind(f);
	while ((ch = fgetc(f)) != EOF)
		n += ch == '\n';
	fclose(f);
	return n;
}

static time_t now;

int __wrap_clock_gettime(clockid_t id, struct timespec *t);
int __wrap_clock_gettime(clockid_t id, struct timespec *t)
{
	(void)id;
	*t = (struct timespec){ .tv_sec = now };
	return 0;
}

static void ten_thousand_strangers(void)
{
	unsigned int i;

	for (i = 0; i < 10000; i++)
		log_peer(LOG_WARNING, "stranger");
}

static void ten_thousand_times(void)
{
	unsigned int i;

	for (i = 0; i < 10000; i++)
		log_station(1, LOG_INFO, "station");
}

static void another(void)
{
	log_station(2, LOG_INFO, "station");
}

static void limits(void **state)
{
	(void)state;
	now = 1000000;
	assert_int_equal(logged(ten_thousand_strangers), LOG_PEER_RATE);
	/* Those are not counted here. A lab's worth, then a few. */
	assert_int_equal(logged(ten_thousand_times), LOG_STATION_BURST);
	assert_int_equal(logged(ten_thousand_times), 0);
	assert_int_equal(logged(another), 1);
	now++;
	/* And a line about those that are missing. */
	assert_int_equal(logged(ten_thousand_times), LOG_STATION_RATE + 1);
	assert_int_equal(logged(ten_thousand_strangers), LOG_PEER_RATE + 1);
	now += 3600;
	assert_int_equal(logged(ten_thousand_times), LOG_STATION_BURST + 1);
	assert_int_equal(logged(another), 1);
}

static void sizes(void **state)
{
	char buf[32];

	(void)state;
	assert_string_equal(log_bytes(buf, sizeof(buf), 0), "0 bytes");
	assert_string_equal(log_bytes(buf, sizeof(buf), 512), "512 bytes");
	assert_string_equal(log_bytes(buf, sizeof(buf), 1025), "1025 bytes");
	assert_string_equal(log_bytes(buf, sizeof(buf), 65536), "64 KiB");
	assert_string_equal(log_bytes(buf, sizeof(buf), 3ULL << 40), "3 TiB");
	assert_string_equal(log_bytes(buf, sizeof(buf), 1ULL << 60), "1 EiB");
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(quoting),
		cmocka_unit_test(sizes),
		cmocka_unit_test(limits),
	};

	return cmocka_run_group_tests_name("server log", tests, NULL, NULL);
}
