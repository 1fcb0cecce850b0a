// SPDX-License-Identifier: GPL-2.0
/*
 * reply.c - fuzz target: reply parsing against arbitrary server bytes cut at
 * arbitrary places.
 *
 * Input: one byte of choices (bit 0 structured, bit 1 how bytes are cut), then
 * what the server sends. Four requests are in flight, with the cookies 0 to 3:
 * two READs, a WRITE and a FLUSH. What is checked beyond memory: a READ never
 * ends well unless each of its bytes came exactly once.
 */
#include <stdint.h>
#include <stdlib.h>

#include "nbd-reply.h"

#define LEN	700U

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct {
	struct nbd_answer answer;
	bool on;
	uint8_t came[LEN];
} requests[4];

static void check(bool ok)
{
	if (!ok)
		abort();
}

static void start(unsigned int i)
{
	nbd_answer_init(&requests[i].answer, i < 2, i == 3 ? 0 : i * 512ULL,
			i == 3 ? 0 : LEN);
	memset(requests[i].came, 0, LEN);
	requests[i].on = true;
}

static void ended(const struct nbd_reply *r)
{
	unsigned int i = (unsigned int)r->cookie;

	check(r->answer == &requests[i].answer && requests[i].on);
	for (size_t n = 0; i < 2 && !r->answer->error && n < LEN; n++)
		check(requests[i].came[n] == 1);
	requests[i].on = false;
}

static void came(const struct nbd_reply *r, size_t len)
{
	check(r->cookie < 2 && len <= LEN && r->offset <= LEN - len);
	for (size_t n = 0; n < len; n++)
		check(!requests[r->cookie].came[r->offset + n]++);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct nbd_reply *r;
	size_t pos = 1, len;
	unsigned long steps = 0;
	uint32_t cut;
	uint8_t *p;

	if (!size)
		return 0;
	cut = data[0] & 2 ? data[0] | 1 : 0;
	for (unsigned int i = 0; i < 4; i++)
		start(i);
	/* On the heap, so that a step beyond it is seen. */
	r = malloc(sizeof(*r));
	nbd_reply_init(r, data[0] & 1);

	for (;;) {
		size_t left = size - pos;

		check(steps++ < 8 * size + 100);
		if (cut) {
			cut = cut * 1103515245 + 12345;
			len = 1 + (cut >> 16) % 9;
			left = left < len ? left : len;
		}
		switch (nbd_reply_next(r)) {
		case NBD_REPLY_RECV:
			p = nbd_reply_rx(r, &len);
			check(len >= 1);
			len = len < left ? len : left;
			if (!len)
				goto out;
			memcpy(p, data + pos, len);
			pos += len;
			nbd_reply_rx_done(r, len);
			continue;
		case NBD_REPLY_FIND:
			nbd_reply_found(r, r->cookie < 4 &&
					requests[r->cookie].on ?
					&requests[r->cookie].answer : NULL);
			continue;
		case NBD_REPLY_DATA:
			check(r->length >= 1);
			len = r->length < left ? r->length : left;
			if (!len)
				goto out;
			came(r, len);
			pos += len;
			nbd_reply_data_done(r, (u32)len);
			continue;
		case NBD_REPLY_HOLE:
			came(r, r->length);
			nbd_reply_hole_done(r);
			continue;
		case NBD_REPLY_ERROR:
			check(r->error && r->answer->error);
			check(strlen(r->text) < NBD_REPLY_TEXT);
			for (size_t n = 0; r->text[n]; n++)
				check((uint8_t)r->text[n] >= 0x20);
			nbd_reply_error_done(r);
			continue;
		case NBD_REPLY_END:
			ended(r);
			/* Again, as a driver does with a tag. */
			start((unsigned int)r->cookie);
			nbd_reply_end_done(r);
			continue;
		case NBD_REPLY_BAD:
			check(r->bad);
			goto out;
		}
	}
out:
	free(r);
	return 0;
}
