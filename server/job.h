/* SPDX-License-Identifier: GPL-2.0 */
/*
 * job.h - one request, or a part of one, on its way through the worker pool
 * and back to the loop that owns its connection.
 */
#ifndef SERVER_JOB_H
#define SERVER_JOB_H

#include "out.h"
#include "export.h"
#include "nbd-wire.h"

struct conn;
struct loop;

/*
 * A request longer than JOB_CHUNK is carried out a chunk at a time, so that no
 * peer's word makes the server set 64 MiB aside: a WRITE while the rest still
 * arrives, a READ (if its reply may come in parts) as its answers leave. Touched
 * by the connection's loop only.
 */
struct big_request {
	bool read;
	u64 cookie;
	u64 offset;
	u64 length;
	u32 pending;		/* chunks not done yet */
	int error;		/* one of a chunk, of a WRITE the first; a negative errno */
	bool received;		/* its last chunk was submitted */
	bool fua;
};

/* Bytes. Smaller in the fuzzer, whose inputs are short. */
#ifndef JOB_CHUNK
#define JOB_CHUNK	(1U << 20)
#endif

/*
 * A TRIM, CACHE or WRITE_ZEROES longer than this is carried out in spans, and
 * between two of them others have their turn. Bytes, a power of two.
 */
#ifndef JOB_SPAN
#define JOB_SPAN	(32U << 20)
#endif

/* Jobs that are no command: the connection's export, see conn_open(). */
#define JOB_OPEN	0x100U
#define JOB_IDENTIFY	0x102U
#define JOB_CLOSE	0x101U

/* Room for the longest head of a READ's data. */
#define JOB_HEAD	(NBD_EXTENDED_REPLY_SIZE + NBD_CHUNK_OFFSET_SIZE)

/* A hole this long is told rather than sent, in bytes ... */
#define JOB_HOLE	4096U
/* ... in reads this long; and a read is told in so many parts at most. */
#define JOB_HOLE_READ	(32U << 10)
#define JOB_PARTS	32U

struct job {
	struct job *next;
	struct loop *loop;
	struct conn *conn;
	struct export *export;
	struct store *store;	/* what this connection's requests go to */
	struct big_request *big;	/* this is a chunk of it; or NULL */
	bool more;		/* READ: other chunks of it come after this */
	/* READ: pool.c's, see there. */
	struct store *origin;	/* whose bytes these are; NULL: not to be merged */
	struct job *same;	/* the next one in the table of reads */
	struct job *followers;	/* who waits for this one to be read */
	u64 started;		/* when a worker was asked, in microseconds */
	u64 cookie;
	u64 offset;
	u64 length;
	u16 type;		/* NBD_CMD_*, JOB_* */
	u16 flags;		/* NBD_CMD_FLAG_* */
	int error;		/* when done: 0 or a negative errno */
	u64 progress;		/* job_is_long(): bytes done */
	u32 have;		/* WRITE: bytes received */
	size_t charge;		/* what it takes out of the budgets */
	struct out out;		/* READ: how the answer leaves */
	/* READ: may holes be told; and what a worker has found, NULL: no hole. */
	bool sparse;
	struct store_extent *parts;	/* neighbours of either kind */
	/* BLOCK_STATUS: what was found. */
	struct store_extent *extents;
	unsigned int n_extents;	/* of either; before that: how many at most */
	u8 *data;		/* @length bytes of payload, or NULL */
	u8 head[JOB_HEAD];	/* READ: just before the data */
	u8 room[];
};

/* A job with room for @data bytes of payload; NULL without memory. */
struct job *job_new(struct conn *c, struct export *e,
		    const struct nbd_request *r, u32 data);

/*
 * A connection's reads, what it writes and syncs, or its long ones, that no worker has
 * taken yet.
 * pool.c's, zeroed at first.
 */
struct job_turn {
	struct job_turn *next;
	struct job *first, **last;
};

/* A list of jobs, oldest first. */
struct job_list {
	struct job *first, **last;
	unsigned int n;
};

void job_list_init(struct job_list *l);
void job_list_add(struct job_list *l, struct job *j);

/* Is it carried out in spans? */
bool job_is_long(const struct job *j);

/*
 * Carry it out, in a worker thread: blocks as long as the store does. Calls
 * @done for it, and maybe for others that it did the work of; for a flush that
 * somebody else is about to do, returns at once without. Calls @now before it
 * goes on with something that those who are done need not wait for. True: that
 * was a span of a long one, or an open that has to wait, and wants to be run again
 * when others had a turn.
 */
bool job_run(struct job *j, void (*done)(struct job *), void (*now)(void));

#endif
