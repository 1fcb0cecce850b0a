/* SPDX-License-Identifier: GPL-2.0 */
/*
 * bytes.h - a growing string of bytes that tests write messages into, and the
 * NBD messages a server sends. Everything is written out by hand here rather
 * than with the functions of nbd-wire.h: a test must not share the mistakes
 * of what it tests.
 */
#ifndef TEST_BYTES_H
#define TEST_BYTES_H

#include <assert.h>
#include <stdint.h>
#include <string.h>

struct bytes {
	size_t len;
	uint8_t b[1 << 18];
};

static inline void put(struct bytes *s, const void *p, size_t len)
{
	assert(len <= sizeof(s->b) - s->len);
	memcpy(s->b + s->len, p, len);
	s->len += len;
}

static inline void put_be(struct bytes *s, uint64_t v, int width)
{
	while (width--) {
		uint8_t c = (uint8_t)(v >> (8 * width));

		put(s, &c, 1);
	}
}

static inline void put_str(struct bytes *s, const char *text)
{
	put(s, text, strlen(text));
}

static inline void put_fill(struct bytes *s, uint8_t c, size_t count)
{
	assert(count <= sizeof(s->b) - s->len);
	memset(s->b + s->len, c, count);
	s->len += count;
}

static inline uint64_t get_be(const uint8_t *p, int width)
{
	uint64_t v = 0;

	while (width--)
		v = v << 8 | *p++;
	return v;
}

static inline void put_greeting(struct bytes *s, uint16_t flags)
{
	put_str(s, "NBDMAGIC");
	put_str(s, "IHAVEOPT");
	put_be(s, flags, 2);
}

static inline void put_reply(struct bytes *s, uint32_t option, uint32_t type,
			     const void *data, size_t len)
{
	put_be(s, 0x0003e889045565a9ULL, 8);
	put_be(s, option, 4);
	put_be(s, type, 4);
	put_be(s, len, 4);
	put(s, data, len);
}

static inline void put_info_export(struct bytes *s, uint32_t option,
				   uint64_t size, uint16_t flags)
{
	struct bytes d = { .len = 0 };

	put_be(&d, 0, 2);
	put_be(&d, size, 8);
	put_be(&d, flags, 2);
	put_reply(s, option, 3, d.b, d.len);
}

static inline void put_info_block(struct bytes *s, uint32_t option,
				  uint32_t min, uint32_t pref, uint32_t max)
{
	struct bytes d = { .len = 0 };

	put_be(&d, 3, 2);
	put_be(&d, min, 4);
	put_be(&d, pref, 4);
	put_be(&d, max, 4);
	put_reply(s, option, 3, d.b, d.len);
}

/* One NBD_REP_SERVER that says its name is @claimed bytes long. */
static inline void put_server(struct bytes *s, uint32_t claimed,
			      const char *name, const char *description)
{
	struct bytes d = { .len = 0 };

	put_be(&d, claimed, 4);
	put_str(&d, name);
	put_str(&d, description);
	put_reply(s, 3, 2, d.b, d.len);
}

#endif /* TEST_BYTES_H */
