// SPDX-License-Identifier: GPL-2.0
/*
 * listen.c - opening the sockets that listen. SO_REUSEADDR lets a server that
 * was killed be started again at once, while its old connections linger.
 */
#define _GNU_SOURCE
#include "listen.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "become.h"
#include "log.h"

/* A boot storm connects all at once. */
#define BACKLOG		1024
/* sd_listen_fds(3): the first descriptor. */
#define INHERITED	3

static const char *hint(int err)
{
	switch (err) {
	case EADDRINUSE:
		return "; another server has it: stop that one (ss -ltnp shows it), or choose another port";
	case EACCES:
		return "; ports below 1024 are root's: start as root, or choose another port (10809)";
	case EADDRNOTAVAIL:
		return "; this machine does not have that address (ip address shows those it has)";
	default:
		return "";
	}
}

/* A socket, or -errno. @dual: IPv4 clients too, on an IPv6 socket. */
static int listen_on(const struct addrinfo *ai, bool dual, bool trial)
{
	int on = 1, v6only = !dual, err;
	int fd = socket(ai->ai_family,
			SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (ai->ai_family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &v6only,
			   sizeof(v6only));
	if (!bind(fd, ai->ai_addr, ai->ai_addrlen) &&
	    (trial || !listen(fd, BACKLOG)))
		return fd;
	err = -errno;
	close(fd);
	return err;
}

static bool add(struct listeners *l, int fd, const char *address,
		const char *port, char *why, size_t why_size)
{
	if (l->trial && fd == -EADDRINUSE) {
		log_msg(LOG_WARNING, "%s%sport %s: in use, by the server that runs or by another",
			address ? address : "", address ? " " : "", port);
		return true;
	}
	if (fd < 0) {
		snprintf(why, why_size, "%s%sport %s: %s%s",
			 address ? address : "", address ? " " : "", port,
			 strerror(-fd), hint(-fd));
		return false;
	}
	snprintf(l->name[l->n], sizeof(l->name[0]), "%s port %s",
		 address ? address : "every address,", port);
	l->path[l->n] = NULL;
	l->fd[l->n++] = fd;
	return true;
}

static bool every_address(struct listeners *l, const char *port,
			  char *why, size_t why_size)
{
	struct addrinfo want = {
		.ai_flags = AI_PASSIVE | AI_NUMERICSERV,
		.ai_family = AF_INET6,
		.ai_socktype = SOCK_STREAM,
	};
	struct addrinfo *ai;
	int fd = -EAFNOSUPPORT;

	if (!getaddrinfo(NULL, port, &want, &ai)) {
		fd = listen_on(ai, true, l->trial);
		freeaddrinfo(ai);
	}
	/* A kernel without IPv6. */
	if (fd == -EAFNOSUPPORT || fd == -EADDRNOTAVAIL) {
		want.ai_family = AF_INET;
		if (!getaddrinfo(NULL, port, &want, &ai)) {
			fd = listen_on(ai, false, l->trial);
			freeaddrinfo(ai);
		}
	}
	return add(l, fd, NULL, port, why, why_size);
}

static bool one_address(struct listeners *l, const char *address,
			const char *port, char *why, size_t why_size)
{
	const struct addrinfo want = {
		.ai_flags = AI_PASSIVE | AI_NUMERICSERV,
		.ai_socktype = SOCK_STREAM,
	};
	struct addrinfo *list, *ai;
	int err = getaddrinfo(address, port, &want, &list);
	bool ok = true;

	if (err) {
		snprintf(why, why_size, "listen address \"%s\": %s; write an address of this machine: 10.0.0.1 or 2001:db8::1",
			 address, gai_strerror(err));
		return false;
	}
	/* A name may have several addresses. */
	for (ai = list; ok && ai; ai = ai->ai_next) {
		if (l->n == LISTEN_MAX) {
			snprintf(why, why_size, "more than %d addresses to listen on",
				 LISTEN_MAX);
			ok = false;
			break;
		}
		ok = add(l, listen_on(ai, false, l->trial), address, port, why,
			 why_size);
	}
	freeaddrinfo(list);
	return ok;
}

bool listen_all(struct listeners *l, const char *addresses, const char *port,
		char *why, size_t why_size)
{
	const char *p = addresses ? addresses : "";
	char address[300];
	bool ok = true;

	p += strspn(p, ", \t");
	if (!*p)
		ok = every_address(l, port, why, why_size);
	while (ok && *p) {
		size_t len = strcspn(p, ", \t");

		if (len >= sizeof(address)) {
			snprintf(why, why_size, "listen address \"%.40s...\": too long",
				 p);
			ok = false;
			break;
		}
		memcpy(address, p, len);
		address[len] = '\0';
		ok = one_address(l, address, port, why, why_size);
		p += len;
		p += strspn(p, ", \t");
	}
	if (!ok)
		listen_close(l);
	return ok;
}

/* Is somebody at the other end of this name? */
static bool is_served(const struct sockaddr_un *name)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	bool served;

	if (fd < 0)
		return true;
	served = !connect(fd, (const struct sockaddr *)name, sizeof(*name)) ||
		 errno != ECONNREFUSED;
	close(fd);
	return served;
}

/* A socket of this name. One that is there is a server's, or left by one. */
static bool may_be_made(const char *path, char *why, size_t why_size)
{
	const char *slash = strrchr(path, '/');
	char *folder = strndup(path, slash == path ? 1 : (size_t)(slash - path));
	int err = folder ? become_try(folder) : ENOMEM;
	struct stat st;

	if (!err && !lstat(path, &st) && !S_ISSOCK(st.st_mode))
		err = EEXIST;
	free(folder);
	if (err)
		snprintf(why, why_size, "unix socket %s: %s%s", path,
			 strerror(err), err == ENOENT ? "; make its folder first" :
			 err == EEXIST ? "; it is no socket: name another" : "");
	return !err;
}

