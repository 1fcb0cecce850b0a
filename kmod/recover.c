// SPDX-License-Identifier: GPL-2.0
/*
 * The states of a device, and the one work item that changes them.
 *
 *	CONNECTING --first server that answers--> LIVE
 *	CONNECTING --every server tried once----> (attach fails)
 *	LIVE       --a connection is lost-------> LIVE: its requests go to
 *						  its siblings, and it is made
 *						  again beside them
 *	LIVE       --the last one is lost-------> RECOVERING (during attach,
 *						  while the partitions are
 *						  read: FAILED, and so attach)
 *	RECOVERING --a server answers-----------> LIVE
 *	RECOVERING --lost= seconds are over-----> FAILED
 *	FAILED     --a server answers-----------> LIVE
 *	any        --detach---------------------> DELETING
 *
 * What each state does with I/O: CONNECTING has no disk yet; in LIVE requests
 * flow; in RECOVERING the queue is quiesced and requests wait, for ever
 * unless lost= says otherwise; in FAILED and DELETING requests fail at once;
 * only while the machine goes down (nb_leave) they wait in DELETING too.
 *
 * The waits:
 *	connect			 3 s	NB_CONNECT_TIMEOUT
 *	each turn of negotiation 5 s	NB_STEP_TIMEOUT
 *	silence of the peer	 6 s	timeout=: keepalive while we wait for
 *					replies; nb_conn_deaf() while it owes
 *					us ACKs, looked at eight times as often
 *	unanswered request	30 s	NB_REQUEST_TIMEOUT; the next time 60 s,
 *					and so on to 300 s, which is also what
 *					it has while others get answers
 *	between tries			see turns.c
 *	between tries to make one	1, 2 .. 10 s, while others are live; at
 *	missing connection		once if the lost one had lived 5 s
 *	before writes are sent again	hold=: from the last that was heard of
 *					the server that had them; only if it
 *					may still have them in hand, and
 *					nobody has fenced it (accept.c)
 *	the server to close	 1 s	NB_PART_TIME: before the network goes down;
 *					and when it shuts down, after as long
 *					for it to answer what it has (part.c)
 *	between complaints	30 s	NB_COMPLAIN; see log.c
 *
 * Recovery is on the way to swap and to the root filesystem. The control work
 * runs on a WQ_MEM_RECLAIM queue of its own, allocates nothing itself but the
 * socket (from the reserves, without I/O; attach has loaded its family), and
 * needs nothing of userland to progress.
 */

#include <linux/delay.h>
#include <linux/minmax.h>
#include <linux/sched/mm.h>

#include "nb.h"
#include "trace.h"

const char *nb_state_name(enum nb_state state)
{
	switch (state) {
	case NB_CONNECTING:
		return "connecting";
	case NB_LIVE:
		return "live";
	case NB_RECOVERING:
		return "recovering";
	case NB_FAILED:
		return "failed";
	case NB_DELETING:
		return "deleting";
	}
	return "unknown";
}

const char *nb_server_text(const struct nb_device *dev)
{
	return dev->cfg.servers[dev->server].text;
}

static void nb_set_state(struct nb_device *dev, enum nb_state state)
{
	WRITE_ONCE(dev->state, state);
	if (dev->disk && disk_live(dev->disk) &&
	    !test_bit(NB_DETACHING, &dev->flags))
		schedule_work(&dev->uevent_work);
}

/* For last_error: what went wrong with the server in use or tried. */
void nb_set_error(struct nb_device *dev, const char *why)
{
	spin_lock_bh(&dev->lock);
	snprintf(dev->last_error, sizeof(dev->last_error), "%s: %s: %s",
		 dev->name, nb_server_text(dev), why);
	spin_unlock_bh(&dev->lock);
}

/* Run the control work now. Any context. */
void nb_ctl_kick(struct nb_device *dev)
{
	if (!test_bit(NB_GONE, &dev->flags))
		mod_delayed_work(dev->ctl_wq, &dev->ctl_work, 0);
}

/*
 * Is there something more urgent to do than what the control work is waiting
 * for? Control work only.
 */
