// SPDX-License-Identifier: GPL-2.0
/*
 * nego_test.c - the server's negotiation: every answer, every refusal, every
 * length that lies, and all of it again a byte at a time.
 */
#include "nego_talk.h"

static void greets(void **state)
{
	struct talk *t = talk_new(3);

	(void)state;
	run(t, 1);
	assert_int_equal(t->out.len, 18);
	assert_memory_equal(t->out.b, "NBDMAGICIHAVEOPT\0\3", 18);
	talk_free(t);
}

static void go_with_step(size_t step)
{
	struct talk *t = talk_new(3);
	const u8 *d;
	size_t at = 18;
	u32 len;

	say_go(t, NBD_OPT_GO, "root", 4, 4, 4);
	put_str(&t->in, "the first request");
	run(t, step);
	assert_int_equal(t->n.state, NEGO_TRANSMIT);
	assert_ptr_equal(t->n.export, &root);
	assert_int_equal(claims, 1);
	/* Nothing of what follows was taken. */
	assert_string_equal((char *)t->in.b + t->used, "the first request");

	assert_int_equal(reply(t, &at, NBD_OPT_GO, &d, &len), NBD_REP_INFO);
	assert_int_equal(len, 12);
	assert_int_equal(be(d, 2), NBD_INFO_EXPORT);
	assert_int_equal(be(d + 2, 8), 64 << 20);
	assert_int_equal(be(d + 10, 2), root.flags);
	assert_int_equal(reply(t, &at, NBD_OPT_GO, &d, &len), NBD_REP_INFO);
	assert_int_equal(len, 6);
	assert_memory_equal(d, "\0\1root", 6);
	assert_int_equal(reply(t, &at, NBD_OPT_GO, &d, &len), NBD_REP_INFO);
	assert_int_equal(len, 15);
	assert_memory_equal(d, "\0\2the root disk", 15);
	assert_int_equal(reply(t, &at, NBD_OPT_GO, &d, &len), NBD_REP_INFO);
	assert_int_equal(len, 14);
	assert_memory_equal(d, "\0\3\0\0\0\1\0\0\x10\0\x02\0\0\0", 14);
	assert_int_equal(reply(t, &at, NBD_OPT_GO, &d, &len), NBD_REP_ACK);
	assert_int_equal(len, 0);
	assert_int_equal(at, t->out.len);
	talk_free(t);
}

static void go(void **state)
{
	size_t step;

	(void)state;
	for (step = 1; step < 64; step++)
		go_with_step(step);
	go_with_step(100000);
}

static void info_does_not_claim(void **state)
{
	struct talk *t = talk_new(3);

	(void)state;
	say_go(t, NBD_OPT_INFO, "", 0, 0, 0);
	run(t, 7);
	assert_int_equal(t->n.state, NEGO_MORE);
	assert_int_equal(claims, 0);
	assert_int_equal(last_note, NBD_REP_ACK);
	talk_free(t);
}

static void export_name(void **state)
{
	const u32 client_flags[] = { 3, 2, 1, 0 };
	size_t i;

	(void)state;
	for (i = 0; i < 4; i++) {
		struct talk *t = talk_new(client_flags[i]);
		size_t zeroes = client_flags[i] & 2 ? 0 : 124, k;

		say(t, NBD_OPT_EXPORT_NAME, "root", 4);
		run(t, 3);
		assert_int_equal(t->n.state, NEGO_TRANSMIT);
		assert_int_equal(claims, 1);
		assert_int_equal(t->out.len, 18 + 10 + zeroes);
		assert_int_equal(be(t->out.b + 18, 8), 64 << 20);
		assert_int_equal(be(t->out.b + 26, 2), root.flags);
		for (k = 0; k < zeroes; k++)
			assert_int_equal(t->out.b[28 + k], 0);
		talk_free(t);
	}
}

static void export_name_cannot_be_refused(void **state)
{
	struct talk *t = talk_new(3);

	(void)state;
	say(t, NBD_OPT_EXPORT_NAME, "closed", 6);
	run(t, 100);
	assert_int_equal(t->n.state, NEGO_BROKEN);
	assert_string_equal(t->n.why, "NBD_OPT_EXPORT_NAME: not for you");
	assert_int_equal(t->out.len, 18);
	talk_free(t);
}

static void lists(void **state)
{
	struct talk *t = talk_new(3);
	const u8 *d;
	size_t at = 18;
	u32 len;

	(void)state;
	say(t, NBD_OPT_LIST, NULL, 0);
	run(t, 1);
	assert_int_equal(reply(t, &at, NBD_OPT_LIST, &d, &len), NBD_REP_SERVER);
	assert_int_equal(len, 4 + 4 + 13);
	assert_memory_equal(d, "\0\0\0\4rootthe root disk", 21);
	assert_int_equal(reply(t, &at, NBD_OPT_LIST, &d, &len), NBD_REP_SERVER);
	assert_memory_equal(d, "\0\0\0\0", 4);
	assert_int_equal(len, 4);
	assert_int_equal(reply(t, &at, NBD_OPT_LIST, &d, &len), NBD_REP_ACK);
	talk_free(t);
}

