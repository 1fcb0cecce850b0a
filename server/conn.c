// SPDX-License-Identifier: GPL-2.0
/*
 * conn.c - the life of one connection:
 *
 *	NEGOTIATE -> TRANSMIT -> FINISH -> CLOSED
 *
 * FINISH takes no more input and ends when the last answer is sent; any of the
 * others may go straight to CLOSED. A closed connection has no socket any more
 * and only waits for the jobs that still refer to it.
 *
 * When the server stops, answers must not be lost that are only in the socket: a
 * close(2) with input unread resets the connection, and they are gone. So it
 * reads what has come before it ends, and lingers until the peer has it all.
 *
 * Every connection leaves two lines in the log: when it has chosen its export,
 * and when it ends, with the reason. From the first of them on they are a
 * station's and have its name; strangers cannot take their place.
 */
#include "conn.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "access.h"
#include "budget.h"
#include "limits.h"
#include "log.h"
#include "os.h"

/* recv(2) calls on one connection before the others have their turn. */
#define RECV_TURN	8
/* Ticks of a loop (250 ms) without moving, before memory is taken back. */
#define STILL_TICKS	20U

/*
 * Of what comes, one batch in so many is timed: to read the clock is work too, and
 * of a figure that is a mean nobody misses the others.
 */
#define TIMED_BATCHES	8U

/* Where the input of a connection is that has none. */
static uint8_t nothing[1];

static void name_peer(struct conn *c)
{
	struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)&c->addr;
	char host[INET6_ADDRSTRLEN + 20] = "?", port[8] = "?";
	const char *h = host;

	if (c->addr.ss_family == AF_UNIX) {
		snprintf(c->peer, sizeof(c->peer), "unix:%ld",
			 (long)os_peer_process(c->fd));
		return;
	}
	getnameinfo((struct sockaddr *)&c->addr, sizeof(c->addr), host,
		    sizeof(host), port, sizeof(port),
		    NI_NUMERICHOST | NI_NUMERICSERV);
	if (c->addr.ss_family == AF_INET6 &&
	    IN6_IS_ADDR_V4MAPPED(&in6->sin6_addr))
		h += strlen("::ffff:");
	snprintf(c->peer, sizeof(c->peer), strchr(h, ':') ? "[%s]:%s" : "%s:%s",
		 h, port);
}

const char *conn_name(const struct conn *c, char *buf, size_t size)
{
	char quoted[CONN_NAME - 160];

	if (c->export)
		snprintf(buf, size, "%s: export \"%s\"%s%s", c->peer,
			 log_quote(quoted, sizeof(quoted), c->export->info.name,
				   strlen(c->export->info.name)),
			 c->negotiated ? ", station " : "",
			 c->negotiated ? c->opened.station : "");
	else
		snprintf(buf, size, "%s", c->peer);
	return buf;
}

/* -- life -------------------------------------------------------------- */

struct conn *conn_new(struct loop *l, struct exports *x, int fd,
		      const struct sockaddr_storage *addr)
{
	const struct sockaddr *peer = (const struct sockaddr *)addr;
	const char *why = limits_enter(peer, x->max_per_address);
	struct conn *c;

	if (why) {
		char address[NBD_SESSION_WORD];

		station_address(peer, address);
		log_peer(LOG_WARNING, "%s: a connection was refused: %s",
			 address, why);
		close(fd);
		return NULL;
	}
	c = calloc(1, sizeof(*c));
	if (!c)
		goto fail;
	c->nego = malloc(sizeof(*c->nego));
	if (!c->nego)
		goto fail;
	c->rx = nothing;
	c->loop = l;
	c->exports = x;
	c->fd = fd;
	c->addr = *addr;
	c->out_last = &c->out_first;
	c->phase = CONN_NEGOTIATE;
	name_peer(c);
	status_enter(&c->status, c->peer);
	os_tune_socket(fd, CONN_DEAD_SECONDS);
	nego_init(c->nego, &conn_nego_ops, c, x->may_list);
	return c;
fail:
	log_peer(LOG_ERR, "a connection was refused: out of memory");
	limits_leave(peer, false);
	close(fd);
	if (c)
		free(c->nego);
	free(c);
	return NULL;
}

void conn_start(struct conn *c)
{
	log_peer(LOG_DEBUG, "%s: connected", c->peer);
	conn_settle(c);
}

static void drop_nego(struct conn *c)
{
	if (c->nego) {
		nego_free(c->nego);
		free(c->nego);
		c->nego = NULL;
	}
	free(c->visible);
	c->visible = NULL;
}

void conn_free(struct conn *c)
{
	drop_nego(c);
	free(c->open_text);
	free(c->open_name);
	if (c->rx_owned)
		free(c->rx);
	free(c);
}

