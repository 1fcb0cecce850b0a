// SPDX-License-Identifier: GPL-2.0
/*
 * engine-threads.c - a thread for each connection, on poll(2) and nothing that
 * POSIX does not have: for systems without epoll(7), and to hold engine-epoll.c
 * against ("make ENGINE=threads").
 *
 * To conn.c it is what the other engine is (loop.h), only that each connection
 * has a loop of its own. Its thread sleeps in poll(2) over the socket and a
 * pipe. Through the pipe others wake it: workers with jobs that are done, a
 * session that supersedes it, memory that is short, the end. One further thread
 * accepts connections.
 *
 * A loop is freed by its own thread, once its connection is buried: its jobs are
 * back then, and nobody pokes it. Whoever brought the last job woke it under
 * ->lock, which it took to find that job, so nobody is still at it.
 */
#define _GNU_SOURCE
#include "engine.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "budget.h"
#include "conn.h"
#include "log.h"
#include "loop.h"
#include "os.h"
#include "pool.h"

/* As in engine-epoll.c. */
#define RETRY_MS	5
#define TICK_MS		250
#define MAX_LISTENERS	16

#define TOO_MANY	"a connection was refused: too many open files; raise the limit (LimitNOFILE=, ulimit -n)"

struct loop {
	struct loop *next, **prev;	/* under engine.lock */
	struct conn *conn;
	int pipe[2];
	bool watch_in, watch_out;	/* what poll(2) is to wait for */

	/* From other threads. */
	pthread_mutex_t lock;
	struct job_list done;
	bool poked;

	/* Its own. */
	uint8_t *rx;
	struct job_list submit;
	bool retry, stopping, buried;
	uint64_t tick_at;
};

static struct {
	pthread_t acceptor;
	bool accepting;
	int pipe[2];		/* wakes it */
	const int *listeners;
	unsigned int n_listeners;
	struct exports *exports;
	void (*single_ended)(void);
	int reserve;		/* a descriptor to spend when there are none */

	pthread_mutex_t lock;
	pthread_cond_t empty;
	struct loop *loops;
	atomic_bool stop, pressed;
} engine = {
	.lock = PTHREAD_MUTEX_INITIALIZER,
	.empty = PTHREAD_COND_INITIALIZER,
	.reserve = -1,
};

static uint64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

#ifndef SOCK_CLOEXEC
static bool set_flags(int fd)
{
	return fcntl(fd, F_SETFL, O_NONBLOCK) >= 0 &&
	       fcntl(fd, F_SETFD, FD_CLOEXEC) >= 0;
}
#endif

/*
 * A program that another thread runs must not inherit it. Where there is no way
 * (POSIX has one since 2024) to have it so from the first moment on, soon after.
 */
static int accept_alone(int listener, struct sockaddr_storage *addr)
{
	socklen_t len = sizeof(*addr);
	int fd;

	memset(addr, 0, sizeof(*addr));
#ifdef SOCK_CLOEXEC
	fd = accept4(listener, (struct sockaddr *)addr, &len,
		     SOCK_NONBLOCK | SOCK_CLOEXEC);
#else
	fd = accept(listener, (struct sockaddr *)addr, &len);
	if (fd >= 0 && !set_flags(fd)) {
		close(fd);
		errno = ECONNABORTED;
		return -1;
	}
#endif
	return fd;
}

static bool open_pipe(int fd[2])
{
#ifdef SOCK_CLOEXEC
	return !pipe2(fd, O_NONBLOCK | O_CLOEXEC);
#else
	if (pipe(fd) < 0)
		return false;
	if (set_flags(fd[0]) && set_flags(fd[1]))
		return true;
	close(fd[0]);
	close(fd[1]);
	return false;
#endif
}

/* Full means that it will wake all the same. */
static void wake(int fd)
{
	if (write(fd, "", 1) < 0)
		return;
}

static void drain(int fd)
{
	char buf[64];

	while (read(fd, buf, sizeof(buf)) > 0)
		;
}

