/* SPDX-License-Identifier: GPL-2.0 */
/*
 * conn.h - one connection. It belongs to one loop, and everything here is
 * called from that loop's thread; only its jobs travel to the workers.
 *
 * The parts: conn.c (life, negotiation, events), transmit.c (requests in),
 * reply.c (replies out).
 */
#ifndef SERVER_CONN_H
#define SERVER_CONN_H

#include <stdatomic.h>
#include <sys/socket.h>

#include "export.h"
#include "job.h"
#include "loop.h"
#include "nego.h"
#include "out.h"
#include "session.h"
#include "status.h"

/* A client has this long for its part of the negotiation, in milliseconds. */
#define CONN_HANDSHAKE_MS	10000
/* And so long, when the server stops, to take its last answers. */
#define CONN_STOP_MS		5000
/* A station that is not heard for this long is gone, in seconds. */
#define CONN_DEAD_SECONDS	120
/* Jobs of one connection at the workers. */
#define CONN_JOBS		256U

enum conn_phase {
	CONN_NEGOTIATE,
	CONN_TRANSMIT,
	CONN_FINISH,	/* no more input: answer what is in flight, then close */
	CONN_CLOSED,	/* waits for its jobs only */
};

/* What a reply says of its request. */
struct reply_to {
	uint64_t cookie, offset;
};

struct conn {
	/* The loop's. */
	struct loop *loop;
	struct conn *prev, *next;
	bool watching, watch_in, watch_out, buried;
	bool touched;			/* is on the loop's list of those to settle */
	struct conn *touched_next;
	bool poked;			/* under the loop's lock */
	struct conn *poke_next;
	uint64_t deadline;		/* see conn_late() */

	int fd;
	enum conn_phase phase;
	struct exports *exports;
	struct export *export;		/* the one it has chosen; NULL before */
	bool claimed;			/* counted among that one's clients */
	struct store *store;		/* opened: where requests go */
	struct export_opened opened;	/* with ->store */
	struct status_conn status;	/* entered while in transmission */
	struct export *outdated;	/* for this one its session is too old */
	struct export *found;		/* what the option that is answered names */
	struct nego_export info;	/* of that, then of ->export, for this client */
	struct nego *nego;		/* until transmission */
	enum nego_headers headers;	/* how it wants requests and replies */
	bool allocation;		/* may ask for base:allocation */
	struct translog *translog;	/* of ->export; NULL: none */
	struct session session;
	atomic_bool gone;		/* its jobs need not be started */

	/* While the export is opened, by a worker. */
	bool opening, identifying, closing;
	/*
	 * Who may use ->ask_of (NULL: what is there to be seen) is read in a file,
	 * so a worker does it: once for each export in turn, and once for the list.
	 */
	bool asking;
	struct export *ask_of, *told_of;
	bool allowed, only_reads;	/* of ->told_of */
	struct export **visible;	/* ends with NULL; NULL: not known yet */
	bool identified;
	struct nbd_identity identity;
	bool negotiated;		/* for limits.h */
	bool done;			/* the client sent NBD_CMD_DISC */
	bool stopping;			/* what still comes gets ESHUTDOWN */
	bool eof;			/* the client has shut its end down */
	bool receiving;			/* conn_readable() is at it */
	bool lingering;			/* what still comes is thrown away */
	const char *asked_name;		/* as the client wrote it, in ->nego */
	size_t asked_len;
	char *open_name;		/* the same for the worker: ->nego may go on */
	size_t open_len;
	uint32_t open_error;
	char *open_text;		/* NEGO_TEXT bytes */

	struct sockaddr_storage addr;
	char peer[64];			/* "192.0.2.1:40000", for the log */
	char last_words[NEGO_TEXT + 64];	/* why it ends, once it does */

	/* Input: transmit.c. */
	/*
	 * What has come and is not used yet. While it is read, ->rx is the
	 * loop's buffer; between events it is memory of its own, or nothing:
	 * a connection that is idle has none.
	 */
	uint8_t *rx;
	bool rx_owned;
	size_t rx_pos, rx_len;
	struct job *wjob;		/* WRITE, or a chunk of it, arriving */
	struct big_request *big;	/* the WRITE it is a chunk of, or a READ */
	uint64_t big_offset;		/* where its next chunk goes */
	uint32_t big_left;		/* bytes that are in no chunk yet */
	bool long_writes;		/* the last request was one */
	uint32_t drop;			/* payload bytes to throw away */
	struct reply_to drop_reply;	/* the answer after that */
	uint32_t drop_error;
	const char *drop_why;
	unsigned int jobs;		/* at the workers */
	struct job_turn reads, writes, longs;	/* of these, the pool's */
	size_t held;			/* bytes taken out of the budget */
	bool starved;			/* waits for the budget */
	bool traced;			/* the request that waits is in ->translog */
	unsigned int refused;		/* requests refused and logged */

