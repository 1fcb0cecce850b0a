/* SPDX-License-Identifier: GPL-2.0 */
/*
 * listen.h - sockets that listen: of our own making, or handed over.
 */
#ifndef SERVER_LISTEN_H
#define SERVER_LISTEN_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/* More addresses than this are refused. */
#define LISTEN_MAX	16

struct listeners {
	int fd[LISTEN_MAX];
	char name[LISTEN_MAX][320];	/* "10.0.0.1 port 10809", for the log */
	char *path[LISTEN_MAX];		/* of a Unix socket of ours; NULL */
	dev_t dev[LISTEN_MAX];		/* that one's file */
	ino_t ino[LISTEN_MAX];
	unsigned int n;
	bool trial;	/* only try it: nobody can connect, a used port will do */
};

/*
 * Listen on TCP @port of @addresses (separated by spaces or commas; NULL or
 * "": all addresses of this machine, IPv6 and IPv4), besides what @l has. All
 * or nothing: false with one sentence in @why, and @l closed.
 */
bool listen_all(struct listeners *l, const char *addresses, const char *port,
		char *why, size_t why_size);

/*
 * The same on a Unix socket, which anybody may connect to who may write its
 * directory's file. One that a dead server left behind is replaced.
 */
bool listen_unix(struct listeners *l, const char *path,
		 char *why, size_t why_size);

/*
 * The sockets that systemd has opened for this process (sd_listen_fds(3)), which
 * then must listen. None: true, and @l unchanged.
 */
bool listen_inherited(struct listeners *l, char *why, size_t why_size);

/* Are there such sockets? */
bool listen_inherits(void);

/*
 * Standard input as a connection, as inetd and nbd_connect_command(3) give it:
 * a descriptor of its own, or -1 with one sentence in @why.
 */
int listen_stdin(char *why, size_t why_size);

/* Take the names of our Unix sockets away, if they still are ours. */
void listen_unlink(const struct listeners *l);

/* The same, and close them all. */
void listen_close(struct listeners *l);

#endif
