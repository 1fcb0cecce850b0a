// SPDX-License-Identifier: GPL-2.0
/*
 * transmit.c - the transmission phase: bytes in, requests out.
 *
 * One recv(2) may bring many requests; each is answered on the spot if its data
 * is in memory, else it becomes a job for the workers, whose answers come in
 * whatever order they are done (the spec lets them; clients go by the cookie).
 *
 * A WRITE's payload goes straight from the socket into the job's buffer. One
 * that is longer than JOB_CHUNK is carried out chunk by chunk as it arrives; one
 * that is refused is thrown away as it arrives, so no length a peer can name
 * costs memory, and the stream stays in step. A READ that long is carried out
 * chunk by chunk too where the reply may come in chunks, as the client takes
 * them; without structured replies it is one buffer, out of the budget.
 *
 * A request waits in the input buffer, and the peer in its socket, while the
 * connection has too many jobs, too much output or no share of the memory
 * budget.
 */
#include "conn.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <time.h>

#include "budget.h"
#include "log.h"
#include "request.h"
#include "store-overlay.h"

/* A READ up to here is answered in the loop if it can be without waiting. */
#define INLINE_READ	(128U << 10)
/* From here on sendfile(2) beats a copy (where the store allows it). */
#define SENDFILE_READ	(32U << 10)
/*
 * Behind a WRITE this long comes another one, most likely: of its payload no more
 * than that is received before its place is known, and copied there. Bytes; fewer
 * in the fuzzer.
 */
#ifndef LONG_WRITE
#define LONG_WRITE	(32U << 10)
#define SHORT_RX	(4U << 10)
#endif
/* Unsent output at which no further request is looked at. */
#define OUT_FULL	(576U << 10)
/* Chunks of one long READ that are at the workers. */
#define BIG_READ_JOBS	4U
/* Extents in one answer to NBD_CMD_BLOCK_STATUS. */
#define EXTENTS_MAX	1024U
/* Refused requests of one connection that are logged. */
#define LOG_REFUSED	16U

struct loop *conn_loop(const struct conn *c)
{
	return c->loop;
}

void transmit_free_job(struct conn *c, struct job *j)
{
	c->held -= j->charge;
	budget_give(j->charge);
	free(j->parts);
	free(j);
}

/* Is there memory for @need bytes? If not, the loop will ask again. */
static bool admit(struct conn *c, size_t need)
{
	if (budget_take(c->held, need)) {
		c->held += need;
		return true;
	}
	c->starved = true;
	/* With nothing in flight no answer of its own will wake it. */
	loop_retry(c->loop);
	return false;
}

static struct job *new_job(struct conn *c, const struct nbd_request *r,
			   uint32_t data)
{
	struct job *j;

	if (!admit(c, sizeof(*j) + data))
		return NULL;
	j = job_new(c, c->export, r, data);
	if (!j) {
		c->held -= sizeof(*j) + data;
		budget_give(sizeof(*j) + data);
		c->starved = true;
		loop_retry(c->loop);
	}
	return j;
}

static u64 now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (u64)t.tv_sec * 1000000 + (u64)t.tv_nsec / 1000;
}

static void submit(struct conn *c, struct job *j)
{
	c->jobs++;
	j->started = now_us();
	loop_submit(c->loop, j);
}

static void log_refusal(struct conn *c, const struct nbd_request *r,
			u32 error, const char *why)
{
	char name[CONN_NAME];

	if (c->refused++ >= LOG_REFUSED)
		return;
	log_peer(LOG_WARNING, "%s: %s (command %u, flags 0x%x) at %llu, %llu bytes: %s: %s%s",
		 conn_name(c, name, sizeof(name)), nbd_command_name(r->type),
		 r->type, r->flags, (unsigned long long)r->offset,
		 (unsigned long long)r->length,
		 nbd_error_name(error), why,
		 c->refused == LOG_REFUSED ? " (further ones of this connection are not logged)" : "");
}

/* -- requests --------------------------------------------------------- */

