// SPDX-License-Identifier: GPL-2.0
/*
 * nego_test.c - client negotiation (proto/nbd-nego.c) against servers made of
 * prepared bytes: good ones, old ones, refusing ones and liars. Every
 * conversation is played whole and one byte at a time.
 */
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
static unsigned int items;
static char item_name[64][NBD_MAX_STRING + 1];
static char item_description[64][NBD_MAX_STRING + 1];

static void check_string(const char *s, size_t max)
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
static enum nbd_nego_want play(enum nbd_nego_goal goal, const char *name,
			       size_t chunk, size_t repeat_from)
{
	unsigned long steps;
	size_t len, pos = 0;

	sent.len = 0;
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
			out = nbd_nego_tx(&nego, &len);
			assert_true(len >= 1);
			if (len > chunk)
				len = chunk;
			put(&sent, out, len);
			nbd_nego_tx_done(&nego, len);
			break;
		case NBD_NEGO_RECV:
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
static const char *explain(void)
{
	static char buf[2048];

	assert_ptr_equal(nbd_nego_explain(&nego, buf, sizeof(buf)), buf);
	assert_true(strlen(buf) > 10);
	assert_null(strchr(buf, '\n'));
	check_string(buf, sizeof(buf) - 1);
	return buf;
}

static void says(const char *words)
{
	if (!strstr(explain(), words))
		fail_msg("\"%s\" does not say \"%s\"", explain(), words);
}

static void refuses(enum nbd_nego_goal goal, enum nbd_nego_error error)
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

static void accepts(const char *name, size_t leftover)
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
static size_t sent_option(size_t pos, uint32_t option, size_t *len)
{
	assert_true(sent.len >= pos + 16);
	assert_memory_equal(sent.b + pos, "IHAVEOPT", 8);
	assert_int_equal(get_be(sent.b + pos + 8, 4), option);
	*len = get_be(sent.b + pos + 12, 4);
	assert_true(sent.len >= pos + 16 + *len);
	return pos + 16;
}

static int start(void **state)
{
	(void)state;
	server.len = 0;
	session = NULL;
	structured = false;
	return 0;
}

static void go_export_then_block(void **state)
{
	size_t len, pos, i;
	bool asked = false;

	(void)state;
	put_greeting(&server, FIXED_NO_ZEROES);
	put_info_export(&server, OPT_GO, 0x123456789aULL, 0x0d);
	put_info_block(&server, OPT_GO, 512, 65536, 1 << 25);
	put_reply(&server, OPT_GO, REP_ACK, "", 0);
	put_str(&server, "transmission");
	accepts("root", 12);
	assert_int_equal(nego.export.size, 0x123456789aULL);
	assert_int_equal(nego.export.flags, 0x0d);
	assert_int_equal(nego.export.min_block, 512);
	assert_int_equal(nego.export.pref_block, 65536);
	assert_int_equal(nego.export.max_payload, 1 << 25);

	/* Both handshake flags come back, then GO with its requests. */
	assert_int_equal(get_be(sent.b, 4), 3);
	pos = sent_option(4, OPT_GO, &len);
	assert_int_equal(pos + len, sent.len);
	assert_int_equal(get_be(sent.b + pos, 4), 4);
	assert_memory_equal(sent.b + pos + 4, "root", 4);
	assert_int_equal(len, 4 + 4 + 2 + 2 * get_be(sent.b + pos + 8, 2));
	for (i = pos + 10; i < sent.len; i += 2)
		asked |= get_be(sent.b + i, 2) == 3;
	assert_true(asked);
}

static void go_block_then_export(void **state)
{
	(void)state;
	put_greeting(&server, FIXED);
	put_info_block(&server, OPT_GO, 1, 4096, 0xffffffff);
	put_info_export(&server, OPT_GO, 0, 3);
	put_reply(&server, OPT_GO, REP_ACK, "", 0);
	accepts("", 0);
	assert_int_equal(nego.export.size, 0);
	assert_int_equal(nego.export.flags, 3);
	assert_int_equal(nego.export.min_block, 1);
	assert_int_equal(nego.export.max_payload, 0xffffffff);
	assert_int_equal(get_be(sent.b, 4), 1);
}

static void go_without_block_sizes(void **state)
{
	(void)state;
	put_greeting(&server, FIXED_NO_ZEROES);
	put_info_export(&server, OPT_GO, 0x7fffffffffffffffULL, 1);
	put_reply(&server, OPT_GO, REP_ACK, "", 0);
	accepts("root", 0);
	assert_int_equal(nego.export.size, 0x7fffffffffffffffULL);
	assert_int_equal(nego.export.min_block, 1);
	assert_int_equal(nego.export.pref_block, 4096);
	assert_int_equal(nego.export.max_payload, 32 << 20);
}

/* Spec: a client must ignore information it does not understand. */
static void go_ignores_other_information(void **state)
{
	(void)state;
	put_greeting(&server, FIXED_NO_ZEROES);
	put_reply(&server, OPT_GO, 3, "\0\1canonical", 11);
	put_info_export(&server, OPT_GO, 4096, 1);
	put_reply(&server, OPT_GO, 3, "\0\2a description", 15);
	put_reply(&server, OPT_GO, 3, "\xff\xff", 2);
	put_reply(&server, OPT_GO, REP_ACK, "", 0);
	accepts("root", 0);
	assert_int_equal(nego.export.size, 4096);
}

static void longest_name(void **state)
{
	static char name[NBD_MAX_STRING + 2];
	size_t pos, len;

	(void)state;
	memset(name, 'n', NBD_MAX_STRING);
	put_greeting(&server, FIXED_NO_ZEROES);
	put_info_export(&server, OPT_GO, 4096, 1);
	put_reply(&server, OPT_GO, REP_ACK, "", 0);
	accepts(name, 0);
	pos = sent_option(4, OPT_GO, &len);
	assert_int_equal(get_be(sent.b + pos, 4), NBD_MAX_STRING);

	name[NBD_MAX_STRING] = 'n';
	assert_int_equal(play(NBD_NEGO_GO, name, 100, 0), NBD_NEGO_FAIL);
	assert_int_equal(nego.error, NBD_NEGO_NAME_TOO_LONG);
	assert_int_equal(sent.len, 0);
	says("4096");
}

static void fallback(uint16_t flags, size_t zeroes)
{
	size_t pos, len;

	server.len = 0;
	put_greeting(&server, flags);
	put_reply(&server, OPT_GO, ERR_UNSUP, "what is GO?", 11);
	put_be(&server, 123 * 512, 8);
	put_be(&server, 5, 2);
	put_fill(&server, 0, zeroes);
	put_str(&server, "x");
	accepts("root", 1);
	assert_int_equal(nego.export.size, 123 * 512);
	assert_int_equal(nego.export.flags, 5);
	assert_int_equal(nego.export.min_block, 1);
	assert_int_equal(nego.export.pref_block, 4096);
	pos = sent_option(4, OPT_GO, &len);
	pos = sent_option(pos + len, OPT_EXPORT_NAME, &len);
	assert_int_equal(len, 4);
	assert_memory_equal(sent.b + pos, "root", 4);
	assert_int_equal(pos + len, sent.len);
}

static void fallback_to_export_name(void **state)
{
	(void)state;
	fallback(FIXED, 124);
	fallback(FIXED_NO_ZEROES, 0);
}

/* The only failure EXPORT_NAME knows is a closed connection. */
static void fallback_closed(void **state)
{
	(void)state;
	put_greeting(&server, FIXED_NO_ZEROES);
	put_reply(&server, OPT_GO, ERR_UNSUP, "", 0);
	refuses(NBD_NEGO_GO, NBD_NEGO_CLOSED);
	says("export");
}

static void fallback_size_too_large(void **state)
{
	(void)state;
	put_greeting(&server, FIXED_NO_ZEROES);
	put_reply(&server, OPT_GO, ERR_UNSUP, "", 0);
	put_be(&server, 1ULL << 63, 8);
	put_be(&server, 1, 2);
	refuses(NBD_NEGO_GO, NBD_NEGO_GARBLED);
}

/* Such a server knows EXPORT_NAME only and may close at anything else. */
static void not_fixed_newstyle(void **state)
{
	size_t pos, len;

	(void)state;
	put_greeting(&server, 0);
	put_be(&server, 1 << 20, 8);
	put_be(&server, 3, 2);
	put_fill(&server, 0, 124);
	accepts("root", 0);
	assert_int_equal(nego.export.size, 1 << 20);
	assert_int_equal(get_be(sent.b, 4), 0);
	pos = sent_option(4, OPT_EXPORT_NAME, &len);
	assert_int_equal(pos + len, sent.len);

	server.len = 0;
	put_greeting(&server, 0);
	assert_int_equal(play(NBD_NEGO_LIST, "", 9, 0), NBD_NEGO_FAIL);
	explain();
}

static void unknown_handshake_flags_are_not_echoed(void **state)
{
	(void)state;
	put_greeting(&server, 0xffff);
	put_info_export(&server, OPT_GO, 4096, 1);
	put_reply(&server, OPT_GO, REP_ACK, "", 0);
	accepts("root", 0);
	assert_int_equal(get_be(sent.b, 4), 3);
}

static void every_refusal_keeps_its_text(void **state)
{
	uint32_t code;

	(void)state;
	for (code = 0x80000002U; code <= 0x8000000cU; code++) {
		server.len = 0;
		put_greeting(&server, FIXED_NO_ZEROES);
		put_reply(&server, OPT_GO, code, "because of me", 13);
		refuses(NBD_NEGO_GO, NBD_NEGO_REFUSED);
		assert_int_equal(nego.refusal, code);
		assert_string_equal(nego.text, "because of me");
		says("because of me");
	}
	server.len = 0;
	put_greeting(&server, FIXED_NO_ZEROES);
	put_reply(&server, OPT_GO, ERR_UNKNOWN, "", 0);
	refuses(NBD_NEGO_GO, NBD_NEGO_REFUSED);
	assert_string_equal(nego.text, "");
	says("root");
}

/* A terminal must not be steered by a server. */
static void refusal_text_is_cleaned(void **state)
{
	(void)state;
	put_greeting(&server, FIXED_NO_ZEROES);
	put_reply(&server, OPT_GO, ERR_UNKNOWN, "a\033[2Jb\nc\0d\177e", 13);
	refuses(NBD_NEGO_GO, NBD_NEGO_REFUSED);
	assert_int_equal(nego.text[0], 'a');
	assert_non_null(strchr(nego.text, 'b'));
	assert_null(strchr(nego.text, '\033'));
	explain();
}

/* What may stay of UTF-8: whole characters that are no control characters. */
static void printable_characters(void **state)
{
	static const struct { const char *s; size_t len, want; } cases[] = {
		{ "a", 1, 1 }, { " ", 1, 1 }, { "~", 1, 1 },
		{ "\0", 1, 0 }, { "\033", 1, 0 }, { "\177", 1, 0 },
		{ "\xc3\xa9", 2, 2 }, { "\xc3\xa9", 1, 0 },
		{ "\xc3""a", 2, 0 }, { "\xc2\xa0", 2, 2 },
		{ "\xc2\x9b", 2, 0 },			/* CSI */
		{ "\x9b", 1, 0 }, { "\xbf\xbf", 2, 0 },
		{ "\xc0\x9b", 2, 0 }, { "\xc1\xbf", 2, 0 },	/* overlong */
		{ "\xdf\xbf", 2, 2 },
		{ "\xe2\x82\xac", 3, 3 }, { "\xe2\x82\xac", 2, 0 },
		{ "\xe0\x82\x9b", 3, 0 }, { "\xe0\xa0\x80", 3, 3 },
		{ "\xe2\x82\x0a", 3, 0 },
		{ "\xed\x9f\xbf", 3, 3 }, { "\xed\xa0\x80", 3, 0 },
		{ "\xf0\x9f\x98\x80", 4, 4 }, { "\xf0\x9f\x98\x80", 3, 0 },
		{ "\xf0\x80\x82\x9b", 4, 0 }, { "\xf0\x9f\x98\x0a", 4, 0 },
		{ "\xf4\x8f\xbf\xbf", 4, 4 }, { "\xf4\x90\x80\x80", 4, 0 },
		{ "\xf5\x80\x80\x80", 4, 0 }, { "\xff\xff\xff\xff", 4, 0 },
	};
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char *exact = malloc(cases[i].len);	/* for ASan */

		memcpy(exact, cases[i].s, cases[i].len);
		if (nbd_printable(exact, cases[i].len) != cases[i].want)
			fail_msg("case %zu", i);
		free(exact);
	}

	put_greeting(&server, FIXED_NO_ZEROES);
	put_reply(&server, OPT_GO, ERR_UNKNOWN,
		  "caf\xc3\xa9 \xc2\x9b" "2J \x9b \xe2\x82", 15);
	assert_int_equal(play(NBD_NEGO_GO, "\xe2\x82\xac\xc2\x9b", 100, 0),
			 NBD_NEGO_FAIL);
	assert_string_equal(nego.text, "caf\xc3\xa9 ??2J ? ??");
	says("\"\xe2\x82\xac??\"");
}

