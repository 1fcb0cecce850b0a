// SPDX-License-Identifier: GPL-2.0
/*
 * engine-epoll.c - event loops on epoll(7), one thread per CPU.
 *
 * A connection is accepted by the first loop, dealt to the loops in turn, and
 * stays with its loop for life, so nothing of it needs a lock. From outside, a
 * loop is reached in three ways only, each followed by a wake-up through its
 * eventfd: sockets it is to adopt, connections that are to be poked (both
 * under ->lock), and jobs that are done (a lock-free stack).
 *
 * One round of a loop: wait; serve the sockets that are ready; take back the
 * jobs that are done; settle the connections these touched; hand new jobs to
 * the workers all at once; free what has died. Connections are freed only here
 * at the end, since an event of the same round may still point at them.
 */
#define _GNU_SOURCE
#include "engine.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "budget.h"
#include "conn.h"
#include "events.h"
#include "log.h"
#include "loop.h"
#include "os.h"
#include "pool.h"

#define EVENTS		64
/* Connections accepted before those at work have their turn. */
#define ACCEPT_TURN	32
/* Free chunks a loop keeps. */
#define CHUNKS_KEPT	32U
/* How soon a connection that waits for memory asks again, in milliseconds. */
#define RETRY_MS	5
/* How often deadlines are looked at while there are any. */
#define TICK_MS		250

struct adopted {
	struct adopted *next;
	int fd;
	struct sockaddr_storage addr;
};

struct loop {
	unsigned int index;
	int epfd, evfd;
	struct events events;
	struct exports *exports;

	/* From other threads. */
	pthread_mutex_t lock;
	struct adopted *adopt;
	struct conn *pokes;
	_Atomic(struct job *) done;
	atomic_bool stop;

	/* Its own. */
	struct conn *conns, *touched, *dead;
	unsigned int n_conns, negotiating;
	uint8_t *rx;
	struct job_list submit;
	struct out *chunks;
	unsigned int n_chunks;
	bool retry, stopping;
	bool deaf;		/* to those who connect: see shed() */
	uint64_t tick_at;
};

static struct {
	struct loop *loop;
	unsigned int n_loops, next;
	const int *listeners;
	unsigned int n_listeners;
	void (*single_ended)(void);
	atomic_bool pressed;	/* see tick() */
	int reserve;		/* a descriptor to spend when there are none */
} engine;
/* No loop serves while it is held. */
static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;

static uint64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static void wake(struct loop *l)
{
	const uint64_t one = 1;

	/* Full means that it will wake all the same. */
	if (write(l->evfd, &one, sizeof(one)) < 0)
		return;
}

/* -- loop.h ------------------------------------------------------------ */

void loop_watch(struct loop *l, struct conn *c, bool in, bool out)
{
	struct epoll_event e = {
		.events = (in ? EPOLLIN | EPOLLRDHUP : 0) | (out ? EPOLLOUT : 0),
		.data.ptr = c,
	};
	int op = c->watching ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;

	if (c->watching && c->watch_in == in && c->watch_out == out)
		return;
	if (epoll_ctl(l->epfd, op, c->fd, &e) < 0) {
		conn_end(c, LOG_ERR, "epoll_ctl: %s", strerror(errno));
		return;
	}
	c->watching = true;
	c->watch_in = in;
	c->watch_out = out;
}

void loop_forget(struct loop *l, struct conn *c)
{
	if (c->watching)
		epoll_ctl(l->epfd, EPOLL_CTL_DEL, c->fd, NULL);
	c->watching = false;
}

void loop_bury(struct loop *l, struct conn *c)
{
	if (c->buried)
		return;
	c->buried = true;
	if (c->prev)
		c->prev->next = c->next;
	else
		l->conns = c->next;
	if (c->next)
		c->next->prev = c->prev;
	l->n_conns--;
	c->next = l->dead;
	l->dead = c;
}

void loop_submit(struct loop *l, struct job *j)
{
	job_list_add(&l->submit, j);
}

/* @first .. @last, linked, are @l's: one push, at most one wake-up. */
static void give_back(struct loop *l, struct job *first, struct job *last)
{
	struct job *top = atomic_load(&l->done);

	do
		last->next = top;
	while (!atomic_compare_exchange_weak(&l->done, &top, first));
	if (!top)
		wake(l);
}

void loop_jobs_done(struct job *list)
{
	struct loop *l;

	while (list) {
		struct job *first = NULL, *last = NULL, *others = NULL;
		struct job *j, *next;

		l = list->loop;
		for (j = list; j; j = next) {
			next = j->next;
			if (j->loop == l) {
				/* Reversed: the stack has the latest on top. */
				j->next = first;
				first = j;
				if (!last)
					last = j;
			} else {
				j->next = others;
				others = j;
			}
		}
		give_back(l, first, last);
		list = others;
	}
}

