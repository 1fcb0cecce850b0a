// SPDX-License-Identifier: GPL-2.0
/*
 * The client's half of NBD negotiation; see nbd-nego.h.
 *
 * The road, with what is awaited in brackets:
 *
 *	[greeting] -> client flags +
 *	  goal GO:    NBD_OPT_STRUCTURED_REPLY  -> [reply]	if asked for
 *	              NBD_OPT_SET_META_CONTEXT  -> [reply]...	if both are
 *	              NBD_OPT_GO                -> [reply]... -> DONE
 *	                                           ERR_UNSUP
 *	              NBD_OPT_EXPORT_NAME       -> [answer] -> DONE
 *	  goal LIST:  NBD_OPT_LIST -> [reply]... -> ABORT -> DONE
 *
 * A server may refuse the first two with whatever error it likes: then we do
 * without. If the error is one that matters, NBD_OPT_GO will bring it again.
 * NBD_OPT_EXPORT_NAME is used when the server does not know NBD_OPT_GO, or
 * when it does not speak fixed newstyle, where the spec allows nothing else.
 */
#include "nbd-nego.h"

/* Replies to one option: a bound on what a hostile server can make us do. */
#define MAX_GO_REPLIES		64
#define MAX_META_REPLIES	2	/* one context, and the ACK */
#define MAX_LIST_REPLIES	65536
/* Data of one reply; an error's text beyond NBD_NEGO_REPLY is dropped. */
#define MAX_REPLY_DATA		(1U << 20)

enum {
	ST_GREETING,		/* receive the greeting */
	ST_OPTION,		/* send an option (and the client flags) */
	ST_REPLY,		/* receive the head of a reply */
	ST_DATA,		/* receive its data */
	ST_SKIP,		/* drop the rest of its data */
	ST_EXPORT_NAME,		/* receive what NBD_OPT_EXPORT_NAME brings */
	ST_END,
};

static void fail(struct nbd_nego *n, enum nbd_nego_error error)
{
	n->error = error;
	n->want = NBD_NEGO_FAIL;
}

static void garbled(struct nbd_nego *n, const char *what)
{
	n->garbled = what;
	fail(n, NBD_NEGO_GARBLED);
}

static void done(struct nbd_nego *n)
{
	n->state = ST_END;
	n->want = NBD_NEGO_DONE;
}

static void receive(struct nbd_nego *n, int state, u32 len)
{
	n->state = state;
	n->rx_pos = 0;
	n->rx_len = len;
	n->want = NBD_NEGO_RECV;
}

size_t nbd_printable(const char *s, size_t len)
{
	const u8 *p = (const u8 *)s;
	u8 min = 0x80, max = 0xbf;	/* of the second byte */
	size_t n, i;

	if (p[0] < 0x80)
		return p[0] >= 0x20 && p[0] != 0x7f;
	/* RFC 3629, section 4; and U+0080 to U+009F are control characters. */
	if (p[0] >= 0xc2 && p[0] <= 0xdf)
		n = 2;
	else if (p[0] >= 0xe0 && p[0] <= 0xef)
		n = 3;
	else if (p[0] >= 0xf0 && p[0] <= 0xf4)
		n = 4;
	else
		return 0;
	if (p[0] == 0xc2 || p[0] == 0xe0)
		min = 0xa0;
	else if (p[0] == 0xed)
		max = 0x9f;
	else if (p[0] == 0xf0)
		min = 0x90;
	else if (p[0] == 0xf4)
		max = 0x8f;
	if (n > len || p[1] < min || p[1] > max)
		return 0;
	for (i = 2; i < n; i++)
		if ((p[i] & 0xc0) != 0x80)
			return 0;
	return n;
}

void nbd_copy_text(char *dst, size_t size, const u8 *src, size_t len)
{
	size_t i = 0, n;

	while (i < len) {
		n = nbd_printable((const char *)src + i, len - i);
		if (i + (n ? n : 1) > size - 1)
			break;
		if (!n)
			dst[i++] = '?';
		while (n--) {
			dst[i] = (char)src[i];
			i++;
		}
	}
	dst[i] = '\0';
}