/* A text is not cut in the middle of a character. */
static void refusal_text_is_cut_between_characters(void **state)
{
	static char text[NBD_NEGO_TEXT + 8];
	size_t shift, i;

	(void)state;
	for (shift = 0; shift < 3; shift++) {
		memset(text, 'x', shift);
		for (i = shift; i + 3 <= sizeof(text); i += 3)
			memcpy(text + i, "\xe2\x82\xac", 3);
		server.len = 0;
		put_greeting(&server, FIXED_NO_ZEROES);
		put_reply(&server, OPT_GO, ERR_UNKNOWN, text, i);
		assert_int_equal(play(NBD_NEGO_GO, "root", 100, 0),
				 NBD_NEGO_FAIL);
		assert_int_equal(strlen(nego.text),
				 shift + (NBD_NEGO_TEXT - 1 - shift) / 3 * 3);
	}
}

static void refusal_text_is_cut(void **state)
{
	static const size_t sizes[] = {
		NBD_NEGO_TEXT - 1, NBD_NEGO_TEXT, 1000, NBD_MAX_STRING,
		NBD_NEGO_REPLY, NBD_NEGO_REPLY + 1, NBD_NEGO_REPLY + 5000,
	};
	static char text[NBD_NEGO_REPLY + 5000];
	size_t i;

	(void)state;
	memset(text, 'x', sizeof(text));
	for (i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		server.len = 0;
		put_greeting(&server, FIXED_NO_ZEROES);
		put_reply(&server, OPT_GO, 0x80000002U, text, sizes[i]);
		assert_int_equal(play(NBD_NEGO_GO, "root", 999, 0),
				 NBD_NEGO_FAIL);
		if (sizes[i] <= NBD_MAX_STRING) {
			assert_int_equal(nego.error, NBD_NEGO_REFUSED);
			assert_int_equal(strlen(nego.text), NBD_NEGO_TEXT - 1);
		}
		explain();
	}
}