static void list_that_takes_time(void **state)
{
	struct talk *t = talk_new(3);
	const u8 *d;
	size_t at = 18, len;
	u32 n;

	(void)state;
	busy = 2;
	say(t, NBD_OPT_LIST, NULL, 0);
	say(t, NBD_OPT_ABORT, NULL, 0);
	run(t, 100);
	assert_true(nego_waits(&t->n));
	(void)nego_tx(&t->n, &len);
	assert_int_equal(len, 0);
	nego_resume(&t->n);
	assert_true(nego_waits(&t->n));
	nego_resume(&t->n);
	assert_false(nego_waits(&t->n));
	run(t, 100);
	assert_int_equal(reply(t, &at, NBD_OPT_LIST, &d, &n), NBD_REP_SERVER);
	assert_int_equal(reply(t, &at, NBD_OPT_LIST, &d, &n), NBD_REP_SERVER);
	assert_int_equal(reply(t, &at, NBD_OPT_LIST, &d, &n), NBD_REP_ACK);
	assert_int_equal(reply(t, &at, NBD_OPT_ABORT, &d, &n), NBD_REP_ACK);
	talk_free(t);
}

static void list_that_is_closed(void **state)
{
	struct talk *t = talk_new(3);

	(void)state;
	t->n.may_list = false;
	say(t, NBD_OPT_LIST, NULL, 0);
	run(t, 100);
	assert_refused(t, NBD_OPT_LIST, NBD_REP_ERR_POLICY);
	talk_free(t);
}

static void abort_is_acknowledged(void **state)
{
	struct talk *t = talk_new(3);
	const u8 *d;
	size_t at = 18;
	u32 len;

	(void)state;
	say(t, NBD_OPT_ABORT, "bye", 3);
	run(t, 100);
	assert_int_equal(reply(t, &at, NBD_OPT_ABORT, &d, &len), NBD_REP_ACK);
	assert_int_equal(t->n.state, NEGO_LEFT);
	talk_free(t);
}

static void refusals(void **state)
{
	static const struct {
		u32 option;
		const char *data;
		u32 len;
		u32 type;
	} t[] = {
		{ 0, "", 0, NBD_REP_ERR_UNSUP },
		{ NBD_OPT_STARTTLS, "", 0, NBD_REP_ERR_UNSUP },
		{ NBD_OPT_STRUCTURED_REPLY, "x", 1, NBD_REP_ERR_INVALID },
		{ NBD_OPT_EXTENDED_HEADERS, "x", 1, NBD_REP_ERR_INVALID },
		/* Without structured replies. */
		{ NBD_OPT_LIST_META_CONTEXT, "\0\0\0\0\0\0\0\0", 8,
		  NBD_REP_ERR_INVALID },
		{ NBD_OPT_SET_META_CONTEXT, "\0\0\0\0\0\0\0\0", 8,
		  NBD_REP_ERR_INVALID },
		{ 0xffffffff, "x", 1, NBD_REP_ERR_UNSUP },
		{ NBD_OPT_LIST, "x", 1, NBD_REP_ERR_INVALID },
		{ NBD_OPT_GO, "", 0, NBD_REP_ERR_INVALID },
		{ NBD_OPT_GO, "\0\0\0\0\0", 5, NBD_REP_ERR_INVALID },
		{ NBD_OPT_GO, "\0\0\0\1\0\0", 6, NBD_REP_ERR_INVALID },
		{ NBD_OPT_GO, "\0\0\0\0\0\1", 6, NBD_REP_ERR_INVALID },
		{ NBD_OPT_GO, "\0\0\0\0\0\0x", 7, NBD_REP_ERR_INVALID },
		{ NBD_OPT_GO, "\0\0\0\0\200\0", 6, NBD_REP_ERR_INVALID },
		{ NBD_OPT_GO, "\377\377\377\377\0\0", 6, NBD_REP_ERR_INVALID },
		{ NBD_OPT_GO, "\377\377\377\372\0\0", 6, NBD_REP_ERR_INVALID },
		{ NBD_OPT_INFO, "\0\0\0\4nope\0\0", 10, NBD_REP_ERR_UNKNOWN },
		{ NBD_OPT_GO, "\0\0\0\6closed\0\0", 12, NBD_REP_ERR_POLICY },
	};
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		struct talk *k = talk_new(3);

		say(k, t[i].option, t[i].data, t[i].len);
		run(k, 1 + i);
		assert_refused(k, t[i].option, t[i].type);
		/* And it is in step. */
		say_go(k, NBD_OPT_GO, "", 0, 0, 0);
		run(k, 1 + i);
		assert_int_equal(k->n.state, NEGO_TRANSMIT);
		talk_free(k);
	}
}

