/* SPDX-License-Identifier: GPL-2.0 */
/*
 * events.h - how a loop waits for what happens next.
 */
#ifndef SERVER_EVENTS_H
#define SERVER_EVENTS_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct epoll_event;

/* One a loop, zeroed at first. */
struct events {
	pthread_t thread;		/* that waits for them */
	unsigned int short_waits;	/* in a row */
	atomic_bool sleeps;		/* always, and at once */
};

/*
 * epoll_wait(2), with the same arguments and results, that looks again for a
 * moment before it sleeps if the last waits were shorter than a sleep takes.
 * Not if ->sleeps: a look of a thread that runs before all others would keep them
 * from the processor.
 */
int events_wait(struct events *w, int epfd, struct epoll_event *event,
		int max, int timeout_ms);

/* ->thread is to run before all others. False: logged. */
bool events_come_first(struct events *w);

/* No longer. */
void events_come_as_others(struct events *w);

#endif