static void ack_without_export(void **state)
{
	(void)state;
	put_greeting(&server, FIXED_NO_ZEROES);
	put_info_block(&server, OPT_GO, 512, 4096, 1 << 25);
	put_reply(&server, OPT_GO, REP_ACK, "", 0);
	refuses(NBD_NEGO_GO, NBD_NEGO_GARBLED);
}

static void bad_block_sizes(void **state)
{
	static const uint32_t bad[][3] = {
		{ 0, 4096, 1 << 25 },
		{ 3, 4096, 1 << 25 },
		{ 131072, 131072, 1 << 25 },
		{ 0x80000000U, 0x80000000U, 0xffffffffU },
		{ 512, 256, 1 << 25 },
		{ 512, 0, 1 << 25 },
		{ 512, 4097, 1 << 25 },
		{ 512, 4096, 0 },
		{ 4096, 4096, 2048 },
	};
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		server.len = 0;
		put_greeting(&server, FIXED_NO_ZEROES);
		put_info_export(&server, OPT_GO, 1 << 30, 1);
		put_info_block(&server, OPT_GO, bad[i][0], bad[i][1],
			       bad[i][2]);
		put_reply(&server, OPT_GO, REP_ACK, "", 0);
		refuses(NBD_NEGO_GO, NBD_NEGO_GARBLED);
	}
}

