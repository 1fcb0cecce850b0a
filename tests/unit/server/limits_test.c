// SPDX-License-Identifier: GPL-2.0
/*
 * limits_test.c - how many connections there may be in negotiation, of an
 * address and in all, and that every one is counted back.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <sys/un.h>

#include "unit.h"

#include "limits.h"
#include "session.h"

/* What station.c wants besides. */
void session_server(struct nbd_identity *id)
{
	memset(id, 0, sizeof(*id));
}

static const struct sockaddr *v4(unsigned int n)
{
	static struct sockaddr_in a;

	a = (struct sockaddr_in){ .sin_family = AF_INET,
				  .sin_addr.s_addr = htonl(0x0a000000 + n) };
	return (const struct sockaddr *)&a;
}

/* The same address, as an IPv6 socket has it. */
static const struct sockaddr *mapped(unsigned int n)
{
	static struct sockaddr_in6 a;
	char text[40];

	snprintf(text, sizeof(text), "::ffff:10.0.%u.%u", n >> 8, n & 255);
	a = (struct sockaddr_in6){ .sin6_family = AF_INET6 };
	assert_int_equal(inet_pton(AF_INET6, text, &a.sin6_addr), 1);
	return (const struct sockaddr *)&a;
}

static const struct sockaddr *local(void)
{
	static const struct sockaddr_un a = { .sun_family = AF_UNIX };

	return (const struct sockaddr *)&a;
}

/* @n connections of that address come in; then it is full. */
static void fill(const struct sockaddr *peer, unsigned int n)
{
	while (n--)
		assert_null(limits_enter(peer, 0));
}

static void leave(const struct sockaddr *peer, unsigned int n, bool negotiated)
{
	while (n--)
		limits_leave(peer, negotiated);
}

static void half_open_of_an_address(void **state)
{
	(void)state;
	fill(v4(1), LIMITS_HALF_OPEN_ADDRESS - 1);
	assert_null(limits_enter(mapped(1), 0));
	assert_string_equal(limits_enter(v4(1), 0),
			    "too many connections of its address are in negotiation");
	assert_string_equal(limits_enter(mapped(1), 0),
			    "too many connections of its address are in negotiation");
	/* That was not counted, and is nobody else's concern. */
	assert_null(limits_enter(v4(2), 0));
	limits_leave(v4(2), false);

	/* One is through it: one more may. */
	limits_negotiated(v4(1));
	assert_null(limits_enter(v4(1), 0));
	assert_non_null(limits_enter(v4(1), 0));
	/* One that is through it leaves: no more may. */
	limits_leave(v4(1), true);
	assert_non_null(limits_enter(v4(1), 0));
	/* One that is not. */
	limits_leave(v4(1), false);
	assert_null(limits_enter(v4(1), 0));
	assert_non_null(limits_enter(v4(1), 0));
	leave(v4(1), LIMITS_HALF_OPEN_ADDRESS, false);
	fill(v4(1), LIMITS_HALF_OPEN_ADDRESS);
	leave(v4(1), LIMITS_HALF_OPEN_ADDRESS, false);
}

static void half_open_in_all(void **state)
{
	const unsigned int each = LIMITS_HALF_OPEN / 1024;
	const char *all = "too many connections are in negotiation";
	unsigned int i;

	(void)state;
	for (i = 0; i < 1024; i++)
		fill(v4(i), each);
	assert_string_equal(limits_enter(v4(1), 0), all);
	assert_string_equal(limits_enter(v4(5000), 0), all);
	assert_string_equal(limits_enter(local(), 0), all);
	/* Whoever gets through makes room, for anybody. */
	limits_negotiated(v4(7));
	assert_null(limits_enter(v4(5000), 0));
	assert_string_equal(limits_enter(v4(7), 0), all);
	limits_leave(v4(5000), false);
	limits_leave(v4(7), true);
	leave(v4(7), each - 1, false);
	for (i = 0; i < 1024; i++)
		if (i != 7)
			leave(v4(i), each, false);
	/* All is counted back. */
	for (i = 0; i < 1024; i++)
		fill(v4(i), each);
	assert_string_equal(limits_enter(v4(1), 0), all);
	for (i = 0; i < 1024; i++)
		leave(v4(i), each, false);
}

static void open_of_an_address(void **state)
{
	(void)state;
	assert_null(limits_enter(v4(1), 2));
	limits_negotiated(v4(1));
	assert_null(limits_enter(mapped(1), 2));
	assert_string_equal(limits_enter(v4(1), 2),
			    "its address has as many connections as it may have (maxperaddress)");
	assert_null(limits_enter(v4(2), 2));
	limits_leave(v4(2), false);
	limits_leave(v4(1), true);
	assert_null(limits_enter(v4(1), 2));
	leave(v4(1), 2, false);
	/* A Unix socket has no address. */
	fill(local(), 2);
	assert_null(limits_enter(local(), 2));
	leave(local(), 3, false);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(half_open_of_an_address),
		cmocka_unit_test(half_open_in_all),
		cmocka_unit_test(open_of_an_address),
	};

	return cmocka_run_group_tests_name("limits", tests, NULL, NULL);
}
