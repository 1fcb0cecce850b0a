// SPDX-License-Identifier: GPL-2.0
/*
 * Which server to try next, and when.
 *
 * Servers are tried in the order of the attach line, from the one in use on.
 * Each has its own next turn, so that one that does not answer, which costs
 * seconds to find out, does not hold up another that is about to be back:
 *
 *	it refuses at once		0.25 .. 0.5 s	that costs nobody
 *	(or there is no route to it)			anything, and a
 *							restarted server is
 *							to be found at once
 *	it does not answer, or does	0.1, 0.2, 0.4 .. 10 s, with jitter:
 *	not do what we need, or its	a lab full of stations lost it
 *	connection lives less than	at the same moment
 *	5 s (NB_STABLE)
 *
 * A link that comes up and a machine that resumes make it every server's turn.
 *
 * All of this is the control work's.
 */

#include <linux/minmax.h>
#include <linux/random.h>

#include "nb.h"

#define NB_BACKOFF_MAX	10000U	/* ms */

/* It is everybody's turn, as if nothing had ever gone wrong. */
void nb_turns_reset(struct nb_device *dev)
{
	unsigned int i;

	for (i = 0; i < dev->cfg.nr_servers; i++) {
		dev->turns[i].at = jiffies;
		dev->turns[i].failures = 0;
	}
}

/* The server in use, or tried, did not do, for the reason @err. */
void nb_turn_failed(struct nb_device *dev, int err)
{
	struct nb_turn *turn = &dev->turns[dev->server];
	u32 ms, span;

	if (err == -ECONNREFUSED || err == -ENETUNREACH) {
		ms = 250;
		span = 250;
	} else {
		ms = min(100U << min(turn->failures, 7U), NB_BACKOFF_MAX);
		span = ms / 4;
		ms -= span;
		turn->failures++;
	}
	turn->at = jiffies + msecs_to_jiffies(ms + get_random_u32_below(span + 1));
}

/*
 * The connections to the server in use are lost for the reason @err: whose
 * turn is it now? Its own first, because it may be back; unless it is silent,
 * or keeps dropping us.
 */
void nb_turns_begin(struct nb_device *dev, int err)
{
	bool stable = time_after(jiffies, dev->live_at + NB_STABLE);
	unsigned int i;

	for (i = 0; i < dev->cfg.nr_servers; i++)
		if (i != dev->server || stable)
			dev->turns[i].at = jiffies;
	if (stable)
		dev->turns[dev->server].failures = 0;
	if (!stable || (err == -ETIMEDOUT && dev->cfg.nr_servers > 1))
		nb_turn_failed(dev, err);
}

/*
 * Make the server whose turn it is the one to be tried, and return 0; or how
 * long there is none, in jiffies.
 */
unsigned long nb_turn(struct nb_device *dev)
{
	unsigned int nr = dev->cfg.nr_servers;
	unsigned long soonest = MAX_JIFFY_OFFSET;
	unsigned int i;

	for (i = 0; i < nr; i++) {
		unsigned int server = (dev->server + i) % nr;
		unsigned long at = dev->turns[server].at;

		if (time_after_eq(jiffies, at)) {
			WRITE_ONCE(dev->server, server);
			return 0;
		}
		soonest = min(soonest, at - jiffies);
	}
	return soonest;
}
