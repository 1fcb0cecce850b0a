// SPDX-License-Identifier: GPL-2.0
/*
 * What a server has acknowledged but may still lose: its cache.
 *
 * A write without FUA is, once answered, in the memory of the server's
 * machine, and in nobody else's: we cannot send it again. A flush that was
 * answered makes all of those durable that were answered before it was sent.
 * So we count the bytes in between. If the server's machine (its boot
 * identity) changes while there are any, they may be gone, and whoever relies
 * on the next flush must hear of it: that flush fails, once. And with it each
 * that was in flight at the time, as their submitters are not one and the same;
 * and each that waited behind one of those, which we are not told of: the block
 * layer sends one at a time of a queue, and the next as soon as that has ended.
 *
 * The count is kept per queue, so that processors that write at the same time
 * do not fight over it.
 */

#include "nb.h"

/* How soon that is. */
#define NB_BEHIND	(HZ / 4)

/* Did a flush fail just now, for what @dev lost? Context: queue_rq. */
static bool nb_behind_a_failed(struct nb_device *dev)
{
	if (likely(!test_bit(NB_FLUSH_FAILED, &dev->flags)))
		return false;
	if (time_before(jiffies, READ_ONCE(dev->flush_failed_at) + NB_BEHIND))
		return true;
	clear_bit(NB_FLUSH_FAILED, &dev->flags);
	return false;
}

/*
 * Put back what a flush was to cover: it did not succeed, or is to be sent
 * again. Any context; the flush is nobody else's at the time.
 */
void nb_flush_undone(struct nb_device *dev, struct nb_cmd *cmd)
{
	atomic64_add(cmd->covers, &dev->queues[0].unflushed);
	cmd->covers = 0;
}

/*
 * A flush is about to be sent. Takes what it covers out of the counts: a
 * write that is answered from now on is not covered. False: it must fail
 * instead, because what it would cover is lost. Context: queue_rq.
 */
bool nb_flush_begins(struct nb_device *dev, struct nb_cmd *cmd)
{
	bool lost = test_and_clear_bit(NB_CACHE_LOST, &dev->flags) ||
		    cmd->cache_losses != dev->cache_losses;
	unsigned int i;

	if (unlikely(lost)) {
		WRITE_ONCE(dev->flush_failed_at, jiffies);
		set_bit(NB_FLUSH_FAILED, &dev->flags);
	}
	if (unlikely(lost || nb_behind_a_failed(dev))) {
		pr_err("%s: this flush fails: the server lost what it was to make durable\n",
		       dev->name);
		return false;
	}
	for (i = 0; i < dev->nr_queues; i++)
		if (atomic64_read(&dev->queues[i].unflushed))
			cmd->covers += atomic64_xchg(&dev->queues[i].unflushed,
						     0);
	return true;
}

/* Bytes acknowledged and not flushed. Exact while the queue is quiesced. */
u64 nb_unflushed(struct nb_device *dev)
{
	u64 bytes = 0;
	unsigned int i;

	for (i = 0; i < dev->nr_queues; i++)
		bytes += atomic64_read(&dev->queues[i].unflushed);
	return bytes;
}

/*
 * They are gone. The queue is quiesced, or nothing was ever written. The
 * caller says so to people; the next flush says so to whoever wrote them.
 */
void nb_cache_lost(struct nb_device *dev)
{
	unsigned int i;

	for (i = 0; i < dev->nr_queues; i++)
		atomic64_set(&dev->queues[i].unflushed, 0);
	dev->cache_losses++;
	set_bit(NB_CACHE_LOST, &dev->flags);
}