static void too_much_data(void **state)
{
	static u8 zeroes[NEGO_MAX_SKIP];
	struct talk *t;
	u32 len;

	(void)state;
	for (len = NEGO_MAX_DATA - 1; len <= NEGO_MAX_DATA + 1; len++) {
		t = talk_new(3);
		say(t, 99, zeroes, len);
		run(t, 1000);
		assert_refused(t, 99, len <= NEGO_MAX_DATA ?
			       NBD_REP_ERR_UNSUP : NBD_REP_ERR_TOO_BIG);
		talk_free(t);
	}
	t = talk_new(3);
	say(t, NBD_OPT_GO, zeroes, NEGO_MAX_SKIP);
	run(t, 4096);
	assert_refused(t, NBD_OPT_GO, NBD_REP_ERR_TOO_BIG);
	talk_free(t);

	/* Not even the data is waited for. */
	t = talk_new(3);
	put_be(&t->in, 0x49484156454f5054ULL, 8);
	put_be(&t->in, NBD_OPT_GO, 4);
	put_be(&t->in, NEGO_MAX_SKIP + 1, 4);
	run(t, 100);
	assert_int_equal(t->n.state, NEGO_BROKEN);
	assert_string_equal(t->n.why, "NBD_OPT_GO with 65537 bytes of data");
	talk_free(t);

	/* An option that has no error reply ends the session. */
	t = talk_new(3);
	say(t, NBD_OPT_EXPORT_NAME, zeroes, 4097);
	run(t, 4096);
	assert_int_equal(t->n.state, NEGO_BROKEN);
	talk_free(t);
	t = talk_new(3);
	say(t, NBD_OPT_EXPORT_NAME, zeroes, NEGO_MAX_DATA + 1);
	run(t, 4096);
	assert_int_equal(t->n.state, NEGO_BROKEN);
	talk_free(t);
}

static void longest_name(void **state)
{
	char name[4098];
	struct talk *t;

	(void)state;
	memset(name, 'n', sizeof(name));
	name[4096] = '\0';
	t = talk_new(3);
	say_go(t, NBD_OPT_GO, name, 4096, 2, 2);
	run(t, 4096);
	assert_refused(t, NBD_OPT_GO, NBD_REP_ERR_UNKNOWN);
	talk_free(t);

	name[4096] = 'n';
	name[4097] = '\0';
	t = talk_new(3);
	say_go(t, NBD_OPT_GO, name, 4097, 2, 2);
	run(t, 4096);
	assert_refused(t, NBD_OPT_GO, NBD_REP_ERR_INVALID);
	talk_free(t);
}

static void broken_framing(void **state)
{
	struct talk *t;

	(void)state;
	t = talk_new(4);
	run(t, 1);
	assert_int_equal(t->n.state, NEGO_BROKEN);
	talk_free(t);

	t = talk_new(0x80000003);
	run(t, 1);
	assert_int_equal(t->n.state, NEGO_BROKEN);
	talk_free(t);

	t = talk_new(3);
	put_str(&t->in, "IHAVEOPU\0\0\0\3\0\0\0\0");
	put_be(&t->in, 0, 8);
	run(t, 1);
	assert_int_equal(t->n.state, NEGO_BROKEN);
	assert_int_equal(notes, 0);
	talk_free(t);

	/* Not fixed newstyle: one option only, and it is not this one. */
	t = talk_new(0);
	say_go(t, NBD_OPT_GO, "root", 4, 0, 0);
	run(t, 100);
	assert_int_equal(t->n.state, NEGO_BROKEN);
	assert_int_equal(claims, 0);
	talk_free(t);
}

static void too_many_options(void **state)
{
	struct talk *t = talk_new(3);
	unsigned int i;

	(void)state;
	for (i = 0; i <= NEGO_MAX_OPTIONS; i++)
		say(t, NBD_OPT_LIST, NULL, 0);
	run(t, 1000);
	assert_int_equal(t->n.state, NEGO_BROKEN);
	assert_int_equal(notes, NEGO_MAX_OPTIONS);
	talk_free(t);
}

static void one_answer_at_a_time(void **state)
{
	struct talk *t = talk_new(3);
	size_t len, first;

	(void)state;
	say(t, NBD_OPT_LIST, NULL, 0);
	say(t, NBD_OPT_LIST, NULL, 0);
	nego_tx_done(&t->n);
	t->used = nego_feed(&t->n, t->in.b, t->in.len);
	/* The second is not touched while the first answer is there. */
	assert_int_equal(t->used, 4 + 16);
	nego_tx(&t->n, &first);
	assert_int_equal(nego_feed(&t->n, t->in.b + t->used, 16), 0);
	nego_tx(&t->n, &len);
	assert_int_equal(len, first);
	talk_free(t);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(greets),
		cmocka_unit_test(go),
		cmocka_unit_test(info_does_not_claim),
		cmocka_unit_test(export_name),
		cmocka_unit_test(export_name_cannot_be_refused),
		cmocka_unit_test(lists),
		cmocka_unit_test(list_that_takes_time),
		cmocka_unit_test(list_that_is_closed),
		cmocka_unit_test(abort_is_acknowledged),
		cmocka_unit_test(refusals),
		cmocka_unit_test(too_much_data),
		cmocka_unit_test(longest_name),
		cmocka_unit_test(broken_framing),
		cmocka_unit_test(too_many_options),
		cmocka_unit_test(one_answer_at_a_time),
	};

	return cmocka_run_group_tests_name("server nego", tests, NULL, NULL);
}
