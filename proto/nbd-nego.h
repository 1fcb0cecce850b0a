/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The client's half of NBD negotiation (fixed newstyle), as a
 * state machine that does no I/O, allocates nothing and cannot sleep.
 *
 * Whoever owns the socket drives it:
 *
 *	nbd_nego_init(n, NBD_NEGO_GO, name, name_len);
 *	for (;;)
 *		switch (nbd_nego_next(n)) {
 *		case NBD_NEGO_SEND:
 *			p = nbd_nego_tx(n, &len);
 *			len = send(fd, p, len);
 *			nbd_nego_tx_done(n, len);
 *			break;
 *		case NBD_NEGO_RECV:
 *			p = nbd_nego_rx(n, &len);
 *			len = recv(fd, p, len);
 *			nbd_nego_rx_done(n, len);	(0: nbd_nego_eof(n))
 *			break;
 *		case NBD_NEGO_ITEM:	(goal LIST only: n->item)
 *			nbd_nego_item_done(n);
 *			break;
 *		case NBD_NEGO_DONE:	(goal GO: n->export is valid,
 *			the next byte on the socket belongs to transmission)
 *		case NBD_NEGO_FAIL:	(nbd_nego_explain() says why)
 *			return;
 *		}
 *
 * It never asks for a byte beyond the message it is reading, so nothing has
 * to be handed on to the transmission phase. Everything received is treated
 * as hostile: lengths are checked before use, and the number and size of
 * replies are bounded. One machine serves one connection attempt; it may be
 * used from any context by one caller at a time.
 *
 * Between init and the first turn a caller may ask for more than the export:
 * nbd_nego_ask_structured(), nbd_nego_ask_session(). A server that does not
 * know these is none the worse for it; the results say what it granted. Who
 * never calls them, and counts bytes, builds with -DNBD_NEGO_ASKS=0.
 */
#ifndef NBD_NEGO_H
#define NBD_NEGO_H

#include "nbd-session.h"
#include "nbd-wire.h"

#ifndef NBD_NEGO_ASKS
#define NBD_NEGO_ASKS 1
#endif

enum nbd_nego_goal {
	NBD_NEGO_GO,		/* enter transmission with the named export */
	NBD_NEGO_LIST,		/* learn the names of all exports, then leave */
};

enum nbd_nego_want {
	NBD_NEGO_SEND,
	NBD_NEGO_RECV,
	NBD_NEGO_ITEM,
	NBD_NEGO_DONE,
	NBD_NEGO_FAIL,
};

/* Why a negotiation failed. */
enum nbd_nego_error {
	NBD_NEGO_OK,
	NBD_NEGO_NAME_TOO_LONG,	/* the export name, before anything was sent */
	NBD_NEGO_NOT_NBD,	/* the greeting is something else's */
	NBD_NEGO_OLDSTYLE,	/* an oldstyle server (nbd before 3.10) */
	NBD_NEGO_REFUSED,	/* an error reply: see ->refusal, ->text */
	NBD_NEGO_CLOSED,	/* end of stream, in the middle of it */
	NBD_NEGO_GARBLED,	/* the peer broke the protocol: see ->garbled */
};

/* What the server says of the export. Sizes in bytes. */
struct nbd_export {
	u64 size;		/* at most NBD_MAX_EXPORT_SIZE */
	u16 flags;		/* NBD_FLAG_*; HAS_FLAGS is always set */
	u32 min_block;		/* a power of two, 1 .. 65536 */
	u32 pref_block;		/* a power of two, at least min_block */
	u32 max_payload;	/* a multiple of min_block, or 0xffffffff */
};

/* Longest text of an error reply that is kept, with its NUL. */
#define NBD_NEGO_TEXT		256
/* Longest reply that is read whole: a name and a description. */
#define NBD_NEGO_REPLY		(4 + 2 * NBD_MAX_STRING)

