// SPDX-License-Identifier: GPL-2.0
/*
 * reply.c - replies of the transmission phase: how they look, and how they
 * leave. The only file to know about reply headers: simple, structured or
 * extended, as ->headers says.
 *
 * Small replies gather in chunks, so that all requests of one recv(2) are
 * answered by one send(2). Data read by a worker leaves from the buffer it was
 * read into; large data that is in memory leaves by sendfile(2) behind its
 * header (MSG_MORE), never copied. A header that says "no error" is queued only
 * when its data is in hand or is known to be in memory; what fails after that
 * ends the connection, as the spec demands of simple replies.
 */
#include "conn.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>

#include "budget.h"
#include "os.h"

/* Pieces of memory in one send. */
#define SEND_PIECES	32

static void append(struct conn *c, struct out *o)
{
	o->next = NULL;
	*c->out_last = o;
	c->out_last = &o->next;
	c->out_tail = o;
	c->out_bytes += o->len - o->pos;
}

uint8_t *reply_room(struct conn *c, size_t n)
{
	struct out *o = c->out_tail;

	if (o && o->kind == OUT_CHUNK && o->cap - o->len >= n)
		return o->mem + o->len;
	o = loop_chunk_get(c->loop);
	if (!o) {
		conn_end(c, LOG_ERR, "out of memory");
		return NULL;
	}
	budget_add(o->cap);
	append(c, o);
	return o->mem;
}

void reply_commit(struct conn *c, size_t n)
{
	c->out_tail->len += n;
	c->out_bytes += n;
}

bool reply_bytes(struct conn *c, const uint8_t *p, size_t n)
{
	while (n) {
		size_t part = n < LOOP_CHUNK ? n : LOOP_CHUNK;
		uint8_t *room = reply_room(c, part);

		if (!room)
			return false;
		memcpy(room, p, part);
		reply_commit(c, part);
		p += part;
		n -= part;
	}
	return true;
}

static void put_simple(const struct conn *c, uint8_t *p,
		       const struct nbd_simple_reply *r)
{
	if (c->translog)
		translog_reply(c->translog, r);
	nbd_simple_reply_put(p, r);
}

/* The head of a chunk, structured or extended, with @len bytes of payload. */
static uint8_t *put_chunk(const struct conn *c, uint8_t *p, struct reply_to to,
			  uint16_t type, bool done, uint32_t len)
{
	const struct nbd_chunk k = {
		.flags = done ? NBD_REPLY_FLAG_DONE : 0,
		.type = type,
		.cookie = to.cookie,
		.offset = to.offset,
		.length = len,
	};

	if (c->translog)
		translog_chunk(c->translog, &k);
	if (c->headers == NEGO_EXTENDED) {
		nbd_extended_reply_put(p, &k);
		return p + NBD_EXTENDED_REPLY_SIZE;
	}
	nbd_chunk_put(p, &k);
	return p + NBD_CHUNK_SIZE;
}

static size_t chunk_head(const struct conn *c)
{
	return c->headers == NEGO_EXTENDED ? NBD_EXTENDED_REPLY_SIZE :
					     NBD_CHUNK_SIZE;
}

size_t reply_data_head(const struct conn *c)
{
	if (c->headers == NEGO_SIMPLE)
		return NBD_SIMPLE_REPLY_SIZE;
	return chunk_head(c) + NBD_CHUNK_OFFSET_SIZE;
}

/* What stands before @len bytes of data that begin at @off. */
static void put_data_head(const struct conn *c, uint8_t *p, struct reply_to to,
			  uint64_t off, uint32_t len, bool done)
{
	const struct nbd_simple_reply r = { .cookie = to.cookie };

	if (c->headers == NEGO_SIMPLE) {
		put_simple(c, p, &r);
		return;
	}
	p = put_chunk(c, p, to, NBD_REPLY_TYPE_OFFSET_DATA, done,
		      NBD_CHUNK_OFFSET_SIZE + len);
	nbd_put64(p, off);
}

static void put_status(struct conn *c, struct reply_to to, uint32_t error,
		       const char *why, bool done)
{
	const struct nbd_simple_reply r = { error, to.cookie };
	size_t text = error && why ? strlen(why) : 0, len;
	uint8_t *p;

	if (c->headers == NEGO_SIMPLE) {
		p = reply_room(c, NBD_SIMPLE_REPLY_SIZE);
		if (!p)
			return;
		put_simple(c, p, &r);
		reply_commit(c, NBD_SIMPLE_REPLY_SIZE);
		return;
	}
	len = error ? NBD_CHUNK_ERROR_SIZE + text : 0;
	p = reply_room(c, chunk_head(c) + len);
	if (!p)
		return;
	p = put_chunk(c, p, to, error ? NBD_REPLY_TYPE_ERROR :
		      NBD_REPLY_TYPE_NONE, done, (uint32_t)len);
	if (error) {
		nbd_put32(p, error);
		nbd_put16(p + 4, (uint16_t)text);
		memcpy(p + NBD_CHUNK_ERROR_SIZE, why ? why : "", text);
	}
	reply_commit(c, chunk_head(c) + len);
}

