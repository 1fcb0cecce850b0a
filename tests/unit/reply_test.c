// SPDX-License-Identifier: GPL-2.0
/*
 * Replies of servers honest and hostile (proto/nbd-reply.h). Every stream is
 * played whole, byte by byte, and in sevens: where TCP cuts must not matter.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "bytes.h"
#include "nbd-reply.h"

#define BASE	0x100000000ULL	/* where the READ begins in its export */
#define LEN	8192U		/* and its length */
#define READ_COOKIE	0x1122334455667788ULL
#define WRITE_COOKIE	0x99ULL

enum { SIMPLE, STRUCTURED };

/* What a client makes of a stream. */
struct client {
	struct nbd_reply r;
	struct nbd_answer read, write;
	bool read_on, write_on;
	uint8_t buf[LEN];
	char said[4096];	/* the events, as text */
};

static struct bytes s;

static void reset(void)
{
	s.len = 0;
}

static void put_simple(uint32_t error, uint64_t cookie)
{
	put_be(&s, 0x67446698, 4);
	put_be(&s, error, 4);
	put_be(&s, cookie, 8);
}

static void put_chunk(int done, uint16_t type, uint64_t cookie, uint32_t len)
{
	put_be(&s, 0x668e33ef, 4);
	put_be(&s, done, 2);
	put_be(&s, type, 2);
	put_be(&s, cookie, 8);
	put_be(&s, len, 4);
}

static void put_data(int done, uint32_t start, uint32_t len, uint8_t c)
{
	put_chunk(done, 1, READ_COOKIE, 8 + len);
	put_be(&s, BASE + start, 8);
	put_fill(&s, c, len);
}

static void put_hole(int done, uint32_t start, uint32_t len)
{
	put_chunk(done, 2, READ_COOKIE, 12);
	put_be(&s, BASE + start, 8);
	put_be(&s, len, 4);
}

static void put_error(int done, uint64_t cookie, uint32_t error,
		      const char *text)
{
	put_chunk(done, 0x8001, cookie, 6 + strlen(text));
	put_be(&s, error, 4);
	put_be(&s, strlen(text), 2);
	put_str(&s, text);
}

static void put_error_at(int done, uint32_t error, const char *text,
			 uint64_t offset)
{
	put_chunk(done, 0x8002, READ_COOKIE, 14 + strlen(text));
	put_be(&s, error, 4);
	put_be(&s, strlen(text), 2);
	put_str(&s, text);
	put_be(&s, offset, 8);
}

static void say(struct client *c, const char *fmt, ...)
{
	size_t len = strlen(c->said);
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(c->said + len, sizeof(c->said) - len, fmt, ap);
	va_end(ap);
}

static struct nbd_answer *find(struct client *c)
{
	if (c->r.cookie == READ_COOKIE && c->read_on)
		return &c->read;
	if (c->r.cookie == WRITE_COOKIE && c->write_on)
		return &c->write;
	return NULL;
}

/* Play the stream to a client, at most @cut bytes at a time. */
static void play(struct client *c, int structured, size_t cut)
{
	struct nbd_reply *r = &c->r;
	size_t at = 0, n;
	uint8_t *p;

	memset(c, 0xa5, sizeof(*c));
	c->said[0] = '\0';
	c->read_on = c->write_on = true;
	nbd_answer_init(&c->read, true, BASE, LEN);
	nbd_answer_init(&c->write, false, BASE, LEN);
	nbd_reply_init(r, structured);

	for (;;) {
		switch (nbd_reply_next(r)) {
		case NBD_REPLY_RECV:
			p = nbd_reply_rx(r, &n);
			assert_true(n > 0);
			n = n < cut ? n : cut;
			n = n < s.len - at ? n : s.len - at;
			if (!n)
				return;
			memcpy(p, s.b + at, n);
			at += n;
			nbd_reply_rx_done(r, n);
			break;
		case NBD_REPLY_FIND:
			nbd_reply_found(r, find(c));
			break;
		case NBD_REPLY_DATA:
			assert_in_range(r->length, 1, LEN - r->offset);
			n = r->length < cut ? r->length : cut;
			n = n < s.len - at ? n : s.len - at;
			if (!n)
				return;
			memcpy(c->buf + r->offset, s.b + at, n);
			at += n;
			nbd_reply_data_done(r, (u32)n);
			break;
		case NBD_REPLY_HOLE:
			assert_in_range(r->length, 1, LEN - r->offset);
			memset(c->buf + r->offset, 0, r->length);
			say(c, "hole ");
			nbd_reply_hole_done(r);
			break;
		case NBD_REPLY_ERROR:
			say(c, "error %u \"%s\" ", r->error, r->text);
			nbd_reply_error_done(r);
			break;
		case NBD_REPLY_END:
			say(c, "%s=%u ", r->answer == &c->read ? "read" : "write",
			    r->answer->error);
			if (r->answer == &c->read)
				c->read_on = false;
			else
				c->write_on = false;
			nbd_reply_end_done(r);
			break;
		case NBD_REPLY_BAD:
			assert_non_null(r->bad);
			say(c, "bad: %s", r->bad);
			return;
		}
	}
}