/* Each returns false when the request has to wait, untouched. */

/* A long one: step() takes it from here. */
static void start_big(struct conn *c, const struct nbd_request *r)
{
	struct big_request *b = calloc(1, sizeof(*b));

	if (!b) {
		conn_end(c, LOG_ERR, "out of memory");
		return;
	}
	b->read = r->type == NBD_CMD_READ;
	b->cookie = r->cookie;
	b->offset = r->offset;
	b->length = r->length;
	b->fua = r->flags & NBD_CMD_FLAG_FUA;
	c->big = b;
	c->big_offset = r->offset;
	c->big_left = (uint32_t)r->length;
}

static bool read_request(struct conn *c, const struct nbd_request *r)
{
	struct store *s = c->store;
	struct job *j;
	uint8_t *room;
	const struct reply_to to = { r->cookie, r->offset };
	const uint32_t len = (uint32_t)r->length;
	const bool sparse = c->headers != NEGO_SIMPLE && s->ops->extents &&
			    len >= JOB_HOLE_READ;
	/* A worker finds out where the holes are. */
	const bool hole = sparse && s->ops->has_hole &&
			  s->ops->has_hole(s, r->offset, len);
	size_t head;
	int fd;

	if (len >= SENDFILE_READ && !hole) {
		fd = s->ops->send_fd(s, len, r->offset);
		if (fd >= 0) {
			reply_file(c, to, fd, len);
			return true;
		}
	}
	if (len <= INLINE_READ && !hole) {
		head = reply_data_head(c);
		room = reply_room(c, head + len);
		if (!room)
			return true;	/* the connection has ended */
		if (!s->ops->read_now(s, room + head, len, r->offset)) {
			reply_inline(c, room, to, len);
			return true;
		}
	}
	if (len > JOB_CHUNK && c->headers != NEGO_SIMPLE &&
	    !(r->flags & NBD_CMD_FLAG_DF)) {
		start_big(c, r);
		return true;
	}
	j = new_job(c, r, len);
	if (!j)
		return false;
	j->sparse = sparse;
	submit(c, j);
	return true;
}

static bool start_write(struct conn *c, const struct nbd_request *r)
{
	if (r->length <= JOB_CHUNK) {
		c->wjob = new_job(c, r, (uint32_t)r->length);
		return c->wjob != NULL;
	}
	start_big(c, r);
	return true;
}

static bool other_request(struct conn *c, const struct nbd_request *r)
{
	struct job *j = new_job(c, r, 0);

	if (!j)
		return false;
	submit(c, j);
	return true;
}

static bool block_status(struct conn *c, const struct nbd_request *r)
{
	unsigned int n = r->flags & NBD_CMD_FLAG_REQ_ONE ? 1 : EXTENTS_MAX;
	struct job *j = new_job(c, r, n * sizeof(struct store_extent));

	if (!j)
		return false;
	j->extents = (struct store_extent *)j->room;
	j->n_extents = n;
	submit(c, j);
	return true;
}

/* Answer with @error, once its payload has come. */
static bool refuse(struct conn *c, const struct nbd_request *r, u32 error,
		   const char *why)
{
	const struct reply_to to = { r->cookie, r->offset };
	u64 payload = request_payload(r, c->headers);

	/* Spec of the extended headers: hang up on more than was agreed. */
	if (c->headers == NEGO_EXTENDED && payload > c->info.max_payload) {
		conn_end(c, LOG_WARNING, "a payload of %llu bytes was announced, %u is the maximum",
			 (unsigned long long)payload, c->info.max_payload);
		return true;
	}
	if (!payload) {
		reply_status(c, to, error, why);
		return true;
	}
	c->drop = (uint32_t)payload;
	c->drop_reply = to;
	c->drop_error = error;
	c->drop_why = why;
	return true;
}

static bool bad_request(struct conn *c, const struct nbd_request *r,
			u32 error, const char *why)
{
	status_count(&c->status.counts.errors, 1);
	log_refusal(c, r, error, why);
	return refuse(c, r, error, why);
}

