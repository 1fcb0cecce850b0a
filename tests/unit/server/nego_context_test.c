// SPDX-License-Identifier: GPL-2.0
/*
 * nego_context_test.c - the server's negotiation of headers and metadata
 * contexts: which holds for which export, lengths that lie, sessions that
 * take their time.
 */
#include "nego_talk.h"

static void say_meta(struct talk *t, u32 option, const char *name,
		     const char *const *query, u32 n)
{
	u32 len = 8 + (u32)strlen(name), i;

	for (i = 0; i < n; i++)
		len += 4 + (u32)strlen(query[i]);
	put_be(&t->in, 0x49484156454f5054ULL, 8);
	put_be(&t->in, option, 4);
	put_be(&t->in, len, 4);
	put_be(&t->in, strlen(name), 4);
	put_str(&t->in, name);
	put_be(&t->in, n, 4);
	for (i = 0; i < n; i++) {
		put_be(&t->in, strlen(query[i]), 4);
		put_str(&t->in, query[i]);
	}
}

static void assert_context(struct talk *t, size_t *at, u32 option, u32 id,
			   const char *name)
{
	const u8 *d;
	u32 len;

	assert_int_equal(reply(t, at, option, &d, &len), NBD_REP_META_CONTEXT);
	assert_int_equal(nbd_get32(d), id);
	assert_int_equal(len, 4 + strlen(name));
	assert_memory_equal(d + 4, name, strlen(name));
}

static void assert_answer(struct talk *t, size_t *at, u32 option, u32 type)
{
	const u8 *d;
	u32 len;

	assert_int_equal(reply(t, at, option, &d, &len), type);
}

#define ACK(option)	assert_answer(t, &at, option, NBD_REP_ACK)

static void header_kinds(void **state)
{
	struct talk *t = talk_new(3);
	size_t at = 18;

	(void)state;
	say(t, NBD_OPT_STRUCTURED_REPLY, NULL, 0);
	say(t, NBD_OPT_STRUCTURED_REPLY, NULL, 0);
	say(t, NBD_OPT_EXTENDED_HEADERS, NULL, 0);
	say(t, NBD_OPT_EXTENDED_HEADERS, NULL, 0);
	say(t, NBD_OPT_STRUCTURED_REPLY, NULL, 0);
	run(t, 1);
	ACK(NBD_OPT_STRUCTURED_REPLY);
	assert_answer(t, &at, NBD_OPT_STRUCTURED_REPLY, NBD_REP_ERR_INVALID);
	ACK(NBD_OPT_EXTENDED_HEADERS);
	assert_answer(t, &at, NBD_OPT_EXTENDED_HEADERS, NBD_REP_ERR_INVALID);
	assert_answer(t, &at, NBD_OPT_STRUCTURED_REPLY,
		      NBD_REP_ERR_EXT_HEADER_REQD);
	assert_int_equal(t->n.headers, NEGO_EXTENDED);
	talk_free(t);
}

static void contexts(void **state)
{
	static const char *const allocation[] = { "qemu:x", "base:allocation" };
	static const char *const wild[] = { "base:" };
	const u32 set = NBD_OPT_SET_META_CONTEXT, list = NBD_OPT_LIST_META_CONTEXT;
	struct talk *t = talk_new(3);
	size_t at = 18;

	(void)state;
	say(t, NBD_OPT_STRUCTURED_REPLY, NULL, 0);
	say_meta(t, list, "root", NULL, 0);
	say_meta(t, list, "root", wild, 1);
	say_meta(t, set, "root", NULL, 0);
	say_meta(t, set, "root", wild, 1);
	say_meta(t, set, "nope", allocation, 2);
	say_meta(t, set, "root", allocation, 2);
	say_go(t, NBD_OPT_GO, "root", 4, 0, 0);
	run(t, 3);
	ACK(NBD_OPT_STRUCTURED_REPLY);
	assert_context(t, &at, list, 0, "base:allocation");
	ACK(list);
	assert_context(t, &at, list, 0, "base:allocation");
	ACK(list);
	ACK(set);
	ACK(set);
	assert_answer(t, &at, set, NBD_REP_ERR_UNKNOWN);
	assert_context(t, &at, set, 1, "base:allocation");
	ACK(set);
	assert_int_equal(t->n.state, NEGO_TRANSMIT);
	assert_true(t->n.allocation);
	assert_int_equal(t->n.headers, NEGO_STRUCTURED);
	talk_free(t);
}

/* Selected for one export, used with another; or selected and then not. */
static void contexts_that_do_not_hold(void **state)
{
	static const char *const allocation[] = { "base:allocation" };
	const u32 set = NBD_OPT_SET_META_CONTEXT;
	unsigned int i;

	(void)state;
	for (i = 0; i < 3; i++) {
		struct talk *t = talk_new(3);

		say(t, NBD_OPT_STRUCTURED_REPLY, NULL, 0);
		say_meta(t, set, "root", allocation, 1);
		if (i == 1)
			say_meta(t, set, "root", NULL, 0);
		if (i == 2)
			say(t, set, "bad", 3);
		say_go(t, NBD_OPT_GO, i ? "root" : "", i ? 4 : 0, 0, 0);
		run(t, 100);
		assert_int_equal(t->n.state, NEGO_TRANSMIT);
		assert_false(t->n.allocation);
		talk_free(t);
	}
}