/* Spec: "MUST be a multiple of the minimum"; nobody is hurt by rounding. */
static void odd_maximum_is_rounded(void **state)
{
	(void)state;
	put_greeting(&server, FIXED_NO_ZEROES);
	put_info_export(&server, OPT_GO, 1 << 30, 1);
	put_info_block(&server, OPT_GO, 512, 4096, (1 << 20) + 511);
	put_reply(&server, OPT_GO, REP_ACK, "", 0);
	accepts("root", 0);
	assert_int_equal(nego.export.max_payload, 1 << 20);
}

static void bad_export_size(void **state)
{
	(void)state;
	put_greeting(&server, FIXED_NO_ZEROES);
	put_info_export(&server, OPT_GO, 1ULL << 63, 1);
	put_reply(&server, OPT_GO, REP_ACK, "", 0);
	refuses(NBD_NEGO_GO, NBD_NEGO_GARBLED);
}

static void information_of_wrong_length(void **state)
{
	static const struct { const char *data; size_t len; } bad[] = {
		{ "", 0 }, { "\0", 1 },
		{ "\0\0", 2 },
		{ "\0\0\0\0\0\0\0\0\0\1\0", 11 },
		{ "\0\0\0\0\0\0\0\0\0\1\0\1\0", 13 },
		{ "\0\3", 2 },
		{ "\0\3\0\0\0\1\0\0\x10\0\0\1\0", 13 },
		{ "\0\3\0\0\0\1\0\0\x10\0\0\1\0\0\0", 15 },
	};
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		server.len = 0;
		put_greeting(&server, FIXED_NO_ZEROES);
		put_reply(&server, OPT_GO, 3, bad[i].data, bad[i].len);
		put_info_export(&server, OPT_GO, 4096, 1);
		put_reply(&server, OPT_GO, REP_ACK, "", 0);
		refuses(NBD_NEGO_GO, NBD_NEGO_GARBLED);
	}
}