/* Taken up, and not to be asked again. */
static void count_request(struct conn *c, const struct nbd_request *r)
{
	struct status_counts *n = &c->status.counts;

	switch (r->type) {
	case NBD_CMD_READ:
		status_count(&n->reads, 1);
		status_count(&n->read_bytes, r->length);
		break;
	case NBD_CMD_WRITE:
		status_count(&n->writes, 1);
		status_count(&n->written_bytes, r->length);
		break;
	default:
		status_count(&n->others, 1);
	}
}

static bool one_request(struct conn *c, const struct nbd_request *r)
{
	const char *why = "";
	bool taken;
	u32 error;

	if (r->type == NBD_CMD_DISC) {
		/* Spec: "MUST NOT send a reply", after what is in flight. */
		snprintf(c->last_words, sizeof(c->last_words), "disconnected");
		c->done = true;
		c->phase = CONN_FINISH;
		return true;
	}
	if (c->stopping)
		return refuse(c, r, NBD_ESHUTDOWN, "the server is shutting down");
	error = request_check(r, &c->info, c->headers, c->allocation, &why);
	if (error)
		return bad_request(c, r, error, why);
	c->long_writes = r->type == NBD_CMD_WRITE && r->length >= LONG_WRITE;
	switch (r->type) {
	case NBD_CMD_READ:
		taken = read_request(c, r);
		break;
	case NBD_CMD_WRITE:
		taken = start_write(c, r);
		break;
	case NBD_CMD_BLOCK_STATUS:
		taken = block_status(c, r);
		break;
	default:
		taken = other_request(c, r);
	}
	if (taken)
		count_request(c, r);
	return taken;
}

/* -- input ------------------------------------------------------------ */

static void submit_chunk(struct conn *c, struct job *j)
{
	j->big->pending++;
	if (!c->big_left) {
		j->big->received = true;
		c->big = NULL;
	}
	submit(c, j);
}

/* The next chunk of a long READ or WRITE; false when it has to wait. */
static bool next_chunk(struct conn *c)
{
	struct big_request *b = c->big;
	struct nbd_request r = {
		.type = b->read ? NBD_CMD_READ : NBD_CMD_WRITE,
		.cookie = b->cookie,
		.offset = c->big_offset,
		.length = c->big_left < JOB_CHUNK ? c->big_left : JOB_CHUNK,
	};
	struct job *j;

	if (b->read && b->pending >= BIG_READ_JOBS)
		return false;
	j = new_job(c, &r, (uint32_t)r.length);
	if (!j)
		return false;
	j->big = b;
	c->big_offset += r.length;
	c->big_left -= (uint32_t)r.length;
	if (b->read) {
		j->sparse = c->store->ops->extents && r.length >= JOB_HOLE_READ;
		submit_chunk(c, j);
	} else {
		c->wjob = j;
	}
	return true;
}

/* The arriving job has all of its payload. */
static void submit_write(struct conn *c)
{
	struct job *j = c->wjob;

	c->wjob = NULL;
	if (j->big)
		submit_chunk(c, j);
	else
		submit(c, j);
}

bool transmit_held_back(const struct conn *c)
{
	return c->jobs >= CONN_JOBS || c->out_bytes >= OUT_FULL ||
	       (c->out_blocked && budget_pressed());
}

bool transmit_idle(const struct conn *c)
{
	return c->rx_pos == c->rx_len && !c->wjob && !c->big && !c->drop;
}

int transmit_rx(struct conn *c, struct iovec *iov)
{
	int n = 0;

	if (c->wjob && c->rx_pos == c->rx_len) {
		iov[n].iov_base = c->wjob->data + c->wjob->have;
		iov[n++].iov_len = c->wjob->length - c->wjob->have;
	}
	iov[n].iov_base = c->rx + c->rx_len;
	iov[n].iov_len = LOOP_RX - c->rx_len;
	if (c->long_writes && !c->drop && iov[n].iov_len > SHORT_RX)
		iov[n].iov_len = SHORT_RX;
	return n + 1;
}

