/* SPDX-License-Identifier: GPL-2.0 */
/*
 * address.h - literal addresses, IPv4 and IPv6.
 */
#ifndef CLIENT_ADDRESS_H
#define CLIENT_ADDRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ZONE_MAX 16		/* IFNAMSIZ, with its NUL */
#define UNIX_PATH 107		/* longest of a Unix socket */
#define ADDRESS_TEXT 120	/* any address as text, with port and NUL */

struct address {
	int family;		/* AF_INET, AF_INET6 or AF_UNIX */
	const char *path;	/* of a Unix socket; it has none of the others */
	uint8_t ip[16];		/* network order; the first 4 for IPv4 */
	char zone[ZONE_MAX];	/* interface of a link-local address, or "" */
	uint16_t port;		/* host order */
};

/*
 * Parse the @len bytes at @s: "192.0.2.1" (four decimal numbers, nothing
 * less) or "2001:db8::1", the latter also with "%eth0" or "%3" behind it. No
 * brackets, no port (it is set to 0).
 */
bool address_parse(const char *s, size_t len, struct address *a);

/* Is this an address of one link only, without the zone that it needs? */
bool address_lacks_zone(const struct address *a);

/*
 * "192.0.2.1:1234", "[fe80::1%eth0]:1234"; without port when it is 0.
 * "unix:/run/nbd.sock".
 */
void address_format(const struct address *a, char buf[ADDRESS_TEXT]);

/*
 * A non-blocking, close-on-exec socket of @type (SOCK_STREAM, SOCK_DGRAM),
 * its connection to @a begun. Returns the descriptor, or -1 with errno; a TCP
 * connection may still be in progress.
 */
int address_connect(const struct address *a, int type);

#endif /* CLIENT_ADDRESS_H */
