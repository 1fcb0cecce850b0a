/* SPDX-License-Identifier: GPL-2.0 */
/*
 * session.h - which connections are the same station's, so that a station that
 * comes back can be sure that nothing of its former connections is still to
 * happen (the contract is in proto/nbd-session.h).
 *
 * A connection that names its session is entered here until nothing of it is
 * left, jobs included. All of it may be called from any loop; conn_poked() is
 * how the others are reached.
 */
#ifndef SERVER_SESSION_H
#define SERVER_SESSION_H

#include <stdatomic.h>
#include <stdbool.h>
#include <sys/socket.h>

#include "nbd-session.h"

struct conn;
struct loop;

/* A connection's place in the registry; part of the connection. */
struct session {
	struct nbd_session id;
	atomic_bool superseded;	/* its station has come back without it */

	/* session.c's. */
	bool entered, waiting;
	char *export_name;
	struct sockaddr_storage peer;
	struct conn *conn;
	struct loop *loop;
	struct session *next, **prev;
};

enum session_state {
	SESSION_READY,	/* nothing of its station's former connections is left */
	SESSION_WAIT,	/* ask again: the connection will be poked */
	SESSION_OLD,	/* a newer one of its station has come first */
	SESSION_MEMORY,
};

/*
 * Enter @s for a connection to the export of this name, unless that was done,
 * and end what it supersedes. Called by its own loop.
 */
enum session_state session_enter(struct session *s, const char *export_name,
				 const struct sockaddr_storage *peer,
				 struct conn *conn, struct loop *loop);

/* Nothing of it is left. Also for one that was never entered. */
void session_leave(struct session *s);

/*
 * This server, by the boot of its machine: everything but ->image. ->boot is
 * "-" where the system does not tell, and ->host then may be: no image is known
 * for the same one there.
 */
void session_server(struct nbd_identity *id);

#endif
