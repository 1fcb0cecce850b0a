// SPDX-License-Identifier: GPL-2.0
/*
 * nego.c - fuzz target: client negotiation against arbitrary server bytes cut
 * at arbitrary places.
 *
 * Input: one byte of choices (bit 0 the goal, bits 1-2 the length of the
 * name, bit 3 how bytes are cut, bit 4 whether a session is named, bit 5 whether
 * structured replies are asked for), then what the server sends.
 */
#include <stdint.h>
#include <stdlib.h>

#include "nbd-nego.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool ok)
{
	if (!ok)
		abort();
}

static void check_string(const char *s, size_t max)
{
	size_t i;

	for (i = 0; s[i]; i++) {
		check(i < max);
		check((uint8_t)s[i] >= 0x20 && s[i] != 0x7f);
		/* U+0080 to U+009F would steer a terminal. */
		check((uint8_t)s[i] != 0xc2 || (uint8_t)s[i + 1] >= 0xa0 ||
		      !s[i + 1]);
	}
}

static void check_export(const struct nbd_export *e)
{
	check(e->size <= NBD_MAX_EXPORT_SIZE);
	check(e->flags & NBD_FLAG_HAS_FLAGS);
	check(e->min_block && e->min_block <= NBD_MAX_MIN_BLOCK);
	check(!(e->min_block & (e->min_block - 1)));
	check(!(e->pref_block & (e->pref_block - 1)));
	check(e->pref_block >= e->min_block);
	check(e->max_payload >= e->min_block);
	check(e->max_payload == 0xffffffff ||
	      e->max_payload % e->min_block == 0);
}

static void check_explanation(const struct nbd_nego *n, size_t size)
{
	char *buf = malloc(size);

	check(nbd_nego_explain(n, buf, size) == buf);
	check_string(buf, size - 1);
	free(buf);
}

/* How many of @len bytes cross the wire now; @cut changes at each call. */
static size_t cut_at(size_t len, uint32_t *cut)
{
	if (!*cut)
		return len;
	*cut = *cut * 1103515245 + 12345;
	return 1 + (*cut >> 16) % len;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const size_t name_lens[] = { 0, 4, NBD_MAX_STRING,
					    NBD_MAX_STRING + 1 };
	static const struct nbd_session session = { "pc-7", "b00t", 3, 12 };
	static struct nbd_nego n;
	char *name;
	size_t pos = 1, len, name_len;
	unsigned long steps = 0;
	uint32_t cut;

	if (!size)
		return 0;
	cut = data[0] & 8 ? data[0] | 1 : 0;
	name_len = name_lens[data[0] >> 1 & 3];
	name = malloc(name_len + 1);
	memset(name, 'n', name_len);
	/* What an earlier negotiation left behind must not matter. */
	memset(&n, 0xa5, sizeof(n));
	nbd_nego_init(&n, data[0] & 1 ? NBD_NEGO_LIST : NBD_NEGO_GO, name,
		      name_len);
	free(name);
	if (data[0] & 16)
		check(nbd_nego_ask_session(&n, &session));
	if (data[0] & 32)
		nbd_nego_ask_structured(&n);

	for (;;) {
		enum nbd_nego_want want = nbd_nego_next(&n);

		/* Each step moves a byte, an item, or ends. */
		check(steps++ < 4 * size + 4 * NBD_MAX_STRING + 100);
		if (want == NBD_NEGO_SEND) {
			const u8 *p = nbd_nego_tx(&n, &len);
			volatile u8 touch;

			check(len >= 1);
			touch = p[0] ^ p[len - 1];
			(void)touch;
			nbd_nego_tx_done(&n, cut_at(len, &cut));
		} else if (want == NBD_NEGO_RECV) {
			u8 *p = nbd_nego_rx(&n, &len);

			check(len >= 1);
			memset(p, 0xee, len);
			len = cut_at(len, &cut);
			if (len > size - pos)
				len = size - pos;
			if (!len) {
				nbd_nego_eof(&n);
				continue;
			}
			memcpy(p, data + pos, len);
			pos += len;
			nbd_nego_rx_done(&n, len);
		} else if (want == NBD_NEGO_ITEM) {
			check_string(n.item.name, NBD_NEGO_REPLY);
			check_string(n.item.description, NBD_NEGO_REPLY);
			nbd_nego_item_done(&n);
		} else {
			break;
		}
	}
	check_string(n.text, NBD_NEGO_TEXT - 1);
	if (nbd_nego_next(&n) == NBD_NEGO_DONE) {
		check(n.error == NBD_NEGO_OK);
		check(!n.structured || data[0] & (16 | 32));
		if (n.identified) {
			check(n.structured && data[0] & 16);
			check(nbd_session_word(n.identity.boot));
			check(nbd_session_word(n.identity.host));
			check(nbd_session_word(n.identity.image));
		}
		if (!(data[0] & 1))
			check_export(&n.export);
	} else {
		check(n.error != NBD_NEGO_OK);
		check(n.error != NBD_NEGO_GARBLED || n.garbled);
	}
	check_explanation(&n, 1 + data[0]);
	check_explanation(&n, 16384);
	return 0;
}
