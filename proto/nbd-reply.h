/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The client's half of NBD transmission: what comes back. Simple replies and
 * the chunks of structured ones, as a state machine that does no I/O,
 * allocates nothing and cannot sleep.
 *
 * Whoever owns the socket drives it with the bytes of one connection:
 *
 *	nbd_reply_init(r, structured);
 *	for (;;)
 *		switch (nbd_reply_next(r)) {
 *		case NBD_REPLY_RECV:	(bytes of heads; few)
 *			p = nbd_reply_rx(r, &len);
 *			nbd_reply_rx_done(r, recv(fd, p, len));
 *			break;
 *		case NBD_REPLY_FIND:	(a reply to r->cookie)
 *			nbd_reply_found(r, the request's nbd_answer, or NULL);
 *			break;
 *		case NBD_REPLY_DATA:	(the next r->length bytes of the stream
 *			belong at byte r->offset of the request's buffer)
 *			nbd_reply_data_done(r, how many were put there);
 *			break;
 *		case NBD_REPLY_HOLE:	(r->length zeroes at byte r->offset)
 *			nbd_reply_hole_done(r);
 *			break;
 *		case NBD_REPLY_ERROR:	(r->error, r->text; more may follow)
 *			nbd_reply_error_done(r);
 *			break;
 *		case NBD_REPLY_END:	(the request is over: r->answer->error)
 *			nbd_reply_end_done(r);
 *			break;
 *		case NBD_REPLY_BAD:	(r->bad says why; for good)
 *			return;
 *		}
 *
 * Every byte is a hostile server's until shown otherwise. A READ ends without
 * an error only when each of its bytes came exactly once. A machine serves one
 * connection and one caller at a time, in any context.
 */
#ifndef NBD_REPLY_H
#define NBD_REPLY_H

#include "nbd-wire.h"

enum nbd_reply_want {
	NBD_REPLY_RECV,
	NBD_REPLY_FIND,
	NBD_REPLY_DATA,
	NBD_REPLY_HOLE,
	NBD_REPLY_ERROR,
	NBD_REPLY_END,
	NBD_REPLY_BAD,
};

/*
 * Pieces of one READ that may have come and not touch each other. The spec
 * lets a server send chunks in any order, so what came must be remembered; of
 * the servers known each sends them in order, and then it is one piece.
 */
#define NBD_ANSWER_PIECES	8
/* Error chunks to one request: a bound on what a server can make us read. */
#define NBD_ANSWER_ERRORS	64
/* Longest text of an error that is kept, with its NUL. */
#define NBD_REPLY_TEXT		256

/* What is expected for one request in flight, and what has come of it. */
struct nbd_answer {
	u64 offset;		/* of the request, in the export; bytes */
	u32 length;		/* of the request */
	bool read;		/* is it a READ? */
	u8 pieces;		/* private: disjoint, in order, not adjacent */
	u8 errors;		/* private: error chunks so far */
	u32 error;		/* the first error, or 0 */
	struct {
		u32 start;
		u32 end;
	} piece[NBD_ANSWER_PIECES];
};

struct nbd_reply {
	enum nbd_reply_want want;
	/* FIND */
	u64 cookie;
	/* DATA and HOLE: bytes from the beginning of the request */
	u32 offset;
	u32 length;
	/* ERROR */
	u32 error;
	char text[NBD_REPLY_TEXT];	/* printable, "" if there is none */
	/* from FIND to END */
	struct nbd_answer *answer;
	/* BAD: a constant */
	const char *bad;

	/* Private from here. */
	bool structured;
	bool done;		/* NBD_REPLY_FLAG_DONE */
	u8 state;
	u16 type;
	u32 text_left;		/* bytes of an error's text that are not kept */
	u32 payload;		/* bytes of it that have not come */
	u32 pos, need;		/* of the part being received */
	u8 buf[64];
};

/* Start over, with a new connection; @structured: were they negotiated? */
void nbd_reply_init(struct nbd_reply *r, bool structured);

/* Expect the answer to a request that is about to be sent. */
static inline void nbd_answer_init(struct nbd_answer *a, bool read, u64 offset,
				   u32 length)
{
	a->offset = offset;
	a->length = length;
	a->read = read;
	a->pieces = 0;
	a->errors = 0;
	a->error = 0;
}

static inline enum nbd_reply_want nbd_reply_next(const struct nbd_reply *r)
{
	return r->want;
}

/* Room for *@len (at least 1) bytes. Then tell how many came. */
u8 *nbd_reply_rx(struct nbd_reply *r, size_t *len);
void nbd_reply_rx_done(struct nbd_reply *r, size_t len);

/* @a: what waits for r->cookie on this connection; NULL: nothing does. */
void nbd_reply_found(struct nbd_reply *r, struct nbd_answer *a);

/* @len bytes, at most r->length, were taken; the rest is wanted next. */
void nbd_reply_data_done(struct nbd_reply *r, u32 len);
void nbd_reply_hole_done(struct nbd_reply *r);
void nbd_reply_error_done(struct nbd_reply *r);
void nbd_reply_end_done(struct nbd_reply *r);

#endif /* NBD_REPLY_H */
