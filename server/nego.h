/* SPDX-License-Identifier: GPL-2.0 */
/*
 * nego.h - the server's half of NBD negotiation (fixed newstyle), as a state
 * machine that does no I/O.
 *
 * Whoever owns the socket sends what nego_tx() gives, and gives what arrives
 * to nego_feed():
 *
 *	nego_init(n, &ops, ctx, may_list);
 *	for (;;) {
 *		send all of nego_tx(n), then nego_tx_done(n);
 *		if (n->state != NEGO_MORE)
 *			break;
 *		used = nego_feed(n, data, len);
 *	}
 *
 * Everything fed is hostile. An option is looked at only when the answer to
 * the one before was taken away, so a peer that never reads costs one answer.
 * Not thread-safe; one machine serves one connection.
 */
#ifndef SERVER_NEGO_H
#define SERVER_NEGO_H

#include <stdint.h>
#include <sys/types.h>

#include "nbd-session.h"
#include "nbd-wire.h"

/* What a client is told of an export. The strings live as long as it does. */
struct nego_export {
	const char *name;		/* at most NBD_MAX_STRING bytes */
	const char *description;	/* the same, or NULL */
	u64 size;			/* bytes */
	u16 flags;			/* NBD_FLAG_*, HAS_FLAGS among them */
	u32 min_block;			/* see NBD_INFO_BLOCK_SIZE */
	u32 pref_block;
	u32 max_payload;
};

enum nego_state {
	NEGO_MORE,	/* more bytes of the client are needed */
	NEGO_TRANSMIT,	/* ->export was chosen: what follows are requests */
	NEGO_LEFT,	/* the client said goodbye */
	NEGO_BROKEN,	/* hang up: ->why says what for */
};

/* How requests and replies look, as the client asked for. */
enum nego_headers {
	NEGO_SIMPLE,
	NEGO_STRUCTURED,	/* spec: "Structured reply chunk message" */
	NEGO_EXTENDED,		/* the same with 64-bit lengths, requests too */
};

/* An error text, and whatever a log line needs. */
#define NEGO_TEXT	512

struct nego_ops {
	/*
	 * The export of this name. @claim: the client will use it now (what
	 * is claimed is given back by the caller, at the connection's end).
	 * NULL to refuse it: *@error is then an NBD_REP_ERR_*, and @text
	 * (NEGO_TEXT bytes) a sentence for the client. NULL and NEGO_LATER:
	 * it takes time; after nego_resume() the same is asked again.
	 */
	const struct nego_export *(*find)(void *ctx, const char *name,
					  size_t len, bool claim, u32 *error,
					  char *text);
	/*
	 * The export at *@index or after it that this client may see, and
	 * *@index then its place; NULL after the last one. NULL and *@index
	 * NEGO_LIST_LATER, of the first one: it takes time, as above.
	 */
	const struct nego_export *(*list)(void *ctx, size_t *index);
	/*
	 * The client names its session with the export @e (of the name as it
	 * was asked for); the answer is this server and image. False to refuse
	 * it, or NEGO_LATER, as above.
	 */
	bool (*session)(void *ctx, const struct nego_export *e,
			const struct nbd_session *s, struct nbd_identity *id,
			u32 *error, char *text);
	/* For the log: @option was answered with @reply. @text may be "". */
	void (*note)(void *ctx, u32 option, u32 reply, const char *text);
};

/* What base:allocation is called in replies to NBD_CMD_BLOCK_STATUS. */
#define NEGO_ID_ALLOCATION	1U

/* In place of an NBD_REP_ERR_*, and of a place in the list. */
#define NEGO_LATER	0U
#define NEGO_LIST_LATER	SIZE_MAX

/* Longest option data that is looked at. */
#define NEGO_MAX_DATA	8192
/* Longer data is skipped and refused up to here; beyond: hang up. */
#define NEGO_MAX_SKIP	65536
/* No client has a use for this many options. */
#define NEGO_MAX_OPTIONS 256

struct nego {
	/* Read by the caller. */
	enum nego_state state;
	const struct nego_export *export;
	char why[NEGO_TEXT];
	enum nego_headers headers;
	bool allocation;	/* base:allocation was selected for ->export */

	/* Private from here. */
	const struct nego_ops *ops;
	void *ctx;
	bool may_list, stopping;
	int step;
	u32 client_flags;
	u32 n_options;
	struct nbd_option option;
	u32 skip;
	u32 have;		/* bytes in buf */
	/* The export that contexts were selected for, by its name. */
	bool meta_allocation;
	u32 meta_len;
	char meta_name[NBD_MAX_STRING];
	u8 buf[NEGO_MAX_DATA];
	u8 *tx;
	size_t tx_len, tx_cap;
};

/* Start over, with the greeting in nego_tx(). */
void nego_init(struct nego *n, const struct nego_ops *ops, void *ctx,
	       bool may_list);

/* Free what the machine holds (not @n itself). */
void nego_free(struct nego *n);

/*
 * Take some of @len bytes of the client; returns how many. Less than @len
 * when there is something to send first, or when ->state has changed.
 */
size_t nego_feed(struct nego *n, const u8 *data, size_t len);

/* Is it waiting for nego_resume()? Then it takes no input. */
bool nego_waits(const struct nego *n);

/* What was NEGO_LATER may have become possible. */
void nego_resume(struct nego *n);

/* From now on every option is answered with NBD_REP_ERR_SHUTDOWN. */
void nego_stop(struct nego *n);

/* Bytes to send now; *@len may be 0. */
const u8 *nego_tx(const struct nego *n, size_t *len);

/* All of them were sent, or copied. */
void nego_tx_done(struct nego *n);

#endif