/* Append an option to tx; its data is the export name where it has one. */
static void send_option(struct nbd_nego *n, u32 option)
{
	struct nbd_option o = { .option = option };
	u8 *p = n->tx + n->tx_len;
	u8 *data = p + NBD_OPTION_SIZE;

	switch (option) {
	case NBD_OPT_EXPORT_NAME:
		o.length = n->name_len;
		memcpy(data, n->name, n->name_len);
		break;
	case NBD_OPT_GO:
		/* name length, name, number of requests, the requests */
		o.length = 4 + n->name_len + 2 + 2 * 2;
		nbd_put32(data, n->name_len);
		data += 4;
		memcpy(data, n->name, n->name_len);
		data += n->name_len;
		nbd_put16(data, 2);
		nbd_put16(data + 2, NBD_INFO_EXPORT);
		nbd_put16(data + 4, NBD_INFO_BLOCK_SIZE);
		break;
	case NBD_OPT_SET_META_CONTEXT:
		/* name length, name, number of queries, length, query */
		o.length = 4 + n->name_len + 4 + 4 + n->query_len;
		nbd_put32(data, n->name_len);
		data += 4;
		memcpy(data, n->name, n->name_len);
		data += n->name_len;
		nbd_put32(data, 1);
		nbd_put32(data + 4, n->query_len);
		memcpy(data + 8, n->query, n->query_len);
		break;
	}
	nbd_option_put(p, &o);
	n->tx_len += NBD_OPTION_SIZE + o.length;
	n->option = option;
	n->replies = 0;
	n->state = ST_OPTION;
	n->want = NBD_NEGO_SEND;
}

/* An option was answered, or refused in a way that does not end it all. */
static void next_option(struct nbd_nego *n)
{
	n->tx_pos = 0;
	n->tx_len = 0;
	switch (n->option) {
	case NBD_OPT_STRUCTURED_REPLY:
		send_option(n, NBD_NEGO_ASKS && n->structured && n->query_len ?
			       NBD_OPT_SET_META_CONTEXT : NBD_OPT_GO);
		break;
	case NBD_OPT_SET_META_CONTEXT:
		send_option(n, NBD_OPT_GO);
		break;
	case NBD_OPT_GO:
		send_option(n, NBD_OPT_EXPORT_NAME);
		break;
	case NBD_OPT_LIST:
		send_option(n, NBD_OPT_ABORT);
		break;
	}
}

static void greeting(struct nbd_nego *n)
{
	u64 magic = nbd_get64(n->rx + 8);
	u16 flags = nbd_get16(n->rx + 16);
	u32 cflags = 0;

	if (nbd_get64(n->rx) != NBD_MAGIC) {
		fail(n, NBD_NEGO_NOT_NBD);
		return;
	}
	if (magic != NBD_OPTS_MAGIC) {
		fail(n, magic == NBD_OLDSTYLE_MAGIC ? NBD_NEGO_OLDSTYLE :
						      NBD_NEGO_NOT_NBD);
		return;
	}
	if (flags & NBD_FLAG_FIXED_NEWSTYLE)
		cflags |= NBD_FLAG_C_FIXED_NEWSTYLE;
	if (flags & NBD_FLAG_NO_ZEROES) {
		cflags |= NBD_FLAG_C_NO_ZEROES;
		n->no_zeroes = true;
	}
	nbd_put32(n->tx, cflags);
	n->tx_pos = 0;
	n->tx_len = NBD_CLIENT_FLAGS_SIZE;

	if (n->goal == NBD_NEGO_LIST) {
		if (flags & NBD_FLAG_FIXED_NEWSTYLE)
			send_option(n, NBD_OPT_LIST);
		else
			garbled(n, "it cannot list exports (no fixed newstyle)");
	} else {
		send_option(n, !(flags & NBD_FLAG_FIXED_NEWSTYLE) ?
			       NBD_OPT_EXPORT_NAME :
			       NBD_NEGO_ASKS && n->ask_structured ?
			       NBD_OPT_STRUCTURED_REPLY : NBD_OPT_GO);
	}
}

static bool power_of_2(u32 v)
{
	return v && !(v & (v - 1));
}

static bool set_export(struct nbd_nego *n, const u8 *p)
{
	n->export.size = nbd_get64(p);
	n->export.flags = nbd_get16(p + 8);
	if (n->export.size > NBD_MAX_EXPORT_SIZE) {
		garbled(n, "the export is larger than 2^63 bytes");
		return false;
	}
	/* Without this bit, which a server MUST set, the others say nothing. */
	if (!(n->export.flags & NBD_FLAG_HAS_FLAGS))
		n->export.flags = NBD_FLAG_HAS_FLAGS;
	n->have_export = true;
	return true;
}