void reply_status(struct conn *c, struct reply_to to, uint32_t error,
		  const char *why)
{
	put_status(c, to, error, why, true);
}

/* Whose answer it is; spec: every chunk names the request's own offset. */
static struct reply_to asked(const struct job *j)
{
	return (struct reply_to){ j->cookie, j->big ? j->big->offset :
						      j->offset };
}

void reply_chunk_error(struct conn *c, const struct job *j, uint32_t error,
		       const char *why)
{
	put_status(c, asked(j), error, why, !j->more);
}

void reply_inline(struct conn *c, uint8_t *room, struct reply_to to,
		  uint32_t len)
{
	put_data_head(c, room, to, to.offset, len, true);
	reply_commit(c, reply_data_head(c) + len);
}

/* A piece of memory or of a file at the end of the queue. False: ended. */
static bool add_piece(struct conn *c, const struct out *piece)
{
	struct out *o = malloc(sizeof(*o));

	if (!o) {
		conn_end(c, LOG_ERR, "out of memory");
		return false;
	}
	*o = *piece;
	append(c, o);
	return true;
}

/* A hole of @len bytes at @off. */
static bool add_hole(struct conn *c, struct reply_to to, uint64_t off,
		     uint32_t len, bool done)
{
	uint8_t *p = reply_room(c, chunk_head(c) + NBD_CHUNK_HOLE_SIZE);

	if (!p)
		return false;
	p = put_chunk(c, p, to, NBD_REPLY_TYPE_OFFSET_HOLE, done,
		      NBD_CHUNK_HOLE_SIZE);
	nbd_put64(p, off);
	nbd_put32(p + 8, len);
	reply_commit(c, chunk_head(c) + NBD_CHUNK_HOLE_SIZE);
	return true;
}

static bool add_data(struct conn *c, struct reply_to to, uint64_t off,
		     uint8_t *data, uint32_t len, bool done)
{
	const struct out piece = { .kind = OUT_PART, .mem = data, .len = len };
	uint8_t *p = reply_room(c, reply_data_head(c));

	if (!p)
		return false;
	put_data_head(c, p, to, off, len, done);
	reply_commit(c, reply_data_head(c));
	return add_piece(c, &piece);
}

/* Holes and data in turns; the job itself comes last, to be freed then. */
static void reply_parts(struct conn *c, struct job *j)
{
	const struct reply_to to = asked(j);
	uint64_t at = 0;
	unsigned int i;
	bool ok = true;

	for (i = 0; i < j->n_extents && ok; i++) {
		uint32_t len = (uint32_t)j->parts[i].length;
		bool done = i == j->n_extents - 1 && !j->more;

		if (j->parts[i].flags)
			ok = add_hole(c, to, j->offset + at, len, done);
		else
			ok = add_data(c, to, j->offset + at, j->data + at, len,
				      done);
		at += len;
	}
	/* Not so: the connection has ended, and its pieces with it. */
	if (!ok) {
		transmit_free_job(c, j);
		return;
	}
	j->out.kind = OUT_JOB;
	j->out.mem = j->data;
	j->out.job = j;
	append(c, &j->out);
}

void reply_job(struct conn *c, struct job *j)
{
	const struct reply_to to = asked(j);
	size_t head = reply_data_head(c);

	if (j->parts) {
		reply_parts(c, j);
		return;
	}
	j->out.kind = OUT_JOB;
	j->out.mem = j->head + JOB_HEAD - head;
	j->out.len = head + j->length;
	j->out.job = j;
	put_data_head(c, j->out.mem, to, j->offset, (uint32_t)j->length,
		      !j->more);
	append(c, &j->out);
}

void reply_file(struct conn *c, struct reply_to to, int fd, uint32_t len)
{
	const struct out piece = {
		.kind = OUT_FILE, .fd = fd, .off = to.offset, .len = len,
	};
	uint8_t *p = reply_room(c, reply_data_head(c));

	if (!p)
		return;
	put_data_head(c, p, to, to.offset, len, true);
	reply_commit(c, reply_data_head(c));
	add_piece(c, &piece);
}

