// SPDX-License-Identifier: GPL-2.0
/*
 * conn.c - fuzz target: a whole connection, from greeting to end, against
 * arbitrary clients. The loop, the sockets and the workers are played by this
 * file, what lies behind an export by conn_world.c, and each plays tricks: bytes
 * come in any pieces, the socket takes any part of what is sent, data is in
 * memory or not, jobs are done in any order or fail, the peer or the server may
 * go at any time.
 *
 * Input: eight bytes that decide the tricks, then the client's bytes. Held
 * against it: it ends, with nothing held, leaked or touched too late; no more
 * answers leave than requests came (a transaction log counts them); the store is
 * asked for nothing outside it.
 */
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

#include "budget.h"
#include "conn.h"
#include "conn_world.h"
#include "os.h"
#include "request.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const uint8_t *in;
static size_t in_left;
static bool buried;
static struct job_list submitted;
static struct conn *current;

/* -- the socket --------------------------------------------------------- */

void os_tune_socket(int sock, int seconds)
{
	(void)sock;
	(void)seconds;
}

pid_t os_peer_process(int sock)
{
	(void)sock;
	return 0;
}

bool os_unsent(int sock)
{
	(void)sock;
	return roll(2);
}

ssize_t os_recv(int sock, struct iovec *iov, int n)
{
	size_t got = 0, want = 1 + roll(5000), room = 0;
	int i;

	(void)sock;
	/* Into no room at all comes nothing, and that reads as the end. */
	for (i = 0; i < n; i++)
		room += iov[i].iov_len;
	check(room > 0);
	/* One that waits for input only has done what it could: nobody calls. */
	if (current->phase == CONN_TRANSMIT && !current->wjob &&
	    !current->big && !current->drop && !current->out_blocked)
		check(current->rx_len - current->rx_pos < NBD_EXTENDED_REQUEST_SIZE);
	if (!roll(8))
		return -EAGAIN;
	if (!roll(500))
		return -ECONNRESET;
	for (i = 0; i < n && in_left && want; i++) {
		size_t part = iov[i].iov_len;

		if (part > in_left)
			part = in_left;
		if (part > want)
			part = want;
		memcpy(iov[i].iov_base, in, part);
		in += part;
		in_left -= part;
		want -= part;
		got += part;
		if (part < iov[i].iov_len)
			break;
	}
	return (ssize_t)got;
}

static ssize_t take(size_t len)
{
	if (!roll(6))
		return -EAGAIN;
	if (!roll(500))
		return -EPIPE;
	return roll(3) ? (ssize_t)len : 1 + (ssize_t)roll((uint32_t)len);
}

ssize_t os_send(int sock, struct iovec *iov, int n, bool more)
{
	size_t len = 0;
	uint8_t sum = 0;
	int i;

	(void)sock;
	(void)more;
	for (i = 0; i < n; i++) {
		const uint8_t *p = iov[i].iov_base;

		/* Touch both ends: memory that is gone is found. */
		if (iov[i].iov_len)
			sum ^= p[0] ^ p[iov[i].iov_len - 1];
		len += iov[i].iov_len;
	}
	(void)sum;
	check(len > 0);
	return take(len);
}

ssize_t os_sendfile(int sock, int fd, uint64_t off, size_t len)
{
	(void)sock;
	(void)fd;
	check(off < SIZE && len <= SIZE - off);
	if (!roll(50))
		return 0;
	return take(len);
}

/* -- the loop ------------------------------------------------------------ */

void loop_watch(struct loop *l, struct conn *c, bool read, bool write)
{
	(void)l;
	c->watching = true;
	c->watch_in = read;
	c->watch_out = write;
}

void loop_forget(struct loop *l, struct conn *c)
{
	(void)l;
	c->watching = false;
}

void loop_bury(struct loop *l, struct conn *c)
{
	(void)l;
	(void)c;
	buried = true;
}

void loop_submit(struct loop *l, struct job *j)
{
	(void)l;
	job_list_add(&submitted, j);
}

/* A connection of the same station that was here before, in another loop. */
static struct session former;
static bool former_poked, poked;

void loop_poke(struct loop *l, struct conn *c)
{
	(void)l;
	if (c)
		poked = true;
	else
		former_poked = true;
}

void loop_retry(struct loop *l)
{
	(void)l;
}

uint64_t loop_woke(struct loop *l)
{
	(void)l;
	return 1;
}

uint8_t *loop_rx(struct loop *l)
{
	static uint8_t rx[LOOP_RX];

	(void)l;
	return rx;
}

struct out *loop_chunk_get(struct loop *l)
{
	struct out *o = roll(2000) ? calloc(1, sizeof(*o) + LOOP_CHUNK) : NULL;

