// SPDX-License-Identifier: GPL-2.0
/* The names of proto/nbd-session.h: what is put comes back, nothing else does. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "nbd-session.h"

static void session_comes_back(void **state)
{
	struct nbd_session s = { "lab-07", "5b0c-11", 3, 4294967295U }, t;
	char buf[NBD_SESSION_NAME];
	size_t len = nbd_session_put(buf, &s);

	(void)state;
	assert_string_equal(buf, "x-nbdroot:session/lab-07/5b0c-11/3/4294967295");
	assert_int_equal(len, strlen(buf));
	assert_true(nbd_session_get(buf, len, &t));
	assert_string_equal(t.station, s.station);
	assert_string_equal(t.boot, s.boot);
	assert_int_equal(t.attach, 3);
	assert_int_equal(t.generation, 4294967295U);
	/* Any part of it is something else. Heap, so that ASan sees the end. */
	for (size_t n = 0; n < len - 9; n++) {
		char *part = malloc(n ? n : 1);

		memcpy(part, buf, n);
		assert_false(nbd_session_get(part, n, &t));
		free(part);
	}
}

static void identity_comes_back(void **state)
{
	struct nbd_identity id = { "-", "a.b", "8:1:77" }, t;
	char buf[NBD_SESSION_NAME];
	size_t len = nbd_identity_put(buf, &id);

	(void)state;
	assert_string_equal(buf, "x-nbdroot:server/-/a.b/8:1:77");
	assert_true(nbd_identity_get(buf, len, &t));
	assert_string_equal(t.boot, "-");
	assert_string_equal(t.host, "a.b");
	assert_string_equal(t.image, "8:1:77");
}

static void longest_words_fit(void **state)
{
	struct nbd_identity id, t;
	char buf[NBD_SESSION_NAME];
	size_t len;

	(void)state;
	memset(&id, 0, sizeof(id));
	memset(id.boot, 'b', NBD_SESSION_WORD - 1);
	memset(id.host, 'h', NBD_SESSION_WORD - 1);
	memset(id.image, 'i', NBD_SESSION_WORD - 1);
	len = nbd_identity_put(buf, &id);
	assert_in_range(len, 1, sizeof(buf) - 1);
	assert_true(nbd_identity_get(buf, len, &t));
	assert_memory_equal(&t, &id, sizeof(id));
}

static void others_are_refused(void **state)
{
	static const char *const bad[] = {
		"", "x-nbdroot:", "x-nbdroot:session", "base:allocation",
		"x-nbdroot:session/a/b/1", "x-nbdroot:session/a/b/1/2/3",
		"x-nbdroot:session//b/1/2", "x-nbdroot:session/a/b//2",
		"x-nbdroot:session/a/b/1/", "x-nbdroot:session/a/b/-1/2",
		"x-nbdroot:session/a/b/1/4294967296",
		"x-nbdroot:session/a/b/1/18446744073709551617",
		"x-nbdroot:session/a b/c/1/2", "x-nbdroot:session/a\n/c/1/2",
		"x-nbdroot:session/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
		"aaaaaaaaaaaaaaaaaaaaa/b/1/2",
	};
	struct nbd_session s;

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
		assert_false(nbd_session_get(bad[i], strlen(bad[i]), &s));
}

static void words_are_checked(void **state)
{
	struct nbd_session s = { "a/b", "c", 0, 0 };
	char buf[NBD_SESSION_NAME];

	(void)state;
	assert_int_equal(nbd_session_put(buf, &s), 0);
	strcpy(s.station, "");
	assert_int_equal(nbd_session_put(buf, &s), 0);
	assert_true(nbd_session_word("-"));
	assert_false(nbd_session_word("a\xc3\xa4"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(session_comes_back),
		cmocka_unit_test(identity_comes_back),
		cmocka_unit_test(longest_words_fit),
		cmocka_unit_test(others_are_refused),
		cmocka_unit_test(words_are_checked),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