/* Spec, "Block size constraints". */
static bool set_block_size(struct nbd_nego *n, const u8 *p)
{
	u32 min = nbd_get32(p);
	u32 pref = nbd_get32(p + 4);
	u32 max = nbd_get32(p + 8);

	if (!power_of_2(min) || min > NBD_MAX_MIN_BLOCK) {
		garbled(n, "minimum block size is not a power of two up to 64 KiB");
		return false;
	}
	if (!power_of_2(pref) || pref < min) {
		garbled(n, "preferred block size is not a power of two from the minimum up");
		return false;
	}
	if (max < min) {
		garbled(n, "maximum payload is less than the minimum block size");
		return false;
	}
	if (max != 0xffffffffU)
		max -= max % min;
	n->export.min_block = min;
	n->export.pref_block = pref;
	n->export.max_payload = max;
	return true;
}

static void info_reply(struct nbd_nego *n)
{
	u32 len = n->reply.length;

	if (n->option != NBD_OPT_GO) {
		garbled(n, "NBD_REP_INFO without NBD_OPT_GO");
		return;
	}
	if (len < 2) {
		garbled(n, "NBD_REP_INFO without a type");
		return;
	}
	switch (nbd_get16(n->rx)) {
	case NBD_INFO_EXPORT:
		if (len != NBD_INFO_EXPORT_SIZE) {
			garbled(n, "NBD_INFO_EXPORT of a wrong length");
			return;
		}
		if (!set_export(n, n->rx + 2))
			return;
		break;
	case NBD_INFO_BLOCK_SIZE:
		if (len != NBD_INFO_BLOCK_SIZE_SIZE) {
			garbled(n, "NBD_INFO_BLOCK_SIZE of a wrong length");
			return;
		}
		if (!set_block_size(n, n->rx + 2))
			return;
		break;
	default:
		/* Spec: "the client MUST ignore information it did not ask" */
		break;
	}
	receive(n, ST_REPLY, NBD_OPTION_REPLY_SIZE);
}

/* The one context that we have asked for: the server's identity. */
static void context_reply(struct nbd_nego *n)
{
	if (!NBD_NEGO_ASKS || n->option != NBD_OPT_SET_META_CONTEXT) {
		garbled(n, "NBD_REP_META_CONTEXT without NBD_OPT_SET_META_CONTEXT");
		return;
	}
	/* An id, which only NBD_CMD_BLOCK_STATUS would need, and the name. */
	if (n->identified || n->reply.length < 4 ||
	    !nbd_identity_get((char *)n->rx + 4, n->reply.length - 4,
			      &n->identity)) {
		garbled(n, "a metadata context that was not asked for");
		return;
	}
	n->identified = true;
	receive(n, ST_REPLY, NBD_OPTION_REPLY_SIZE);
}

static void server_reply(struct nbd_nego *n)
{
	u32 len = n->reply.length;
	char *text = (char *)n->rx;
	u32 name;

	if (n->option != NBD_OPT_LIST) {
		garbled(n, "NBD_REP_SERVER without NBD_OPT_LIST");
		return;
	}
	if (len < 4) {
		garbled(n, "NBD_REP_SERVER without a name");
		return;
	}
	name = nbd_get32(n->rx);
	if (name > len - 4 || name > NBD_MAX_STRING) {
		garbled(n, "NBD_REP_SERVER with a name longer than itself");
		return;
	}
	/*
	 * The name moves over its own length field, which leaves room for
	 * its NUL; the description follows where it stands.
	 */
	nbd_copy_text(text, name + 1, n->rx + 4, name);
	nbd_copy_text(text + 4 + name, len - 4 - name + 1, n->rx + 4 + name,
		      len - 4 - name);
	n->item.name = text;
	n->item.description = text + 4 + name;
	n->want = NBD_NEGO_ITEM;
}

static void error_reply(struct nbd_nego *n)
{
	u32 len = n->reply.length;

	if (len > NBD_NEGO_REPLY)
		len = NBD_NEGO_REPLY;
	if (NBD_NEGO_ASKS && (n->option == NBD_OPT_STRUCTURED_REPLY ||
			      n->option == NBD_OPT_SET_META_CONTEXT)) {
		n->identified = false;
	} else {
		n->refusal = n->reply.type;
		nbd_copy_text(n->text, sizeof(n->text), n->rx, len);
		if (n->option != NBD_OPT_GO ||
		    n->refusal != NBD_REP_ERR_UNSUP) {
			fail(n, NBD_NEGO_REFUSED);
			return;
		}
	}
	n->skip = n->reply.length - len;
	if (n->skip) {
		receive(n, ST_SKIP, NBD_NEGO_REPLY);
		if (n->skip < n->rx_len)
			n->rx_len = (u32)n->skip;
		return;
	}
	next_option(n);
}

