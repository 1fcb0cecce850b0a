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
 *	it ends a connection that	the same, be it the tenth time: it was
 *	lived less than 5 s		restarted, or crashes, but in between
 *	(NB_STABLE), but on which it	somebody got on with his work
 *	had answered requests
 *	it does not answer, or does	0.1, 0.2, 0.4 .. 10 s, with jitter:
 *	not do what we need, or its	a lab full of stations lost it
 *	connection lives less than	at the same moment
 *	5 s for any other reason
 *	it shuts down, and there are	0.5 .. 1 s	it may listen to the
 *	others						last, and serve nobody
 *
 * A link that comes up and a machine that resumes make it every server's turn.
 *
 * All of this is the control work's.
 */

#include <linux/minmax.h>
#include <linux/random.h>

#include "nb.h"

#define NB_BACKOFF_MAX	10000U	/* ms, both */
#define NB_SOON		500U
#define NB_SPARE	750U	/* more than NB_SOON and what an attempt takes */

/* It is everybody's turn, as if nothing had ever gone wrong. */
void nb_turns_reset(struct nb_device *dev)
{
	unsigned int i;

	for (i = 0; i < dev->cfg.nr_servers; i++) {
		dev->turns[i].at = jiffies;
		dev->turns[i].failures = 0;
	}
}

/* The next turn of the server in use, or tried: in @ms to @ms + @span. */
static void nb_turn_in(struct nb_device *dev, u32 ms, u32 span)
{
	dev->turns[dev->server].at = jiffies +
		msecs_to_jiffies(ms + get_random_u32_below(span + 1));
}

/* It is to be back soon. */
static void nb_turn_soon(struct nb_device *dev)
{
	nb_turn_in(dev, NB_SOON / 2, NB_SOON / 2);
}

/* The server in use, or tried, did not do, for the reason @err. */
void nb_turn_failed(struct nb_device *dev, int err)
{
	struct nb_turn *turn = &dev->turns[dev->server];
	u32 ms;

	if (err == -ECONNREFUSED || err == -ENETUNREACH) {
		nb_turn_soon(dev);
		return;
	}
	ms = min(100U << min(turn->failures, 7U), NB_BACKOFF_MAX);
	turn->failures++;
	nb_turn_in(dev, ms - ms / 4, ms / 4);
}

/* Replies that all connections ever brought. None of them is live. */
static u64 nb_replies(const struct nb_device *dev)
{
	u64 replies = 0;
	unsigned int i;

	for (i = 0; i < dev->nr_queues; i++)
		replies += dev->conns[i].rx_replies;
	return replies;
}

/* The first connection is about to go live. */
void nb_turns_end(struct nb_device *dev)
{
	dev->turns[dev->server].told = 0;
	dev->live_at = jiffies;
	dev->live_replies = nb_replies(dev);
}

/* Did the server end it, after it had answered something? */
static bool nb_served(const struct nb_device *dev, int err)
{
	return (err == -ECONNRESET || err == -EPIPE || err == -ESHUTDOWN) &&
	       nb_replies(dev) != dev->live_replies;
}

/*
 * The connections to the server in use are lost for the reason @err: whose
 * turn is it now? Its own first, because it may be back; unless it is silent,
 * shuts down, or keeps dropping us. Another one that was of no use the last time
 * is not tried before the one in use has had its chance, for that may cost
 * seconds.
 */
void nb_turns_begin(struct nb_device *dev, int err)
{
	bool stable = time_after(jiffies, dev->live_at + NB_STABLE);
	bool served = nb_served(dev, err);
	unsigned long now = jiffies;
	unsigned long spare = now + msecs_to_jiffies(NB_SPARE);
	unsigned int i;

	for (i = 0; i < dev->cfg.nr_servers; i++) {
		struct nb_turn *turn = &dev->turns[i];

		if (i == dev->server ? stable : !turn->failures)
			turn->at = now;
		else if (i != dev->server &&
			 (stable || time_before(turn->at, spare)))
			turn->at = spare;
	}
	if (stable || served)
		dev->turns[dev->server].failures = 0;
	if (err == -ESHUTDOWN && dev->cfg.nr_servers > 1 && (stable || served))
		nb_turn_in(dev, NB_SOON, NB_SOON);
	else if (!stable && served)
		nb_turn_soon(dev);
	else if (!stable || (err == -ETIMEDOUT && dev->cfg.nr_servers > 1))
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
	unsigned long now = jiffies;
	unsigned int i;

	for (i = 0; i < nr; i++) {
		unsigned int server = (dev->server + i) % nr;
		unsigned long at = dev->turns[server].at;

		if (time_after_eq(now, at)) {
			WRITE_ONCE(dev->server, server);
			return 0;
		}
		soonest = min(soonest, at - now);
	}
	return soonest;
}

static void nb_not_before(unsigned long *at, unsigned long oldest)
{
	if (time_before(*at, oldest))
		*at = oldest;
}

/*
 * Now and then while LIVE: what lies more than half a turn of jiffies back, 25
 * days on 32 bits at 1000 Hz, would be taken for what is to come. All that is asked
 * of these is whether they were some seconds ago, or which one was the last.
 */
void nb_turns_age(struct nb_device *dev)
{
	unsigned long oldest = jiffies - MAX_JIFFY_OFFSET / 2;
	unsigned int i;

	for (i = 0; i < dev->cfg.nr_servers; i++)
		nb_not_before(&dev->turns[i].at, oldest);
	for (i = 0; i < dev->nr_queues; i++)
		nb_not_before(&dev->conns[i].live_at, oldest);
	nb_not_before(&dev->live_at, oldest);
	nb_not_before(&dev->loss_at, oldest);
	nb_not_before(&dev->told_at, oldest);
}
