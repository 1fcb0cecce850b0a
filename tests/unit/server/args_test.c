// SPDX-License-Identifier: GPL-2.0
/*
 * args_test.c - command lines, sizes and ports.
 */
#include "unit.h"

#include "args.h"

#define ARGV(...) \
	((char *const *)(const char *[]){ "nbd-server", __VA_ARGS__, NULL })
#define PARSE(a, why, ...) \
	args_parse((int)(sizeof((const char *[]){ __VA_ARGS__ }) / \
			 sizeof(char *)) + 1, ARGV(__VA_ARGS__), a, why)

static void sizes(void **state)
{
	static const struct {
		const char *text;
		uint64_t bytes;		/* 0: refused */
	} t[] = {
		{ "1", 1 }, { "512", 512 }, { "1k", 1024 }, { "1K", 1024 },
		{ "64m", 64ULL << 20 }, { "10G", 10ULL << 30 },
		{ "2t", 2ULL << 40 }, { "0001", 1 },
		{ "9223372036854775807", INT64_MAX },
		{ "9223372036854775808", 0 },
		{ "18446744073709551616", 0 },
		{ "18446744073709551617", 0 },
		{ "8388607t", 8388607ULL << 40 }, { "8388608t", 0 },
		{ "9007199254740991k", 9007199254740991ULL << 10 },
		{ "9007199254740992k", 0 },
		{ "", 0 }, { "0", 0 }, { "0k", 0 }, { "k", 0 }, { "-1", 0 },
		{ "+1", 0 }, { " 1", 0 }, { "1 ", 0 }, { "1kb", 0 },
		{ "1x", 0 }, { "1.5g", 0 }, { "0x10", 0 }, { "1kk", 0 },
		{ "1\v", 0 }, { "1@", 0 },
	};
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		uint64_t n = 0;

		assert_int_equal(args_size(t[i].text, &n), t[i].bytes != 0);
		assert_int_equal(n, t[i].bytes);
	}
}

static void ports(void **state)
{
	static const char *const good[] = { "1", "10809", "65535", "00001" };
	static const char *const bad[] = {
		"", "0", "65536", "99999999999999999999", "-1", "+1", " 1",
		"1 ", "1a", "nbd", "0x1",
	};
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(good) / sizeof(good[0]); i++)
		assert_true(args_port(good[i]));
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_false(args_port(bad[i]));
}

static void plain(void **state)
{
	char why[ARGS_WHY];
	struct args a;

	(void)state;
	assert_true(PARSE(&a, why, "1234", "root.img"));
	assert_int_equal(a.verb, ARGS_SERVE);
	assert_null(a.address);
	assert_string_equal(a.port, "1234");
	assert_string_equal(a.file, "root.img");
	assert_int_equal(a.size, 0);
	assert_false(a.read_only || a.foreground || a.debug);

	assert_true(PARSE(&a, why, "-r", "1234", "root.img", "10m"));
	assert_true(a.read_only);
	assert_int_equal(a.size, 10 << 20);
}

static void options_anywhere(void **state)
{
	char why[ARGS_WHY];
	struct args a;

	(void)state;
	assert_true(PARSE(&a, why, "1234", "-r", "root.img", "-n", "1g", "-p",
			  "pid", "-C", "conf"));
	assert_true(a.read_only && a.foreground);
	assert_string_equal(a.pidfile, "pid");
	assert_string_equal(a.config, "conf");
	assert_string_equal(a.file, "root.img");
	assert_int_equal(a.size, 1 << 30);
	assert_true(PARSE(&a, why, "-rnppid", "1", "x"));
	assert_true(a.read_only && a.foreground);
	assert_string_equal(a.pidfile, "pid");
}

static void addresses(void **state)
{
	static const struct {
		const char *word, *address, *port;	/* port NULL: refused */
	} t[] = {
		{ "10.0.0.1@1234", "10.0.0.1", "1234" },
		{ "[2001:db8::1]@1234", "2001:db8::1", "1234" },
		{ "2001:db8::1@1234", "2001:db8::1", "1234" },
		{ "[fe80::1%eth0]@1234", "fe80::1%eth0", "1234" },
		{ "boot.example.org@1234", "boot.example.org", "1234" },
		{ "@1234", NULL, NULL }, { "[]@1234", NULL, NULL },
		{ "[::1@1234", NULL, NULL }, { "[::1]x@1234", NULL, NULL },
		{ "10.0.0.1@", NULL, NULL }, { "10.0.0.1@0", NULL, NULL },
		{ "10.0.0.1@nbd", NULL, NULL }, { "10.0.0.1:1234", NULL, NULL },
	};
	char why[ARGS_WHY];
	struct args a;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		bool ok = PARSE(&a, why, t[i].word, "x");

		assert_int_equal(ok, t[i].port != NULL);
		if (!ok) {
			assert_non_null(strstr(why, t[i].word));
			continue;
		}
		assert_string_equal(a.address, t[i].address);
		assert_string_equal(a.port, t[i].port);
	}
}

static void wrong(void **state)
{
	char word[5000], why[ARGS_WHY];
	struct args a;

	(void)state;
	assert_false(PARSE(&a, why, "1234"));
	assert_non_null(strstr(why, "nbd-server 1234 IMAGE"));
	assert_false(PARSE(&a, why, "1234", "x", "y"));
	assert_non_null(strstr(why, "\"y\" is not a size"));
	assert_false(PARSE(&a, why, "1", "x", "1", "y"));
	assert_non_null(strstr(why, "\"y\" is one word too many"));
	assert_false(PARSE(&a, why, "-q"));
	assert_non_null(strstr(why, "\"-q\" is not an option"));
	assert_false(PARSE(&a, why, "1", "x", "-p"));
	assert_non_null(strstr(why, "-p needs"));
	memset(word, '1', sizeof(word) - 1);
	word[sizeof(word) - 1] = '\0';
	assert_false(PARSE(&a, why, word, "x"));
	assert_false(PARSE(&a, why, "1", "x", word));
	assert_true(strlen(why) < ARGS_WHY);
}

static void verbs(void **state)
{
	char why[ARGS_WHY];
	struct args a;

	(void)state;
	assert_true(args_parse(1, ARGV(NULL), &a, why));
	assert_int_equal(a.verb, ARGS_USAGE);
	assert_true(PARSE(&a, why, "-r"));
	assert_int_equal(a.verb, ARGS_USAGE);
	assert_true(PARSE(&a, why, "-V"));
	assert_int_equal(a.verb, ARGS_VERSION);
	assert_true(PARSE(&a, why, "1234", "-h"));
	assert_int_equal(a.verb, ARGS_HELP);
	assert_true(PARSE(&a, why, "-C", "conf"));
	assert_int_equal(a.verb, ARGS_SERVE);
	assert_null(a.port);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(sizes),
		cmocka_unit_test(ports),
		cmocka_unit_test(plain),
		cmocka_unit_test(options_anywhere),
		cmocka_unit_test(addresses),
		cmocka_unit_test(wrong),
		cmocka_unit_test(verbs),
	};

	return cmocka_run_group_tests_name("server args", tests, NULL, NULL);
}
