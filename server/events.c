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
 *
 * While the disk is read, the workers that do it, and what the kernel does for them,
 * take turns of milliseconds on the processors, and what is in memory could be
 * answered in microseconds. So while that lasts the loop runs before all else
 * (SCHED_RR), unless it has work most of the time: then others have their turn. (What
 * it uses of a processor does not tell: one that has to share it uses half.)
 */
#include "events.h"

#include <errno.h>
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

/* How often it looks at the disk, and at how much it works; nanoseconds. */
#define DISK_NS		10000000U
#define WEIGH_NS	100000000U
/* That is much, in percent of the time. */
#define MUCH		75U

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

static void weigh(struct events *w)
{
	w->much = w->awake * 100 > (woke - w->weighed_at) * MUCH;
	w->awake = 0;
	w->weighed_at = woke;
}

/* Now and then: is it to run before all others, and does it? */
static void come_first_or_not(struct events *w)
{
	bool busy;

	if (!w->disk_busy || woke - w->looked_at < DISK_NS)
		return;
	w->looked_at = woke;
	busy = w->disk_busy(&w->since);
	if (woke - w->weighed_at >= WEIGH_NS)
		weigh(w);
	if ((busy && !w->much) == w->first)
		return;
	if (!os_realtime(w->thread, !w->first))
		w->first = !w->first;
	else if (!w->first)
		w->disk_busy = NULL;	/* a right that is lost does not come back */
}

int events_wait(struct events *w, int epfd, struct epoll_event *event,
		int max, int timeout_ms)
{
	const uint64_t began = now_ns();
	int n;

	if (woke)
		w->awake += began - woke;
	woke = began;
	come_first_or_not(w);
	if (w->short_waits >= SHORT_WAITS && !w->first) {
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

bool events_may_come_first(struct events *w, bool asked)
{
	int err = os_is_scheduled(w->thread) ? EBUSY :
		  os_realtime(w->thread, true);

	if (!err)
		err = os_realtime(w->thread, false);
	if (!err)
		return true;
	log_msg(asked ? LOG_WARNING : LOG_DEBUG, "realtime = true: %s; going on without. It needs LimitRTPRIO=1 (ulimit -r 1) or to be root, and under systemd RestrictRealtime=no",
		err == EBUSY ? "somebody has said how this server is scheduled" :
		strerror(err));
	os_allow_realtime(false);
	return false;
}