bool nb_ctl_wanted(const struct nb_device *dev)
{
	if (test_bit(NB_DETACHING, &dev->flags))
		return true;
	return dev->state == NB_LIVE && test_bit(NB_LINK_LOST, &dev->flags);
}

/*
 * Is a server that does not answer to be tried anew, because the network has
 * changed? One that has answered is heard to its end: else a network that
 * changes all the time would keep us away for ever. Control work only.
 */
bool nb_retry_wanted(const struct nb_device *dev)
{
	return (dev->state == NB_RECOVERING || dev->state == NB_FAILED) &&
	       test_bit(NB_RETRY_NOW, &dev->flags);
}

static unsigned long nb_lost_end(const struct nb_device *dev)
{
	return dev->lost_at + dev->cfg.lost * HZ;
}

/*
 * Run it after @delay jiffies, but not past the moments when lost= runs out
 * or a complaint is due. Control work only.
 */
static void nb_ctl_later(struct nb_device *dev, unsigned long delay)
{
	if (dev->state == NB_RECOVERING && dev->cfg.lost)
		delay = min(delay, nb_until(nb_lost_end(dev)));
	if (dev->state == NB_RECOVERING || dev->state == NB_FAILED)
		delay = min(delay, nb_until(dev->told_at + NB_COMPLAIN));
	mod_delayed_work(dev->ctl_wq, &dev->ctl_work, delay);
	/* Whoever has news has set the bit and kicked, maybe before us. */
	smp_mb();
	if (nb_ctl_wanted(dev) || nb_retry_wanted(dev))
		nb_ctl_kick(dev);
}

/* What was taken back from dead connections. */
struct nb_taken {
	unsigned int count;
	unsigned int risky;	/* modify, and the peer may still do it */
};

/*
 * A request that a dead connection owned goes back to the block layer. The
 * connection is stopped, so the only other party is a completion that is
 * already on its way. Those of live connections stay with them.
 */
static bool nb_take_back_one(struct request *rq, void *data)
{
	struct nb_cmd *cmd = blk_mq_rq_to_pdu(rq);
	struct nb_taken *taken = data;

	if (!blk_mq_request_started(rq) || blk_mq_request_completed(rq) ||
	    cmd->conn->sock)
		return true;
	if (req_op(rq) == REQ_OP_FLUSH)
		nb_flush_undone(cmd->conn->dev, cmd);
	taken->count++;
	taken->risky += op_is_write(req_op(rq)) && !cmd->conn->ended &&
			!cmd->refused;
	cmd->again = true;
	blk_mq_requeue_request(rq, false);
	return true;
}

/* Those of all connections that were stopped. The queue is quiesced. */
static void nb_take_back(struct nb_device *dev, struct nb_taken *taken)
{
	unsigned int before = taken->count;

	blk_mq_tagset_busy_iter(&dev->tag_set, nb_take_back_one, taken);
	blk_mq_tagset_wait_completed_request(&dev->tag_set);
	WRITE_ONCE(dev->requeued, dev->requeued + taken->count - before);
}

/*
 * Spread the queues over the live connections, of which there is one at
 * least: each to its own if that lives. No request is on its way to a
 * connection: the queue is quiesced, or was never open yet. But one may be there
 * already whose submitter, when he is done, will kick the connection that his
 * queue has by then: so all are looked at.
 */
static void nb_map_queues(struct nb_device *dev)
{
	struct nb_conn *live[NB_MAX_CONNS];
	unsigned int i, nr = 0;

	for (i = 0; i < dev->nr_queues; i++)
		if (dev->conns[i].live)
			live[nr++] = &dev->conns[i];
	for (i = 0; i < dev->nr_queues; i++)
		dev->queues[i].conn = dev->conns[i].live ? &dev->conns[i] :
							   live[i % nr];
	for (i = 0; i < nr; i++)
		queue_work(dev->io_wq, &live[i]->io_work);
	WRITE_ONCE(dev->live_conns, nr);
}

/* Let requests through: to the server, or to their failure. */
static void nb_resume_queue(struct nb_device *dev)
{
	blk_mq_kick_requeue_list(dev->disk->queue);
	blk_mq_unquiesce_queue(dev->disk->queue);
}