void transmit_rx_done(struct conn *c, size_t n)
{
	size_t part;

	c->moved |= n > 0;
	if (c->wjob && c->rx_pos == c->rx_len) {
		part = c->wjob->length - c->wjob->have;
		if (part > n)
			part = n;
		c->wjob->have += (uint32_t)part;
		n -= part;
		/* Its last byte: transmit_parse() must not wait for more. */
		if (c->wjob->have == c->wjob->length)
			submit_write(c);
	}
	c->rx_len += n;
}

static void take_payload(struct conn *c, size_t have)
{
	struct job *j = c->wjob;
	size_t part = j->length - j->have;

	if (part > have)
		part = have;
	memcpy(j->data + j->have, c->rx + c->rx_pos, part);
	j->have += (uint32_t)part;
	c->rx_pos += part;
	if (j->have == j->length)
		submit_write(c);
}

static void throw_away(struct conn *c, size_t have)
{
	uint32_t part = c->drop < have ? c->drop : (uint32_t)have;

	c->rx_pos += part;
	c->drop -= part;
	if (!c->drop)
		reply_status(c, c->drop_reply, c->drop_error, c->drop_why);
}

/* One step with @have bytes of input; false when it cannot go on. */
static bool step(struct conn *c, size_t have)
{
	struct nbd_request r;
	size_t size;

	if (c->drop) {
		if (have)
			throw_away(c, have);
		return have;
	}
	if (c->big && !c->wjob)
		return next_chunk(c);
	if (c->wjob) {
		if (have)
			take_payload(c, have);
		return have;
	}
	size = c->headers == NEGO_EXTENDED ? NBD_EXTENDED_REQUEST_SIZE :
					     NBD_REQUEST_SIZE;
	if (have < size)
		return false;
	if (c->headers == NEGO_EXTENDED ?
	    !nbd_extended_request_get(c->rx + c->rx_pos, &r) :
	    !nbd_request_get(c->rx + c->rx_pos, &r)) {
		conn_end(c, LOG_WARNING, "a request without its magic (0x%08x): not a client of this protocol, or out of step",
			 nbd_get32(c->rx + c->rx_pos));
		return false;
	}
	if (c->translog && !c->traced) {
		translog_request(c->translog, &r);
		/* Once, however often it has to wait. */
		c->traced = true;
	}
	if (!one_request(c, &r))
		return false;
	c->traced = false;
	c->n_requests++;
	if (c->phase != CONN_CLOSED)
		c->rx_pos += size;
	return true;
}

bool transmit_parse(struct conn *c)
{
	bool any = false;

	c->starved = false;
	/* A long READ is answered to its end whatever else has ended. */
	while ((c->phase == CONN_TRANSMIT ||
		(c->phase == CONN_FINISH && c->big)) &&
	       !transmit_held_back(c) && step(c, c->rx_len - c->rx_pos))
		any = true;
	if (c->phase == CONN_CLOSED)
		return any;
	if (c->rx_pos == c->rx_len) {
		c->rx_pos = c->rx_len = 0;
	} else if (c->rx_pos) {
		memmove(c->rx, c->rx + c->rx_pos, c->rx_len - c->rx_pos);
		c->rx_len -= c->rx_pos;
		c->rx_pos = 0;
	}
	return any;
}

void transmit_abandon(struct conn *c)
{
	if (c->wjob) {
		struct big_request *b = c->wjob->big;

		transmit_free_job(c, c->wjob);
		c->wjob = NULL;
		c->big = b;
	}
	if (c->big && (!c->big->read || c->phase == CONN_CLOSED)) {
		/* Its other chunks may be under way; the last one frees it. */
		if (c->big->pending) {
			c->big->received = true;
			c->big->error = -ECANCELED;
		} else {
			free(c->big);
		}
		c->big = NULL;
		c->big_left = 0;
	}
	c->drop = 0;
}

