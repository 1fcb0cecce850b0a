// SPDX-License-Identifier: GPL-2.0
/*
 * events.c - how a loop waits for what happens next.
 *
 * A station that waits for each answer before it asks again, on a fast network,
 * asks within some 20 microseconds. To sleep and be woken takes as long again,
 * more on a virtual machine, and is work as well. So after some waits as short
 * as that the loop looks for events a little longer before it sleeps. The first
 * time that is in vain it stops doing so: at most one moment is spent for
 * nothing per SHORT_WAITS short waits. Whoever else wants the processor gets it.
 */
#include "events.h"

#include <sched.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>

#include "log.h"
#include "loop.h"
#include "os.h"

/* How long it looks, and what counts as a short wait; nanoseconds. */
#define LOOK_NS		50000U
#define SHORT_NS	80000U
/* So many short waits in a row, and it looks before it sleeps. */
#define SHORT_WAITS	8U

/* When this thread's last wait ended. It reads the clock then anyway. */
static _Thread_local uint64_t woke;

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000U + (uint64_t)t.tv_nsec;
}

uint64_t loop_woke(struct loop *l)
{
	(void)l;
	return woke;
}

int events_wait(struct events *w, int epfd, struct epoll_event *event,
		int max, int timeout_ms)
{
	const uint64_t began = now_ns();
	int n;

	woke = began;
	if (w->short_waits >= SHORT_WAITS &&
	    !atomic_load_explicit(&w->sleeps, memory_order_relaxed)) {
		do {
			n = epoll_wait(epfd, event, max, 0);
			if (n || !timeout_ms)
				return n;
			sched_yield();
			woke = now_ns();
		} while (woke - began < LOOK_NS);
		w->short_waits = 0;
	}
	n = epoll_wait(epfd, event, max, timeout_ms);
	woke = now_ns();
	if (woke - began > SHORT_NS)
		w->short_waits = 0;
	else if (n > 0)
		w->short_waits++;
	return n;
}

bool events_come_first(struct events *w)
{
	int err = os_realtime(w->thread, true);

	if (err)
		log_msg(LOG_WARNING, "realtime = true: the kernel refuses it (%s); going on without. It needs LimitRTPRIO=1 (ulimit -r 1) or to be root, and under systemd RestrictRealtime=no",
			strerror(err));
	else
		atomic_store(&w->sleeps, true);
	return !err;
}

void events_come_as_others(struct events *w)
{
	if (!os_realtime(w->thread, false))
		atomic_store(&w->sleeps, false);
}