static void nb_fail_io(struct nb_device *dev, enum nb_state state)
{
	bool waiting = dev->state == NB_RECOVERING;

	set_bit(NB_FAIL_IO, &dev->flags);
	nb_set_state(dev, state);
	if (waiting)
		nb_resume_queue(dev);
}

/*
 * Stop the connections that are dead, or @all; a server that dies ends all of
 * them, if not in the same moment. The first of them, or NULL. The queue is
 * quiesced.
 */
static struct nb_conn *nb_stop_lost(struct nb_device *dev, bool all)
{
	struct nb_conn *first = NULL;
	unsigned int i, live = 0;

	for (i = 0; i < dev->nr_queues; i++) {
		struct nb_conn *conn = &dev->conns[i];

		if (conn->live && (nb_conn_dead(conn) || all)) {
			nb_conn_heard(conn);
			nb_conn_stop(conn, false);
			trace_nb_lost(conn);
			conn->losses++;
			/* That it leaves says more than that it has hung up. */
			if (!first || conn->error == -ESHUTDOWN)
				first = conn;
		}
		live += conn->live;
	}
	WRITE_ONCE(dev->live_conns, live);
	return first;
}

/*
 * LIVE -> RECOVERING, when the last connection is stopped and its requests are
 * taken back. As a list to be read aloud.
 */
static void nb_begin_recovery(struct nb_device *dev, const struct nb_conn *lost,
			      const struct nb_taken *taken)
{
	dev->lost_at = jiffies;
	dev->lost_server = dev->server;
	dev->lost_identified = dev->identified;
	dev->lost_identity = dev->identity;
	nb_set_state(dev, NB_RECOVERING);

	/* New connections are a new generation, which fences the old one. */
	dev->session.generation++;
	if (taken->risky && !(dev->export.flags & NBD_FLAG_READ_ONLY)) {
		set_bit(NB_HOLD, &dev->flags);
		dev->hold_until = dev->heard_at + dev->cfg.hold * HZ;
	}

	nb_set_error(dev, lost->cause);
	nb_log_lost(dev, lost, taken->count);

	/*
	 * Whoever attaches would wait in add_disk(), beyond any signal. The
	 * barrier: nb_attach() sees our state, or we see its bit.
	 */
	smp_mb();
	if (test_bit(NB_ADDING, &dev->flags)) {
		set_bit(NB_ADD_BROKEN, &dev->flags);
		nb_fail_io(dev, NB_FAILED);
	}
	nb_turns_begin(dev, lost->error);
}

/* The server did not let us make a missing connection, or keep it for 5 s. */
static void nb_fill_failed(struct nb_device *dev)
{
	dev->fill_fails++;
	dev->fill_at = jiffies + min(HZ << min(dev->fill_fails, 5U) >> 1,
				     10 * HZ);
}

/* Has the server said so, on any connection? */
static bool nb_shuts_down(const struct nb_device *dev)
{
	unsigned int i;

	for (i = 0; i < dev->nr_queues; i++)
		if (dev->conns[i].live && READ_ONCE(dev->conns[i].leaving))
			return true;
	return false;
}

/*
 * LIVE, and a connection is lost. Its siblings carry on with its requests, if
 * it has any, and if its server will not carry those out too, later: it has
 * ended the connection itself, or there is nothing to carry out. Else all are
 * given up, so that the next generation fences them. A server that shuts down
 * is left with all of them.
 */
static void nb_lose(struct nb_device *dev)
{
	struct nb_taken taken = { };
	struct nb_conn *lost;

	blk_mq_quiesce_queue(dev->disk->queue);
	if (nb_shuts_down(dev))
		nb_part_live(dev);
	clear_bit(NB_LINK_LOST, &dev->flags);
	lost = nb_stop_lost(dev, false);
	if (lost)
		nb_take_back(dev, &taken);
	if (dev->live_conns && (taken.risky || (lost && lost->error == -ETIMEDOUT))) {
		nb_stop_lost(dev, true);
		nb_take_back(dev, &taken);
	}
	if (!dev->live_conns) {
		nb_begin_recovery(dev, lost, &taken);
		return;
	}

	nb_map_queues(dev);
	nb_resume_queue(dev);
	if (!lost)
		return;
	nb_set_error(dev, lost->cause);
	nb_log_one_lost(dev, lost, taken.count);
	if (nb_until(lost->live_at + NB_STABLE)) {
		nb_fill_failed(dev);
	} else {
		dev->fill_fails = 0;
		dev->fill_at = jiffies;
	}
}