static void meta_lengths_lie(void **state)
{
	static const struct {
		const char *data;
		u32 len;
	} bad[] = {
		{ "\0\0\0\0\0\0\0", 7 },
		{ "\0\0\0\1\0\0\0\0", 8 },
		{ "\377\377\377\377\0\0\0\0", 8 },
		{ "\377\377\377\370\0\0\0\0", 8 },
		{ "\0\0\0\0\0\0\0\1", 8 },
		{ "\0\0\0\0\377\377\377\377", 8 },
		{ "\0\0\0\0\0\0\0\1\0\0\0\1", 12 },
		{ "\0\0\0\0\0\0\0\1\377\377\377\377", 12 },
		{ "\0\0\0\0\0\0\0\1\0\0\0\0x", 13 },
		{ "\0\0\0\0\0\0\0\2\0\0\0\0\0\0\0", 15 },
	};
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		const u32 set = NBD_OPT_SET_META_CONTEXT;
		struct talk *t = talk_new(3);
		size_t at = 18;

		say(t, NBD_OPT_STRUCTURED_REPLY, NULL, 0);
		say(t, set, bad[i].data, bad[i].len);
		say(t, NBD_OPT_LIST, NULL, 0);
		run(t, 1 + i);
		ACK(NBD_OPT_STRUCTURED_REPLY);
		assert_answer(t, &at, set, NBD_REP_ERR_INVALID);
		assert_answer(t, &at, NBD_OPT_LIST, NBD_REP_SERVER);
		talk_free(t);
	}
}

static void a_session_takes_its_time(void **state)
{
	static const char *const query[] = {
		"x-nbdroot:session/kiosk7/b/1/2", "base:allocation",
		"x-nbdroot:session/other/b/1/2",
	};
	static const char *const old[] = { "x-nbdroot:session/old/b/1/2" };
	static const char *const wrong[] = { "x-nbdroot:session/a b/b/1/2" };
	const u32 set = NBD_OPT_SET_META_CONTEXT;
	struct talk *t = talk_new(3);
	size_t at = 18;

	(void)state;
	sessions = 0;
	busy = 2;
	say(t, NBD_OPT_STRUCTURED_REPLY, NULL, 0);
	say_meta(t, set, "root", query, 3);
	say_meta(t, set, "root", old, 1);
	say_meta(t, set, "root", wrong, 1);
	run(t, 7);
	/* Nothing is said, and nothing more is read, before it is known. */
	assert_true(nego_waits(&t->n));
	assert_int_equal(t->out.len, 18 + 20);
	nego_resume(&t->n);
	assert_true(nego_waits(&t->n));
	nego_resume(&t->n);
	assert_false(nego_waits(&t->n));
	run(t, 7);
	ACK(NBD_OPT_STRUCTURED_REPLY);
	assert_context(t, &at, set, 1, "base:allocation");
	assert_context(t, &at, set, 2, "x-nbdroot:server/b00t/host/image");
	ACK(set);
	assert_answer(t, &at, set, NBD_REP_ERR_POLICY);
	ACK(set);
	assert_int_equal(sessions, 4);
	talk_free(t);
}

/* What waits is answered, and what comes after it, with the reason. */
static void the_server_stops(void **state)
{
	static const char *const query[] = { "x-nbdroot:session/s/b/1/2" };
	const u32 set = NBD_OPT_SET_META_CONTEXT;
	struct talk *t = talk_new(3);
	size_t at = 18;

	(void)state;
	sessions = 0;
	busy = 2;
	say(t, NBD_OPT_STRUCTURED_REPLY, NULL, 0);
	say_meta(t, set, "root", query, 1);
	say(t, NBD_OPT_LIST, NULL, 0);
	run(t, 7);
	assert_true(nego_waits(&t->n));
	nego_stop(&t->n);
	assert_false(nego_waits(&t->n));
	run(t, 7);
	ACK(NBD_OPT_STRUCTURED_REPLY);
	assert_answer(t, &at, set, NBD_REP_ERR_SHUTDOWN);
	assert_answer(t, &at, NBD_OPT_LIST, NBD_REP_ERR_SHUTDOWN);
	talk_free(t);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(header_kinds),
		cmocka_unit_test(contexts),
		cmocka_unit_test(contexts_that_do_not_hold),
		cmocka_unit_test(meta_lengths_lie),
		cmocka_unit_test(a_session_takes_its_time),
		cmocka_unit_test(the_server_stops),
	};

	return cmocka_run_group_tests_name("server nego: contexts", tests, NULL, NULL);
}
