/* SPDX-License-Identifier: GPL-2.0 */
/*
 * away.h - stations that have an overlay and were connected since the server
 * started, but are not now. In memory only: it is for people who look.
 */
#ifndef SERVER_AWAY_H
#define SERVER_AWAY_H

#include <stdbool.h>
#include <stdint.h>

#include "nbd-session.h"

/* So many are remembered; then the one that is longest away is forgotten. */
#define AWAY_MAX	4096U

struct away {
	const char *export_name;	/* exports stay until the server ends */
	char station[NBD_SESSION_WORD], image[NBD_SESSION_WORD], peer[64];
	int64_t since;			/* seconds since 1970 */
	uint64_t overlay_bytes;
	bool done;			/* it said goodbye */
	uint32_t hash;			/* away.c's */
};

/* A connection of a station has ended; maybe it has others still. */
void away_add(const struct away *a);

/* It is there again, or has no overlay any more. */
void away_remove(const char *export_name, const char *station);

/* A copy of all, to be freed, and in *@n how many; NULL without memory. */
struct away *away_all(unsigned int *n);

#endif
