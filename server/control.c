// SPDX-License-Identifier: GPL-2.0
/*
 * control.c - the server's end of the control socket: a thread that accepts,
 * and one for each who asks, at most CLIENTS of either socket at a time, each
 * for so long. None of it touches a loop; a report is made of what status.c has.
 */
#define _GNU_SOURCE
#include "control.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "log.h"
#include "status.h"

#define CLIENTS		16
/* Of these, those who look at top, who stay. */
#define TOPS		8
/* For one to say what it wants, and then to take the answer. */
#define PATIENCE_MS	5000
#define TOP_MS		1000
/* Until it is tried again to accept where that fails. */
#define PAUSE_MS	250

static struct {
	struct control_settings s;
	char *path;
	dev_t dev;
	ino_t ino;
	int unix_fd, tcp_fd, stop[2];
	pthread_t thread;
	bool running;
	/* Anybody on this host reaches the port: it takes no place of the other. */
	atomic_int unix_clients, tcp_clients, tops;
	/* Those of them who look at the exports at this moment. */
	pthread_mutex_t lock;
	unsigned int looking;
	bool stopping;	/* nobody may any more */
} control = {
	.unix_fd = -1, .tcp_fd = -1, .stop = { -1, -1 },
	.lock = PTHREAD_MUTEX_INITIALIZER,
};

struct asker {
	int fd;
	bool local;	/* came by the Unix socket: may do more than look */
	atomic_int *clients;	/* it is one of */
};

static int64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* Until @deadline, whatever comes a byte at a time. */
static bool wait_until(int fd, short events, int64_t deadline)
{
	for (;;) {
		struct pollfd p = { .fd = fd, .events = events };
		int64_t left = deadline - now_ms();
		int n;

		if (left <= 0)
			return false;
		n = poll(&p, 1, (int)left);
		if (n > 0)
			return true;
		if (n < 0 && errno != EINTR)
			return false;
	}
}

/* False: the exports may be gone. */
static bool begin_look(void)
{
	bool ok;

	pthread_mutex_lock(&control.lock);
	ok = !control.stopping;
	control.looking += ok;
	pthread_mutex_unlock(&control.lock);
	return ok;
}

static void end_look(void)
{
	pthread_mutex_lock(&control.lock);
	control.looking--;
	pthread_mutex_unlock(&control.lock);
}

static unsigned int lookers(void)
{
	unsigned int n;

	pthread_mutex_lock(&control.lock);
	n = control.looking;
	pthread_mutex_unlock(&control.lock);
	return n;
}

/* -- answers --------------------------------------------------------------- */

static bool send_all(int fd, const char *s, size_t len)
{
	const int64_t deadline = now_ms() + PATIENCE_MS;

	while (len) {
		ssize_t n = wait_until(fd, POLLOUT, deadline) ?
			    send(fd, s, len, MSG_NOSIGNAL) : 0;

		if (n < 0 && (errno == EINTR || errno == EAGAIN))
			continue;
		if (n <= 0)
			return false;
		s += n;
		len -= (size_t)n;
	}
	return true;
}

static void answer_top(int fd)
{
	struct status_top top = { 0 };
	bool ok = true;

	while (ok && begin_look()) {
		struct pollfd p = { .fd = fd, .events = POLLIN };
		struct text t = { 0 };

		/* Form feed: the last page ends here. */
		status_top(&t, control.s.exports, &top);
		end_look();
		text_add(&t, "\f");
		ok = t.s && send_all(fd, t.s, t.len);
		text_free(&t);
		/* It says nothing more: readable is gone. */
		if (ok && poll(&p, 1, TOP_MS) > 0)
			ok = false;
	}
	status_top_free(&top);
}

static void answer_done(struct text *t, bool ok, const char *what)
{
	text_add(t, "{\"ok\":%s,\"text\":", ok ? "true" : "false");
	text_quoted(t, what);
	text_add(t, "}\n");
}

static void answer_http(struct text *t, const char *line)
{
	struct text body = { 0 };
	bool found = !strncmp(line, "GET /metrics", 12) &&
		     strchr(" ?\r", line[12]);

	if (found)
		status_metrics(&body, control.s.exports);
	else
		text_add(&body, "there is only /metrics here\n");
	text_add(t, "HTTP/1.0 %s\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n%s",
		 found ? "200 OK" : "404 Not Found", body.len,
		 body.s ? body.s : "");
	text_free(&body);
}