void reply_extents(struct conn *c, const struct job *j)
{
	const struct reply_to to = { j->cookie, j->offset };
	const bool ext = c->headers == NEGO_EXTENDED;
	const uint32_t len = ext ? 8 + j->n_extents * NBD_EXTENT_EXT_SIZE :
				   4 + j->n_extents * NBD_EXTENT_SIZE;
	uint8_t *p = reply_room(c, chunk_head(c) + len);
	unsigned int i;

	if (!p)
		return;
	p = put_chunk(c, p, to, ext ? NBD_REPLY_TYPE_BLOCK_STATUS_EXT :
		      NBD_REPLY_TYPE_BLOCK_STATUS, true, len);
	nbd_put32(p, NEGO_ID_ALLOCATION);
	p += 4;
	if (ext) {
		nbd_put32(p, j->n_extents);
		p += 4;
	}
	for (i = 0; i < j->n_extents; i++) {
		const struct store_extent *e = &j->extents[i];

		if (ext) {
			nbd_put64(p, e->length);
			nbd_put64(p + 8, e->flags);
			p += NBD_EXTENT_EXT_SIZE;
		} else {
			nbd_put32(p, (uint32_t)e->length);
			nbd_put32(p + 4, e->flags);
			p += NBD_EXTENT_SIZE;
		}
	}
	reply_commit(c, chunk_head(c) + len);
}

static void drop_first(struct conn *c)
{
	struct out *o = c->out_first;

	c->out_first = o->next;
	if (!o->next) {
		c->out_last = &c->out_first;
		c->out_tail = NULL;
	}
	switch (o->kind) {
	case OUT_CHUNK:
		budget_give(o->cap);
		loop_chunk_put(c->loop, o);
		break;
	case OUT_JOB:
		transmit_free_job(c, o->job);
		break;
	case OUT_PART:
	case OUT_FILE:
		free(o);
		break;
	}
}

void reply_discard(struct conn *c)
{
	while (c->out_first)
		drop_first(c);
	c->out_bytes = 0;
}

/* @n bytes of memory pieces are gone. */
static void sent(struct conn *c, size_t n)
{
	c->out_bytes -= n;
	c->moved = true;
	while (c->out_first) {
		struct out *o = c->out_first;
		size_t part = o->len - o->pos;

		if (part > n) {
			o->pos += n;
			return;
		}
		n -= part;
		drop_first(c);
		if (!n)
			return;
	}
}

/* How much of it one send may take: a socket might take all of it. */
static size_t share(const struct out *o)
{
	return o->len - o->pos < OUT_TURN ? o->len - o->pos : OUT_TURN;
}

static ssize_t send_memory(struct conn *c)
{
	struct iovec iov[SEND_PIECES];
	size_t turn = c->turn;
	struct out *o;
	ssize_t n;
	int k = 0;

	for (o = c->out_first; o && o->kind != OUT_FILE && k < SEND_PIECES &&
	     turn < OUT_TURN; o = o->next) {
		iov[k].iov_base = o->mem + o->pos;
		iov[k].iov_len = share(o);
		turn += iov[k++].iov_len;
	}
	n = os_send(c->fd, iov, k, o != NULL);
	if (n > 0)
		sent(c, (size_t)n);
	return n;
}

static ssize_t send_file(struct conn *c)
{
	struct out *o = c->out_first;
	ssize_t n = os_sendfile(c->fd, o->fd, o->off + o->pos, share(o));

	if (n > 0)
		sent(c, (size_t)n);
	return n;
}

void reply_flush(struct conn *c)
{
	while (c->out_first) {
		bool file = c->out_first->kind == OUT_FILE;
		ssize_t n;

		/* A chunk nothing was put into after all. */
		if (c->out_first->pos == c->out_first->len) {
			drop_first(c);
			continue;
		}
		if (c->turn >= OUT_TURN) {
			/* Comes back with the next round of epoll_wait(2). */
			c->out_blocked = true;
			return;
		}
		n = file ? send_file(c) : send_memory(c);
		if (n == -EAGAIN) {
			c->out_blocked = true;
			return;
		}
		if (!n) {
			conn_end(c, LOG_ERR, "no data at offset %llu: the image was made shorter while it is served",
				 (unsigned long long)(c->out_first->off +
						      c->out_first->pos));
			return;
		}
		if (n < 0) {
			/* A peer that hangs up is its own affair; EIO is ours. */
			conn_end(c, n == -EIO ? LOG_ERR : LOG_NOTICE,
				 "cannot send: %s", strerror((int)-n));
			return;
		}
		c->turn += (size_t)n;
	}
	/* What waits in the input would have more to send. */
	c->out_blocked = c->turn >= OUT_TURN && !transmit_idle(c);
}