static void not_an_nbd_server(void **state)
{
	(void)state;
	put_str(&server, "SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n");
	refuses(NBD_NEGO_GO, NBD_NEGO_NOT_NBD);
	refuses(NBD_NEGO_LIST, NBD_NEGO_NOT_NBD);

	server.len = 0;
	put_str(&server, "NBDMAGICIHAVEOPt");
	put_be(&server, 3, 2);
	refuses(NBD_NEGO_GO, NBD_NEGO_NOT_NBD);
}

static void oldstyle_server(void **state)
{
	(void)state;
	put_str(&server, "NBDMAGIC");
	put_be(&server, 0x420281861253ULL, 8);
	put_be(&server, 1 << 20, 8);
	put_fill(&server, 0, 128);
	refuses(NBD_NEGO_GO, NBD_NEGO_OLDSTYLE);
	refuses(NBD_NEGO_LIST, NBD_NEGO_OLDSTYLE);
}

static void reply_without_its_magic(void **state)
{
	size_t i;

	(void)state;
	for (i = 0; i < 8; i++) {
		server.len = 0;
		put_greeting(&server, FIXED_NO_ZEROES);
		put_info_export(&server, OPT_GO, 4096, 1);
		server.b[18 + i] ^= 0x10;
		put_reply(&server, OPT_GO, REP_ACK, "", 0);
		refuses(NBD_NEGO_GO, NBD_NEGO_GARBLED);
	}
}

