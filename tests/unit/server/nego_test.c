// SPDX-License-Identifier: GPL-2.0
/*
 * nego_test.c - the server's negotiation: every answer, every refusal, every
 * length that lies, and all of it again a byte at a time.
 */
#include "unit.h"

#include "bytes.h"
#include "nego.h"

static const struct nego_export root = {
	.name = "root", .description = "the root disk", .size = 64 << 20,
	.flags = NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH,
	.min_block = 1, .pref_block = 4096, .max_payload = 32 << 20,
};
static const struct nego_export plain = {
	.name = "", .size = 512, .flags = NBD_FLAG_HAS_FLAGS,
	.min_block = 1, .pref_block = 4096, .max_payload = 32 << 20,
};

static const struct nego_export *const all[] = { &root, &plain };

/* What the callbacks saw. */
static unsigned int claims, notes;
static u32 last_note;

static const struct nego_export *find(void *ctx, const char *name, size_t len,
				      bool claim, u32 *error, char *text)
{
	size_t i;

	assert_ptr_equal(ctx, &claims);
	for (i = 0; i < 2; i++) {
		if (strlen(all[i]->name) != len ||
		    memcmp(all[i]->name, name, len))
			continue;
		claims += claim;
		return all[i];
	}
	if (len == 6 && !memcmp(name, "closed", 6)) {
		*error = NBD_REP_ERR_POLICY;
		strcpy(text, "not for you");
		return NULL;
	}
	*error = NBD_REP_ERR_UNKNOWN;
	strcpy(text, "no such export");
	return NULL;
}

static const struct nego_export *list(void *ctx, size_t *index)
{
	assert_ptr_equal(ctx, &claims);
	return *index < 2 ? all[*index] : NULL;
}

static void note(void *ctx, u32 option, u32 reply, const char *text)
{
	(void)option;
	assert_ptr_equal(ctx, &claims);
	assert_non_null(text);
	notes++;
	last_note = reply;
}

/* Sessions asked for; how many times more it takes time. */
static unsigned int sessions, busy;

static bool session(void *ctx, const struct nego_export *e,
		    const struct nbd_session *s, struct nbd_identity *id,
		    u32 *error, char *text)
{
	assert_ptr_equal(ctx, &claims);
	assert_non_null(e);
	sessions++;
	if (!strcmp(s->station, "old")) {
		*error = NBD_REP_ERR_POLICY;
		strcpy(text, "not you");
		return false;
	}
	if (busy) {
		busy--;
		*error = NEGO_LATER;
		return false;
	}
	*id = (struct nbd_identity){ "b00t", "host", "image" };
	return true;
}

static const struct nego_ops ops = { find, list, session, note };

/* -- a conversation ---------------------------------------------------- */

struct talk {
	struct nego n;
	struct bytes in;	/* what the client says */
	struct bytes out;	/* what the server has said */
	size_t used;
};

static struct talk *talk_new(u32 client_flags)
{
	struct talk *t = calloc(1, sizeof(*t));

	claims = notes = 0;
	nego_init(&t->n, &ops, &claims, true);
	put_be(&t->in, client_flags, 4);
	return t;
}

static void talk_free(struct talk *t)
{
	nego_free(&t->n);
	free(t);
}

static void say(struct talk *t, u32 option, const void *data, u32 len)
{
	put_be(&t->in, 0x49484156454f5054ULL, 8);
	put_be(&t->in, option, 4);
	put_be(&t->in, len, 4);
	if (data)
		put(&t->in, data, len);
}

/* An option with name, and lengths that may lie. */
static void say_go(struct talk *t, u32 option, const char *name, u32 name_len,
		   u32 n_info, u32 said_info)
{
	u32 real = (u32)strlen(name), i;

	put_be(&t->in, 0x49484156454f5054ULL, 8);
	put_be(&t->in, option, 4);
	put_be(&t->in, 4 + real + 2 + 2 * n_info, 4);
	put_be(&t->in, name_len, 4);
	put_str(&t->in, name);
	put_be(&t->in, said_info, 2);
	for (i = 0; i < n_info; i++)
		put_be(&t->in, i, 2);
}

/* Let it go on with @step bytes of input at a time. */
static void run(struct talk *t, size_t step)
{
	for (;;) {
		size_t len, left;
		const u8 *tx = nego_tx(&t->n, &len);
		u8 *exact;

		put(&t->out, tx, len);
		nego_tx_done(&t->n);
		if (t->n.state != NEGO_MORE || nego_waits(&t->n))
			return;
		left = t->in.len - t->used;
		if (!left && !len)
			return;
		if (left > step)
			left = step;
		/* Its own block, so that ASan sees one byte too many. */
		exact = malloc(left ? left : 1);
		memcpy(exact, t->in.b + t->used, left);
		t->used += nego_feed(&t->n, exact, left);
		free(exact);
	}
}

static u64 be(const u8 *p, int width)
{
	u64 v = 0;

	while (width--)
		v = v << 8 | *p++;
	return v;
}

/* The next reply in ->out from *@at on: its type; data in @data, @len. */
static u32 reply(const struct talk *t, size_t *at, u32 option, const u8 **data,
		 u32 *len)
{
	const u8 *p = t->out.b + *at;

	assert_true(t->out.len - *at >= 20);
	assert_true(be(p, 8) == 0x0003e889045565a9ULL);
	assert_int_equal(be(p + 8, 4), option);
	*len = (u32)be(p + 16, 4);
	*data = p + 20;
	assert_true(t->out.len - *at - 20 >= *len);
	*at += 20 + *len;
	return (u32)be(p + 12, 4);
}

/* The one reply to the first option is this error. */
static void assert_refused(struct talk *t, u32 option, u32 type)
{
	const u8 *data;
	size_t at = 18;
	u32 len;

	assert_int_equal(reply(t, &at, option, &data, &len), type);
	assert_int_equal(t->n.state, NEGO_MORE);
	assert_int_equal(at, t->out.len);
	assert_int_equal(last_note, type);
	assert_int_equal(claims, 0);
}

/* -- tests ------------------------------------------------------------- */

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
		cmocka_unit_test(list_that_is_closed),
		cmocka_unit_test(abort_is_acknowledged),
		cmocka_unit_test(header_kinds),
		cmocka_unit_test(contexts),
		cmocka_unit_test(contexts_that_do_not_hold),
		cmocka_unit_test(meta_lengths_lie),
		cmocka_unit_test(a_session_takes_its_time),
		cmocka_unit_test(the_server_stops),
		cmocka_unit_test(refusals),
		cmocka_unit_test(too_much_data),
		cmocka_unit_test(longest_name),
		cmocka_unit_test(broken_framing),
		cmocka_unit_test(too_many_options),
		cmocka_unit_test(one_answer_at_a_time),
	};

	return cmocka_run_group_tests_name("server nego", tests, NULL, NULL);
}
