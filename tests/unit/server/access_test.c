// SPDX-License-Identifier: GPL-2.0
/*
 * access_test.c - address rules, against IPv4, IPv6 and mapped peers.
 */
#include "unit.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "access.h"

static int match(const char *rule, const char *peer)
{
	struct sockaddr_in6 in6 = { .sin6_family = AF_INET6 };
	struct sockaddr_in in = { .sin_family = AF_INET };

	if (inet_pton(AF_INET, peer, &in.sin_addr) == 1)
		return access_match(rule, (struct sockaddr *)&in);
	assert_int_equal(inet_pton(AF_INET6, peer, &in6.sin6_addr), 1);
	return access_match(rule, (struct sockaddr *)&in6);
}

static void rules(void **state)
{
	static const struct {
		const char *rule, *peer;
		int want;
	} t[] = {
		{ "10.0.0.1", "10.0.0.1", 1 },
		{ "10.0.0.1", "10.0.0.10", 0 },		/* CVE-2013-6410 */
		{ "10.0.0.10", "10.0.0.1", 0 },
		{ "10.0.0.0/24", "10.0.0.255", 1 },
		{ "10.0.0.77/24", "10.0.0.255", 1 },
		{ "10.0.0.0/24", "10.0.1.0", 0 },
		{ "10.0.0.0/25", "10.0.0.127", 1 },
		{ "10.0.0.0/25", "10.0.0.128", 0 },
		{ "10.0.0.1/32", "10.0.0.1", 1 },
		{ "0.0.0.0/0", "255.255.255.255", 1 },
		{ "128.0.0.0/1", "127.0.0.1", 0 },
		{ "2001:db8::/32", "2001:db8:ffff::1", 1 },
		{ "2001:db8::/32", "2001:db9::1", 0 },
		{ "2001:db8::1/127", "2001:db8::", 1 },
		{ "::1", "::1", 1 },
		{ "10.0.0.1", "::ffff:10.0.0.1", 1 },
		{ "::ffff:10.0.0.1", "10.0.0.1", 0 },
		{ "::/0", "10.0.0.1", 0 },
		{ "0.0.0.0/0", "2001:db8::1", 0 },
		{ "10.0.0.1/33", "10.0.0.1", -1 },
		{ "::1/129", "::1", -1 },
		{ "10.0.0.1/", "10.0.0.1", -1 },
		{ "10.0.0.1/-1", "10.0.0.1", -1 },
		{ "10.0.0.1/ 8", "10.0.0.1", -1 },
		{ "10.0.0.1/8x", "10.0.0.1", -1 },
		{ "10.0.0.1/99999999999999999999", "10.0.0.1", -1 },
		{ "10.0.0", "10.0.0.1", -1 },
		{ "10.0.0.1.2", "10.0.0.1", -1 },
		{ "server1", "10.0.0.1", -1 },
		{ "", "10.0.0.1", -1 },
		{ "/", "10.0.0.1", -1 },
		{ "1111:2222:3333:4444:5555:6666:7777:8888:9999:0000/64",
		  "::1", -1 },
	};
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(t) / sizeof(t[0]); i++)
		if (match(t[i].rule, t[i].peer) != t[i].want)
			fail_msg("\"%s\" against %s is not %d", t[i].rule,
				 t[i].peer, t[i].want);
}

static unsigned int group(const char *peer)
{
	struct sockaddr_in6 in6 = { .sin6_family = AF_INET6 };
	struct sockaddr_in in = { .sin_family = AF_INET };

	if (inet_pton(AF_INET, peer, &in.sin_addr) == 1)
		return access_group((struct sockaddr *)&in);
	assert_int_equal(inet_pton(AF_INET6, peer, &in6.sin6_addr), 1);
	return access_group((struct sockaddr *)&in6);
}

static void groups(void **state)
{
	unsigned int n[256], i, j, same = 0;

	(void)state;
	assert_int_equal(group("192.0.2.1"), group("::ffff:192.0.2.1"));
	/* Who has one address of a network of 64 bits has all of them. */
	assert_int_equal(group("2001:db8::1"), group("2001:db8::ffff:1"));
	assert_int_not_equal(group("2001:db8::1"), group("2001:db8:0:1::1"));
	for (i = 0; i < 256; i++) {
		char peer[32];

		snprintf(peer, sizeof(peer), "192.0.2.%u", i);
		n[i] = group(peer) % 256;
		for (j = 0; j < i; j++)
			same += n[i] == n[j];
	}
	/* By chance it is 128, give or take 11. */
	assert_true(same < 256);
}

static void neither_family(void **state)
{
	struct sockaddr sa = { .sa_family = AF_UNIX };

	(void)state;
	assert_int_equal(access_match("0.0.0.0/0", &sa), 0);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(rules),
		cmocka_unit_test(neither_family),
		cmocka_unit_test(groups),
	};

	return cmocka_run_group_tests_name("server access", tests, NULL, NULL);
}
