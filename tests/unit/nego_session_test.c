// SPDX-License-Identifier: GPL-2.0
/*
 * nego_session_test.c - client negotiation that asks for structured replies and
 * for our session: with a server that knows it, and with strangers.
 */
#include "nego_play.h"

static const struct nbd_session our_session = {
	.station = "pc-7", .boot = "b00t", .attach = 3, .generation = 12,
};
static const char our_query[] = "x-nbdroot:session/pc-7/b00t/3/12";

static void put_context(struct bytes *s, uint32_t option, const char *name)
{
	struct bytes d = { .len = 0 };

	put_be(&d, 77, 4);
	put_str(&d, name);
	put_reply(s, option, REP_META, d.b, d.len);
}

/* The end of every conversation here that ends well. */
static void put_go(void)
{
	put_info_export(&server, OPT_GO, 1 << 20, 0x0d);
	put_reply(&server, OPT_GO, REP_ACK, "", 0);
	put_str(&server, "transmission");
}

static void session_and_identity(void **state)
{
	size_t pos, len;

	(void)state;
	session = &our_session;
	put_greeting(&server, FIXED_NO_ZEROES);
	put_reply(&server, OPT_STRUCTURED, REP_ACK, "", 0);
	put_context(&server, OPT_META, "x-nbdroot:server/boot-1/host.2/sha:3");
	put_reply(&server, OPT_META, REP_ACK, "", 0);
	put_go();
	accepts("root", 12);
	/* docs/client.md: with SYN and the greeting five round trips. */
	assert_int_equal(turns, 3);
	assert_true(nego.structured);
	assert_true(nego.identified);
	assert_string_equal(nego.identity.boot, "boot-1");
	assert_string_equal(nego.identity.host, "host.2");
	assert_string_equal(nego.identity.image, "sha:3");

	pos = sent_option(4, OPT_STRUCTURED, &len);
	assert_int_equal(len, 0);
	pos = sent_option(pos + len, OPT_META, &len);
	assert_int_equal(len, 4 + 4 + 4 + 4 + strlen(our_query));
	assert_int_equal(get_be(sent.b + pos, 4), 4);
	assert_memory_equal(sent.b + pos + 4, "root", 4);
	assert_int_equal(get_be(sent.b + pos + 8, 4), 1);
	assert_int_equal(get_be(sent.b + pos + 12, 4), strlen(our_query));
	assert_memory_equal(sent.b + pos + 16, our_query, strlen(our_query));
	sent_option(pos + len, OPT_GO, &len);
}

static void longest_session_and_name(void **state)
{
	static char name[NBD_MAX_STRING + 1];
	struct nbd_session s = { .attach = ~0U, .generation = ~0U };

	(void)state;
	memset(name, 'n', NBD_MAX_STRING);
	memset(s.station, 's', NBD_SESSION_WORD - 1);
	memset(s.boot, 'b', NBD_SESSION_WORD - 1);
	session = &s;
	put_greeting(&server, FIXED_NO_ZEROES);
	put_reply(&server, OPT_STRUCTURED, REP_ACK, "", 0);
	put_reply(&server, OPT_META, REP_ACK, "", 0);
	put_go();
	accepts(name, 12);
}

static void a_session_of_no_words_is_not_asked_for(void **state)
{
	struct nbd_session s = our_session;

	(void)state;
	strcpy(s.station, "pc 7");
	nbd_nego_init(&nego, NBD_NEGO_GO, "", 0);
	assert_false(nbd_nego_ask_session(&nego, &s));
	s.station[0] = '\0';
	assert_false(nbd_nego_ask_session(&nego, &s));
}

/* Strangers: each answer they may give costs nothing. */
static void strangers_do_not_know_our_session(void **state)
{
	static const uint32_t errors[] = { ERR_UNSUP, 0x80000002U, 0x80000003U,
					   0x80000005U, ERR_UNKNOWN, 0x80000009U,
					   0x80001234U };
	static char text[20000];
	size_t i, len;

	(void)state;
	memset(text, 't', sizeof(text));
	session = &our_session;
	for (i = 0; i < 4 * sizeof(errors) / sizeof(*errors); i++) {
		size_t text_len = i & 1 ? sizeof(text) : 5;

		server.len = 0;
		put_greeting(&server, FIXED_NO_ZEROES);
		if (i & 2) {
			put_reply(&server, OPT_STRUCTURED, REP_ACK, "", 0);
			if (i % 3 == 0)	/* it has second thoughts */
				put_context(&server, OPT_META,
					    "x-nbdroot:server/a/b/c");
			put_reply(&server, OPT_META, errors[i / 4], text,
				  text_len);
		} else {
			put_reply(&server, OPT_STRUCTURED, errors[i / 4], text,
				  text_len);
		}
		put_go();
		accepts("root", 12);
		assert_int_equal(nego.structured, !!(i & 2));
		assert_false(nego.identified);
		assert_int_equal(nego.refusal, 0);
		assert_string_equal(nego.text, "");
	}

	/* It selects no context. */
	server.len = 0;
	put_greeting(&server, FIXED_NO_ZEROES);
	put_reply(&server, OPT_STRUCTURED, REP_ACK, "", 0);
	put_reply(&server, OPT_META, REP_ACK, "", 0);
	put_go();
	accepts("root", 12);
	assert_true(nego.structured);
	assert_false(nego.identified);

	/* It knows NBD_OPT_EXPORT_NAME only. */
	server.len = 0;
	put_greeting(&server, 0);
	put_be(&server, 1 << 20, 8);
	put_be(&server, 1, 2);
	put_fill(&server, 0, 124);
	accepts("root", 0);
	assert_int_equal(turns, 1);
	assert_false(nego.structured);
	sent_option(4, OPT_EXPORT_NAME, &len);
}