static void wake_all(void)
{
	struct loop *l;

	pthread_mutex_lock(&engine.lock);
	for (l = engine.loops; l; l = l->next)
		wake(l->pipe[1]);
	pthread_mutex_unlock(&engine.lock);
}

/* -- loop.h ------------------------------------------------------------ */

void loop_watch(struct loop *l, struct conn *c, bool in, bool out)
{
	c->watching = true;
	c->watch_in = l->watch_in = in;
	c->watch_out = l->watch_out = out;
}

void loop_forget(struct loop *l, struct conn *c)
{
	(void)l;
	c->watching = false;
}

void loop_bury(struct loop *l, struct conn *c)
{
	c->buried = true;
	l->buried = true;
}

void loop_submit(struct loop *l, struct job *j)
{
	job_list_add(&l->submit, j);
}

void loop_jobs_done(struct job *list)
{
	struct job *next;

	for (; list; list = next) {
		struct loop *l = list->loop;

		next = list->next;
		pthread_mutex_lock(&l->lock);
		job_list_add(&l->done, list);
		if (l->done.n == 1)
			wake(l->pipe[1]);
		pthread_mutex_unlock(&l->lock);
	}
}

void loop_poke(struct loop *l, struct conn *c)
{
	(void)c;
	pthread_mutex_lock(&l->lock);
	l->poked = true;
	wake(l->pipe[1]);
	pthread_mutex_unlock(&l->lock);
}

void loop_retry(struct loop *l)
{
	l->retry = true;
	/* Somebody goes without: all look whether it is they who stand still. */
	if (budget_pressed() && !atomic_exchange(&engine.pressed, true))
		wake_all();
}

uint64_t loop_woke(struct loop *l)
{
	struct timespec t;

	/* It has one connection only: just now. */
	(void)l;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000U + (uint64_t)t.tv_nsec;
}

uint8_t *loop_rx(struct loop *l)
{
	return l->rx;
}

struct out *loop_chunk_get(struct loop *l)
{
	struct out *o = malloc(sizeof(*o) + LOOP_CHUNK);