void loop_poke(struct loop *l, struct conn *c)
{
	pthread_mutex_lock(&l->lock);
	if (!c->poked) {
		c->poked = true;
		c->poke_next = l->pokes;
		l->pokes = c;
	}
	pthread_mutex_unlock(&l->lock);
	wake(l);
}

void loop_retry(struct loop *l)
{
	unsigned int i;

	l->retry = true;
	/* Somebody goes without: every loop looks for those who stand still. */
	if (budget_pressed() && !atomic_exchange(&engine.pressed, true))
		for (i = 0; i < engine.n_loops; i++)
			wake(&engine.loop[i]);
}

uint8_t *loop_rx(struct loop *l)
{
	return l->rx;
}

struct out *loop_chunk_get(struct loop *l)
{
	struct out *o = l->chunks;

	if (o) {
		l->chunks = o->next;
		l->n_chunks--;
	} else {
		o = malloc(sizeof(*o) + LOOP_CHUNK);
		if (!o)
			return NULL;
		*o = (struct out){ .kind = OUT_CHUNK, .cap = LOOP_CHUNK,
				   .mem = (uint8_t *)(o + 1) };
	}
	o->pos = o->len = 0;
	return o;
}

void loop_chunk_put(struct loop *l, struct out *o)
{
	if (o->cap != LOOP_CHUNK || l->n_chunks >= CHUNKS_KEPT) {
		free(o);
		return;
	}
	o->next = l->chunks;
	l->chunks = o;
	l->n_chunks++;
}

/* -- new connections ---------------------------------------------------- */

static void adopt(struct loop *l, int fd, const struct sockaddr_storage *addr)
{
	struct conn *c = conn_new(l, l->exports, fd, addr);

	if (!c)
		return;		/* it said why */
	c->next = l->conns;
	if (c->next)
		c->next->prev = c;
	l->conns = c;
	l->n_conns++;
	c->deadline = now_ms() + CONN_HANDSHAKE_MS;
	if (!l->tick_at)
		l->tick_at = now_ms() + TICK_MS;
	conn_start(c);
}

static void adopt_all(struct loop *l)
{
	struct adopted *a, *next;

	pthread_mutex_lock(&l->lock);
	a = l->adopt;
	l->adopt = NULL;
	pthread_mutex_unlock(&l->lock);
	for (; a; a = next) {
		next = a->next;
		if (l->stopping)
			close(a->fd);
		else
			adopt(l, a->fd, &a->addr);
		free(a);
	}
}

static void deal(struct loop *self, int fd, const struct sockaddr_storage *addr)
{
	struct loop *l = &engine.loop[engine.next++ % engine.n_loops];
	struct adopted *a;

	if (l == self) {
		adopt(l, fd, addr);
		return;
	}
	a = malloc(sizeof(*a));
	if (!a) {
		close(fd);
		return;
	}
	a->fd = fd;
	a->addr = *addr;
	pthread_mutex_lock(&l->lock);
	a->next = l->adopt;
	l->adopt = a;
	pthread_mutex_unlock(&l->lock);
	wake(l);
}

/* Does the loop hear of those who connect? */
static bool watch_listeners(struct loop *l, bool on)
{
	bool ok = true;
	unsigned int i;

	for (i = 0; i < engine.n_listeners; i++) {
		struct epoll_event e = {
			.events = EPOLLIN,
			.data.ptr = (void *)&engine.listeners[i],
		};

		ok &= !epoll_ctl(l->epfd, on ? EPOLL_CTL_ADD : EPOLL_CTL_DEL,
				 engine.listeners[i], &e);
	}
	l->deaf = !on;
	return ok;
}

/*
 * No descriptor left: a connection that cannot be accepted would keep the
 * listener ready for ever and the loop busy. Spend the reserve to accept it,
 * hang up, and reserve anew. Another thread may have got what we gave free;
 * then nobody is listened to until the next tick.
 */
static void shed(struct loop *l, int listener)
{
	int fd;

	log_peer(LOG_ERR, "a connection was refused: too many open files; raise the limit (LimitNOFILE=, ulimit -n)");
	if (engine.reserve >= 0)
		close(engine.reserve);
	fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	if (fd >= 0) {
		close(fd);
	} else if (errno == EMFILE || errno == ENFILE) {
		watch_listeners(l, false);
		if (!l->tick_at)
			l->tick_at = now_ms() + TICK_MS;
	}
	engine.reserve = open("/dev/null", O_RDONLY | O_CLOEXEC);
}