static void answer(const struct asker *a, const char *line, struct text *t)
{
	char why[1024];
	bool ok;

	if (!strncmp(line, "GET ", 4)) {
		answer_http(t, line);
	} else if (!a->local) {
		text_add(t, "HTTP/1.0 400 Bad Request\r\n\r\n");
	} else if (!strcmp(line, "status")) {
		status_json(t, control.s.exports);
	} else if (!strcmp(line, "table")) {
		status_table(t, control.s.exports);
	} else if (!strcmp(line, "metrics")) {
		status_metrics(t, control.s.exports);
	} else if (!strcmp(line, "reload")) {
		ok = control.s.reload(control.s.ctx, why, sizeof(why));
		log_msg(ok ? LOG_NOTICE : LOG_ERR, "reload: %s%s",
			ok ? "" : "nothing is changed: ", why);
		answer_done(t, ok, why);
	} else if (!strcmp(line, "drain")) {
		answer_done(t, true, "the server finishes what is in flight and stops");
		kill(getpid(), SIGTERM);
	} else {
		char quoted[80];

		snprintf(why, sizeof(why), "\"%s\" is not a command; there are status, table, top, metrics, reload, drain",
			 log_quote(quoted, sizeof(quoted), line, strlen(line)));
		answer_done(t, false, why);
	}
}

static void serve_line(const struct asker *a, const char *line)
{
	struct text t = { 0 };

	if (a->local && !strcmp(line, "top")) {
		if (atomic_fetch_add(&control.tops, 1) < TOPS)
			answer_top(a->fd);
		else
			answer_done(&t, false, "as many look at top as may: 8");
		atomic_fetch_sub(&control.tops, 1);
	} else if (begin_look()) {
		answer(a, line, &t);
		end_look();
	}
	if (t.s)
		send_all(a->fd, t.s, t.len);
	text_free(&t);
}

/* As recv(2), until @deadline; 0 is the end of it, in time or not. */
static size_t receive(int fd, char *buf, size_t size, int64_t deadline)
{
	while (wait_until(fd, POLLIN, deadline)) {
		ssize_t n = recv(fd, buf, size, 0);

		if (n >= 0 || (errno != EINTR && errno != EAGAIN))
			return n > 0 ? (size_t)n : 0;
	}
	return 0;
}

static void *serve(void *arg)
{
	struct asker a = *(struct asker *)arg;
	int64_t deadline = now_ms() + PATIENCE_MS;
	char line[256];
	size_t len = 0, n = 1;

	free(arg);
	while (len < sizeof(line) - 1 && n && !memchr(line, '\n', len)) {
		n = receive(a.fd, line + len, sizeof(line) - 1 - len, deadline);
		len += n;
	}
	line[len] = '\0';
	/* HTTP's other lines are of no interest. */
	line[strcspn(line, "\r\n")] = '\0';
	if (*line)
		serve_line(&a, line);
	/* What it still says must not become a reset before the answer. */
	shutdown(a.fd, SHUT_WR);
	deadline = now_ms() + PATIENCE_MS;
	while (receive(a.fd, line, sizeof(line), deadline))
		;
	close(a.fd);
	atomic_fetch_sub(a.clients, 1);
	return NULL;
}

/* No place for it; whatever of that it takes at once. */
static void turn_away(int fd, bool local)
{
	const char *word = local ?
		"{\"ok\":false,\"text\":\"too many ask at once; try it again\"}\n" :
		"HTTP/1.0 503 Service Unavailable\r\n\r\n";

	if (send(fd, word, strlen(word), MSG_NOSIGNAL) >= 0)
		shutdown(fd, SHUT_WR);
	close(fd);
}

/* False: there is one, and nothing to accept it with. */
static bool take(int listener, bool local)
{
	atomic_int *clients = local ? &control.unix_clients :
				      &control.tcp_clients;
	int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	struct asker *a;
	pthread_t thread;

	if (fd < 0)
		return errno == EAGAIN || errno == EINTR ||
		       errno == ECONNABORTED;
	a = malloc(sizeof(*a));
	if (!a || atomic_fetch_add(clients, 1) >= CLIENTS) {
		if (a)
			atomic_fetch_sub(clients, 1);
		free(a);
		turn_away(fd, local);
		return true;
	}
	a->fd = fd;
	a->local = local;
	a->clients = clients;
	if (pthread_create(&thread, NULL, serve, a)) {
		atomic_fetch_sub(clients, 1);
		free(a);
		close(fd);
		return true;
	}
	pthread_detach(thread);
	return true;
}

static void *accept_all(void *arg)
{
	(void)arg;
	for (;;) {
		struct pollfd p[3] = {
			{ .fd = control.stop[0], .events = POLLIN },
			{ .fd = control.unix_fd, .events = POLLIN },
			{ .fd = control.tcp_fd, .events = POLLIN },
		};
		bool ok = true;

		if (poll(p, 3, -1) < 0)
			continue;
		if (p[0].revents)
			return NULL;
		if (p[1].revents)
			ok = take(control.unix_fd, true);
		if (p[2].revents)
			ok &= take(control.tcp_fd, false);
		/* No descriptors, say: it stays ready, and would all the time. */
		if (!ok)
			poll(p, 1, PAUSE_MS);
	}
}

