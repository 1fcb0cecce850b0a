// SPDX-License-Identifier: GPL-2.0
/*
 * What the kernel log is told of connections that are lost and found again.
 *
 *	lost			at once, and why
 *	found again		at once
 *	still lost		every 30 s (NB_COMPLAIN): who, how long, why
 *	a server is not taken	once, and why; again when the reason is another,
 *				or when it was taken in between
 *
 * A server that crashes whenever it works again is lost several times a second,
 * which is not to fill the logs of all its stations. So of losses with less than
 * 30 s between them only the first few (NB_TOLD) are told, each with its end.
 * The others are counted, and their number is told every 30 s, be there a
 * connection just then or not, and when one has lived for 5 s (NB_STABLE). The
 * tracepoints nb_lost and nb_reconnect tell all of them.
 *
 * All of this is the control work's.
 */

#include <linux/stringhash.h>

#include "nb.h"

/* The last loss is being told. */
static void nb_tell(struct nb_device *dev)
{
	dev->told = true;
	dev->told_at = jiffies;
}

/* One more loss: may it be told? */
static bool nb_may_tell(struct nb_device *dev, const struct nb_conn *lost)
{
	strscpy(dev->conn_why, lost->cause, NB_TEXT);
	if (!nb_until(dev->loss_at + NB_COMPLAIN))
		dev->losses = 0;
	dev->loss_at = jiffies;
	if (dev->losses == NB_TOLD) {
		dev->told = false;
		dev->untold++;
		return false;
	}
	dev->losses++;
	nb_tell(dev);
	return true;
}

/* The last connection is lost, with @count requests in flight. */
void nb_log_lost(struct nb_device *dev, const struct nb_conn *lost,
		 unsigned int count)
{
	if (nb_may_tell(dev, lost))
		pr_warn("%s: %s: connection lost: %s; %u requests in flight\n",
			dev->name, nb_server_text(dev), lost->cause, count);
}

/* One is lost, and its @count requests go to the others. */
void nb_log_one_lost(struct nb_device *dev, const struct nb_conn *lost,
		     unsigned int count)
{
	if (nb_may_tell(dev, lost))
		pr_warn("%s: %s: connection %u lost: %s; %u requests go to the %u left\n",
			dev->name, nb_server_text(dev), lost->index,
			lost->cause, count, dev->live_conns);
}

/*
 * RECOVERING or FAILED: the line of every 30 s, if it is time for it. It names
 * who was tried last, as it may be another one's turn already.
 */
void nb_log_still_lost(struct nb_device *dev)
{
	unsigned int passed = (jiffies - dev->told_at) / HZ;
	char more[64] = "";

	if (nb_until(dev->told_at + NB_COMPLAIN))
		return;
	if (dev->untold)
		snprintf(more, sizeof(more), "; lost %u times more in %u s",
			 dev->untold, passed);
	dev->untold = 0;
	nb_tell(dev);
	pr_warn("%s: %s: no connection for %u s: %s%s; still trying\n",
		dev->name, dev->cfg.servers[dev->why_server].text,
		nb_seconds_lost(dev), dev->conns[0].sock ? "held back" : dev->conn_why,
		more);
}

/* A server answers again. */
void nb_log_found(const struct nb_device *dev)
{
	if (dev->told)
		pr_info("%s: %s: connected again after %u s\n", dev->name,
			nb_server_text(dev), nb_seconds_lost(dev));
}

/*
 * The server being tried can be reached, but it is not taken: for the reason
 * @err, or @why. That the last one of an attach is not is what attach answers;
 * and who hangs up may just be stopping: if that goes on, the line of every 30 s
 * says so.
 */
void nb_log_refused(struct nb_device *dev, int err, const char *why)
{
	struct nb_turn *turn = &dev->turns[dev->server];
	u32 reason = full_name_hash(NULL, why, strlen(why));

	if (err == -EINTR || err == -ECONNRESET || turn->told == reason ||
	    (dev->state == NB_CONNECTING &&
	     dev->server + 1 == dev->cfg.nr_servers))
		return;
	turn->told = reason;
	pr_warn_ratelimited("%s: %s: %s: %s\n", dev->name, nb_server_text(dev),
			    dev->state == NB_LIVE ?
			    "no further connection" : "not taken", why);
}

/* LIVE: losses that were not told, if it is time for that. */
void nb_log_live(struct nb_device *dev)
{
	unsigned long since = time_after(dev->loss_at, dev->live_at) ?
			      dev->loss_at : dev->live_at;
	unsigned int passed = (jiffies - dev->told_at) / HZ;

	if (!dev->untold || (nb_until(since + NB_STABLE) &&
			     nb_until(dev->told_at + NB_COMPLAIN)))
		return;
	pr_warn("%s: %s: connected; lost %u times more in %u s, the last time: %s\n",
		dev->name, nb_server_text(dev), dev->untold, passed,
		dev->conn_why);
	dev->untold = 0;
	nb_tell(dev);
}