static void accept_some(struct loop *l, int listener)
{
	int turn;

	for (turn = 0; turn < ACCEPT_TURN; turn++) {
		struct sockaddr_storage addr;
		socklen_t len = sizeof(addr);
		int fd;

		memset(&addr, 0, sizeof(addr));
		fd = accept4(listener, (struct sockaddr *)&addr, &len,
			     SOCK_NONBLOCK | SOCK_CLOEXEC);
		if (fd >= 0) {
			deal(l, fd, &addr);
			continue;
		}
		if (errno == EMFILE || errno == ENFILE)
			shed(l, listener);
		else if (errno != EAGAIN && errno != ECONNABORTED &&
			 errno != EINTR)
			log_peer(LOG_ERR, "accept: %s", strerror(errno));
		return;
	}
}

/* -- a round ------------------------------------------------------------ */

static void touch(struct loop *l, struct conn *c)
{
	if (c->touched)
		return;
	c->touched = true;
	c->touched_next = l->touched;
	l->touched = c;
}

static void jobs_done(struct loop *l)
{
	struct job *j = atomic_exchange(&l->done, NULL), *next, *list = NULL;

	/* The stack has the latest on top. */
	for (; j; j = next) {
		next = j->next;
		j->next = list;
		list = j;
	}
	for (j = list; j; j = next) {
		struct conn *c = j->conn;

		next = j->next;
		touch(l, c);
		conn_job_done(c, j);
	}
}

static void settle_touched(struct loop *l)
{
	struct conn *c;

	while ((c = l->touched)) {
		l->touched = c->touched_next;
		c->touched = false;
		if (c->phase != CONN_CLOSED)
			conn_settle(c);
	}
}

static void retry_starved(struct loop *l)
{
	struct conn *c, *next;

	l->retry = false;
	for (c = l->conns; c; c = next) {
		next = c->next;
		if (c->starved)
			conn_settle(c);
	}
}

static void tick(struct loop *l)
{
	const uint64_t now = now_ms();
	const unsigned int ms = (unsigned int)(now - l->tick_at + TICK_MS);
	const bool pressed = budget_pressed();
	bool again = pressed || l->stopping;
	struct conn *c, *next;

	if (l->deaf && !l->stopping)
		watch_listeners(l, true);
	for (c = l->conns; c; c = next) {
		next = c->next;
		again |= c->phase == CONN_NEGOTIATE;
		conn_tick(c, pressed);
		if (c->phase == CONN_NEGOTIATE || l->stopping)
			conn_late(c, now, ms);
	}
	if (!pressed)
		atomic_store(&engine.pressed, false);
	l->tick_at = again ? now + TICK_MS : 0;
}

static void begin_stop(struct loop *l)
{
	struct conn *c, *next;

	l->stopping = true;
	l->tick_at = now_ms() + TICK_MS;
	if (l->index == 0)
		watch_listeners(l, false);
	for (c = l->conns; c; c = next) {
		next = c->next;
		conn_stop(c, now_ms());
	}
}

/* All that were poked, those that have died since among them. */
static void take_pokes(struct loop *l)
{
	struct conn *c;

	for (;;) {
		pthread_mutex_lock(&l->lock);
		c = l->pokes;
		if (c) {
			l->pokes = c->poke_next;
			c->poked = false;
		}
		pthread_mutex_unlock(&l->lock);
		if (!c)
			return;
		if (c->phase != CONN_CLOSED)
			conn_poked(c);
	}
}

/* Nobody pokes a connection that was buried, but may have just before. */
static void bury_dead(struct loop *l)
{
	struct conn *c;

	if (l->dead)
		take_pokes(l);
	while ((c = l->dead)) {
		l->dead = c->next;
		conn_free(c);
	}
}

static int patience(const struct loop *l)
{
	uint64_t now;

	if (l->retry)
		return RETRY_MS;
	if (!l->tick_at)
		return -1;
	now = now_ms();
	return now >= l->tick_at ? 0 : (int)(l->tick_at - now);
}

static const int *listener_of(void *p)
{
	const int *fd = p;

	if (fd >= engine.listeners &&
	    fd < engine.listeners + engine.n_listeners)
		return fd;
	return NULL;
}

static void serve_event(struct loop *l, const struct epoll_event *e)
{
	struct conn *c = e->data.ptr;
	uint64_t count;

	if (e->data.ptr == l) {
		if (read(l->evfd, &count, sizeof(count)) < 0)
			return;
		adopt_all(l);
		take_pokes(l);
		return;
	}
	if (listener_of(e->data.ptr)) {
		if (!l->stopping)
			accept_some(l, *listener_of(e->data.ptr));
		return;
	}
	if (c->phase != CONN_CLOSED && e->events & (EPOLLOUT | EPOLLERR))
		conn_writable(c);
	if (c->phase != CONN_CLOSED &&
	    e->events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR))
		conn_readable(c);
	/*
	 * HUP and ERR are reported whether asked for or not. A connection
	 * that does not read at the moment would be called for ever.
	 */
	if (c->phase != CONN_CLOSED && !c->watch_in &&
	    e->events & (EPOLLHUP | EPOLLERR))
		conn_end(c, LOG_NOTICE, "%s", c->phase == CONN_FINISH ?
			 c->last_words : "connection lost");
}

