/* SPDX-License-Identifier: GPL-2.0 */
/*
 * limits.h - how many connections there may be: from one address, and that have
 * not got through the negotiation.
 */
#ifndef SERVER_LIMITS_H
#define SERVER_LIMITS_H

#include <stdbool.h>
#include <sys/socket.h>

/* Connections in negotiation: of all, and of one address. */
#define LIMITS_HALF_OPEN		8192U
#define LIMITS_HALF_OPEN_ADDRESS	2048U

/*
 * A new connection, in negotiation. @max: of one address, 0 for any number (of
 * a Unix socket's there always is). NULL: let it in; else why not. Any thread.
 */
const char *limits_enter(const struct sockaddr *peer, unsigned int max);

/* It is through the negotiation. */
void limits_negotiated(const struct sockaddr *peer);

/* It has ended; @negotiated: after that. */
void limits_leave(const struct sockaddr *peer, bool negotiated);

#endif
