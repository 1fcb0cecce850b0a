/* SPDX-License-Identifier: GPL-2.0 */
/*
 * loop.h - what a connection asks of the event loop that owns it. All of it
 * is called from that loop's thread only, except where it says
 * otherwise.
 */
#ifndef SERVER_LOOP_H
#define SERVER_LOOP_H

#include <stdbool.h>
#include <stdint.h>

#include "out.h"

struct conn;
struct job;
struct loop;

/* Input buffer: as many requests as one recv(2) may bring, in bytes. */
#define LOOP_RX		(64U << 10)
/* Room of one chunk for replies, in bytes. */
#define LOOP_CHUNK	(256U << 10)

/* Call conn_readable(), conn_writable() when there is cause to. */
void loop_watch(struct loop *l, struct conn *c, bool in, bool out);

/* Do not call the connection again; it has closed its socket. */
void loop_forget(struct loop *l, struct conn *c);

/* Nothing refers to the connection any more: free it, a little later. */
void loop_bury(struct loop *l, struct conn *c);

/* Hand a job to the workers, with others of this round. */
void loop_submit(struct loop *l, struct job *j);

/* A worker, from its own thread: these are done, whosever they are. */
void loop_jobs_done(struct job *list);

/*
 * From any thread: call conn_poked() soon. The caller sees to it that the
 * connection is not buried before this returns.
 */
void loop_poke(struct loop *l, struct conn *c);

/* Call conn_settle() in some milliseconds: it waits for the memory budget. */
void loop_retry(struct loop *l);

/* When the loop heard of what it is at now, in nanoseconds of CLOCK_MONOTONIC. */
uint64_t loop_woke(struct loop *l);

/* LOOP_RX bytes for what a connection receives, until it returns. */
uint8_t *loop_rx(struct loop *l);

/* An OUT_CHUNK with LOOP_CHUNK bytes of room, or NULL; and back. */
struct out *loop_chunk_get(struct loop *l);
void loop_chunk_put(struct loop *l, struct out *o);

#endif