static void *loop_main(void *arg)
{
	struct epoll_event event[EVENTS];
	struct loop *l = arg;

	pthread_mutex_lock(&gate);
	pthread_mutex_unlock(&gate);
	while (!l->stopping || l->n_conns) {
		int n = events_wait(&l->events, l->epfd, event, EVENTS,
				    patience(l));
		int i;

		for (i = 0; i < n; i++)
			serve_event(l, &event[i]);
		jobs_done(l);
		settle_touched(l);
		if (l->retry)
			retry_starved(l);
		if (atomic_load(&l->stop) && !l->stopping)
			begin_stop(l);
		if (!l->tick_at && atomic_load(&engine.pressed))
			l->tick_at = now_ms() + TICK_MS;
		if (l->tick_at && now_ms() >= l->tick_at)
			tick(l);
		pool_submit(&l->submit);
		bury_dead(l);
		if (engine.single_ended && l->index == 0 && !l->n_conns &&
		    !l->stopping) {
			engine.single_ended();
			engine.single_ended = NULL;
		}
	}
	return NULL;
}

/* -- engine.h ----------------------------------------------------------- */

static bool loop_init(struct loop *l, unsigned int index, struct exports *x)
{
	struct epoll_event e = { .events = EPOLLIN, .data.ptr = l };

	l->index = index;
	l->exports = x;
	pthread_mutex_init(&l->lock, NULL);
	job_list_init(&l->submit);
	l->epfd = epoll_create1(EPOLL_CLOEXEC);
	l->evfd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	l->rx = malloc(LOOP_RX);
	return l->epfd >= 0 && l->evfd >= 0 && l->rx &&
	       !epoll_ctl(l->epfd, EPOLL_CTL_ADD, l->evfd, &e);
}

bool engine_start(const struct engine_settings *s)
{
	sigset_t all, old;
	unsigned int i;
	bool ok = true;

	engine.n_loops = s->loops ? s->loops : os_processors();
	engine.loop = calloc(engine.n_loops, sizeof(*engine.loop));
	engine.listeners = s->listeners;
	engine.n_listeners = s->n_listeners;
	engine.reserve = open("/dev/null", O_RDONLY | O_CLOEXEC);
	budget_init(0);
	if (!engine.loop || !pool_start(s->workers ? s->workers : 16,
					loop_jobs_done)) {
		log_msg(LOG_ERR, "cannot start worker threads");
		return false;
	}
	for (i = 0; i < engine.n_loops; i++)
		ok = ok && loop_init(&engine.loop[i], i, s->exports);
	ok = ok && watch_listeners(&engine.loop[0], true);
	if (ok && s->single) {
		struct sockaddr_storage addr;
		socklen_t len = sizeof(addr);

		memset(&addr, 0, sizeof(addr));
		(void)getpeername(s->single, (struct sockaddr *)&addr, &len);
		engine.single_ended = s->single_ended;
		adopt(&engine.loop[0], s->single, &addr);
	}

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	pthread_mutex_lock(&gate);
	for (i = 0; ok && i < engine.n_loops; i++)
		ok = !pthread_create(&engine.loop[i].events.thread, NULL,
				     loop_main, &engine.loop[i]);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (!ok)
		log_msg(LOG_ERR, "cannot start event loops: %s",
			strerror(errno));
	for (i = 0; ok && s->realtime && i < engine.n_loops; i++) {
		if (!i && !events_may_come_first(&engine.loop[0].events,
						 s->realtime_asked))
			break;
		engine.loop[i].events.disk_busy = pool_disk_busy;
	}
	pthread_mutex_unlock(&gate);
	return ok;
}

void engine_stop(void)
{
	unsigned int i;

	for (i = 0; i < engine.n_loops; i++) {
		atomic_store(&engine.loop[i].stop, true);
		wake(&engine.loop[i]);
	}
	for (i = 0; i < engine.n_loops; i++)
		pthread_join(engine.loop[i].events.thread, NULL);
	pool_stop();
	for (i = 0; i < engine.n_loops; i++) {
		struct loop *l = &engine.loop[i];
		struct out *o;

		adopt_all(l);	/* dealt too late: closes them */
		while ((o = l->chunks)) {
			l->chunks = o->next;
			free(o);
		}
		free(l->rx);
		close(l->epfd);
		close(l->evfd);
		pthread_mutex_destroy(&l->lock);
	}
	close(engine.reserve);
	free(engine.loop);
	engine.loop = NULL;
}
