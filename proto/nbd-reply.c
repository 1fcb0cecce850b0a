// SPDX-License-Identifier: GPL-2.0
/*
 * What a client gets back; see nbd-reply.h. Names in quotes are those of the
 * spec, "Structured reply chunk message" and "NBD_CMD_READ".
 *
 *	[head] -> FIND -> simple:  (DATA) ............................ -> END
 *	                  content: [offset] -> DATA or HOLE -> (END)
 *	                  error:   [error] -> [text] -> ([offset]) -> ERROR -> (END)
 *	                  none:    ................................... -> END
 */
#include "nbd-nego.h"
#include "nbd-reply.h"

enum {
	ST_HEAD,	/* 16 bytes: a simple reply, most of a chunk's head */
	ST_CHUNK,	/* the rest of a chunk's head */
	ST_OFFSET,	/* OFFSET_DATA: where */
	ST_HOLE,	/* OFFSET_HOLE: where, and how much */
	ST_ERROR,	/* any error: number and length of the text */
	ST_TEXT,	/* as much of the text as is kept */
	ST_SKIP_TEXT,	/* the rest of it */
	ST_ERROR_OFFSET,
	ST_SKIP,	/* what an unknown error has besides */
};

static void bad(struct nbd_reply *r, const char *why)
{
	r->bad = why;
	r->want = NBD_REPLY_BAD;
}

/* Receive @len bytes, at least 1, of the part that @state reads. */
static void receive(struct nbd_reply *r, u8 state, u32 len)
{
	r->state = state;
	r->pos = 0;
	r->need = len;
	r->want = NBD_REPLY_RECV;
}

static void next_head(struct nbd_reply *r)
{
	r->answer = NULL;
	receive(r, ST_HEAD, NBD_SIMPLE_REPLY_SIZE);
}

void nbd_reply_init(struct nbd_reply *r, bool structured)
{
	memset(r, 0, sizeof(*r));
	r->structured = structured;
	next_head(r);
}

/*
 * Bytes @start up to @end of the request come now. False if one of them came
 * before, or if that cannot be told any more; see NBD_ANSWER_PIECES.
 */
static bool claim(struct nbd_reply *r, u32 start, u32 end)
{
	struct nbd_answer *a = r->answer;
	unsigned int i = a->pieces, n;

	/* The first piece that begins behind us; mostly there is none. */
	while (i && a->piece[i - 1].start >= start)
		i--;
	if ((i && a->piece[i - 1].end > start) ||
	    (i < a->pieces && a->piece[i].start < end)) {
		bad(r, "a chunk brings bytes that have come already");
		return false;
	}
	if (i && a->piece[i - 1].end == start) {
		a->piece[i - 1].end = end;
		if (i == a->pieces || a->piece[i].start != end)
			return true;
		/* It has closed the gap to the next. */
		a->piece[i - 1].end = a->piece[i].end;
		a->pieces--;
		for (n = i; n < a->pieces; n++)
			a->piece[n] = a->piece[n + 1];
		return true;
	}
	if (i < a->pieces && a->piece[i].start == end) {
		a->piece[i].start = start;
		return true;
	}
	if (a->pieces == NBD_ANSWER_PIECES) {
		bad(r, "the chunks of one read are scattered too widely");
		return false;
	}
	for (n = a->pieces; n > i; n--)
		a->piece[n] = a->piece[n - 1];
	a->piece[i].start = start;
	a->piece[i].end = end;
	a->pieces++;
	return true;
}

/* The request is over: "MUST send enough data chunks to cover the region". */
static void end(struct nbd_reply *r)
{
	const struct nbd_answer *a = r->answer;

	if (a->read && !a->error && a->length &&
	    (a->pieces != 1 || a->piece[0].start ||
	     a->piece[0].end != a->length)) {
		bad(r, "a read ends before all of its bytes have come");
		return;
	}
	r->want = NBD_REPLY_END;
}

/* A chunk has been dealt with. */
static void chunk_over(struct nbd_reply *r)
{
	if (r->done)
		end(r);
	else
		next_head(r);
}

