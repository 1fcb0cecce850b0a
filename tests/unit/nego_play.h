/* SPDX-License-Identifier: GPL-2.0 */
/*
 * nego_play.h - the client's negotiation (proto/nbd-nego.c) played against a
 * server made of prepared bytes, whole and a few bytes at a time. A test fills
 * @server, then asks how that ends; start() is every test's setup.
 */
#ifndef TEST_NEGO_PLAY_H
#define TEST_NEGO_PLAY_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

#include "bytes.h"
#include "nbd-nego.h"

#define OPT_EXPORT_NAME	1
#define OPT_ABORT	2
#define OPT_LIST	3
#define OPT_GO		7
#define OPT_STRUCTURED	8
#define OPT_META	10
#define REP_META	4
#define REP_ACK		1
#define ERR_UNSUP	0x80000001U
#define ERR_UNKNOWN	0x80000006U
#define FIXED		1
#define FIXED_NO_ZEROES	3

/* More steps than any honest conversation here takes. */
#define STEP_LIMIT	2000000

static struct bytes server, sent;
static struct nbd_nego nego;
static const struct nbd_session *session;	/* to ask for, or NULL */
static bool structured;				/* ask for it */
static size_t consumed;
static unsigned int turns;	/* times the client spoke: a round trip each */
static unsigned int items;
static char item_name[64][NBD_MAX_STRING + 1];
static char item_description[64][NBD_MAX_STRING + 1];

static inline void check_string(const char *s, size_t max)
{
	size_t i;

	for (i = 0; s[i]; i++) {
		assert_true(i < max);
		assert_false((uint8_t)s[i] < 0x20 || (uint8_t)s[i] == 0x7f);
	}
}

/*
 * Play @server to a client that reads and writes at most @chunk bytes at a
 * time; when the server has no more to say it closes, or with @repeat_from it
 * starts over from there for ever. Fills in @sent, @consumed and the items.
 */
static inline enum nbd_nego_want play(enum nbd_nego_goal goal, const char *name,
				      size_t chunk, size_t repeat_from)
{
	unsigned long steps;
	size_t len, pos = 0;
	bool speaks = false;

	sent.len = 0;
	turns = 0;
	consumed = 0;
	items = 0;
	nbd_nego_init(&nego, goal, name, strlen(name));
	if (structured)
		nbd_nego_ask_structured(&nego);
	if (session)
		assert_true(nbd_nego_ask_session(&nego, session));
	for (steps = 0; steps < STEP_LIMIT; steps++) {
		const u8 *out;
		u8 *in;

		switch (nbd_nego_next(&nego)) {
		case NBD_NEGO_SEND:
			turns += !speaks;
			speaks = true;
			out = nbd_nego_tx(&nego, &len);
			assert_true(len >= 1);
			if (len > chunk)
				len = chunk;
			put(&sent, out, len);
			nbd_nego_tx_done(&nego, len);
			break;
		case NBD_NEGO_RECV:
			speaks = false;
			in = nbd_nego_rx(&nego, &len);
			assert_true(len >= 1);
			if (len > chunk)
				len = chunk;
			if (pos == server.len && repeat_from)
				pos = repeat_from;
			if (len > server.len - pos)
				len = server.len - pos;
			if (!len) {
				nbd_nego_eof(&nego);
				break;
			}
			memcpy(in, server.b + pos, len);
			pos += len;
			consumed += len;
			nbd_nego_rx_done(&nego, len);
			break;
		case NBD_NEGO_ITEM:
			check_string(nego.item.name, NBD_MAX_STRING);
			check_string(nego.item.description, NBD_MAX_STRING);
			if (items < 64) {
				strcpy(item_name[items], nego.item.name);
				strcpy(item_description[items],
				       nego.item.description);
			}
			items++;
			nbd_nego_item_done(&nego);
			break;
		case NBD_NEGO_DONE:
			assert_int_equal(nego.error, NBD_NEGO_OK);
			return NBD_NEGO_DONE;
		case NBD_NEGO_FAIL:
			assert_int_not_equal(nego.error, NBD_NEGO_OK);
			check_string(nego.text, NBD_NEGO_TEXT - 1);
			assert_true(nego.error != NBD_NEGO_GARBLED ||
				    nego.garbled);
			return NBD_NEGO_FAIL;
		}
	}
	fail_msg("the negotiation does not end");
	return NBD_NEGO_FAIL;
}

/* The explanation, which must be one non-empty sentence. */
static inline const char *explain(void)
{
	static char buf[2048];

	assert_ptr_equal(nbd_nego_explain(&nego, buf, sizeof(buf)), buf);
	assert_true(strlen(buf) > 10);
	assert_null(strchr(buf, '\n'));
	check_string(buf, sizeof(buf) - 1);
	return buf;
}

static inline void says(const char *words)
{
	if (!strstr(explain(), words))
		fail_msg("\"%s\" does not say \"%s\"", explain(), words);
}

static inline void refuses(enum nbd_nego_goal goal, enum nbd_nego_error error)
{
	static const size_t chunks[] = { 1, 7, 100000 };
	size_t i;

	for (i = 0; i < 3; i++) {
		assert_int_equal(play(goal, "root", chunks[i], 0),
				 NBD_NEGO_FAIL);
		assert_int_equal(nego.error, error);
		explain();
	}
}

static inline void accepts(const char *name, size_t leftover)
{
	static const size_t chunks[] = { 1, 2, 3, 19, 100000 };
	size_t i;

	for (i = 0; i < 5; i++) {
		assert_int_equal(play(NBD_NEGO_GO, name, chunks[i], 0),
				 NBD_NEGO_DONE);
		assert_int_equal(consumed, server.len - leftover);
		assert_true(nego.export.flags & 1);
	}
}

/*
 * The option that starts at @pos of what the client sent; its data begins at
 * the returned position.
 */
static inline size_t sent_option(size_t pos, uint32_t option, size_t *len)
{
	assert_true(sent.len >= pos + 16);
	assert_memory_equal(sent.b + pos, "IHAVEOPT", 8);
	assert_int_equal(get_be(sent.b + pos + 8, 4), option);
	*len = get_be(sent.b + pos + 12, 4);
	assert_true(sent.len >= pos + 16 + *len);
	return pos + 16;
}

static inline int start(void **state)
{
	(void)state;
	server.len = 0;
	session = NULL;
	structured = false;
	return 0;
}

#endif /* TEST_NEGO_PLAY_H */