/* -- answers ---------------------------------------------------------- */

static void log_failure(struct conn *c, const struct job *j)
{
	const char *path = j->export->settings->path;
	char name[CONN_NAME];

	/* Fast zeroing that is not fast is an answer, not a failure. */
	if (j->error == -ENOTSUP && j->type == NBD_CMD_WRITE_ZEROES)
		return;
	/* Not begun, because the connection has ended. */
	if (j->error == -ECANCELED)
		return;
	/* What is written goes there; what is read may come from either. */
	if (store_is_overlay(j->store) && j->type != NBD_CMD_READ)
		path = store_overlay_path(j->store);
	log_peer(LOG_ERR, "%s: %s at %llu, %llu bytes: %s (%s): %s",
		 conn_name(c, name, sizeof(name)), nbd_command_name(j->type),
		 (unsigned long long)j->offset, (unsigned long long)j->length,
		 nbd_error_name(request_error(j->error)),
		 path, strerror(-j->error));
}

static void reply_done(struct conn *c, u64 cookie, u64 offset, int err)
{
	const struct reply_to to = { cookie, offset };

	reply_status(c, to, request_error(err), err ? strerror(-err) : NULL);
}

/* A chunk of a long READ is done, and answers for itself. */
static void read_chunk_done(struct conn *c, struct job *j)
{
	struct big_request *b = j->big;
	bool last;

	b->pending--;
	if (j->error)
		b->error = j->error;
	last = b->received && !b->pending;
	j->more = !last;
	if (c->phase == CONN_CLOSED) {
		transmit_free_job(c, j);
	} else if (j->error) {
		reply_chunk_error(c, j, request_error(j->error),
				  strerror(-j->error));
		transmit_free_job(c, j);
	} else {
		reply_job(c, j);
	}
	/* Else it is the others', or ->big. */
	if (last)
		free(b);
}

/* A chunk of a long WRITE is done; the last one answers for all. */
static void chunk_done(struct conn *c, struct job *j)
{
	struct big_request *b = j->big;

	b->pending--;
	if (j->error && !b->error)
		b->error = j->error;
	if (!b->received || b->pending) {
		transmit_free_job(c, j);
		return;
	}
	if (b->fua && !b->error && c->phase != CONN_CLOSED) {
		/* Each of its chunks is written; one sync makes all durable. */
		j->big = NULL;
		j->type = NBD_CMD_FLUSH;
		j->offset = b->offset;
		j->length = b->length;
		free(b);
		submit(c, j);
		return;
	}
	if (c->phase != CONN_CLOSED && b->error != -ECANCELED)
		reply_done(c, b->cookie, b->offset, b->error);
	free(b);
	transmit_free_job(c, j);
}

static void count_job(struct conn *c, const struct job *j)
{
	struct status_counts *n = &c->status.counts;
	u64 us = now_us() - j->started;

	status_count(&n->waited, 1);
	status_count(&n->waited_us, us);
	if (us > atomic_load_explicit(&n->longest_us, memory_order_relaxed))
		atomic_store_explicit(&n->longest_us, us, memory_order_relaxed);
	/* However many chunks of a long one fail, it is one. */
	if (j->error && !(j->big && j->big->error))
		status_count(&n->errors, 1);
}

void transmit_job_done(struct conn *c, struct job *j)
{
	c->jobs--;
	count_job(c, j);
	if (j->error)
		log_failure(c, j);
	if (j->big && j->big->read) {
		read_chunk_done(c, j);
		return;
	}
	if (j->big) {
		chunk_done(c, j);
		return;
	}
	if (c->phase == CONN_CLOSED) {
		transmit_free_job(c, j);
		return;
	}
	if (j->type == NBD_CMD_READ && !j->error) {
		reply_job(c, j);
		return;
	}
	if (j->type == NBD_CMD_BLOCK_STATUS && !j->error)
		reply_extents(c, j);
	else
		reply_done(c, j->cookie, j->offset, j->error);
	transmit_free_job(c, j);
}