/*
 * Connect to the server in use, or tried: may it carry the device? If so, 0,
 * and @conn is open, but not live yet.
 */
static int nb_open(struct nb_device *dev, struct nb_conn *conn, char *why)
{
	int err;

	dev->why_server = dev->server;
	err = nb_conn_open(conn, &dev->cfg.servers[dev->server], why);
	if (err)
		return err;
	err = nb_accept(dev, dev->state == NB_LIVE, why);
	if (err) {
		nb_log_refused(dev, err, why);
		nb_conn_stop(conn, true);
	}
	return err;
}

/*
 * LIVE, but connections are missing: make one more. It joins the others under
 * a queue that is quiesced for that moment.
 */
static int nb_fill(struct nb_device *dev)
{
	struct nb_conn *conn = dev->conns;
	int err;

	while (conn->live)
		conn++;
	err = nb_open(dev, conn, dev->conn_why);
	if (err == -EINTR)
		return err;
	if (err) {
		nb_set_error(dev, dev->conn_why);
		nb_fill_failed(dev);
		return err;
	}
	blk_mq_quiesce_queue(dev->disk->queue);
	nb_conn_live(conn);
	nb_map_queues(dev);
	blk_mq_unquiesce_queue(dev->disk->queue);
	return 0;
}

static bool nb_missing(const struct nb_device *dev)
{
	return dev->live_conns < dev->want_conns;
}

static void nb_go_live(struct nb_device *dev)
{
	enum nb_state before = dev->state;

	nb_turns_end(dev);
	dev->heard_at = jiffies;
	dev->fill_at = jiffies;
	dev->fill_fails = 0;
	clear_bit(NB_HOLD, &dev->flags);
	if (before == NB_FAILED)
		blk_mq_quiesce_queue(dev->disk->queue);
	/*
	 * It may have grown; the rest stays what the disk was made from. Not
	 * before: nobody else must be measured by a server that was not taken.
	 */
	WRITE_ONCE(dev->export.size, dev->nego->export.size);
	nb_conn_live(&dev->conns[0]);
	nb_map_queues(dev);
	nb_set_state(dev, NB_LIVE);
	nb_ctl_later(dev, 0);
	clear_bit(NB_FAIL_IO, &dev->flags);
	if (before == NB_FAILED)
		blk_mq_unquiesce_queue(dev->disk->queue);
	if (before == NB_CONNECTING) {
		while (nb_missing(dev) && !nb_fill(dev))
			;
		complete_all(&dev->attached);
		return;
	}
	WRITE_ONCE(dev->reconnects, dev->reconnects + 1);
	trace_nb_reconnect(dev, nb_seconds_lost(dev));
	if (nb_fenced(dev))
		trace_nb_takeover(dev, dev->session.generation);
	nb_log_found(dev);
	if (before == NB_RECOVERING)
		nb_resume_queue(dev);
}

/* The first attach: every server once, in order. */
static void nb_connect_first(struct nb_device *dev)
{
	int err;

	for (;;) {
		err = nb_open(dev, &dev->conns[0], dev->conn_why);
		if (!err) {
			nb_adopt(dev);
			nb_go_live(dev);
			return;
		}
		nb_set_error(dev, dev->conn_why);
		if (test_bit(NB_DETACHING, &dev->flags))
			return;
		if (dev->server + 1 == dev->cfg.nr_servers)
			break;
		WRITE_ONCE(dev->server, dev->server + 1);
	}
	dev->attach_error = err;
	complete_all(&dev->attached);
}

/*
 * A server has accepted us. May the requests that were in flight go to it?
 * Jiffies until they may.
 */