struct nbd_nego {
	/* Results: read by the caller. */
	struct nbd_export export;
	bool structured;		/* READs get structured replies */
	bool identified;		/* ->identity is valid */
	struct nbd_identity identity;
	enum nbd_nego_error error;
	u32 refusal;			/* last NBD_REP_ERR_* received, or 0 */
	char text[NBD_NEGO_TEXT];	/* its text: printable, NUL at the end */
	const char *garbled;		/* NBD_NEGO_GARBLED: what was wrong */
	struct {
		const char *name;	/* printable; valid until item_done() */
		const char *description;
	} item;

	/* Private from here. */
	enum nbd_nego_goal goal;
	enum nbd_nego_want want;
	int state;
	u32 option;			/* the option whose reply is awaited */
	bool ask_structured;
	u32 query_len;			/* the session's context; 0: not asked */
	bool no_zeroes;
	bool have_export;		/* NBD_INFO_EXPORT was received */
	u32 name_len;
	u32 replies;			/* to the current option */
	u64 skip;			/* bytes of a too long reply to drop */
	struct nbd_option_reply reply;
	u32 tx_pos, tx_len;
	u32 rx_pos, rx_len;
	char query[NBD_SESSION_NAME];
	char name[NBD_MAX_STRING];
	u8 tx[NBD_CLIENT_FLAGS_SIZE + NBD_OPTION_SIZE + 4 + NBD_MAX_STRING + 4 +
	      4 + NBD_SESSION_NAME];
	u8 rx[NBD_NEGO_REPLY + 2];	/* + 2: room to end two strings */
};

/*
 * Start over. @name is copied: @name_len bytes, no NUL needed, at most
 * NBD_MAX_STRING (else the first nbd_nego_next() is NBD_NEGO_FAIL); ignored
 * for NBD_NEGO_LIST. The structure is about 17 KiB: not for a kernel stack.
 */
void nbd_nego_init(struct nbd_nego *n, enum nbd_nego_goal goal,
		   const char *name, size_t name_len);

/*
 * For NBD_NEGO_GO: ask for structured replies; ->structured says whether the
 * server will send them, and only then the caller must understand them.
 */
void nbd_nego_ask_structured(struct nbd_nego *n);

/*
 * For NBD_NEGO_GO: tell the server our session, which makes it fence older ones,
 * and ask for its identity: ->identified, ->identity. Structured replies are
 * asked for too, because metadata contexts need them. @s is copied. False, and
 * nothing is asked, if it does not hold words.
 */
bool nbd_nego_ask_session(struct nbd_nego *n, const struct nbd_session *s);

/* What the caller has to do now. Does not change the state. */
enum nbd_nego_want nbd_nego_next(const struct nbd_nego *n);

/* Bytes to send; *@len is at least 1. Then tell how many were sent. */
const u8 *nbd_nego_tx(const struct nbd_nego *n, size_t *len);
void nbd_nego_tx_done(struct nbd_nego *n, size_t len);

/* Room for at most *@len (at least 1) bytes. Then tell how many came. */
u8 *nbd_nego_rx(struct nbd_nego *n, size_t *len);
void nbd_nego_rx_done(struct nbd_nego *n, size_t len);

/* The peer closed the connection: ends in NBD_NEGO_FAIL. */
void nbd_nego_eof(struct nbd_nego *n);

/* The caller has read n->item. */
void nbd_nego_item_done(struct nbd_nego *n);

/*
 * Write one sentence (no newline, no address of the server) that says why the
 * negotiation failed and, where that can be known, what to do. Always ends
 * @buf with a NUL if @size is not 0. Returns @buf.
 */
char *nbd_nego_explain(const struct nbd_nego *n, char *buf, size_t size);

/*
 * The length of the character at @s (@len bytes, at least 1): 1 to 4 when it
 * is well-formed UTF-8 and no control character, which may be shown on a
 * terminal; 0 when not.
 */
size_t nbd_printable(const char *s, size_t len);

/*
 * Copy @len bytes as text, with a NUL, into @dst (@size bytes): what cannot be
 * shown becomes '?', and no character is cut in two. @dst may overlap @src if
 * it does not lie behind it.
 */
void nbd_copy_text(char *dst, size_t size, const u8 *src, size_t len);

#endif /* NBD_NEGO_H */
