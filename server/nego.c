// SPDX-License-Identifier: GPL-2.0
/*
 * nego.c - the server's half of NBD negotiation: greeting, client flags, then
 * options one by one until one of them leads to transmission.
 *
 * The steps are FLAGS -> OPTION -> DATA -> OPTION ..., or SKIP in place of DATA
 * when an option's data is too long to be looked at. A client that breaks the
 * framing (a wrong magic, unknown client flags) is hung up on, as the spec
 * asks, since nothing it sends later can be understood; a client that sends a
 * bad option inside good framing gets an error reply and may go on.
 *
 * What takes time (other connections that have to end first, an export that
 * has to be opened) leaves the machine in WAIT, and the option is answered
 * all over when it goes on: nothing is said of it before.
 *
 * TLS would be a further case of answer(); unknown options are answered
 * NBD_REP_ERR_UNSUP there.
 */
#include "nego.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "log.h"

enum { STEP_FLAGS, STEP_OPTION, STEP_DATA, STEP_SKIP, STEP_WAIT };

/* Context ids, of our choice. No BLOCK_STATUS is ever given of the second. */
#define ID_SESSION	2U

#define CLIENT_FLAGS	(NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES)

static void broken(struct nego *n, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

static void broken(struct nego *n, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(n->why, sizeof(n->why), fmt, ap);
	va_end(ap);
	n->state = NEGO_BROKEN;
}

/* Room for @len more bytes to send, or NULL. */
static u8 *tx_room(struct nego *n, size_t len)
{
	if (n->tx_cap - n->tx_len < len) {
		size_t cap = n->tx_cap * 2 + len;
		u8 *tx = realloc(n->tx, cap);

		if (!tx) {
			broken(n, "out of memory");
			return NULL;
		}
		n->tx = tx;
		n->tx_cap = cap;
	}
	n->tx_len += len;
	return n->tx + n->tx_len - len;
}

/* The header of a reply, and room for its @len bytes of data; NULL: broken. */
static u8 *reply(struct nego *n, u32 type, size_t len)
{
	const struct nbd_option_reply r = {
		.option = n->option.option,
		.type = type,
		.length = (u32)len,
	};
	u8 *p = tx_room(n, NBD_OPTION_REPLY_SIZE + len);

	if (!p)
		return NULL;
	nbd_option_reply_put(p, &r);
	return p + NBD_OPTION_REPLY_SIZE;
}

static void ack(struct nego *n)
{
	if (reply(n, NBD_REP_ACK, 0))
		n->ops->note(n->ctx, n->option.option, NBD_REP_ACK, "");
}

static void refuse(struct nego *n, u32 type, const char *text)
{
	size_t len = strlen(text);
	u8 *p = reply(n, type, len);

	if (p)
		memcpy(p, text, len);
	n->ops->note(n->ctx, n->option.option, type, text);
}

/* What find() or session() did not give: refuse the option, or wait. */
static void refuse_or_wait(struct nego *n, u32 error, const char *text)
{
	if (error == NEGO_LATER)
		n->step = STEP_WAIT;
	else
		refuse(n, error, text);
}

static void answer_list(struct nego *n)
{
	const struct nego_export *e;
	size_t i;

	if (n->option.length) {
		refuse(n, NBD_REP_ERR_INVALID, "NBD_OPT_LIST takes no data");
		return;
	}
	if (!n->may_list) {
		refuse(n, NBD_REP_ERR_POLICY,
		       "this server does not list its exports (allowlist = false)");
		return;
	}
	for (i = 0; (e = n->ops->list(n->ctx, &i)); i++) {
		size_t name = strlen(e->name);
		size_t text = e->description ? strlen(e->description) : 0;
		u8 *p = reply(n, NBD_REP_SERVER, 4 + name + text);

		if (!p)
			return;
		nbd_put32(p, (u32)name);
		memcpy(p + 4, e->name, name);
		if (text)
			memcpy(p + 4 + name, e->description, text);
	}
	if (i == NEGO_LIST_LATER)
		n->step = STEP_WAIT;
	else
		ack(n);
}

static void info_string(struct nego *n, u16 type, const char *s)
{
	size_t len = strlen(s);
	u8 *p = reply(n, NBD_REP_INFO, 2 + len);

	if (!p)
		return;
	nbd_put16(p, type);
	memcpy(p + 2, s, len);
}

/* Spec: DF is for those who have structured replies. */
static u16 export_flags(const struct nego *n, const struct nego_export *e)
{
	return n->headers == NEGO_SIMPLE ? e->flags :
	       (u16)(e->flags | NBD_FLAG_SEND_DF);
}

static void info_export(struct nego *n, const struct nego_export *e)
{
	u8 *p = reply(n, NBD_REP_INFO, NBD_INFO_EXPORT_SIZE);

	if (!p)
		return;
	nbd_put16(p, NBD_INFO_EXPORT);
	nbd_put64(p + 2, e->size);
	nbd_put16(p + 10, export_flags(n, e));
}

static void info_block_size(struct nego *n, const struct nego_export *e)
{
	u8 *p = reply(n, NBD_REP_INFO, NBD_INFO_BLOCK_SIZE_SIZE);

	if (!p)
		return;
	nbd_put16(p, NBD_INFO_BLOCK_SIZE);
	nbd_put32(p + 2, e->min_block);
	nbd_put32(p + 6, e->pref_block);
	nbd_put32(p + 10, e->max_payload);
}

/*
 * NBD_OPT_INFO and NBD_OPT_GO: name length, name, number of information
 * requests, the requests. The lengths are the client's word (CVE-2022-26495,
 * CVE-2022-26496): each is held against what really came before it is used.
 */
static void answer_go(struct nego *n)
{
	const bool go = n->option.option == NBD_OPT_GO;
	u32 len = n->option.length, name_len, n_info, i;
	const struct nego_export *e;
	bool asked[NBD_INFO_BLOCK_SIZE + 1] = { false };
	u32 error = NBD_REP_ERR_UNKNOWN;
	char text[NEGO_TEXT];
	const u8 *p = n->buf;

	if (len < 6) {
		refuse(n, NBD_REP_ERR_INVALID, "shorter than its fixed part");
		return;
	}
	name_len = nbd_get32(p);
	if (name_len > len - 6) {
		refuse(n, NBD_REP_ERR_INVALID,
		       "the export name is longer than the option");
		return;
	}
	if (name_len > NBD_MAX_STRING) {
		refuse(n, NBD_REP_ERR_INVALID,
		       "the export name is longer than 4096 bytes");
		return;
	}
	n_info = nbd_get16(p + 4 + name_len);
	if (n_info * 2 != len - 6 - name_len) {
		refuse(n, NBD_REP_ERR_INVALID,
		       "the number of information requests does not fit the option's length");
		return;
	}
	for (i = 0; i < n_info; i++) {
		u16 type = nbd_get16(p + 6 + name_len + 2 * i);

		/* Spec: unknown requests are ignored. */
		if (type < sizeof(asked) / sizeof(asked[0]))
			asked[type] = true;
	}
	text[0] = '\0';
	e = n->ops->find(n->ctx, (const char *)p + 4, name_len, go, &error,
			 text);
	if (!e) {
		refuse_or_wait(n, error, text);
		return;
	}
	/* From here on GO cannot fail: what was claimed belongs to ->export. */
	if (go) {
		n->export = e;
		n->allocation = n->meta_allocation &&
				n->meta_len == name_len &&
				!memcmp(n->meta_name, p + 4, name_len);
	}
	info_export(n, e);
	if (asked[NBD_INFO_NAME])
		info_string(n, NBD_INFO_NAME, e->name);
	if (asked[NBD_INFO_DESCRIPTION] && e->description)
		info_string(n, NBD_INFO_DESCRIPTION, e->description);
	if (asked[NBD_INFO_BLOCK_SIZE])
		info_block_size(n, e);
	ack(n);
	if (go && n->state == NEGO_MORE)
		n->state = NEGO_TRANSMIT;
}

/* The option without error replies: the answer is the export or a hang-up. */
static void answer_export_name(struct nego *n)
{
	u32 error = NBD_REP_ERR_UNKNOWN;
	const struct nego_export *e;
	char text[NEGO_TEXT];
	size_t zeroes = 0;
	u8 *p;

	if (n->option.length > NBD_MAX_STRING) {
		broken(n, "NBD_OPT_EXPORT_NAME: a name longer than 4096 bytes");
		return;
	}
	text[0] = '\0';
	e = n->ops->find(n->ctx, (const char *)n->buf, n->option.length, true,
			 &error, text);
	if (!e && error == NEGO_LATER) {
		n->step = STEP_WAIT;
		return;
	}
	if (!e) {
		broken(n, "NBD_OPT_EXPORT_NAME: %s", text);
		return;
	}
	n->export = e;
	n->allocation = n->meta_allocation && n->meta_len == n->option.length &&
			!memcmp(n->meta_name, n->buf, n->meta_len);
	if (!(n->client_flags & NBD_FLAG_C_NO_ZEROES))
		zeroes = NBD_EXPORT_NAME_ZEROES;
	p = tx_room(n, NBD_EXPORT_NAME_REPLY_SIZE + zeroes);
	if (!p)
		return;
	nbd_put64(p, e->size);
	nbd_put16(p + 8, export_flags(n, e));
	memset(p + NBD_EXPORT_NAME_REPLY_SIZE, 0, zeroes);
	n->ops->note(n->ctx, NBD_OPT_EXPORT_NAME, NBD_REP_ACK, "");
	n->state = NEGO_TRANSMIT;
}

static void answer_headers(struct nego *n, enum nego_headers headers)
{
	if (n->option.length) {
		refuse(n, NBD_REP_ERR_INVALID, "this option takes no data");
		return;
	}
	if (n->headers > headers) {
		refuse(n, NBD_REP_ERR_EXT_HEADER_REQD,
		       "extended headers were negotiated already");
		return;
	}
	if (n->headers == headers) {
		refuse(n, NBD_REP_ERR_INVALID, "that was negotiated already");
		return;
	}
	n->headers = headers;
	ack(n);
}

static void meta_context(struct nego *n, u32 id, const char *name)
{
	size_t len = strlen(name);
	u8 *p = reply(n, NBD_REP_META_CONTEXT, 4 + len);

	if (!p)
		return;
	nbd_put32(p, id);
	memcpy(p + 4, name, len);
}

static bool is(const u8 *p, u32 len, const char *text)
{
	return len == strlen(text) && !memcmp(p, text, len);
}

/* The queries of a metadata option; false: refused. */
struct meta_queries {
	bool allocation, session;
	struct nbd_session id;
};

/*
 * @p: number of queries, then length and text of each, in @len bytes; lengths
 * are the client's word as above.
 */
static bool get_queries(struct nego *n, const u8 *p, u32 len, bool set,
			struct meta_queries *q)
{
	u32 count = nbd_get32(p), query;

	memset(q, 0, sizeof(*q));
	/* Spec: no queries ask LIST for every context, SET for none. */
	q->allocation = !set && !count;
	p += 4;
	len -= 4;
	while (count--) {
		if (len < 4 || nbd_get32(p) > len - 4) {
			refuse(n, NBD_REP_ERR_INVALID,
			       "a query is longer than the option");
			return false;
		}
		query = nbd_get32(p);
		p += 4;
		if (is(p, query, NBD_META_ALLOCATION) ||
		    (!set && is(p, query, "base:")))
			q->allocation = true;
		else if (set && !q->session)
			q->session = nbd_session_get((const char *)p, query,
						     &q->id);
		p += query;
		len -= 4 + query;
	}
	if (len) {
		refuse(n, NBD_REP_ERR_INVALID,
		       "more data than the queries it announced");
		return false;
	}
	return true;
}

/*
 * NBD_OPT_LIST_META_CONTEXT and NBD_OPT_SET_META_CONTEXT: name length, name,
 * number of queries, and each with its length.
 */
static void answer_meta(struct nego *n)
{
	const bool set = n->option.option == NBD_OPT_SET_META_CONTEXT;
	u32 len = n->option.length, name_len, error = NBD_REP_ERR_UNKNOWN;
	char text[NEGO_TEXT], name[NBD_SESSION_NAME];
	const struct nego_export *e;
	struct nbd_identity server;
	struct meta_queries q;
	const u8 *p = n->buf;

	/* Spec: SET replaces what was selected before, also when it fails. */
	if (set)
		n->meta_allocation = false;
	if (n->headers == NEGO_SIMPLE) {
		refuse(n, NBD_REP_ERR_INVALID,
		       "metadata contexts need structured replies: send NBD_OPT_STRUCTURED_REPLY first");
		return;
	}
	if (len < 8) {
		refuse(n, NBD_REP_ERR_INVALID, "shorter than its fixed part");
		return;
	}
	name_len = nbd_get32(p);
	if (name_len > len - 8) {
		refuse(n, NBD_REP_ERR_INVALID,
		       "the export name is longer than the option");
		return;
	}
	if (name_len > NBD_MAX_STRING) {
		refuse(n, NBD_REP_ERR_INVALID,
		       "the export name is longer than 4096 bytes");
		return;
	}
	if (!get_queries(n, p + 4 + name_len, len - 4 - name_len, set, &q))
		return;
	text[0] = '\0';
	e = n->ops->find(n->ctx, (const char *)p + 4, name_len, false, &error,
			 text);
	if (!e ||
	    (q.session && !n->ops->session(n->ctx, e, &q.id, &server, &error,
					   text))) {
		refuse_or_wait(n, error, text);
		return;
	}
	if (q.allocation)
		meta_context(n, set ? NEGO_ID_ALLOCATION : 0,
			     NBD_META_ALLOCATION);
	if (q.session && nbd_identity_put(name, &server))
		meta_context(n, ID_SESSION, name);
	if (set) {
		n->meta_allocation = q.allocation;
		n->meta_len = name_len;
		memcpy(n->meta_name, p + 4, name_len);
	}
	ack(n);
}

/* The option and all of its data are here. */
static void answer(struct nego *n)
{
	char text[64];

	/*
	 * A client that did not say FIXED_NEWSTYLE understands one answer
	 * only (spec: "it MUST NOT send any option other than
	 * NBD_OPT_EXPORT_NAME").
	 */
	if (!(n->client_flags & NBD_FLAG_C_FIXED_NEWSTYLE) &&
	    n->option.option != NBD_OPT_EXPORT_NAME) {
		broken(n, "%s from a client that did not set NBD_FLAG_C_FIXED_NEWSTYLE",
		       nbd_option_name(n->option.option));
		return;
	}
	if (n->stopping && n->option.option == NBD_OPT_EXPORT_NAME) {
		broken(n, "the server stops");
		return;
	}
	if (n->stopping && n->option.option != NBD_OPT_ABORT) {
		refuse(n, NBD_REP_ERR_SHUTDOWN, "the server is shutting down");
		return;
	}
	switch (n->option.option) {
	case NBD_OPT_EXPORT_NAME:
		answer_export_name(n);
		break;
	case NBD_OPT_ABORT:
		/* Spec: data it may carry is to be ignored. */
		ack(n);
		if (n->state == NEGO_MORE)
			n->state = NEGO_LEFT;
		break;
	case NBD_OPT_LIST:
		answer_list(n);
		break;
	case NBD_OPT_INFO:
	case NBD_OPT_GO:
		answer_go(n);
		break;
	case NBD_OPT_STRUCTURED_REPLY:
		answer_headers(n, NEGO_STRUCTURED);
		break;
	case NBD_OPT_EXTENDED_HEADERS:
		answer_headers(n, NEGO_EXTENDED);
		break;
	case NBD_OPT_LIST_META_CONTEXT:
	case NBD_OPT_SET_META_CONTEXT:
		answer_meta(n);
		break;
	default:
		snprintf(text, sizeof(text), "option %u is not supported",
			 n->option.option);
		refuse(n, NBD_REP_ERR_UNSUP, text);
	}
}

void nego_init(struct nego *n, const struct nego_ops *ops, void *ctx,
	       bool may_list)
{
	u8 *p;

	memset(n, 0, sizeof(*n));
	n->ops = ops;
	n->ctx = ctx;
	n->may_list = may_list;
	p = tx_room(n, NBD_GREETING_SIZE);
	if (!p)
		return;
	nbd_put64(p, NBD_MAGIC);
	nbd_put64(p + 8, NBD_OPTS_MAGIC);
	nbd_put16(p + 16, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
}

void nego_free(struct nego *n)
{
	free(n->tx);
	n->tx = NULL;
	n->tx_len = n->tx_cap = 0;
}

static void got_flags(struct nego *n)
{
	n->client_flags = nbd_get32(n->buf);
	if (n->client_flags & ~CLIENT_FLAGS) {
		/* Spec: "MUST terminate the session". */
		broken(n, "unknown client flags 0x%08x", n->client_flags);
		return;
	}
	n->step = STEP_OPTION;
}

static void got_option(struct nego *n)
{
	if (!nbd_option_get(n->buf, &n->option)) {
		broken(n, "an option without its magic: not a client of this protocol, or out of step");
		return;
	}
	if (++n->n_options > NEGO_MAX_OPTIONS) {
		broken(n, "more than %d options", NEGO_MAX_OPTIONS);
		return;
	}
	if (n->option.length > NEGO_MAX_SKIP) {
		broken(n, "%s with %u bytes of data",
		       nbd_option_name(n->option.option), n->option.length);
		return;
	}
	if (n->option.length > NEGO_MAX_DATA) {
		n->skip = n->option.length;
		n->step = STEP_SKIP;
		return;
	}
	n->step = STEP_DATA;
}

static void got_data(struct nego *n)
{
	n->step = STEP_OPTION;
	answer(n);
}

static void skipped(struct nego *n)
{
	n->step = STEP_OPTION;
	if (n->option.option == NBD_OPT_EXPORT_NAME ||
	    !(n->client_flags & NBD_FLAG_C_FIXED_NEWSTYLE))
		broken(n, "%s with %u bytes of data",
		       nbd_option_name(n->option.option), n->option.length);
	else
		refuse(n, NBD_REP_ERR_TOO_BIG, "too much option data");
}

/* What the current step waits for, in bytes. */
static u32 step_size(const struct nego *n)
{
	switch (n->step) {
	case STEP_FLAGS:
		return NBD_CLIENT_FLAGS_SIZE;
	case STEP_OPTION:
		return NBD_OPTION_SIZE;
	default:
		return n->option.length;
	}
}

/* Take what is needed of it into ->buf; true when the step has it all. */
static bool gather(struct nego *n, const u8 **data, size_t *len)
{
	size_t want = step_size(n) - n->have;

	if (want > *len)
		want = *len;
	memcpy(n->buf + n->have, *data, want);
	n->have += (u32)want;
	*data += want;
	*len -= want;
	if (n->have < step_size(n))
		return false;
	n->have = 0;
	return true;
}

static bool skip(struct nego *n, const u8 **data, size_t *len)
{
	size_t want = n->skip < *len ? n->skip : *len;

	n->skip -= (u32)want;
	*data += want;
	*len -= want;
	return !n->skip;
}

size_t nego_feed(struct nego *n, const u8 *data, size_t len)
{
	const u8 *start = data;

	while (n->state == NEGO_MORE && !n->tx_len && n->step != STEP_WAIT) {
		/* A step of no bytes (an option without data) needs no input. */
		if (!len && step_size(n))
			break;
		if (n->step == STEP_SKIP) {
			if (skip(n, &data, &len))
				skipped(n);
			continue;
		}
		if (!gather(n, &data, &len))
			continue;
		switch (n->step) {
		case STEP_FLAGS:
			got_flags(n);
			break;
		case STEP_OPTION:
			got_option(n);
			break;
		case STEP_DATA:
			got_data(n);
			break;
		}
	}
	return (size_t)(data - start);
}

bool nego_waits(const struct nego *n)
{
	return n->state == NEGO_MORE && n->step == STEP_WAIT;
}

void nego_resume(struct nego *n)
{
	if (!nego_waits(n))
		return;
	/* ->option and ->buf are as they were. */
	n->step = STEP_OPTION;
	answer(n);
}

void nego_stop(struct nego *n)
{
	n->stopping = true;
	nego_resume(n);
}

const u8 *nego_tx(const struct nego *n, size_t *len)
{
	*len = n->tx_len;
	return n->tx;
}

void nego_tx_done(struct nego *n)
{
	n->tx_len = 0;
}