static unsigned long nb_held(struct nb_device *dev)
{
	if (!test_bit(NB_HOLD, &dev->flags) || nb_fenced(dev))
		return 0;
	return nb_until(dev->hold_until);
}

/*
 * Recovering: try the server whose turn it is. Jiffies until there is
 * something to do again.
 */
static unsigned long nb_try(struct nb_device *dev)
{
	unsigned long delay;
	int err;

	delay = nb_turn(dev);
	if (delay)
		return delay;
	err = nb_open(dev, &dev->conns[0], dev->conn_why);
	if (err == -EINTR)
		return 0;
	if (err) {
		nb_set_error(dev, dev->conn_why);
		/*
		 * Who held our writes is gone: its port refuses. That says
		 * nothing of a stranger, which may have had a process for each
		 * connection, and those live on.
		 */
		if (err == -ECONNREFUSED && dev->lost_identified &&
		    dev->server == dev->lost_server)
			clear_bit(NB_HOLD, &dev->flags);
		nb_turn_failed(dev, err);
		return nb_turn(dev);
	}
	delay = nb_held(dev);
	if (delay)
		pr_info("%s: %s: connected; writes that the lost connection may still carry out are held back for %lu s (hold=)\n",
			dev->name, nb_server_text(dev), (delay + HZ - 1) / HZ);
	return delay;
}

static void nb_recover(struct nb_device *dev)
{
	unsigned long delay = 0;

	nb_log_still_lost(dev);
	if (dev->state == NB_RECOVERING && dev->cfg.lost &&
	    !nb_until(nb_lost_end(dev))) {
		pr_err("%s: no connection for lost=%u seconds: requests fail from now on; still trying\n",
		       dev->name, dev->cfg.lost);
		nb_fail_io(dev, NB_FAILED);
	}
	if (dev->conns[0].sock && nb_conn_dead(&dev->conns[0])) {
		/* Held back, and nobody but us looks at it. */
		snprintf(dev->conn_why, NB_TEXT, "%s, while it was held back",
			 dev->conns[0].cause);
		nb_set_error(dev, dev->conn_why);
		nb_conn_stop(&dev->conns[0], false);
		nb_turn_failed(dev, -ECONNRESET);
	}
	if (!dev->conns[0].sock)
		delay = nb_try(dev);
	else
		delay = nb_held(dev);
	if (dev->conns[0].sock)
		delay = min_t(unsigned long, delay, NB_WATCH);
	if (dev->conns[0].sock && !delay && !nb_ctl_wanted(dev)) {
		nb_adopt(dev);
		nb_go_live(dev);
	} else {
		nb_ctl_later(dev, delay);
	}
}

static bool nb_all_parted(const struct nb_device *dev)
{
	unsigned int i;

	for (i = 0; i < dev->nr_queues; i++)
		if (!nb_conn_parted(&dev->conns[i]))
			return false;
	return true;
}

/*
 * The machine is going down, and what was written is flushed: say goodbye to
 * the server. Whoever still wants something waits, for the few moments that are
 * left: the root may be mounted yet, and a filesystem that got an error now
 * would give up its journal, or panic if it was told to.
 *
 * The network goes down next. A packet lost now would be sent again by nobody,
 * and one that comes then has been seen to hang the machine: virtio_net of some
 * kernels spins for ever when it is to acknowledge what came before its device
 * was shut down. So wait for the server to close its end.
 */
static void nb_leave(struct nb_device *dev)
{
	unsigned long end = jiffies + NB_PART_TIME;
	struct nb_taken taken = { };
	unsigned int i;

	if (dev->state == NB_LIVE)
		blk_mq_quiesce_queue(dev->disk->queue);
	for (i = 0; i < dev->nr_queues; i++)
		nb_conn_part(&dev->conns[i]);
	while (!nb_all_parted(dev) && time_before(jiffies, end))
		usleep_range(500, 1000);
	for (i = 0; i < dev->nr_queues; i++)
		nb_conn_stop(&dev->conns[i], false);
	nb_take_back(dev, &taken);
	WRITE_ONCE(dev->live_conns, 0);
	nb_set_state(dev, NB_DELETING);
}