/* -- opening ------------------------------------------------------------------ */

static bool open_unix(const char *path, char *why, size_t why_size)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	struct stat st;
	mode_t mask;
	int fd, err;

	if (strlen(path) >= sizeof(a.sun_path)) {
		snprintf(why, why_size, "controlsock = %s: longer than the %zu bytes that a socket's name may have",
			 path, sizeof(a.sun_path) - 1);
		return false;
	}
	strcpy(a.sun_path, path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0) {
		snprintf(why, why_size, "controlsock: %s", strerror(errno));
		return false;
	}
	/* Left by one that was killed: nobody answers there. */
	if (!lstat(path, &st) && S_ISSOCK(st.st_mode) &&
	    connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0 &&
	    errno == ECONNREFUSED)
		unlink(path);
	close(fd);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	mask = umask(0177);
	err = fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof(a)) ||
	      listen(fd, 16) || lstat(path, &st) ? errno : 0;
	umask(mask);
	if (err) {
		snprintf(why, why_size, "controlsock = %s: %s%s", path,
			 strerror(err), err == EADDRINUSE ?
			 "; another server has it, or it is no socket" :
			 err == ENOENT ? "; make its folder first" : "");
		if (fd >= 0)
			close(fd);
		return false;
	}
	control.unix_fd = fd;
	control.path = strdup(path);
	control.dev = st.st_dev;
	control.ino = st.st_ino;
	return true;
}

static bool open_tcp(const char *port, char *why, size_t why_size)
{
	struct sockaddr_in a = {
		.sin_family = AF_INET,
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
		.sin_port = htons((uint16_t)atoi(port)),
	};
	int on = 1, fd;

	fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd >= 0)
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof(a)) ||
	    listen(fd, 16)) {
		snprintf(why, why_size, "metricsport = %s: 127.0.0.1 port %s: %s",
			 port, port, strerror(errno));
		if (fd >= 0)
			close(fd);
		return false;
	}
	control.tcp_fd = fd;
	return true;
}

bool control_open(const struct control_settings *s, char *why, size_t why_size)
{
	control.s = *s;
	return (!s->path || open_unix(s->path, why, why_size)) &&
	       (!s->metrics_port || open_tcp(s->metrics_port, why, why_size));
}

void control_chown(uid_t uid, gid_t gid)
{
	int fd = control.path ? open(control.path, O_PATH | O_NOFOLLOW |
						   O_CLOEXEC) : -1;
	struct stat st;

	/* Whose folder it is may have put something else there by now. */
	errno = fd < 0 ? errno : EPERM;
	if (control.path &&
	    (fd < 0 || fstat(fd, &st) || !S_ISSOCK(st.st_mode) ||
	     fchownat(fd, "", uid, gid, AT_EMPTY_PATH)))
		log_msg(LOG_WARNING, "%s: cannot be given to the server's user: %s",
			control.path, strerror(errno));
	if (fd >= 0)
		close(fd);
}

bool control_start(void)
{
	sigset_t all, old;
	int err;

	if (control.unix_fd < 0 && control.tcp_fd < 0)
		return true;
	if (pipe2(control.stop, O_CLOEXEC) < 0) {
		log_msg(LOG_ERR, "controlsock, metricsport: %s", strerror(errno));
		return false;
	}
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	err = pthread_create(&control.thread, NULL, accept_all, NULL);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	control.running = !err;
	if (err)
		log_msg(LOG_ERR, "controlsock, metricsport: no thread to be had for them: %s",
			strerror(err));
	return !err;
}

static int askers(void)
{
	return atomic_load(&control.unix_clients) +
	       atomic_load(&control.tcp_clients);
}

bool control_stop(void)
{
	struct stat st;
	int wait;

	pthread_mutex_lock(&control.lock);
	control.stopping = true;
	pthread_mutex_unlock(&control.lock);
	if (control.running) {
		if (write(control.stop[1], "", 1) == 1)
			pthread_join(control.thread, NULL);
		/* Their answers are to arrive; each has a patience. */
		for (wait = 0; wait < 300 && askers(); wait++)
			usleep(10000);
		close(control.stop[0]);
		close(control.stop[1]);
		control.running = false;
	}
	if (control.unix_fd >= 0)
		close(control.unix_fd);
	if (control.tcp_fd >= 0)
		close(control.tcp_fd);
	control.unix_fd = control.tcp_fd = -1;
	/* Another server may have made its own there since. */
	if (control.path && !lstat(control.path, &st) &&
	    st.st_dev == control.dev && st.st_ino == control.ino)
		unlink(control.path);
	free(control.path);
	control.path = NULL;
	return !lookers();
}
