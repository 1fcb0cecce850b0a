/* SPDX-License-Identifier: GPL-2.0 */
/*
 * status.h - what the server does at this moment, for people and programs.
 */
#ifndef SERVER_STATUS_H
#define SERVER_STATUS_H

#include <stdatomic.h>
#include <stdint.h>

#include "export.h"
#include "text.h"

/*
 * What is counted of a connection, by its loop's thread alone: so counting is
 * a load and a store, without a lock on the bus.
 */
struct status_counts {
	_Atomic uint64_t reads, writes, others;		/* requests */
	_Atomic uint64_t read_bytes, written_bytes;
	_Atomic uint64_t errors;			/* answered with one */
	/* Of requests that went to a worker: how many, and how long in all. */
	_Atomic uint64_t waited, waited_us, longest_us;
	/*
	 * Of requests that did not: batches that were timed, from when the loop
	 * heard of them to when the socket had all answers, and how long in all.
	 */
	_Atomic uint64_t answered, answered_ns;
};

static inline void status_count(_Atomic uint64_t *n, uint64_t add)
{
	atomic_store_explicit(n, atomic_load_explicit(n, memory_order_relaxed) +
			      add, memory_order_relaxed);
}

/* What a connection waits for, if it does. */
enum status_state {
	STATUS_BUSY,
	STATUS_STALLED,		/* that its client takes its answers */
	STATUS_MEMORY,		/* for the common budget */
};

/* From when on that is worth telling, in milliseconds. */
#define STATUS_LASTS_MS	1000

/* A connection. Part of it; the strings live as long, and are status.c's to set. */
struct status_conn {
	struct status_counts counts;
	_Atomic int state;
	_Atomic uint32_t state_at;	/* since when, of a coarse clock */
	uint64_t id;			/* no two ever have the same */
	int64_t since;			/* seconds since 1970 */
	const char *export_name, *peer;
	const struct export_opened *opened;
	const struct store *store;
	bool read_only;
	struct status_conn *next, **prev;	/* status.c's */
};

/*
 * At its beginning, when it has an export, and at its end (@done: the client said
 * goodbye); its loop.
 */
void status_enter(struct status_conn *c, const char *peer);
void status_use(struct status_conn *c, const char *export_name,
		const struct export_opened *opened, const struct store *store,
		bool read_only);
void status_leave(struct status_conn *c, bool done);

/* Its loop: it is in this state now. */
void status_changed(struct status_conn *c, enum status_state state);

static inline void status_is(struct status_conn *c, enum status_state state)
{
	if (atomic_load_explicit(&c->state, memory_order_relaxed) != (int)state)
		status_changed(c, state);
}

/* Add a report. @x: the exports. */
void status_json(struct text *t, struct exports *x);
void status_table(struct text *t, struct exports *x);
void status_metrics(struct text *t, struct exports *x);

/* What `top` remembers between two tables; begins as { 0 }. */
struct status_top {
	struct status_seen *seen;
	unsigned int n;
	double at;
};

void status_top(struct text *t, struct exports *x, struct status_top *top);
void status_top_free(struct status_top *top);

#endif