static struct client c;

static void expect(int structured, const char *said)
{
	static const size_t cuts[] = { 1 << 20, 1, 7 };

	for (size_t i = 0; i < 3; i++) {
		play(&c, structured, cuts[i]);
		assert_string_equal(c.said, said);
	}
}

static void expect_fill(uint32_t start, uint32_t end, uint8_t fill)
{
	for (; start < end; start++)
		assert_int_equal(c.buf[start], fill);
}

static void simple_replies(void **state)
{
	(void)state;
	reset();
	put_simple(0, WRITE_COOKIE);
	put_simple(0, READ_COOKIE);
	put_fill(&s, 'x', LEN);
	expect(SIMPLE, "write=0 read=0 ");
	expect_fill(0, LEN, 'x');
	reset();
	put_simple(5, READ_COOKIE);
	put_simple(28, WRITE_COOKIE);
	expect(SIMPLE, "error 5 \"\" read=5 error 28 \"\" write=28 ");
}

static void one_chunk_is_a_read(void **state)
{
	(void)state;
	reset();
	put_data(1, 0, LEN, 'x');
	put_chunk(1, 0, WRITE_COOKIE, 0);
	expect(STRUCTURED, "read=0 write=0 ");
	expect_fill(0, LEN, 'x');
	/* Where they were negotiated, what is no read may still be simple. */
	reset();
	put_simple(0, WRITE_COOKIE);
	put_data(0, 0, LEN, 'x');
	put_chunk(1, 0, READ_COOKIE, 0);
	expect(STRUCTURED, "write=0 read=0 ");
}

static void chunks_in_any_order(void **state)
{
	(void)state;
	reset();
	put_data(0, 6144, 2048, 'd');
	put_data(0, 0, 2048, 'a');
	put_simple(0, WRITE_COOKIE);
	put_data(0, 4096, 2048, 'c');
	put_hole(1, 2048, 2048);
	expect(STRUCTURED, "write=0 hole read=0 ");
	expect_fill(0, 2048, 'a');
	expect_fill(2048, 4096, 0);
	expect_fill(4096, 6144, 'c');
	expect_fill(6144, 8192, 'd');
}

static void many_chunks_in_order(void **state)
{
	(void)state;
	reset();
	for (uint32_t i = 0; i < LEN; i += 64)
		put_data(0, i, 64, 'm');
	put_chunk(1, 0, READ_COOKIE, 0);
	expect(STRUCTURED, "read=0 ");
	expect_fill(0, LEN, 'm');
	/* Backwards too: each piece joins the one behind it. */
	reset();
	for (uint32_t i = LEN; i; i -= 64)
		put_data(0, i - 64, 64, 'm');
	put_chunk(1, 0, READ_COOKIE, 0);
	expect(STRUCTURED, "read=0 ");
}

static void scattered_chunks(void **state)
{
	(void)state;
	reset();
	for (uint32_t i = 0; i < 8; i++)
		put_data(0, i * 1024, 512, 'a');
	for (uint32_t i = 0; i < 8; i++)
		put_data(0, (7 - i) * 1024 + 512, 512, 'b');
	put_chunk(1, 0, READ_COOKIE, 0);
	expect(STRUCTURED, "read=0 ");
	reset();
	for (uint32_t i = 0; i < 9; i++)
		put_data(0, i * 512, 256, 'a');
	expect(STRUCTURED, "bad: the chunks of one read are scattered too widely");
}

static void errors_carry_text(void **state)
{
	char longer[4097];

	(void)state;
	reset();
	put_error(1, WRITE_COOKIE, 28, "the disk is full");
	put_data(0, 0, 4096, 'x');
	put_error_at(1, 5, "bad sector", BASE + 4096);
	expect(STRUCTURED, "error 28 \"the disk is full\" write=28 "
	       "error 5 \"bad sector\" read=5 ");
	/* Data may follow an error; the first error counts. */
	reset();
	put_error_at(0, 5, "", BASE);
	put_data(0, 512, 512, 'x');
	put_error(0, READ_COOKIE, 1, "no\nmore\x1b[2J");
	put_chunk(1, 0, READ_COOKIE, 0);
	expect(STRUCTURED, "error 5 \"\" error 1 \"no?more?[2J\" read=5 ");
	/* The longest text that may be; the first 255 bytes of it are kept. */
	memset(longer, 't', 4096);
	longer[4096] = '\0';
	reset();
	put_error_at(1, 5, longer, BASE + LEN - 1);
	put_simple(0, WRITE_COOKIE);
	longer[255] = '\0';
	play(&c, STRUCTURED, 100);
	assert_memory_equal(c.said, "error 5 \"ttt", 12);
	assert_int_equal(strspn(c.said + 9, "t"), 255);
	assert_string_equal(c.said + 9 + 255, "\" read=5 write=0 ");
}

