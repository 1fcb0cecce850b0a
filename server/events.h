/* SPDX-License-Identifier: GPL-2.0 */
/*
 * events.h - how a loop waits for what happens next.
 */
#ifndef SERVER_EVENTS_H
#define SERVER_EVENTS_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct epoll_event;

/*
 * One a loop, zeroed at first. @disk_busy: has the disk been read since the moment
 * *@since stands for, or is it now? Moves *@since to now.
 */
struct events {
	pthread_t thread;		/* that waits for them */
	/* NULL: it runs as all others do. Set before it waits for the first time. */
	bool (*disk_busy)(unsigned int *since);

	/* Its own. */
	unsigned int short_waits;	/* in a row */
	bool first;			/* it runs before all others */
	bool much;			/* it hardly ever waited lately */
	unsigned int since;		/* of ->disk_busy */
	uint64_t looked_at;		/* whether that has changed; ns */
	uint64_t weighed_at, awake;	/* not waiting since then; ns */
};

/*
 * epoll_wait(2), with the same arguments and results, that looks again for a
 * moment before it sleeps if the last waits were shorter than a sleep takes.
 * Not while ->first: a look of a thread that runs before all others would keep them
 * from the processor.
 */
int events_wait(struct events *w, int epfd, struct epoll_event *event,
		int max, int timeout_ms);

/*
 * May @w->thread run before all others? If not, says so in the log if it was @asked.
 * Not if somebody has already said how this process is to be scheduled.
 */
bool events_may_come_first(struct events *w, bool asked);

#endif