/* The device is going: let what waits fail, and connect no more. */
static void nb_wind_down(struct nb_device *dev)
{
	if (dev->state == NB_CONNECTING) {
		dev->attach_error = -EINTR;
		complete_all(&dev->attached);
	} else if (test_bit(NB_LEAVING, &dev->flags) &&
		   (dev->state == NB_LIVE || dev->state == NB_RECOVERING)) {
		nb_leave(dev);
	} else if (dev->state == NB_LIVE) {
		/* What is left to write is written; if the peer lives. */
		mod_delayed_work(dev->ctl_wq, &dev->ctl_work, NB_WATCH);
	} else if (dev->state != NB_DELETING) {
		nb_fail_io(dev, NB_DELETING);
	}
	complete_all(&dev->quiet);
	if (test_and_clear_bit(NB_LEAVING, &dev->flags))
		nb_goodbye_done();
}

/*
 * LIVE: who of those we wait for does not even acknowledge? And who could not
 * send for want of memory? TCP tells of room when something is acknowledged; if
 * there was no memory for the first byte, nothing ever is.
 */
void nb_watch(struct nb_device *dev)
{
	unsigned int i;

	for (i = 0; i < dev->nr_queues; i++) {
		struct nb_conn *conn = &dev->conns[i];

		if (!conn->live)
			continue;
		/* Now and then, lest it be half a turn of jiffies ago. */
		nb_conn_heard(conn);
		if (nb_conn_deaf(conn))
			nb_conn_lost(conn, -ETIMEDOUT, NULL);
		else if (READ_ONCE(conn->tx_busy))
			queue_work(dev->io_wq, &conn->io_work);
	}
}

/* How soon to look again: an idle connection has nothing to be deaf to. */
static unsigned long nb_watch_pace(const struct nb_device *dev)
{
	unsigned int i;

	for (i = 0; i < dev->nr_queues; i++)
		if (dev->conns[i].live && nb_conn_waits(&dev->conns[i]))
			return nb_watch_time(dev);
	return min_t(unsigned long, NB_WATCH, dev->cfg.timeout * HZ / 3);
}

/* LIVE, with nothing more urgent to do. */
static void nb_carry_on(struct nb_device *dev)
{
	unsigned long delay = nb_watch_pace(dev);

	nb_turns_age(dev);
	nb_log_live(dev);
	if (nb_missing(dev)) {
		if (!nb_until(dev->fill_at))
			nb_fill(dev);
		delay = nb_missing(dev) ? min(delay, nb_until(dev->fill_at)) : 0;
	}
	nb_ctl_later(dev, delay);
}

static void nb_ctl_run(struct nb_device *dev)
{
	if (test_and_clear_bit(NB_RETRY_NOW, &dev->flags)) {
		nb_turns_reset(dev);
		dev->fill_at = jiffies;
	}
	if (dev->state == NB_LIVE)
		nb_watch(dev);
	if (dev->state == NB_LIVE && test_bit(NB_LINK_LOST, &dev->flags))
		nb_lose(dev);

	if (test_bit(NB_DETACHING, &dev->flags)) {
		nb_wind_down(dev);
		return;
	}
	switch (dev->state) {
	case NB_CONNECTING:
		if (!completion_done(&dev->attached))
			nb_connect_first(dev);
		break;
	case NB_RECOVERING:
	case NB_FAILED:
		nb_recover(dev);
		break;
	case NB_LIVE:
		nb_carry_on(dev);
		break;
	case NB_DELETING:
		break;
	}
}

void nb_ctl_work(struct work_struct *work)
{
	struct nb_device *dev = container_of(to_delayed_work(work),
					     struct nb_device, ctl_work);
	unsigned int noio = memalloc_noio_save();

	if (test_bit(NB_GONE, &dev->flags)) {
		/* nb_destroy() is taking the device apart */
	} else if (dev->disk) {
		/* Reclaim may wait for this: use the reserves. */
		unsigned int noreclaim = memalloc_noreclaim_save();

		nb_ctl_run(dev);
		memalloc_noreclaim_restore(noreclaim);
	} else {
		nb_ctl_run(dev);
	}
	memalloc_noio_restore(noio);
}
