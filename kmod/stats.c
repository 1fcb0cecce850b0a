// SPDX-License-Identifier: GPL-2.0
/*
 * What was measured, for /sys/block/nbN/nb/: how long requests took, and what
 * went through each connection.
 *
 * A request's time runs from when the block layer made it to the last byte of
 * its reply, waiting for a lost server included. The block layer notes the
 * beginning only while queue/iostats is on, which it is by default.
 */

#include <linux/bitops.h>
#include <linux/minmax.h>
#include <linux/percpu.h>
#include <linux/sysfs.h>
#include <linux/time64.h>

#include "nb.h"

static unsigned int nb_stat(const struct request *rq)
{
	switch (req_op(rq)) {
	case REQ_OP_READ:
		return NB_STAT_READ;
	case REQ_OP_WRITE:
		return NB_STAT_WRITE;
	case REQ_OP_FLUSH:
		return NB_STAT_FLUSH;
	default:
		return NB_STAT_OTHER;
	}
}

void nb_measure(struct nb_device *dev, struct request *rq, u64 now)
{
	u64 us;

	if (!rq->start_time_ns || rq->start_time_ns > now)
		return;
	/* Within 3 % of microseconds, and no division. */
	us = (now - rq->start_time_ns) >> 10;
	this_cpu_inc(dev->stats->latency[nb_stat(rq)]
		     [min_t(unsigned int, fls64(us), NB_LATENCIES - 1)]);
}

static u64 nb_sum(struct nb_device *dev, unsigned int stat, unsigned int i)
{
	u64 sum = 0;
	int cpu;

	for_each_possible_cpu(cpu)
		sum += per_cpu_ptr(dev->stats, cpu)->latency[stat][i];
	return sum;
}

/* A line for each power of two, of microseconds, that anything took. */
ssize_t nb_latency_show(struct nb_device *dev, char *buf)
{
	ssize_t len = sysfs_emit(buf, "us_below read write flush other\n");
	unsigned int i, stat;

	for (i = 0; i < NB_LATENCIES; i++) {
		u64 sum[NB_STATS], all = 0;

		for (stat = 0; stat < NB_STATS; stat++) {
			sum[stat] = nb_sum(dev, stat, i);
			all += sum[stat];
		}
		if (!all)
			continue;
		if (i < NB_LATENCIES - 1)
			len += sysfs_emit_at(buf, len, "%lu", 1UL << i);
		else
			len += sysfs_emit_at(buf, len, "more");
		for (stat = 0; stat < NB_STATS; stat++)
			len += sysfs_emit_at(buf, len, " %llu", sum[stat]);
		len += sysfs_emit_at(buf, len, "\n");
	}
	return len;
}

/* A line for each connection, dead ones too: what it carried since attach. */
ssize_t nb_traffic_show(struct nb_device *dev, char *buf)
{
	ssize_t len = sysfs_emit(buf, "connection requests bytes_sent replies bytes_received\n");
	unsigned int i;

	for (i = 0; i < dev->nr_queues; i++) {
		const struct nb_conn *conn = &dev->conns[i];

		len += sysfs_emit_at(buf, len, "%u %llu %llu %llu %llu\n", i,
				     READ_ONCE(conn->tx_requests),
				     READ_ONCE(conn->tx_bytes),
				     READ_ONCE(conn->rx_replies),
				     READ_ONCE(conn->rx_bytes));
	}
	return len;
}
