/* SPDX-License-Identifier: GPL-2.0 */
/*
 * resolve.h - from a host's name to its addresses: /etc/hosts, then DNS.
 */
#ifndef CLIENT_RESOLVE_H
#define CLIENT_RESOLVE_H

#include <stddef.h>

#include "address.h"
#include "facts.h"

/*
 * Up to @max addresses of @name (port 0), IPv4 first. Returns their number;
 * 0 with a sentence in @why (of @size bytes) that says why there is none and
 * what to look at. Blocks for some seconds at most.
 */
unsigned int resolve(const char *name, const struct facts *facts,
		     struct address *out, unsigned int max,
		     char *why, size_t size);

/* The lines of hosts(5) in @text that name @name; @text is cut up. */
unsigned int hosts_lookup(char *text, const char *name, struct address *out,
			  unsigned int max);

#endif /* CLIENT_RESOLVE_H */
