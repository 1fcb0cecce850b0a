/* SPDX-License-Identifier: GPL-2.0 */
/*
 * status-seen.h - between status.c, which has the list of connections, and
 * status-table.c, which shows it to people.
 */
#ifndef SERVER_STATUS_SEEN_H
#define SERVER_STATUS_SEEN_H

#include "away.h"
#include "status.h"

/* A connection at one moment, to be told of without the lock. */
struct status_seen {
	uint64_t id;
	int64_t since;
	struct status_counts counts;
	const char *export_name;	/* exports stay until the server ends */
	const char *state;
	char station[NBD_SESSION_WORD], image[NBD_SESSION_WORD], peer[64];
	const struct store *store;	/* to be compared: it may be gone */
	bool used, read_only, overlay;
	uint64_t overlay_bytes;
	double read_rate, write_rate, request_rate;	/* for status_top() */
};

/* All of the list, and in *@n how many; to be freed. NULL without memory. */
struct status_seen *status_look(unsigned int *n);

/*
 * Those who are away: of all that have left, who has no connection among the @n in
 * @seen. To be freed; NULL without memory.
 */
struct away *status_away(const struct status_seen *seen, unsigned int n,
			 unsigned int *n_away);

const char *status_away_state(const struct away *a);
const char *status_overlay_name(enum overlay_kind kind);

static inline uint64_t status_get(const _Atomic uint64_t *n)
{
	return atomic_load_explicit(n, memory_order_relaxed);
}

static inline uint64_t status_disk_us(const struct status_counts *c)
{
	uint64_t n = status_get(&c->waited);

	return n ? status_get(&c->waited_us) / n : 0;
}

static inline double status_answer_us(const struct status_counts *c)
{
	uint64_t n = status_get(&c->answered);

	return n ? (double)status_get(&c->answered_ns) / (double)n / 1000 : 0;
}

static inline uint64_t status_requests(const struct status_counts *c)
{
	return status_get(&c->reads) + status_get(&c->writes) + status_get(&c->others);
}

#endif
