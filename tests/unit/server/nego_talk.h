/* SPDX-License-Identifier: GPL-2.0 */
/*
 * nego_talk.h - a conversation with the server's negotiation (server/nego.c):
 * two exports, callbacks that count, a client whose words are put down by hand.
 */
#ifndef TEST_NEGO_TALK_H
#define TEST_NEGO_TALK_H

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
/* How many times more a session, or a list, takes time. */
static unsigned int busy;

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
	if (busy && !*index) {
		busy--;
		*index = NEGO_LIST_LATER;
		return NULL;
	}
	return *index < 2 ? all[*index] : NULL;
}

static inline void note(void *ctx, u32 option, u32 reply, const char *text)
{
	(void)option;
	assert_ptr_equal(ctx, &claims);
	assert_non_null(text);
	notes++;
	last_note = reply;
}

static unsigned int sessions;	/* asked for */

static inline bool session(void *ctx, const struct nego_export *e,
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

static inline struct talk *talk_new(u32 client_flags)
{
	struct talk *t = calloc(1, sizeof(*t));

	claims = notes = 0;
	nego_init(&t->n, &ops, &claims, true);
	put_be(&t->in, client_flags, 4);
	return t;
}

static inline void talk_free(struct talk *t)
{
	nego_free(&t->n);
	free(t);
}

static inline void say(struct talk *t, u32 option, const void *data, u32 len)
{
	put_be(&t->in, 0x49484156454f5054ULL, 8);
	put_be(&t->in, option, 4);
	put_be(&t->in, len, 4);
	if (data)
		put(&t->in, data, len);
}

/* An option with name, and lengths that may lie. */
static inline void say_go(struct talk *t, u32 option, const char *name,
			  u32 name_len, u32 n_info, u32 said_info)
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
static inline void run(struct talk *t, size_t step)
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

static inline u64 be(const u8 *p, int width)
{
	u64 v = 0;

	while (width--)
		v = v << 8 | *p++;
	return v;
}

/* The next reply in ->out from *@at on: its type; data in @data, @len. */
static inline u32 reply(const struct talk *t, size_t *at, u32 option,
			const u8 **data, u32 *len)
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
static inline void assert_refused(struct talk *t, u32 option, u32 type)
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

#endif /* TEST_NEGO_TALK_H */