/*
 * A write under way, or a program under way or still to run, is part of its
 * stay: the next one's must not run beside it.
 */
static void give_place_back(struct conn *c)
{
	if (c->export && !c->export->settings->postrun)
		conn_unclaim(c);
}

/* To be closed: go on with its end as far as its jobs let it. */
static void take_apart(struct conn *c)
{
	const struct nbd_request none = { .type = JOB_CLOSE };

	if (c->jobs)
		return;
	give_place_back(c);
	/*
	 * Not before: a driver that sees its connection end takes its writes to
	 * another one, and none that is under way here may come after those.
	 */
	if (c->fd >= 0)
		close(c->fd);
	c->fd = -1;
	if (c->store && !c->closing) {
		struct job *j = job_new(c, c->export, &none, 0);

		c->closing = true;
		if (j) {
			j->charge = 0;
			c->jobs++;
			loop_submit(c->loop, j);
			return;
		}
		conn_close(c);
	}
	c->opening = false;
	c->store = NULL;
	conn_unclaim(c);
	c->export = NULL;
	/* From here on its station may come back. */
	session_leave(&c->session);
	loop_bury(c->loop, c);
}

void conn_end(struct conn *c, int priority, const char *fmt, ...)
{
	const struct sockaddr *peer = (const struct sockaddr *)&c->addr;
	char name[CONN_NAME], line[LOG_LINE];
	va_list ap;

	if (c->phase == CONN_CLOSED)
		return;
	if (fmt) {
		va_start(ap, fmt);
		vsnprintf(line, sizeof(line), fmt, ap);
		va_end(ap);
		conn_name(c, name, sizeof(name));
		/* Who has got through is no stranger whose lines are counted. */
		if (c->negotiated)
			log_station(access_group(peer), priority, "%s: %s",
				    name, line);
		else
			log_peer(priority, "%s: %s", name, line);
	}
	c->phase = CONN_CLOSED;
	loop_forget(c->loop, c);
	/* Whoever sees it close may count on not being counted any more. */
	status_leave(&c->status, c->done);
	limits_leave(peer, c->negotiated);
	atomic_store(&c->gone, true);
	transmit_abandon(c);
	reply_discard(c);
	take_apart(c);
}

/* -- negotiation ------------------------------------------------------- */

static void enter_transmission(struct conn *c)
{
	const struct sockaddr *peer = (const struct sockaddr *)&c->addr;
	const struct nego_export *e = c->nego->export;
	char name[CONN_NAME], size[32];

	limits_negotiated(peer);
	c->negotiated = true;
	log_station(access_group(peer), LOG_INFO, "%s: in use, %s, %s",
		    conn_name(c, name, sizeof(name)),
		    log_bytes(size, sizeof(size), e->size),
		    e->flags & NBD_FLAG_READ_ONLY ? "read-only" : "read-write");
	c->headers = c->nego->headers;
	c->allocation = c->nego->allocation;
	c->translog = c->export->translog;
	if (c->headers != NEGO_SIMPLE)
		c->info.flags |= NBD_FLAG_SEND_DF;
	drop_nego(c);
	free(c->open_text);
	c->open_text = NULL;
	free(c->open_name);
	c->open_name = NULL;
	c->open_len = 0;
	status_use(&c->status, c->export->info.name, &c->opened, c->store,
		   c->info.flags & NBD_FLAG_READ_ONLY);
	c->phase = CONN_TRANSMIT;
}

/* Move the negotiation on as far as it goes. True if it used any input. */
static bool negotiate(struct conn *c)
{
	struct nego *n = c->nego;
	size_t len, used = 0;
	const uint8_t *tx;

	/* No further answer before the last one has left. */
	if (c->out_first)
		return false;
	tx = nego_tx(n, &len);
	if (!len && n->state == NEGO_MORE) {
		used = nego_feed(n, c->rx + c->rx_pos, c->rx_len - c->rx_pos);
		c->rx_pos += used;
		tx = nego_tx(n, &len);
	}
	if (len && !reply_bytes(c, tx, len))
		return false;
	nego_tx_done(n);
	if (c->rx_pos == c->rx_len)
		c->rx_pos = c->rx_len = 0;

	switch (n->state) {
	case NEGO_MORE:
		break;
	case NEGO_TRANSMIT:
		enter_transmission(c);
		return true;
	case NEGO_LEFT:
		snprintf(c->last_words, sizeof(c->last_words),
			 "left after the negotiation (NBD_OPT_ABORT)");
		c->phase = CONN_FINISH;
		break;
	case NEGO_BROKEN:
		conn_end(c, LOG_WARNING, "negotiation failed: %s", n->why);
		return false;
	}
	return used || len;
}

/* -- events ------------------------------------------------------------ */