static void reply_to_another_option(void **state)
{
	(void)state;
	put_greeting(&server, FIXED_NO_ZEROES);
	put_info_export(&server, OPT_LIST, 4096, 1);
	refuses(NBD_NEGO_GO, NBD_NEGO_GARBLED);

	server.len = 0;
	put_greeting(&server, FIXED_NO_ZEROES);
	put_info_export(&server, OPT_GO, 4096, 1);
	put_reply(&server, OPT_EXPORT_NAME, REP_ACK, "", 0);
	refuses(NBD_NEGO_GO, NBD_NEGO_GARBLED);
}

/* Replies that GO does not have, and an ACK that carries something. */
static void reply_of_wrong_type(void **state)
{
	static const uint32_t types[] = { 0, 2, 4, 5, 0x7fffffff };
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
		server.len = 0;
		put_greeting(&server, FIXED_NO_ZEROES);
		put_info_export(&server, OPT_GO, 4096, 1);
		put_reply(&server, OPT_GO, types[i], "", 0);
		refuses(NBD_NEGO_GO, NBD_NEGO_GARBLED);
	}
	server.len = 0;
	put_greeting(&server, FIXED_NO_ZEROES);
	put_info_export(&server, OPT_LIST, 4096, 1);
	refuses(NBD_NEGO_LIST, NBD_NEGO_GARBLED);
}

/*
 * A length of 4 GiB must not be read into memory, nor waited for without end:
 * each reply here is followed by a stream that never stops.
 */
static void reply_too_long(void **state)
{
	static const uint32_t types[] = { 1, 3, 0x80000006U, 0x80000001U };
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
		server.len = 0;
		put_greeting(&server, FIXED_NO_ZEROES);
		put_be(&server, 0x0003e889045565a9ULL, 8);
		put_be(&server, OPT_GO, 4);
		put_be(&server, types[i], 4);
		put_be(&server, 0xffffffff, 4);
		put_fill(&server, 'z', 65536);
		assert_int_equal(play(NBD_NEGO_GO, "root", 100000, 38),
				 NBD_NEGO_FAIL);
		explain();
	}
}

static void endless_information(void **state)
{
	size_t first;

	(void)state;
	put_greeting(&server, FIXED_NO_ZEROES);
	first = server.len;
	put_info_export(&server, OPT_GO, 4096, 1);
	assert_int_equal(play(NBD_NEGO_GO, "root", 100000, first),
			 NBD_NEGO_FAIL);
	assert_int_equal(nego.error, NBD_NEGO_GARBLED);
	explain();

	server.len = first;
	put_server(&server, 4, "disk", "");
	assert_int_equal(play(NBD_NEGO_LIST, "", 100000, first),
			 NBD_NEGO_FAIL);
	assert_int_equal(nego.error, NBD_NEGO_GARBLED);
}

/* The end of the stream at each byte of a good conversation. */
static void eof_everywhere(void **state)
{
	size_t whole, len;

	(void)state;
	put_greeting(&server, FIXED);
	put_info_export(&server, OPT_GO, 4096, 1);
	put_info_block(&server, OPT_GO, 512, 4096, 1 << 25);
	put_reply(&server, OPT_GO, REP_ACK, "", 0);
	whole = server.len;
	for (len = 0; len < whole; len++) {
		server.len = len;
		refuses(NBD_NEGO_GO, NBD_NEGO_CLOSED);
	}

	server.len = 0;
	put_greeting(&server, FIXED);
	put_reply(&server, OPT_GO, ERR_UNSUP, "no", 2);
	put_be(&server, 4096, 8);
	put_be(&server, 1, 2);
	put_fill(&server, 0, 124);
	whole = server.len;
	for (len = 0; len < whole; len++) {
		server.len = len;
		refuses(NBD_NEGO_GO, NBD_NEGO_CLOSED);
	}
}