static void an_unknown_error_is_an_error(void **state)
{
	(void)state;
	reset();
	put_chunk(1, 0x8abc, READ_COOKIE, 6 + 3 + 100);
	put_be(&s, 75, 4);
	put_be(&s, 3, 2);
	put_str(&s, "new");
	put_fill(&s, 0xff, 100);
	put_simple(0, WRITE_COOKIE);
	expect(STRUCTURED, "error 75 \"new\" read=75 write=0 ");
}

static void what_was_not_asked_for(void **state)
{
	(void)state;
	reset();
	put_simple(0, 0x77);
	expect(SIMPLE, "bad: a reply to no request in flight");
	reset();
	put_simple(0, WRITE_COOKIE);
	put_simple(0, WRITE_COOKIE);
	expect(SIMPLE, "write=0 bad: a reply to no request in flight");
	reset();
	put_data(1, 0, LEN, 'x');
	put_data(1, 0, LEN, 'x');
	expect(STRUCTURED, "read=0 bad: a reply to no request in flight");
	reset();
	put_fill(&s, 0, 16);
	expect(SIMPLE, "bad: a reply without its magic number");
	reset();
	put_data(1, 0, LEN, 'x');
	expect(SIMPLE, "bad: a structured reply that was not negotiated");
	reset();
	put_simple(0, READ_COOKIE);
	expect(STRUCTURED, "bad: a simple reply to a read, where structured ones were negotiated");
	reset();
	put_error(0, WRITE_COOKIE, 5, "");
	put_simple(0, WRITE_COOKIE);
	expect(STRUCTURED, "error 5 \"\" bad: a simple reply amid the chunks of a structured one");
	reset();
	put_chunk(1, 1, WRITE_COOKIE, 8 + 512);
	expect(STRUCTURED, "bad: data in reply to what is no read");
	reset();
	put_chunk(1, 2, WRITE_COOKIE, 12);
	expect(STRUCTURED, "bad: a hole in reply to what is no read");
	reset();
	put_chunk(1, 5, READ_COOKIE, 12);
	expect(STRUCTURED, "bad: a chunk of a type that was not asked for");
	reset();
	put_chunk(1, 0x7fff, WRITE_COOKIE, 0);
	expect(STRUCTURED, "bad: a chunk of a type that was not asked for");
}

static void lengths_that_lie(void **state)
{
	(void)state;
	reset();
	put_chunk(1, 0, READ_COOKIE, 1);
	expect(STRUCTURED, "bad: an empty chunk has a payload");
	reset();
	put_chunk(0, 0, WRITE_COOKIE, 0);
	expect(STRUCTURED, "bad: an empty chunk is not the last of its reply");
	for (uint32_t len = 0; len <= 8; len++) {
		reset();
		put_chunk(1, 1, READ_COOKIE, len);
		expect(STRUCTURED, "bad: a data chunk has no data");
	}
	for (uint32_t len = 11; len <= 13; len += 2) {
		reset();
		put_chunk(1, 2, READ_COOKIE, len);
		expect(STRUCTURED, "bad: a hole chunk is not 12 bytes long");
	}
	reset();
	put_hole(1, 0, 0);
	expect(STRUCTURED, "bad: a hole of no bytes");
	reset();
	put_chunk(1, 0x8001, READ_COOKIE, 5);
	expect(STRUCTURED, "bad: an error chunk is too short");
	reset();
	put_chunk(1, 0x8002, READ_COOKIE, 13);
	expect(STRUCTURED, "bad: an error chunk is too short");
	reset();
	put_chunk(1, 0x8001, READ_COOKIE, 0xffffffff);
	expect(STRUCTURED, "bad: an error chunk is absurdly long");
	reset();
	put_chunk(1, 0x8001, READ_COOKIE, 6 + 4);
	put_be(&s, 5, 4);
	put_be(&s, 5, 2);
	expect(STRUCTURED, "bad: an error's text is longer than its chunk");
	reset();
	put_chunk(1, 0x8002, READ_COOKIE, 14 + 4);
	put_be(&s, 5, 4);
	put_be(&s, 5, 2);
	expect(STRUCTURED, "bad: an error's text is longer than its chunk");
	reset();
	put_chunk(1, 0x8001, READ_COOKIE, 6 + 4097);
	put_be(&s, 5, 4);
	put_be(&s, 4097, 2);
	expect(STRUCTURED, "bad: an error's text is longer than 4096 bytes");
	reset();
	put_error(1, READ_COOKIE, 0, "fine");
	expect(STRUCTURED, "bad: an error chunk without an error");
}