static void skipped(struct nbd_nego *n)
{
	n->skip -= n->rx_len;
	if (n->skip) {
		receive(n, ST_SKIP, n->skip < NBD_NEGO_REPLY ?
				    (u32)n->skip : NBD_NEGO_REPLY);
		return;
	}
	next_option(n);
}

/* A whole reply is in: its head in ->reply, its data in ->rx. */
static void reply(struct nbd_nego *n)
{
	if (n->reply.type & NBD_REP_FLAG_ERROR) {
		error_reply(n);
		return;
	}
	switch (n->reply.type) {
	case NBD_REP_ACK:
		if (n->option != NBD_OPT_GO) {
			if (n->option == NBD_OPT_STRUCTURED_REPLY)
				n->structured = true;
			next_option(n);
		} else if (n->have_export) {
			done(n);
		} else {
			garbled(n, "NBD_REP_ACK before NBD_INFO_EXPORT");
		}
		break;
	case NBD_REP_META_CONTEXT:
		context_reply(n);
		break;
	case NBD_REP_INFO:
		info_reply(n);
		break;
	case NBD_REP_SERVER:
		server_reply(n);
		break;
	default:
		garbled(n, "a reply of an unknown type");
	}
}

static u32 max_replies(const struct nbd_nego *n)
{
	switch (n->option) {
	case NBD_OPT_STRUCTURED_REPLY:
		return 1;
	case NBD_OPT_SET_META_CONTEXT:
		return MAX_META_REPLIES;
	case NBD_OPT_LIST:
		return MAX_LIST_REPLIES;
	default:
		return MAX_GO_REPLIES;
	}
}

static void reply_head(struct nbd_nego *n)
{
	struct nbd_option_reply *r = &n->reply;

	if (!nbd_option_reply_get(n->rx, r)) {
		garbled(n, "a reply without its magic number");
		return;
	}
	if (r->option != n->option) {
		garbled(n, "a reply to an option that was not sent");
		return;
	}
	if (++n->replies > max_replies(n)) {
		garbled(n, "replies without end");
		return;
	}
	if (r->length > MAX_REPLY_DATA ||
	    (r->length > NBD_NEGO_REPLY && !(r->type & NBD_REP_FLAG_ERROR))) {
		garbled(n, "a reply that is too long");
		return;
	}
	if (r->length)
		receive(n, ST_DATA, r->length < NBD_NEGO_REPLY ?
				    r->length : NBD_NEGO_REPLY);
	else
		reply(n);
}

void nbd_nego_init(struct nbd_nego *n, enum nbd_nego_goal goal,
		   const char *name, size_t name_len)
{
	memset(n, 0, offsetof(struct nbd_nego, query));
	n->goal = goal;
	n->export.min_block = NBD_DEFAULT_MIN_BLOCK;
	n->export.pref_block = NBD_DEFAULT_PREF_BLOCK;
	n->export.max_payload = NBD_DEFAULT_MAX_PAYLOAD;
	if (goal == NBD_NEGO_GO) {
		if (name_len > NBD_MAX_STRING) {
			fail(n, NBD_NEGO_NAME_TOO_LONG);
			return;
		}
		memcpy(n->name, name, name_len);
		n->name_len = (u32)name_len;
	}
	receive(n, ST_GREETING, NBD_GREETING_SIZE);
}

void nbd_nego_ask_structured(struct nbd_nego *n)
{
	n->ask_structured = true;
}

bool nbd_nego_ask_session(struct nbd_nego *n, const struct nbd_session *s)
{
	n->query_len = (u32)nbd_session_put(n->query, s);
	if (!n->query_len)
		return false;
	n->ask_structured = true;
	return true;
}

enum nbd_nego_want nbd_nego_next(const struct nbd_nego *n)
{
	return n->want;
}

const u8 *nbd_nego_tx(const struct nbd_nego *n, size_t *len)
{
	*len = n->tx_len - n->tx_pos;
	return n->tx + n->tx_pos;
}

void nbd_nego_tx_done(struct nbd_nego *n, size_t len)
{
	if (n->want != NBD_NEGO_SEND || len > n->tx_len - n->tx_pos)
		return;
	n->tx_pos += (u32)len;
	if (n->tx_pos < n->tx_len)
		return;
	if (n->option == NBD_OPT_ABORT)
		done(n);
	else if (n->option == NBD_OPT_EXPORT_NAME)
		receive(n, ST_EXPORT_NAME, NBD_EXPORT_NAME_REPLY_SIZE +
			(n->no_zeroes ? 0 : NBD_EXPORT_NAME_ZEROES));
	else
		receive(n, ST_REPLY, NBD_OPTION_REPLY_SIZE);
}

