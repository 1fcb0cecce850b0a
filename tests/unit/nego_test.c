// SPDX-License-Identifier: GPL-2.0
/*
 * nego_test.c - client negotiation with servers that mean it: the export and its
 * sizes, old servers, refusals and their text, the list of exports.
 */
#include "nego_play.h"

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
		T(list),
		T(list_empty_and_refused),
		T(list_with_lying_lengths),
		T(list_longest_strings),
		T(explain_fits_any_buffer),
	};

	return cmocka_run_group_tests_name("negotiation", tests, NULL, NULL);
}