static void places_that_lie(void **state)
{
	static const struct {
		uint64_t at;
		uint32_t len;
	} outside[] = {
		{ BASE - 1, 1 }, { BASE - 1, LEN }, { BASE, LEN + 1 },
		{ BASE + LEN, 1 }, { BASE + 1, LEN }, { 0, LEN },
		{ 0xffffffffffffffffULL, 2 }, { BASE, 0xffffffff },
		{ BASE + 0x100000000ULL, 1 }, { BASE + LEN - 1, 0xfffff000 },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(outside) / sizeof(*outside); i++) {
		reset();
		put_chunk(1, 2, READ_COOKIE, 12);
		put_be(&s, outside[i].at, 8);
		put_be(&s, outside[i].len, 4);
		expect(STRUCTURED, "bad: a chunk lies outside of what was to be read");
		if (outside[i].len > 0xffffffff - 8)
			continue;
		reset();
		put_chunk(1, 1, READ_COOKIE, 8 + outside[i].len);
		put_be(&s, outside[i].at, 8);
		expect(STRUCTURED, "bad: a chunk lies outside of what was to be read");
	}
	reset();
	put_error_at(1, 5, "x", BASE + LEN);
	expect(STRUCTURED, "bad: an error lies outside of its request");
	reset();
	put_error_at(1, 5, "x", BASE - 1);
	expect(STRUCTURED, "bad: an error lies outside of its request");
}

static void each_byte_exactly_once(void **state)
{
	static const char twice[] =
		"bad: a chunk brings bytes that have come already";
	static const char missing[] =
		"bad: a read ends before all of its bytes have come";

	(void)state;
	reset();
	put_data(0, 0, 4096, 'a');
	put_data(1, 0, 4096, 'b');
	expect(STRUCTURED, twice);
	reset();
	put_data(0, 0, 4096, 'a');
	put_data(1, 4095, 4097, 'b');
	expect(STRUCTURED, twice);
	reset();
	put_data(0, 4096, 4096, 'a');
	put_data(1, 0, 4097, 'b');
	expect(STRUCTURED, twice);
	reset();
	put_hole(0, 1024, 512);
	put_hole(0, 3072, 512);
	put_hole(1, 0, 8192);
	expect(STRUCTURED, "hole hole bad: a chunk brings bytes that have come already");
	reset();
	put_data(1, 0, 4096, 'a');
	expect(STRUCTURED, missing);
	reset();
	put_data(1, 4096, 4096, 'a');
	expect(STRUCTURED, missing);
	reset();
	put_chunk(1, 0, READ_COOKIE, 0);
	expect(STRUCTURED, missing);
	reset();
	put_data(0, 0, 1024, 'a');
	put_data(1, 2048, 6144, 'b');
	expect(STRUCTURED, missing);
}

static void errors_come_to_an_end(void **state)
{
	(void)state;
	reset();
	for (int i = 0; i < 65; i++)
		put_error(0, WRITE_COOKIE, 5, "");
	play(&c, STRUCTURED, 1000);
	assert_non_null(strstr(c.said, "bad: error chunks without end"));
	assert_null(strstr(c.said, "write="));
}

/* A stream that stops anywhere ends no request that it should not. */
static void cut_anywhere(void **state)
{
	size_t whole;

	(void)state;
	reset();
	put_data(0, 0, 4096, 'a');
	put_hole(1, 4096, 4096);
	whole = s.len;
	for (s.len = 0; s.len < whole; s.len++) {
		play(&c, STRUCTURED, 4096);
		assert_string_equal(c.said, "");
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(simple_replies),
		cmocka_unit_test(one_chunk_is_a_read),
		cmocka_unit_test(chunks_in_any_order),
		cmocka_unit_test(many_chunks_in_order),
		cmocka_unit_test(scattered_chunks),
		cmocka_unit_test(errors_carry_text),
		cmocka_unit_test(an_unknown_error_is_an_error),
		cmocka_unit_test(what_was_not_asked_for),
		cmocka_unit_test(lengths_that_lie),
		cmocka_unit_test(places_that_lie),
		cmocka_unit_test(each_byte_exactly_once),
		cmocka_unit_test(errors_come_to_an_end),
		cmocka_unit_test(cut_anywhere),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