u8 *nbd_nego_rx(struct nbd_nego *n, size_t *len)
{
	*len = n->rx_len - n->rx_pos;
	return n->rx + n->rx_pos;
}

void nbd_nego_rx_done(struct nbd_nego *n, size_t len)
{
	if (n->want != NBD_NEGO_RECV || len > n->rx_len - n->rx_pos)
		return;
	n->rx_pos += (u32)len;
	if (n->rx_pos < n->rx_len)
		return;
	switch (n->state) {
	case ST_GREETING:
		greeting(n);
		break;
	case ST_REPLY:
		reply_head(n);
		break;
	case ST_DATA:
		reply(n);
		break;
	case ST_SKIP:
		skipped(n);
		break;
	case ST_EXPORT_NAME:
		if (set_export(n, n->rx))
			done(n);
		break;
	}
}

void nbd_nego_eof(struct nbd_nego *n)
{
	if (n->want != NBD_NEGO_DONE && n->want != NBD_NEGO_FAIL)
		fail(n, NBD_NEGO_CLOSED);
}

void nbd_nego_item_done(struct nbd_nego *n)
{
	if (n->want != NBD_NEGO_ITEM)
		return;
	n->item.name = NULL;
	n->item.description = NULL;
	receive(n, ST_REPLY, NBD_OPTION_REPLY_SIZE);
}

/* A string being put together in a buffer that may be too small. */
struct text {
	char *buf;
	size_t size, len;
};

static void add(struct text *t, const char *s)
{
	for (; *s && t->len + 1 < t->size; s++)
		t->buf[t->len++] = *s;
	if (t->size)
		t->buf[t->len] = '\0';
}

static void add_name(struct text *t, const struct nbd_nego *n)
{
	char c[5];
	size_t i, len;

	add(t, "\"");
	for (i = 0; i < n->name_len; i += len) {
		len = nbd_printable(n->name + i, n->name_len - i);
		memcpy(c, len ? n->name + i : "?", len ? len : 1);
		if (!len)
			len = 1;
		c[len] = '\0';
		add(t, c);
	}
	add(t, "\"");
	if (!n->name_len)
		add(t, " (the default export)");
}

static void explain_refusal(struct text *t, const struct nbd_nego *n)
{
	switch (n->refusal) {
	case NBD_REP_ERR_UNKNOWN:
		add(t, "the server has no export ");
		add_name(t, n);
		break;
	case NBD_REP_ERR_POLICY:
		add(t, "the server's rules refuse this client");
		break;
	case NBD_REP_ERR_TLS_REQD:
		add(t, "the server wants TLS, which is not supported here");
		break;
	case NBD_REP_ERR_SHUTDOWN:
		add(t, "the server is shutting down");
		break;
	default:
		/* Every other option we can do without. */
		add(t, n->option == NBD_OPT_LIST ?
		       "the server refused NBD_OPT_LIST with " :
		       "the server refused NBD_OPT_GO with ");
		add(t, nbd_reply_name(n->refusal));
	}
	if (n->text[0]) {
		add(t, "; it says: ");
		add(t, n->text);
	}
}

char *nbd_nego_explain(const struct nbd_nego *n, char *buf, size_t size)
{
	struct text t = { .buf = buf, .size = size };

	add(&t, "");
	switch (n->error) {
	case NBD_NEGO_OK:
		add(&t, "no error");
		break;
	case NBD_NEGO_NAME_TOO_LONG:
		add(&t, "the export name is longer than 4096 bytes");
		break;
	case NBD_NEGO_NOT_NBD:
		add(&t, "what answers there is not an NBD server; check the port");
		break;
	case NBD_NEGO_OLDSTYLE:
		add(&t, "the server speaks only the oldstyle protocol; it needs nbd-server 3.10 or newer");
		break;
	case NBD_NEGO_REFUSED:
		explain_refusal(&t, n);
		break;
	case NBD_NEGO_CLOSED:
		add(&t, "the server closed the connection ");
		if (n->state == ST_GREETING) {
			add(&t, "before its greeting; it may refuse this address");
		} else if (n->state == ST_EXPORT_NAME) {
			add(&t, "when asked for export ");
			add_name(&t, n);
			add(&t, "; it may not have it, or refuse this address");
		} else {
			add(&t, "during negotiation");
		}
		break;
	case NBD_NEGO_GARBLED:
		add(&t, "the server broke the protocol: ");
		add(&t, n->garbled);
		break;
	}
	return buf;
}