/* Neither a failed nor a finished negotiation can be revived. */
static void end_is_the_end(void **state)
{
	(void)state;
	put_greeting(&server, FIXED_NO_ZEROES);
	put_info_export(&server, OPT_GO, 4096, 1);
	put_reply(&server, OPT_GO, REP_ACK, "", 0);
	assert_int_equal(play(NBD_NEGO_GO, "root", 100, 0), NBD_NEGO_DONE);
	assert_int_equal(nbd_nego_next(&nego), NBD_NEGO_DONE);

	server.len = 20;
	assert_int_equal(play(NBD_NEGO_GO, "root", 100, 0), NBD_NEGO_FAIL);
	nbd_nego_eof(&nego);
	assert_int_equal(nbd_nego_next(&nego), NBD_NEGO_FAIL);
}

static void list(void **state)
{
	static const size_t chunks[] = { 1, 5, 100000 };
	size_t i, pos, len;

	(void)state;
	put_greeting(&server, FIXED_NO_ZEROES);
	put_server(&server, 4, "root", "");
	put_server(&server, 3, "lab", "the lab's image");
	put_server(&server, 0, "", "the default");
	put_server(&server, 5, "x\033\ny\177", "d\001d");
	put_reply(&server, OPT_LIST, REP_ACK, "", 0);
	for (i = 0; i < 3; i++) {
		/* The server closes after its ACK, as nbd-server does. */
		assert_int_equal(play(NBD_NEGO_LIST, "", chunks[i], 0),
				 NBD_NEGO_DONE);
		assert_int_equal(items, 4);
		assert_string_equal(item_name[0], "root");
		assert_string_equal(item_description[0], "");
		assert_string_equal(item_name[1], "lab");
		assert_string_equal(item_description[1], "the lab's image");
		assert_string_equal(item_name[2], "");
		assert_string_equal(item_description[2], "the default");
		pos = sent_option(4, OPT_LIST, &len);
		assert_int_equal(len, 0);
		/* And it leaves as the spec asks. */
		pos = sent_option(pos, OPT_ABORT, &len);
		assert_int_equal(pos + len, sent.len);
	}
	put_reply(&server, OPT_ABORT, REP_ACK, "", 0);
	assert_int_equal(play(NBD_NEGO_LIST, "", 3, 0), NBD_NEGO_DONE);
}

static void list_empty_and_refused(void **state)
{
	(void)state;
	put_greeting(&server, FIXED_NO_ZEROES);
	put_reply(&server, OPT_LIST, REP_ACK, "", 0);
	assert_int_equal(play(NBD_NEGO_LIST, "", 100, 0), NBD_NEGO_DONE);
	assert_int_equal(items, 0);

	server.len = 0;
	put_greeting(&server, FIXED_NO_ZEROES);
	put_reply(&server, OPT_LIST, 0x80000002U, "not for you", 11);
	refuses(NBD_NEGO_LIST, NBD_NEGO_REFUSED);
	assert_int_equal(nego.refusal, 0x80000002U);
	says("not for you");

	server.len = 0;
	put_greeting(&server, FIXED_NO_ZEROES);
	put_reply(&server, OPT_LIST, ERR_UNSUP, "", 0);
	refuses(NBD_NEGO_LIST, NBD_NEGO_REFUSED);
	assert_int_equal(nego.refusal, ERR_UNSUP);
}

static void list_with_lying_lengths(void **state)
{
	static const uint32_t lies[] = { 5, 4097, 0x80000000U, 0xfffffffcU,
					 0xffffffffU };
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
		server.len = 0;
		put_greeting(&server, FIXED_NO_ZEROES);
		put_server(&server, lies[i], "root", "");
		put_reply(&server, OPT_LIST, REP_ACK, "", 0);
		refuses(NBD_NEGO_LIST, NBD_NEGO_GARBLED);
		assert_int_equal(items, 0);
	}
	for (i = 0; i < 4; i++) {
		server.len = 0;
		put_greeting(&server, FIXED_NO_ZEROES);
		put_reply(&server, OPT_LIST, 2, "\0\0\0", i);
		refuses(NBD_NEGO_LIST, NBD_NEGO_GARBLED);
	}
}

