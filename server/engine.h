/* SPDX-License-Identifier: GPL-2.0 */
/*
 * engine.h - what carries connections: event loops and workers behind a door
 * that main.c opens and shuts. engine-epoll.c is the one for Linux;
 * engine-threads.c, a thread per connection, is for elsewhere (ENGINE=threads).
 */
#ifndef SERVER_ENGINE_H
#define SERVER_ENGINE_H

#include <stdbool.h>

#include "export.h"

struct engine_settings {
	const int *listeners;		/* sockets that listen, non-blocking */
	unsigned int n_listeners;
	struct exports *exports;	/* outlives the engine */
	int single;			/* one connection to serve; 0: none */
	void (*single_ended)(void);	/* then called, from a thread of ours */
	unsigned int loops;		/* threads that serve; 0: one per CPU */
	bool realtime;			/* see server(5): loops may come first */
	bool realtime_asked;		/* so say if they may not */
	unsigned int workers;		/* threads that wait for disks; 0: 16 */
};

/* Start its threads, all signals blocked in them. False: logged. */
bool engine_start(const struct engine_settings *s);

/*
 * Stop listening, finish what is in flight, close every connection, end the
 * threads. Waits for the workers as long as they take; a client that takes no
 * answers is given some seconds.
 */
void engine_stop(void);

#endif