bool listen_unix(struct listeners *l, const char *path,
		 char *why, size_t why_size)
{
	struct sockaddr_un name = { .sun_family = AF_UNIX };
	struct stat st;
	int fd, err;

	if (!*path || strlen(path) >= sizeof(name.sun_path)) {
		snprintf(why, why_size, "unix socket \"%.60s\": a name of 1 to %zu bytes is wanted",
			 path, sizeof(name.sun_path) - 1);
		goto fail;
	}
	if (l->n == LISTEN_MAX) {
		snprintf(why, why_size, "more than %d addresses to listen on",
			 LISTEN_MAX);
		goto fail;
	}
	strcpy(name.sun_path, path);
	if (l->trial)
		return may_be_made(path, why, why_size);
	if (!lstat(path, &st) && S_ISSOCK(st.st_mode) && !is_served(&name))
		unlink(path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0 || bind(fd, (struct sockaddr *)&name, sizeof(name)) ||
	    listen(fd, BACKLOG) || lstat(path, &st)) {
		err = errno;
		snprintf(why, why_size, "unix socket %s: %s%s", path,
			 strerror(err), err == EADDRINUSE ?
			 "; another server listens there, or it is a file: stop that server, or name another socket" : "");
		if (fd >= 0)
			close(fd);
		goto fail;
	}
	snprintf(l->name[l->n], sizeof(l->name[0]), "unix socket %s", path);
	l->path[l->n] = strdup(path);
	l->dev[l->n] = st.st_dev;
	l->ino[l->n] = st.st_ino;
	l->fd[l->n++] = fd;
	return true;
fail:
	listen_close(l);
	return false;
}

/* For the log: what somebody else has bound it to. */
static void name_inherited(int fd, char *buf, size_t size)
{
	struct sockaddr_storage addr;
	socklen_t len = sizeof(addr);
	char host[64] = "?", port[16] = "?";

	memset(&addr, 0, sizeof(addr));
	getsockname(fd, (struct sockaddr *)&addr, &len);
	if (addr.ss_family == AF_UNIX) {
		snprintf(buf, size, "unix socket %.107s (inherited)",
			 ((struct sockaddr_un *)&addr)->sun_path);
		return;
	}
	getnameinfo((struct sockaddr *)&addr, len, host, sizeof(host), port,
		    sizeof(port), NI_NUMERICHOST | NI_NUMERICSERV);
	snprintf(buf, size, "%s port %s (inherited)", host, port);
}

bool listen_inherits(void)
{
	const char *pid = getenv("LISTEN_PID");

	/* Others are for a parent of ours. */
	return pid && getenv("LISTEN_FDS") &&
	       strtol(pid, NULL, 10) == (long)getpid();
}

bool listen_inherited(struct listeners *l, char *why, size_t why_size)
{
	const char *fds = getenv("LISTEN_FDS");
	long n = fds ? strtol(fds, NULL, 10) : 0, i;

	if (!listen_inherits())
		return true;
	unsetenv("LISTEN_PID");
	unsetenv("LISTEN_FDS");
	unsetenv("LISTEN_FDNAMES");
	if (n < 1 || n > LISTEN_MAX - (long)l->n) {
		snprintf(why, why_size, "LISTEN_FDS=%ld: 1 to %d sockets can be inherited",
			 n, LISTEN_MAX);
		listen_close(l);
		return false;
	}
	for (i = 0; i < n; i++) {
		int fd = INHERITED + (int)i, on = 0, type = 0;
		socklen_t len = sizeof(int);

		if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &on, &len) ||
		    getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) || !on ||
		    type != SOCK_STREAM) {
			snprintf(why, why_size, "inherited descriptor %d is no stream socket that listens (LISTEN_FDS=%ld); in the socket unit write ListenStream= and Accept=no",
				 fd, n);
			listen_close(l);
			return false;
		}
		(void)fcntl(fd, F_SETFD, FD_CLOEXEC);
		(void)fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
		name_inherited(fd, l->name[l->n], sizeof(l->name[0]));
		l->path[l->n] = NULL;
		l->fd[l->n++] = fd;
	}
	return true;
}

int listen_stdin(char *why, size_t why_size)
{
	socklen_t len = sizeof(int);
	int type = 0, fd;

	if (getsockopt(STDIN_FILENO, SOL_SOCKET, SO_TYPE, &type, &len) ||
	    type != SOCK_STREAM) {
		snprintf(why, why_size, "port 0: standard input is not a connection; that is for inetd and its like, give the port to listen on: 10809");
		return -1;
	}
	fd = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, INHERITED);
	if (fd < 0 || fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) < 0) {
		snprintf(why, why_size, "port 0: standard input: %s",
			 strerror(errno));
		return -1;
	}
	return fd;
}

void listen_unlink(const struct listeners *l)
{
	struct stat st;
	unsigned int i;

	/* Another server may have made its own there since. */
	for (i = 0; i < l->n; i++)
		if (l->path[i] && !lstat(l->path[i], &st) &&
		    st.st_dev == l->dev[i] && st.st_ino == l->ino[i])
			unlink(l->path[i]);
}

void listen_close(struct listeners *l)
{
	listen_unlink(l);
	while (l->n) {
		close(l->fd[--l->n]);
		free(l->path[l->n]);
		l->path[l->n] = NULL;
	}
}