static bool wants_input(const struct conn *c)
{
	if (c->lingering)
		return true;
	if (c->phase == CONN_NEGOTIATE)
		return !c->out_first && !nego_waits(c->nego);
	return c->phase == CONN_TRANSMIT && !c->eof && !c->starved &&
	       c->rx_len - c->rx_pos < LOOP_RX && !transmit_held_back(c);
}

static void watch(struct conn *c)
{
	status_is(&c->status, c->out_blocked ? STATUS_STALLED :
		  c->starved ? STATUS_MEMORY : STATUS_BUSY);
	if (c->phase != CONN_CLOSED)
		loop_watch(c->loop, c, wants_input(c), c->out_blocked);
}

/* Is there nothing left to send? */
static bool finished(const struct conn *c)
{
	return (c->phase == CONN_FINISH ||
		(c->phase == CONN_TRANSMIT && c->stopping)) &&
	       !c->jobs && !(c->big && c->big->read) && !c->out_first;
}

static void leave(struct conn *c)
{
	if (!c->stopping || !os_unsent(c->fd)) {
		conn_end(c, LOG_INFO, "%s", c->last_words);
		return;
	}
	if (!c->lingering) {
		c->lingering = true;
		transmit_abandon(c);
		c->phase = CONN_FINISH;
		shutdown(c->fd, SHUT_WR);
	}
	watch(c);
}

/* The client says no more. What it said before is carried out first. */
static void end_of_stream(struct conn *c)
{
	if (c->phase != CONN_TRANSMIT || c->starved || c->out_blocked ||
	    (c->big && c->big->read) || transmit_held_back(c))
		return;
	snprintf(c->last_words, sizeof(c->last_words), "hung up %s",
		 transmit_idle(c) ? "without NBD_CMD_DISC" :
				    "in the middle of a request");
	transmit_abandon(c);
	c->phase = CONN_FINISH;
}

void conn_settle(struct conn *c)
{
	bool more = true, full;

	while (more && c->phase != CONN_CLOSED) {
		if (c->phase == CONN_NEGOTIATE)
			more = negotiate(c);
		else
			more = transmit_parse(c);
		if (c->phase == CONN_CLOSED)
			return;
		if (c->out_blocked)
			break;
		full = transmit_held_back(c);
		reply_flush(c);
		/* What it was held back by has left: nobody will call again. */
		more |= full && !transmit_held_back(c);
		if (c->out_blocked)
			more = false;
	}
	if (c->eof)
		end_of_stream(c);
	if (!finished(c))
		watch(c);
	else if (c->phase == CONN_FINISH)
		leave(c);
	else if (!c->receiving)
		conn_readable(c);
}

/* What is left over moves to the front of the loop's buffer. */
static void borrow_rx(struct conn *c)
{
	uint8_t *rx = loop_rx(c->loop);

	c->rx_len -= c->rx_pos;
	memcpy(rx, c->rx + c->rx_pos, c->rx_len);
	c->rx_pos = 0;
	if (c->rx_owned)
		free(c->rx);
	c->rx_owned = false;
	c->rx = rx;
}

/* Keep what is not used yet: the start of a request, or requests that wait. */
static void return_rx(struct conn *c)
{
	size_t left = c->rx_len - c->rx_pos;
	const uint8_t *from = c->rx + c->rx_pos;

	c->rx = nothing;
	c->rx_pos = c->rx_len = 0;
	if (!left || c->phase == CONN_CLOSED)
		return;
	c->rx = malloc(left);
	if (!c->rx) {
		c->rx = nothing;
		conn_end(c, LOG_ERR, "out of memory");
		return;
	}
	memcpy(c->rx, from, left);
	c->rx_owned = true;
	c->rx_len = left;
}

/* True when it has taken all there was. */
static bool receive(struct conn *c)
{
	struct iovec iov[2];
	int turn, k, i;

	for (turn = 0; turn < RECV_TURN && !c->lingering && wants_input(c); turn++) {
		size_t room = 0;
		ssize_t n;

		k = transmit_rx(c, iov);
		for (i = 0; i < k; i++)
			room += iov[i].iov_len;
		n = os_recv(c->fd, iov, k);
		if (n == -EAGAIN)
			return true;
		if (n < 0) {
			conn_end(c, LOG_NOTICE, "connection lost: %s",
				 strerror((int)-n));
			return false;
		}
		if (!n && c->phase == CONN_NEGOTIATE) {
			conn_end(c, LOG_INFO, "hung up during the negotiation");
			return false;
		}
		c->eof = !n;
		transmit_rx_done(c, (size_t)n);
		conn_settle(c);
		if ((size_t)n < room)
			return true;
	}
	return false;
}

