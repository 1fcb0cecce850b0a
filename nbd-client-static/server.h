/* SPDX-License-Identifier: GPL-2.0 */
/*
 * server.h - talking to an NBD server: what it exports, and opening an export
 * for the in-tree driver.
 */
#ifndef CLIENT_SERVER_H
#define CLIENT_SERVER_H

#include <stdbool.h>
#include <stddef.h>

#include "address.h"
#include "nbd-nego.h"

/* One export; strings hold no control characters and are gone afterwards. */
typedef void (*list_fn)(void *context, const char *name,
			const char *description);

/*
 * Call @fn for each export of the server at @a. Returns 0; or, with a sentence
 * in @why that does not name the server, the errno of a connection that failed,
 * or for a negotiation that did one as the driver gives it: ENOENT, EACCES,
 * EOPNOTSUPP, ... Takes no longer than about 15 seconds.
 */
int server_list(const struct address *a, list_fn fn, void *context,
		char *why, size_t size);

/*
 * Negotiate for @export. Returns 0, *@fd a connection in transmission and
 * @found what it leads to; else as server_list().
 */
int server_open(const struct address *a, const char *export, int *fd,
		struct nbd_export *found, char *why, size_t size);

#endif /* CLIENT_SERVER_H */
