/* SPDX-License-Identifier: GPL-2.0 */
/*
 * events.h - how a loop waits for what happens next.
 */
#ifndef SERVER_EVENTS_H
#define SERVER_EVENTS_H

#include <stdint.h>

struct epoll_event;

/* One a loop, zeroed at first. */
struct events {
	unsigned int short_waits;	/* in a row */
};

/*
 * epoll_wait(2), with the same arguments and results, that looks again for a
 * moment before it sleeps if the last waits were shorter than a sleep takes.
 */
int events_wait(struct events *w, int epfd, struct epoll_event *event,
		int max, int timeout_ms);

#endif
