// SPDX-License-Identifier: GPL-2.0
/*
 * log_test.c - hostile strings made fit for a log line, and sizes for people.
 */
#include "unit.h"

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
	};

	return cmocka_run_group_tests_name("server log", tests, NULL, NULL);
}
