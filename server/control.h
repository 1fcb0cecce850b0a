/* SPDX-License-Identifier: GPL-2.0 */
/*
 * control.h - the control socket: a Unix socket on which one line is one
 * command, and the answer ends with the connection.
 *
 *	status	JSON
 *	table	the same for people
 *	top	such a table each second, for as long as anybody reads it
 *	metrics	Prometheus' text; "GET /metrics" with HTTP around it
 *	reload	JSON: {"ok":true,"text":"..."}
 *	drain	the same; then the server stops, as at SIGTERM
 */
#ifndef SERVER_CONTROL_H
#define SERVER_CONTROL_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "export.h"

/* Where `nbd-server status` looks. */
#define CONTROL_SOCKET "/run/nbdroot/control.sock"

struct control_settings {
	const char *path;		/* of the socket, or NULL */
	const char *metrics_port;	/* TCP on the loopback, or NULL */
	struct exports *exports;
	/* Read the configuration again; a sentence in @text either way. */
	bool (*reload)(void *ctx, char *text, size_t size);
	void *ctx;
};

/*
 * Open the sockets; they answer from control_start() on, in threads of their
 * own. False with one sentence in @why.
 */
bool control_open(const struct control_settings *s, char *why, size_t why_size);
/* Give the socket's file away, before privileges are dropped. */
void control_chown(uid_t uid, gid_t gid);
bool control_start(void);
/*
 * Take the sockets away. False when somebody still looks at the exports, such as
 * a reload that a disk keeps waiting; to be asked again later.
 */
bool control_stop(void);

/*
 * The other end: nbd-server VERB [--socket=PATH] [--json]. Returns the exit
 * status. @argv[0] is the verb.
 */
bool control_is_verb(const char *word);
int control_client(int argc, char **argv);

#endif