/* Content: @length bytes at @offset of the export. */
static void content(struct nbd_reply *r, enum nbd_reply_want want, u64 offset,
		    u32 length)
{
	const struct nbd_answer *a = r->answer;

	if (offset < a->offset || offset - a->offset > a->length ||
	    length > a->length - (offset - a->offset)) {
		bad(r, "a chunk lies outside of what was to be read");
		return;
	}
	r->offset = (u32)(offset - a->offset);
	r->length = length;
	if (claim(r, r->offset, r->offset + length))
		r->want = want;
}

static void simple(struct nbd_reply *r)
{
	struct nbd_answer *a = r->answer;

	r->done = true;
	if (r->error) {
		a->error = r->error;
		r->text[0] = '\0';
		r->want = NBD_REPLY_ERROR;
	} else if (a->read && a->length) {
		content(r, NBD_REPLY_DATA, a->offset, a->length);
	} else {
		end(r);
	}
}

static void chunk(struct nbd_reply *r)
{
	const struct nbd_answer *a = r->answer;

	/* An unknown error "begins with the same fields" as the known ones. */
	if (r->type & NBD_REPLY_FLAG_ERROR) {
		if (r->payload < NBD_CHUNK_ERROR_SIZE +
		    (r->type == NBD_REPLY_TYPE_ERROR_OFFSET ?
		     NBD_CHUNK_OFFSET_SIZE : 0))
			bad(r, "an error chunk is too short");
		else if (r->payload > NBD_CHUNK_ERROR_SIZE + 2 * 65536U)
			bad(r, "an error chunk is absurdly long");
		else
			receive(r, ST_ERROR, NBD_CHUNK_ERROR_SIZE);
		return;
	}
	switch (r->type) {
	case NBD_REPLY_TYPE_NONE:
		if (r->payload)
			bad(r, "an empty chunk has a payload");
		else if (!r->done)
			bad(r, "an empty chunk is not the last of its reply");
		else
			end(r);
		break;
	case NBD_REPLY_TYPE_OFFSET_DATA:
		if (!a->read)
			bad(r, "data in reply to what is no read");
		else if (r->payload <= NBD_CHUNK_OFFSET_SIZE)
			bad(r, "a data chunk has no data");
		else
			receive(r, ST_OFFSET, NBD_CHUNK_OFFSET_SIZE);
		break;
	case NBD_REPLY_TYPE_OFFSET_HOLE:
		if (!a->read)
			bad(r, "a hole in reply to what is no read");
		else if (r->payload != NBD_CHUNK_HOLE_SIZE)
			bad(r, "a hole chunk is not 12 bytes long");
		else
			receive(r, ST_HOLE, NBD_CHUNK_HOLE_SIZE);
		break;
	default:
		/* Spec: "MUST initiate a hard disconnect". */
		bad(r, "a chunk of a type that was not asked for");
	}
}

/* The whole error chunk has come. */
static void error_over(struct nbd_reply *r)
{
	struct nbd_answer *a = r->answer;

	if (a->errors++ == NBD_ANSWER_ERRORS) {
		bad(r, "error chunks without end");
		return;
	}
	if (!a->error)
		a->error = r->error;
	r->want = NBD_REPLY_ERROR;
}

/* An error chunk, behind that part of its text which is kept. */
static void error_next(struct nbd_reply *r)
{
	u32 room = sizeof(r->buf);

	if (r->text_left) {
		receive(r, ST_SKIP_TEXT, r->text_left < room ? r->text_left : room);
		r->text_left -= r->need;
	} else if (r->type == NBD_REPLY_TYPE_ERROR_OFFSET) {
		r->type = NBD_REPLY_TYPE_ERROR;		/* it has only one */
		receive(r, ST_ERROR_OFFSET, NBD_CHUNK_OFFSET_SIZE);
	} else if (r->payload) {
		receive(r, ST_SKIP, r->payload < room ? r->payload : room);
	} else {
		error_over(r);
	}
}

static void error_head(struct nbd_reply *r)
{
	u32 tail = r->type == NBD_REPLY_TYPE_ERROR_OFFSET ?
		   NBD_CHUNK_OFFSET_SIZE : 0;
	u32 len = nbd_get16(r->buf + 4);

	r->error = nbd_get32(r->buf);
	r->text[0] = '\0';
	r->text_left = 0;
	if (!r->error) {
		bad(r, "an error chunk without an error");
	} else if (len > NBD_MAX_STRING) {
		bad(r, "an error's text is longer than 4096 bytes");
	} else if (len > r->payload - tail) {
		bad(r, "an error's text is longer than its chunk");
	} else if (len) {
		u32 kept = len < sizeof(r->text) ? len : sizeof(r->text) - 1;

		r->text_left = len - kept;
		receive(r, ST_TEXT, kept);
	} else {
		error_next(r);
	}
}

