// SPDX-License-Identifier: GPL-2.0
/*
 * nego.c - fuzz target: the server's negotiation against arbitrary clients, cut
 * at arbitrary places, then the request rules against what follows.
 *
 * Input: eight bytes that decide how the rest is cut, then the client's bytes.
 * Held against it: every reply is well formed and about an option the client
 * sent; what was claimed is what ->export says; and a request that is found
 * right lies inside its export.
 */
#include <stdint.h>
#include <stdlib.h>

#include "nego.h"
#include "request.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct nego_export exports[] = {
	{ "", NULL, 1 << 20, NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH |
	  NBD_FLAG_SEND_FUA | NBD_FLAG_SEND_TRIM | NBD_FLAG_SEND_WRITE_ZEROES |
	  NBD_FLAG_SEND_FAST_ZERO, 1, 4096, REQUEST_MAX_PAYLOAD },
	{ "ro", "read-only", NBD_MAX_EXPORT_SIZE,
	  NBD_FLAG_HAS_FLAGS | NBD_FLAG_READ_ONLY, 1, 4096,
	  REQUEST_MAX_PAYLOAD },
};

static const struct nego_export *claimed;

static void check(bool ok)
{
	if (!ok)
		abort();
}

static const struct nego_export *find(void *ctx, const char *name, size_t len,
				      bool claim, u32 *error, char *text)
{
	size_t i;

	(void)ctx;
	check(len <= NBD_MAX_STRING);
	for (i = 0; i < 2; i++) {
		if (strlen(exports[i].name) != len ||
		    memcmp(exports[i].name, name, len))
			continue;
		if (claim) {
			check(!claimed);
			claimed = &exports[i];
		}
		return &exports[i];
	}
	*error = NBD_REP_ERR_UNKNOWN;
	strcpy(text, "unknown");
	return NULL;
}

/* Takes its time every other time. */
static unsigned int waits;

static const struct nego_export *list(void *ctx, size_t *index)
{
	(void)ctx;
	if (!*index && waits++ & 1) {
		*index = NEGO_LIST_LATER;
		return NULL;
	}
	return *index < 2 ? &exports[*index] : NULL;
}

static void note(void *ctx, u32 option, u32 reply, const char *text)
{
	(void)ctx;
	(void)option;
	check(reply == NBD_REP_ACK || reply & NBD_REP_FLAG_ERROR);
	check(strlen(text) < NEGO_TEXT);
}

static bool session(void *ctx, const struct nego_export *e,
		    const struct nbd_session *s, struct nbd_identity *id,
		    u32 *error, char *text)
{
	(void)ctx;
	check(e == &exports[0] || e == &exports[1]);
	check(nbd_session_word(s->station) && nbd_session_word(s->boot));
	if (waits++ & 1) {
		*error = NEGO_LATER;
		return false;
	}
	if (s->attach == 7) {
		*error = NBD_REP_ERR_POLICY;
		strcpy(text, "old");
		return false;
	}
	memset(id, 0, sizeof(*id));
	strcpy(id->boot, s->boot);
	strcpy(id->host, "-");
	strcpy(id->image, s->station);
	return true;
}

static const struct nego_ops ops = { find, list, session, note };

/* What the server sent for one option, or the greeting, or EXPORT_NAME. */
static void check_tx(const struct nego *n, const u8 *p, size_t len)
{
	struct nbd_option_reply r;
	bool last = false;

	if (n->state == NEGO_TRANSMIT && nbd_get64(p) != NBD_REP_MAGIC) {
		check(len == NBD_EXPORT_NAME_REPLY_SIZE ||
		      len == NBD_EXPORT_NAME_REPLY_SIZE +
			     NBD_EXPORT_NAME_ZEROES);
		check(nbd_get64(p) == n->export->size);
		return;
	}
	while (len) {
		check(!last && len >= NBD_OPTION_REPLY_SIZE);
		check(nbd_option_reply_get(p, &r));
		check(r.length <= len - NBD_OPTION_REPLY_SIZE);
		check(r.length <= 4 + 2 * NBD_MAX_STRING);
		last = r.type == NBD_REP_ACK || r.type & NBD_REP_FLAG_ERROR;
		p += NBD_OPTION_REPLY_SIZE + r.length;
		len -= NBD_OPTION_REPLY_SIZE + r.length;
	}
	check(last);
}

static void check_requests(const struct nego *n, const uint8_t *data,
			   size_t size)
{
	const struct nego_export *e = n->export;

	for (; size >= NBD_EXTENDED_REQUEST_SIZE; data++, size--) {
		struct nbd_request r;
		const char *why = NULL;
		u32 error;

		if (n->headers == NEGO_EXTENDED)
			(void)nbd_extended_request_get(data, &r);
		else
			(void)nbd_request_get(data, &r);
		/* Small numbers are where the limits are. */
		if (data[0] & 1)
			r.type &= 7;
		if (data[0] & 2)
			r.offset &= (2 << 20) - 1;
		if (data[0] & 4)
			r.flags &= 0x3f;
		if (data[0] & 8)
			r.length &= 0xfffff;
		error = request_check(&r, e, n->headers, n->allocation, &why);
		check(!error == !why);
		if (error || r.type == NBD_CMD_FLUSH)
			continue;
		check(r.length && r.offset < e->size);
		check(r.offset <= e->size - r.length && r.length <= e->size);
		check(r.type != NBD_CMD_DISC && r.type <= NBD_CMD_BLOCK_STATUS);
		check(r.type != NBD_CMD_BLOCK_STATUS || n->allocation);
		if (r.type == NBD_CMD_READ || r.type == NBD_CMD_WRITE)
			check(r.length <= e->max_payload);
		if (r.type != NBD_CMD_WRITE)
			check(!request_payload(&r, n->headers));
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct nego n;
	uint32_t cut;
	const u8 *tx;
	size_t len;

	if (size < 8)
		return 0;
	cut = nbd_get32(data);
	data += 8;
	size -= 8;
	claimed = NULL;
	nego_init(&n, &ops, NULL, cut & 1);
	tx = nego_tx(&n, &len);
	check(len == NBD_GREETING_SIZE);
	nego_tx_done(&n);
	while (n.state == NEGO_MORE) {
		nego_resume(&n);
		size_t part = size, used;
		u8 *exact;

		if (cut) {
			cut = cut * 1103515245 + 12345;
			part = size ? 1 + (cut >> 16) % size : 0;
		}
		/* A block of its own: one byte too many is seen. */
		exact = malloc(part ? part : 1);
		memcpy(exact, data, part);
		used = nego_feed(&n, exact, part);
		free(exact);
		check(used <= part);
		data += used;
		size -= used;
		tx = nego_tx(&n, &len);
		if (len)
			check_tx(&n, tx, len);
		nego_tx_done(&n);
		if (!used && !len && !nego_waits(&n))
			break;
	}
	check(n.export == claimed || n.state == NEGO_BROKEN);
	if (n.state == NEGO_TRANSMIT) {
		check(n.export != NULL);
		check(n.headers != NEGO_SIMPLE || !n.allocation);
		check_requests(&n, data, size);
	}
	if (n.state == NEGO_BROKEN)
		check(*n.why && strlen(n.why) < sizeof(n.why));
	nego_free(&n);
	return 0;
}