static void list_longest_strings(void **state)
{
	static char name[NBD_MAX_STRING + 1], description[NBD_MAX_STRING + 1];

	(void)state;
	memset(name, 'n', NBD_MAX_STRING);
	memset(description, 'd', NBD_MAX_STRING);
	put_greeting(&server, FIXED_NO_ZEROES);
	put_server(&server, NBD_MAX_STRING, name, description);
	put_reply(&server, OPT_LIST, REP_ACK, "", 0);
	assert_int_equal(play(NBD_NEGO_LIST, "", 1000, 0), NBD_NEGO_DONE);
	assert_int_equal(items, 1);
	assert_string_equal(item_name[0], name);
	assert_string_equal(item_description[0], description);
}

/* Every failure, into every size of buffer: cut, never overrun. */
static void explain_fits_any_buffer(void **state)
{
	static const char *const servers[] = {
		"HTTP/1.1 400 Bad Request\r\n\r\n", "NBDMAGIC",
	};
	char whole[2048];
	size_t i, size;

	(void)state;
	for (i = 0; i < 3; i++) {
		server.len = 0;
		if (i < 2) {
			put_str(&server, servers[i]);
		} else {
			put_greeting(&server, FIXED);
			put_reply(&server, OPT_GO, ERR_UNKNOWN, "gone", 4);
		}
		assert_int_equal(play(NBD_NEGO_GO, "root", 100, 0),
				 NBD_NEGO_FAIL);
		nbd_nego_explain(&nego, whole, sizeof(whole));
		for (size = 1; size <= strlen(whole) + 2; size++) {
			char *p = malloc(size);	/* for ASan's red zones */

			memset(p, 'Q', size);
			assert_ptr_equal(nbd_nego_explain(&nego, p, size), p);
			assert_true(strlen(p) < size);
			assert_int_equal(strncmp(p, whole, strlen(p)), 0);
			free(p);
		}
		/* Of no room at all not a byte is touched. */
		whole[0] = 'Q';
		nbd_nego_explain(&nego, whole, 0);
		assert_int_equal(whole[0], 'Q');
	}
}

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
		T(go_export_then_block),
		T(go_block_then_export),
		T(go_without_block_sizes),
		T(go_ignores_other_information),
		T(longest_name),
		T(fallback_to_export_name),
		T(fallback_closed),
		T(fallback_size_too_large),
		T(not_fixed_newstyle),
		T(unknown_handshake_flags_are_not_echoed),
		T(every_refusal_keeps_its_text),
		T(refusal_text_is_cleaned),
		T(printable_characters),
		T(refusal_text_is_cut_between_characters),
		T(refusal_text_is_cut),
		T(ack_without_export),
		T(bad_block_sizes),
		T(odd_maximum_is_rounded),
		T(bad_export_size),
		T(information_of_wrong_length),
		T(not_an_nbd_server),
		T(oldstyle_server),
		T(reply_without_its_magic),
		T(reply_to_another_option),
		T(reply_of_wrong_type),
		T(reply_too_long),
		T(endless_information),
		T(eof_everywhere),
		T(end_is_the_end),
		T(session_and_identity),
		T(longest_session_and_name),
		T(a_session_of_no_words_is_not_asked_for),
		T(strangers_do_not_know_our_session),
		T(structured_replies_alone),
		T(contexts_that_nobody_asked_for),
		T(answers_to_other_questions),
		T(list),
		T(list_empty_and_refused),
		T(list_with_lying_lengths),
		T(list_longest_strings),
		T(explain_fits_any_buffer),
	};

	return cmocka_run_group_tests_name("negotiation", tests, NULL, NULL);
}