	(void)l;
	if (!o)
		return NULL;
	o->kind = OUT_CHUNK;
	o->cap = LOOP_CHUNK;
	o->mem = (uint8_t *)(o + 1);
	return o;
}

void loop_chunk_put(struct loop *l, struct out *o)
{
	(void)l;
	free(o);
}

/* -- a life -------------------------------------------------------------- */

static struct exports exports;

static void add(const char *name, bool read_only, unsigned int max)
{
	struct export_settings *s = export_settings_new(name, "/disk");
	char why[512];

	s->read_only = read_only;
	s->max_connections = max;
	s->transaction_log = strdup("/log");
	check(s->transaction_log != NULL);
	if (!read_only)
		s->authfile = NULL;
	check(exports_add(&exports, s, why, sizeof(why)));
}

static bool touched;

static void job_is_done(struct job *j)
{
	check(j->conn == current);
	conn_job_done(current, j);
	touched = true;
}

static void nothing_waits(void)
{
}

/* One of those that wait, whichever. */
static void do_a_job(void)
{
	struct job **p = &submitted.first, *j;
	uint32_t n = roll(submitted.n);

	while (n--)
		p = &(*p)->next;
	j = *p;
	*p = j->next;
	if (!*p)
		submitted.last = p;
	submitted.n--;
	/* A span of a long one; the others are between it and the next. */
	if (job_run(j, job_is_done, nothing_waits))
		job_list_add(&submitted, j);
}

static bool live(const struct conn *c)
{
	return !buried && c->phase != CONN_CLOSED;
}

/* True when something could happen. */
static bool happen(struct conn *c)
{
	bool can_read, can_write;

	/* As a loop does after some jobs, and before anything else. */
	if (touched && (!submitted.n || roll(2))) {
		touched = false;
		if (live(c))
			conn_settle(c);
	}
	if (!live(c) && !submitted.n)
		return false;
	if (touched) {
		do_a_job();
		return true;
	}
	can_read = live(c) && c->watch_in;
	can_write = live(c) && c->watch_out;
	switch (roll(8)) {
	case 0:
	case 1:
	case 2:
		if (can_read)
			conn_readable(c);
		break;
	case 3:
		if (can_write)
			conn_writable(c);
		break;
	case 4:
	case 5:
		if (submitted.n)
			do_a_job();
		break;
	case 6:
		/* The loop asks again, see loop_retry() and tick(). */
		if (live(c) && (c->starved || c->lingering))
			conn_settle(c);
		break;
	case 7:
		if (former_poked && !roll(3)) {
			former_poked = false;
			session_leave(&former);
		}
		if (poked && live(c)) {
			poked = false;
			conn_poked(c);
		}
		if (live(c) && c->session.entered && !roll(100)) {
			atomic_store(&c->session.superseded, true);
			conn_poked(c);
		}
		if (live(c) && !roll(300))
			conn_stop(c, 0);
		break;
	}
	/* All that waits for nothing must have ended. */
	if (live(c) && !touched && !c->watch_in && !c->watch_out && !c->jobs)
		check(c->starved || c->session.waiting || c->phase == CONN_TRANSMIT ||
		      c->phase == CONN_FINISH);
	return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct sockaddr_storage addr = { .ss_family = AF_INET };
	unsigned int steps = 0;
	struct conn *c;

	if (size < 8)
		return 0;
	if (!exports.first) {
		exports.may_list = true;
		add("", false, 0);
		add("ro", true, 1);
		budget_init(8 << 20);
	}
	world_begin(nbd_get32(data) ^ nbd_get32(data + 4));
	in = data + 8;
	in_left = size - 8;
	buried = false;
	job_list_init(&submitted);
	former_poked = poked = touched = false;
	memset(&former, 0, sizeof(former));
	strcpy(former.id.station, "s");
	strcpy(former.id.boot, "b");
	former.id.attach = 1;
	check(session_enter(&former, "", &addr, NULL, NULL) == SESSION_READY);

	c = conn_new((struct loop *)&buried, &exports, -1, &addr);
	check(c != NULL);
	current = c;
	conn_start(c);
	while (happen(c))
		check(++steps < 2000000);
	check(buried);
	check(!c->jobs && !c->held && !c->out_first && !c->wjob && !c->big);
	check(!c->session.entered && !c->opening);
	session_leave(&former);
	check(atomic_load(&((struct export *)exports.first)->counts->connections) == 0);
	check(atomic_load(&((struct export *)((struct export *)exports.first)->next)->counts->connections) == 0);
	conn_free(c);
	return 0;
}
