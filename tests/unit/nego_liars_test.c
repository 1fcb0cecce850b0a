// SPDX-License-Identifier: GPL-2.0
/*
 * nego_liars_test.c - client negotiation against servers that lie, ramble, say
 * half of it, or are none: each ends, and each with a sentence.
 */
#include "nego_play.h"

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

int main(void)
{
#define T(f) cmocka_unit_test_setup(f, start)
	const struct CMUnitTest tests[] = {
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
	};

	return cmocka_run_group_tests_name("negotiation: liars", tests, NULL, NULL);
}