	/* Output: reply.c. */
	struct out *out_first, **out_last;
	struct out *out_tail;
	size_t out_bytes;
	size_t turn;			/* bytes sent in this turn, see OUT_TURN */
	bool out_blocked;		/* until conn_writable() */
	bool moved;			/* some was sent or came since the last tick */
	unsigned int still;		/* ticks without, while it was to be */

	uint64_t n_requests;
	unsigned int batches;		/* of input: see conn_readable() */
};

/* Takes @fd over. NULL without memory (then @fd is closed). */
struct conn *conn_new(struct loop *l, struct exports *x, int fd,
		      const struct sockaddr_storage *addr);

/* Send the greeting. */
void conn_start(struct conn *c);

void conn_readable(struct conn *c);
void conn_writable(struct conn *c);

/* A job came back. Call conn_settle() after a batch of them. */
void conn_job_done(struct conn *c, struct job *j);

/* Send, go on with input that was held back, end what is finished. */
void conn_settle(struct conn *c);

/* The server stops, @now: finish what is in flight, take nothing more. */
void conn_stop(struct conn *c, uint64_t now);

/* By the loop, after loop_poke(). */
void conn_poked(struct conn *c);

/*
 * By the loop, each of its ticks. Is memory short (@pressed), who takes no
 * answers or sends no more of a write for some seconds is hung up on.
 */
void conn_tick(struct conn *c, bool pressed);

/*
 * By the loop, each @ms of those that negotiate, and of all after conn_stop():
 * hang up if it is @now past the deadline (both by the loop's clock, in
 * milliseconds). What the client waits for the server is not counted.
 */
void conn_late(struct conn *c, uint64_t now, unsigned int ms);

/*
 * Close it now, with one line in the log; @fmt NULL: without. Jobs that are
 * under way still come back.
 */
void conn_end(struct conn *c, int priority, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* By the loop, after loop_bury(). */
void conn_free(struct conn *c);

struct loop *conn_loop(const struct conn *c);

/* How a log line about this connection begins: peer, export and station if known. */
const char *conn_name(const struct conn *c, char *buf, size_t size);
#define CONN_NAME	400

/* -- conn-export.c ----------------------------------------------------- */

/* What a negotiation asks; its context is the connection. */
extern const struct nego_ops conn_nego_ops;
/* A worker: open or close the connection's export. False: EXPORT_AGAIN. */
bool conn_open(struct conn *c);
void conn_identify(struct conn *c, struct export *e);
void conn_close(struct conn *c);
/* It is no longer one of the clients its export may have. */
void conn_unclaim(struct conn *c);

/* -- transmit.c ------------------------------------------------------- */

/* Where the next bytes of the peer go: at most two places. */
int transmit_rx(struct conn *c, struct iovec *iov);
/* @n bytes have come there. */
void transmit_rx_done(struct conn *c, size_t n);
/* Work on what has come. True when it used any of it. */
bool transmit_parse(struct conn *c);
/* Has it as much to do as it may have at once? Then it takes no input. */
bool transmit_held_back(const struct conn *c);
/* Is the stream between two requests? */
bool transmit_idle(const struct conn *c);
void transmit_job_done(struct conn *c, struct job *j);
/* Forget a half-received request; of a closed connection, a half-answered too. */
void transmit_abandon(struct conn *c);
void transmit_free_job(struct conn *c, struct job *j);

/* -- reply.c ---------------------------------------------------------- */

/* @n (at most LOOP_CHUNK) bytes in a row at the end of the queue, or NULL. */
uint8_t *reply_room(struct conn *c, size_t n);
/* The first @n of them are to be sent. */
void reply_commit(struct conn *c, size_t n);
/* Raw bytes, of the negotiation. False without memory. */
bool reply_bytes(struct conn *c, const uint8_t *p, size_t n);

/*
 * An answer without data: done, or an NBD_E*; @why is a sentence for the
 * client, as far as its kind of replies has room for one, or NULL.
 */
void reply_status(struct conn *c, struct reply_to to, uint32_t error,
		  const char *why);
/* What stands before the data of a READ, in bytes; at most JOB_HEAD. */
size_t reply_data_head(const struct conn *c);
/* The data of a READ, @len bytes that are in room reserved before, after it. */
void reply_inline(struct conn *c, uint8_t *room, struct reply_to to,
		  uint32_t len);
/* The data of a READ job, or of a chunk of one; takes the job over. */
void reply_job(struct conn *c, struct job *j);
/* As reply_status(), of a chunk of a READ; the job stays the caller's. */
void reply_chunk_error(struct conn *c, const struct job *j, uint32_t error,
		       const char *why);
/* The data of a READ, out of a file. */
void reply_file(struct conn *c, struct reply_to to, int fd, uint32_t len);
/* The extents of a BLOCK_STATUS job. */
void reply_extents(struct conn *c, const struct job *j);

/* Send what the socket takes, and the turn has left. May end the connection. */
void reply_flush(struct conn *c);
void reply_discard(struct conn *c);

#endif