static void structured_replies_alone(void **state)
{
	size_t pos, len;

	(void)state;
	structured = true;
	put_greeting(&server, FIXED_NO_ZEROES);
	put_reply(&server, OPT_STRUCTURED, REP_ACK, "", 0);
	put_go();
	accepts("root", 12);
	assert_int_equal(turns, 2);
	assert_true(nego.structured);
	pos = sent_option(4, OPT_STRUCTURED, &len);
	sent_option(pos + len, OPT_GO, &len);
}

/* What is neither the identity nor "no" breaks the protocol. */
static void contexts_that_nobody_asked_for(void **state)
{
	static const char * const names[] = {
		"", "base:allocation", "x-nbdroot:server", "x-nbdroot:server/a/b",
		"x-nbdroot:server/a/b/c/d", "x-nbdroot:server/a b/c/d",
		"x-nbdroot:server//b/c", "x-nbdroot:session/pc-7/b00t/3/12",
		"x-nbdroot:server/a/b/"
		"0123456789012345678901234567890123456789012345678901234567890123456",
	};
	size_t i;

	(void)state;
	session = &our_session;
	for (i = 0; i < sizeof(names) / sizeof(*names); i++) {
		server.len = 0;
		put_greeting(&server, FIXED_NO_ZEROES);
		put_reply(&server, OPT_STRUCTURED, REP_ACK, "", 0);
		put_context(&server, OPT_META, names[i]);
		put_reply(&server, OPT_META, REP_ACK, "", 0);
		put_go();
		refuses(NBD_NEGO_GO, NBD_NEGO_GARBLED);
		assert_false(nego.identified);
		says("metadata context");
	}

	/* Two of them; one without an id; one to another option. */
	server.len = 0;
	put_greeting(&server, FIXED_NO_ZEROES);
	put_reply(&server, OPT_STRUCTURED, REP_ACK, "", 0);
	put_context(&server, OPT_META, "x-nbdroot:server/a/b/c");
	put_context(&server, OPT_META, "x-nbdroot:server/a/b/c");
	refuses(NBD_NEGO_GO, NBD_NEGO_GARBLED);
	server.len = 0;
	put_greeting(&server, FIXED_NO_ZEROES);
	put_reply(&server, OPT_STRUCTURED, REP_ACK, "", 0);
	put_reply(&server, OPT_META, REP_META, "x-n", 3);
	refuses(NBD_NEGO_GO, NBD_NEGO_GARBLED);
	server.len = 0;
	put_greeting(&server, FIXED_NO_ZEROES);
	put_context(&server, OPT_STRUCTURED, "x-nbdroot:server/a/b/c");
	refuses(NBD_NEGO_GO, NBD_NEGO_GARBLED);
	session = NULL;
	server.len = 0;
	put_greeting(&server, FIXED_NO_ZEROES);
	put_context(&server, OPT_GO, "x-nbdroot:server/a/b/c");
	refuses(NBD_NEGO_GO, NBD_NEGO_GARBLED);
}

/* Information and names in answer to options that bring none. */
static void answers_to_other_questions(void **state)
{
	(void)state;
	session = &our_session;
	put_greeting(&server, FIXED_NO_ZEROES);
	put_info_export(&server, OPT_STRUCTURED, 1 << 20, 1);
	refuses(NBD_NEGO_GO, NBD_NEGO_GARBLED);
	server.len = 0;
	put_greeting(&server, FIXED_NO_ZEROES);
	put_reply(&server, OPT_STRUCTURED, REP_ACK, "", 0);
	put_info_export(&server, OPT_META, 1 << 20, 1);
	refuses(NBD_NEGO_GO, NBD_NEGO_GARBLED);
	server.len = 0;
	put_greeting(&server, FIXED_NO_ZEROES);
	put_reply(&server, OPT_STRUCTURED, REP_ACK, "", 0);
	put_reply(&server, OPT_GO, REP_ACK, "", 0);
	refuses(NBD_NEGO_GO, NBD_NEGO_GARBLED);
	server.len = 0;
	put_greeting(&server, FIXED_NO_ZEROES);
	put_reply(&server, OPT_STRUCTURED, REP_ACK, "", 0);
	put_reply(&server, OPT_META, REP_ACK, "", 0);
	put_info_export(&server, OPT_GO, 1 << 20, 1);
	refuses(NBD_NEGO_GO, NBD_NEGO_CLOSED);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup(f, start)
	const struct CMUnitTest tests[] = {
		T(session_and_identity),
		T(longest_session_and_name),
		T(a_session_of_no_words_is_not_asked_for),
		T(strangers_do_not_know_our_session),
		T(structured_replies_alone),
		T(contexts_that_nobody_asked_for),
		T(answers_to_other_questions),
	};

	return cmocka_run_group_tests_name("negotiation: session", tests, NULL, NULL);
}