static void error_offset(struct nbd_reply *r)
{
	u64 offset = nbd_get64(r->buf);
	const struct nbd_answer *a = r->answer;

	if (offset < a->offset || offset - a->offset >= a->length)
		bad(r, "an error lies outside of its request");
	else
		error_next(r);
}

static void hole(struct nbd_reply *r)
{
	u32 length = nbd_get32(r->buf + NBD_CHUNK_OFFSET_SIZE);

	if (length)
		content(r, NBD_REPLY_HOLE, nbd_get64(r->buf), length);
	else
		bad(r, "a hole of no bytes");
}

/* The first 16 bytes of a reply, which is all of a simple one. */
static void head(struct nbd_reply *r)
{
	u32 magic = nbd_get32(r->buf);

	r->cookie = nbd_get64(r->buf + 8);
	if (magic == NBD_SIMPLE_REPLY_MAGIC) {
		r->type = NBD_REPLY_TYPE_NONE;
		r->error = nbd_get32(r->buf + 4);
		r->payload = 0;
		r->want = NBD_REPLY_FIND;
	} else if (magic != NBD_STRUCTURED_REPLY_MAGIC) {
		bad(r, "a reply without its magic number");
	} else if (!r->structured) {
		bad(r, "a structured reply that was not negotiated");
	} else {
		/* Not receive(): the first bytes stay. */
		r->state = ST_CHUNK;
		r->need = NBD_CHUNK_SIZE;
	}
}

static void chunk_head(struct nbd_reply *r)
{
	struct nbd_chunk c;

	nbd_chunk_get(r->buf, &c);
	r->done = c.flags & NBD_REPLY_FLAG_DONE;
	r->type = c.type;
	r->payload = (u32)c.length;
	r->want = NBD_REPLY_FIND;
}

u8 *nbd_reply_rx(struct nbd_reply *r, size_t *len)
{
	*len = r->need - r->pos;
	return (r->state == ST_TEXT ? (u8 *)r->text : r->buf) + r->pos;
}

void nbd_reply_rx_done(struct nbd_reply *r, size_t len)
{
	r->pos += (u32)len;
	if (r->pos < r->need)
		return;
	if (r->state != ST_HEAD && r->state != ST_CHUNK)
		r->payload -= r->need;

	switch (r->state) {
	case ST_HEAD:
		head(r);
		break;
	case ST_CHUNK:
		chunk_head(r);
		break;
	case ST_OFFSET:
		content(r, NBD_REPLY_DATA, nbd_get64(r->buf), r->payload);
		break;
	case ST_HOLE:
		hole(r);
		break;
	case ST_ERROR:
		error_head(r);
		break;
	case ST_TEXT:
		nbd_copy_text(r->text, sizeof(r->text), (u8 *)r->text, r->need);
		error_next(r);
		break;
	case ST_SKIP_TEXT:
	case ST_SKIP:
		error_next(r);
		break;
	case ST_ERROR_OFFSET:
		error_offset(r);
		break;
	}
}

void nbd_reply_found(struct nbd_reply *r, struct nbd_answer *a)
{
	r->answer = a;
	if (!a)
		bad(r, "a reply to no request in flight");
	else if (r->state == ST_CHUNK)
		chunk(r);
	else if (a->read && r->structured)
		/* Spec: "MUST NOT use a simple reply for NBD_CMD_READ". */
		bad(r, "a simple reply to a read, where structured ones were negotiated");
	else if (a->pieces || a->errors)
		bad(r, "a simple reply amid the chunks of a structured one");
	else
		simple(r);
}

void nbd_reply_data_done(struct nbd_reply *r, u32 len)
{
	r->offset += len;
	r->length -= len;
	if (!r->length)
		chunk_over(r);
}

void nbd_reply_hole_done(struct nbd_reply *r)
{
	chunk_over(r);
}

void nbd_reply_error_done(struct nbd_reply *r)
{
	chunk_over(r);
}

void nbd_reply_end_done(struct nbd_reply *r)
{
	next_head(r);
}