	(void)l;
	if (!o)
		return NULL;
	memset(o, 0, sizeof(*o));
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

/* -- a connection's thread ------------------------------------------------ */

static void take_news(struct loop *l)
{
	struct job *j, *next;
	bool poked;

	drain(l->pipe[0]);
	pthread_mutex_lock(&l->lock);
	j = l->done.first;
	job_list_init(&l->done);
	poked = l->poked;
	l->poked = false;
	pthread_mutex_unlock(&l->lock);
	if (poked && l->conn->phase != CONN_CLOSED)
		conn_poked(l->conn);
	if (!j)
		return;
	for (; j; j = next) {
		next = j->next;
		conn_job_done(l->conn, j);
	}
	if (l->conn->phase != CONN_CLOSED)
		conn_settle(l->conn);
}

static void serve_socket(struct conn *c, short events)
{
	if (c->phase != CONN_CLOSED && events & (POLLOUT | POLLERR))
		conn_writable(c);
	if (c->phase != CONN_CLOSED && events & (POLLIN | POLLHUP | POLLERR))
		conn_readable(c);
	/* Reported whether asked for or not, and so again and again. */
	if (c->phase != CONN_CLOSED && !c->watch_in &&
	    events & (POLLHUP | POLLERR))
		conn_end(c, LOG_NOTICE, "%s", c->phase == CONN_FINISH ?
			 c->last_words : "connection lost");
}

static void tick(struct loop *l)
{
	const uint64_t now = now_ms();
	const unsigned int ms = (unsigned int)(now - l->tick_at + TICK_MS);
	const bool pressed = budget_pressed();
	struct conn *c = l->conn;
	const bool again = pressed || l->stopping || c->phase == CONN_NEGOTIATE;

	conn_tick(c, pressed);
	if (c->phase == CONN_NEGOTIATE || l->stopping)
		conn_late(c, now, ms);
	if (!pressed)
		atomic_store(&engine.pressed, false);
	l->tick_at = again ? now + TICK_MS : 0;
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

static void one_round(struct loop *l)
{
	struct conn *c = l->conn;
	struct pollfd p[2] = {
		{ .fd = l->pipe[0], .events = POLLIN },
		{ .fd = c->watching ? c->fd : -1,
		  .events = (short)((l->watch_in ? POLLIN : 0) |
				    (l->watch_out ? POLLOUT : 0)) },
	};

	if (poll(p, 2, patience(l)) < 0)
		return;		/* EINTR */
	if (p[1].revents)
		serve_socket(c, p[1].revents);
	if (p[0].revents)
		take_news(l);
	if (l->retry) {
		l->retry = false;
		if (c->starved && c->phase != CONN_CLOSED)
			conn_settle(c);
	}
	if (atomic_load(&engine.stop) && !l->stopping) {
		l->stopping = true;
		conn_stop(c, now_ms());
	}
	if (!l->tick_at && (l->stopping || atomic_load(&engine.pressed)))
		l->tick_at = now_ms() + TICK_MS;
	if (l->tick_at && now_ms() >= l->tick_at)
		tick(l);
	pool_submit(&l->submit);
}

static void free_loop(struct loop *l)
{
	pthread_mutex_lock(&engine.lock);
	*l->prev = l->next;
	if (l->next)
		l->next->prev = l->prev;
	if (!engine.loops)
		pthread_cond_signal(&engine.empty);
	pthread_mutex_unlock(&engine.lock);
	close(l->pipe[0]);
	close(l->pipe[1]);
	pthread_mutex_destroy(&l->lock);
	free(l->rx);
	free(l);
}

static void *serve_connection(void *arg)
{
	struct loop *l = arg;

	l->tick_at = now_ms() + TICK_MS;
	conn_start(l->conn);
	pool_submit(&l->submit);
	while (!l->buried)
		one_round(l);
	conn_free(l->conn);
	if (engine.single_ended && !atomic_load(&engine.stop))
		engine.single_ended();
	free_loop(l);
	return NULL;
}

static struct loop *new_loop(void)
{
	struct loop *l = calloc(1, sizeof(*l));

	if (!l)
		return NULL;
	l->rx = malloc(LOOP_RX);
	if (!l->rx || !open_pipe(l->pipe)) {
		free(l->rx);
		free(l);
		return NULL;
	}
	pthread_mutex_init(&l->lock, NULL);
	job_list_init(&l->done);
	job_list_init(&l->submit);
	pthread_mutex_lock(&engine.lock);
	l->next = engine.loops;
	if (l->next)
		l->next->prev = &l->next;
	l->prev = &engine.loops;
	engine.loops = l;
	pthread_mutex_unlock(&engine.lock);
	return l;
}

/* -- new connections ---------------------------------------------------- */

static bool start_thread(struct loop *l)
{
	pthread_attr_t attr;
	sigset_t all, old;
	pthread_t thread;
	bool ok;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 256 << 10);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	ok = !pthread_create(&thread, &attr, serve_connection, l);
	pthread_attr_destroy(&attr);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return ok;
}

static void adopt(int fd, const struct sockaddr_storage *addr)
{
	struct loop *l = new_loop();

	if (!l) {
		log_peer(LOG_ERR, errno == EMFILE || errno == ENFILE ?
			 TOO_MANY : "a connection was refused: out of memory");
		close(fd);
		return;
	}
	l->conn = conn_new(l, engine.exports, fd, addr);
	if (!l->conn) {		/* it said why */
		free_loop(l);
		return;
	}
	l->conn->deadline = now_ms() + CONN_HANDSHAKE_MS;
	if (start_thread(l))
		return;
	conn_end(l->conn, LOG_ERR, "a connection was refused: no thread to be had for it");
	conn_free(l->conn);
	free_loop(l);
}

/*
 * No descriptor left: a connection that cannot be accepted would keep the
 * listener ready for ever and this thread busy. Spend the reserve to accept it,
 * hang up, and reserve anew. Another thread may have got what we gave free;
 * then nobody is listened to for a tick.
 */
static void shed(int listener)
{
	struct sockaddr_storage addr;
	int fd;

	log_peer(LOG_ERR, TOO_MANY);
	if (engine.reserve >= 0)
		close(engine.reserve);
	fd = accept_alone(listener, &addr);
	if (fd >= 0)
		close(fd);
	else if (errno == EMFILE || errno == ENFILE)
		poll(NULL, 0, TICK_MS);
	engine.reserve = open("/dev/null", O_RDONLY | O_CLOEXEC);
}

static void accept_one(int listener)
{
	struct sockaddr_storage addr;
	const int fd = accept_alone(listener, &addr);

	if (fd >= 0)
		adopt(fd, &addr);
	else if (errno == EMFILE || errno == ENFILE)
		shed(listener);
	else if (errno != EAGAIN && errno != ECONNABORTED && errno != EINTR)
		log_peer(LOG_ERR, "accept: %s", strerror(errno));
}

static void *accept_connections(void *arg)
{
	struct pollfd p[MAX_LISTENERS + 1];
	const unsigned int n = engine.n_listeners;
	unsigned int i;

	(void)arg;
	for (i = 0; i < n; i++)
		p[i] = (struct pollfd){ .fd = engine.listeners[i],
					.events = POLLIN };
	p[n] = (struct pollfd){ .fd = engine.pipe[0], .events = POLLIN };
	while (!atomic_load(&engine.stop)) {
		if (poll(p, n + 1, -1) < 0)
			continue;
		for (i = 0; i < n; i++)
			if (p[i].revents)
				accept_one(engine.listeners[i]);
	}
	return NULL;
}

/* -- engine.h ----------------------------------------------------------- */

bool engine_start(const struct engine_settings *s)
{
	sigset_t all, old;

	engine.listeners = s->listeners;
	engine.n_listeners = s->n_listeners;
	engine.exports = s->exports;
	engine.reserve = open("/dev/null", O_RDONLY | O_CLOEXEC);
	budget_init(0);
	if (s->realtime && s->realtime_asked)
		log_msg(LOG_WARNING, "realtime = true: this server has a thread for each connection and no loops; going on without");
	/* No program that we run is to, either. */
	if (s->realtime)
		os_allow_realtime(false);
	if (s->n_listeners > MAX_LISTENERS || !open_pipe(engine.pipe) ||
	    !pool_start(s->workers ? s->workers : 16, loop_jobs_done)) {
		log_msg(LOG_ERR, "cannot start worker threads");
		return false;
	}
	if (s->single) {
		struct sockaddr_storage addr;
		socklen_t len = sizeof(addr);

		memset(&addr, 0, sizeof(addr));
		(void)getpeername(s->single, (struct sockaddr *)&addr, &len);
		engine.single_ended = s->single_ended;
		adopt(s->single, &addr);
	}
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	engine.accepting = !pthread_create(&engine.acceptor, NULL,
					   accept_connections, NULL);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (!engine.accepting)
		log_msg(LOG_ERR, "cannot start the thread that accepts: %s",
			strerror(errno));
	return engine.accepting;
}

void engine_stop(void)
{
	atomic_store(&engine.stop, true);
	wake(engine.pipe[1]);
	pthread_join(engine.acceptor, NULL);
	/* From here on there are no new ones. */
	wake_all();
	pthread_mutex_lock(&engine.lock);
	while (engine.loops)
		pthread_cond_wait(&engine.empty, &engine.lock);
	pthread_mutex_unlock(&engine.lock);
	pool_stop();
	close(engine.pipe[0]);
	close(engine.pipe[1]);
	close(engine.reserve);
}