/* It is to leave, and nothing that comes is answered any more. */
static void discard(struct conn *c)
{
	struct iovec iov = { loop_rx(c->loop), LOOP_RX };
	ssize_t n = os_recv(c->fd, &iov, 1);

	if (!n || (n < 0 && n != -EAGAIN))
		conn_end(c, LOG_INFO, "%s", c->last_words);
}

/* Requests have been answered: without a worker, and as far as the socket? */
static void count_time(struct conn *c, uint64_t woke)
{
	struct timespec t;

	if (c->phase != CONN_TRANSMIT || c->jobs || c->out_first)
		return;
	clock_gettime(CLOCK_MONOTONIC, &t);
	status_count(&c->status.counts.answered, 1);
	status_count(&c->status.counts.answered_ns,
		     (uint64_t)t.tv_sec * 1000000000U + (uint64_t)t.tv_nsec - woke);
}

/* Each of the two begins a turn, in which all that follows has its share. */
void conn_readable(struct conn *c)
{
	const uint64_t before = c->n_requests;
	uint64_t woke = 0;
	bool all;

	if (c->lingering) {
		discard(c);
		return;
	}
	if (c->phase == CONN_TRANSMIT && !(c->batches++ % TIMED_BATCHES))
		woke = loop_woke(c->loop);
	c->turn = 0;
	borrow_rx(c);
	c->receiving = true;
	all = receive(c);
	c->receiving = false;
	return_rx(c);
	if (woke && c->n_requests != before)
		count_time(c, woke);
	if (!finished(c))
		return;
	if (all)
		leave(c);
	else
		watch(c);
}

void conn_writable(struct conn *c)
{
	c->turn = 0;
	c->out_blocked = false;
	/* It takes some: whatever comes next begins now. */
	status_is(&c->status, STATUS_BUSY);
	reply_flush(c);
	conn_settle(c);
}

void conn_job_done(struct conn *c, struct job *j)
{
	if (j->type >= JOB_OPEN) {
		c->jobs--;
		transmit_free_job(c, j);
		if (c->phase == CONN_NEGOTIATE)
			nego_resume(c->nego);
	} else {
		transmit_job_done(c, j);
	}
	if (c->phase == CONN_CLOSED)
		take_apart(c);
}

void conn_poked(struct conn *c)
{
	if (atomic_load(&c->session.superseded)) {
		conn_end(c, LOG_NOTICE, "ended: its station (%s) has come back by another connection",
			 c->session.id.station);
		return;
	}
	if (c->phase == CONN_NEGOTIATE) {
		nego_resume(c->nego);
		conn_settle(c);
	}
}

void conn_tick(struct conn *c, bool pressed)
{
	const bool stalls = c->out_blocked || (c->wjob && c->watch_in);

	if (!pressed || !stalls || c->moved)
		c->still = 0;
	else if (++c->still >= STILL_TICKS)
		conn_end(c, LOG_WARNING, c->out_blocked ?
			 "takes no answers, and their memory is wanted" :
			 "sends no more of its write, and the memory for it is wanted");
	c->moved = false;
	if (c->lingering)
		conn_settle(c);
}

void conn_late(struct conn *c, uint64_t now, unsigned int ms)
{
	if (c->phase == CONN_NEGOTIATE) {
		if (nego_waits(c->nego))
			c->deadline += ms;
		else if (now >= c->deadline)
			conn_end(c, LOG_WARNING, "negotiation not done within %d s",
				 CONN_HANDSHAKE_MS / 1000);
	} else if (c->phase != CONN_CLOSED) {
		/* The disk, or a program, is not the client's fault. */
		if (c->jobs && !c->out_blocked)
			c->deadline += ms;
		else if (now >= c->deadline)
			conn_end(c, LOG_WARNING, "closed: the server stops, and the client does not take its answers");
	}
}

/*
 * While its last answers leave, what comes is answered with an error that says
 * why. Not to those who have simple replies: the kernel's nbd driver is one of
 * them, and would make an I/O error of it, where it can go on after a lost
 * connection.
 */
void conn_stop(struct conn *c, uint64_t now)
{
	c->deadline = now + CONN_STOP_MS;
	if (c->phase != CONN_NEGOTIATE && c->phase != CONN_TRANSMIT)
		return;
	snprintf(c->last_words, sizeof(c->last_words),
		 "closed: the server stops");
	if (c->phase == CONN_NEGOTIATE) {
		nego_stop(c->nego);
		conn_settle(c);
	}
	c->stopping = true;
	if (c->phase != CONN_CLOSED && c->headers != NEGO_SIMPLE)
		conn_readable(c);
	if (c->phase == CONN_TRANSMIT && c->headers != NEGO_SIMPLE) {
		conn_settle(c);
	} else if (c->phase == CONN_TRANSMIT || c->phase == CONN_NEGOTIATE) {
		transmit_abandon(c);
		c->phase = CONN_FINISH;
		conn_settle(c);
	}
}
