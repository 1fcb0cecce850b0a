// SPDX-License-Identifier: GPL-2.0
/*
 * The blk-mq operations: from a request to an NBD command, and what
 * becomes of it in the end.
 *
 * queue_rq never waits for the link. While the device recovers its queue is
 * quiesced, so queue_rq is not called; in the moment between the death of a
 * connection and that, requests pile up on the connection, from where the
 * control work takes them back.
 */

#define CREATE_TRACE_POINTS
#include "trace.h"

/*
 * What the submitter of a request, @op, gets to see of an NBD error (spec,
 * "Errors"). "Not supported" only where he has another way: blkdev_fsync() takes
 * it for success.
 */
blk_status_t nb_error_status(enum req_op op, u32 nbd_error)
{
	switch (nbd_error) {
	case NBD_SUCCESS:
		return BLK_STS_OK;
	case NBD_ENOSPC:
		return BLK_STS_NOSPC;
	case NBD_ENOTSUP:
		if (op == REQ_OP_DISCARD || op == REQ_OP_WRITE_ZEROES)
			return BLK_STS_NOTSUPP;
		return BLK_STS_IOERR;
	default:
		return BLK_STS_IOERR;
	}
}

void nb_cmd_put(struct nb_cmd *cmd, struct io_comp_batch *done)
{
	struct request *rq;

	if (!atomic_dec_and_test(&cmd->holders))
		return;
	rq = blk_mq_rq_from_pdu(cmd);
	if (unlikely(blk_should_fake_timeout(rq->q)))
		return;
	nb_account(rq, cmd);
	/* A batch ends well. Some kernels put an error into it, too. */
	if (cmd->status != BLK_STS_OK ||
	    !blk_mq_add_to_batch(rq, done, false, blk_mq_end_request_batch))
		blk_mq_complete_request(rq);
}

/* The NBD command for @rq into its cmd; false: there is none. */
static bool nb_command_of(const struct nb_device *dev, struct request *rq)
{
	struct nb_cmd *cmd = blk_mq_rq_to_pdu(rq);
	u64 offset = (u64)blk_rq_pos(rq) << SECTOR_SHIFT;
	u32 length = blk_rq_bytes(rq);

	cmd->flags = 0;
	switch (req_op(rq)) {
	case REQ_OP_READ:
		cmd->type = NBD_CMD_READ;
		nbd_answer_init(&cmd->answer, true, offset, length);
		return true;
	case REQ_OP_WRITE:
		cmd->type = NBD_CMD_WRITE;
		break;
	case REQ_OP_FLUSH:
		/* Spec: offset and length MUST be zero. */
		cmd->type = NBD_CMD_FLUSH;
		nbd_answer_init(&cmd->answer, false, 0, 0);
		return true;
	case REQ_OP_DISCARD:
		cmd->type = NBD_CMD_TRIM;
		break;
	case REQ_OP_WRITE_ZEROES:
		cmd->type = NBD_CMD_WRITE_ZEROES;
		if (rq->cmd_flags & REQ_NOUNMAP)
			cmd->flags |= NBD_CMD_FLAG_NO_HOLE;
		break;
	default:
		return false;
	}
	nbd_answer_init(&cmd->answer, false, offset, length);
	if (rq->cmd_flags & REQ_FUA)
		cmd->flags |= NBD_CMD_FLAG_FUA;
	return !(dev->export.flags & NBD_FLAG_READ_ONLY);
}

/* Make @rq ready for nb_submit(); false: it must fail. */
static bool nb_start(struct nb_queue *queue, struct request *rq)
{
	struct nb_cmd *cmd = blk_mq_rq_to_pdu(rq);
	struct nb_device *dev = queue->dev;

	if (!cmd->again) {
		cmd->patience = 1;
		cmd->cache_losses = dev->cache_losses;
	}
	cmd->again = false;
	cmd->refused = false;
	if (unlikely(test_bit(NB_FAIL_IO, &dev->flags)) ||
	    unlikely(!nb_command_of(dev, rq)))
		return false;
	if (cmd->type == NBD_CMD_FLUSH && !nb_flush_begins(dev, cmd))
		return false;

	/*
	 * The cookie: a reply to an earlier issue of this tag, from whatever
	 * connection, does not match. The counter is the queue's: with a
	 * scheduler, and for flushes, several requests take turns at a tag.
	 */
	cmd->conn = queue->conn;
	cmd->cookie = (u64)(u32)atomic_inc_return(&queue->seq) << 32 |
		      (queue->slot + rq->tag);
	cmd->status = BLK_STS_OK;
	cmd->timeouts = 0;
	atomic_set(&cmd->holders, cmd->type == NBD_CMD_WRITE ? 2 : 1);
	blk_mq_start_request(rq);
	trace_nb_request(cmd);
	return true;
}

static blk_status_t nb_queue_rq(struct blk_mq_hw_ctx *hctx,
				const struct blk_mq_queue_data *bd)
{
	struct nb_queue *queue = hctx->driver_data;

	if (!nb_start(queue, bd->rq))
		return BLK_STS_IOERR;
	nb_submit(queue->conn, blk_mq_rq_to_pdu(bd->rq));
	if (bd->last)
		nb_kick(queue->conn);
	return BLK_STS_OK;
}

/* What one submitter had plugged; mostly of one queue. */
static void nb_queue_rqs(struct rq_list *rqlist)
{
	struct nb_conn *conn = NULL;
	struct request *rq;

	while ((rq = rq_list_pop(rqlist))) {
		struct nb_queue *queue = rq->mq_hctx->driver_data;

		/* Not every kernel did that; recovery goes by it. */
		rq->mq_hctx->tags->rqs[rq->tag] = rq;
		if (!nb_start(queue, rq)) {
			blk_mq_start_request(rq);
			blk_mq_end_request(rq, BLK_STS_IOERR);
			continue;
		}
		if (conn && conn != queue->conn)
			nb_kick(conn);
		conn = queue->conn;
		nb_submit(conn, blk_mq_rq_to_pdu(rq));
	}
	if (conn)
		nb_kick(conn);
}

static void nb_commit_rqs(struct blk_mq_hw_ctx *hctx)
{
	struct nb_queue *queue = hctx->driver_data;

	/*
	 * A plug that is given out request by request gets here even while the
	 * queue is quiesced, so the connection may be ending, or gone. io_work
	 * knows.
	 */
	queue_work(queue->dev->io_wq, &queue->conn->io_work);
}

static void nb_complete_rq(struct request *rq)
{
	struct nb_cmd *cmd = blk_mq_rq_to_pdu(rq);

	blk_mq_end_request(rq, cmd->status);
}

/*
 * A request is never failed because it takes long. If nothing at all has come
 * on its connection for as long, that is given up and the request goes to
 * another one; else the server is alive and has much to do. But if it answers
 * others all the time and not this one, it never will. Some work takes longer
 * than any timeout (zeroes that must be written, a bad sector that a disk tries
 * again and again), so a request that was given up has twice the patience the
 * next time. Attach and detach wait for their requests beyond any signal, so
 * those get no more than the one timeout. (If the connection has just been
 * replaced, the new one is given up instead: a needless reconnect, nothing
 * worse.)
 */
static enum blk_eh_timer_return nb_timeout(struct request *rq)
{
	struct nb_cmd *cmd = blk_mq_rq_to_pdu(rq);
	struct nb_conn *conn = cmd->conn;
	struct nb_device *dev = conn->dev;

	if (READ_ONCE(dev->state) != NB_LIVE || !READ_ONCE(conn->live))
		return BLK_EH_RESET_TIMER;
	cmd->timeouts++;
	if (!READ_ONCE(dev->added) ||
	    (cmd->timeouts >= cmd->patience &&
	     time_after(jiffies, READ_ONCE(conn->rx_jiffies) +
				 cmd->patience * rq->timeout))) {
		nb_conn_lost(conn, -ETIMEDOUT, cmd->patience == 1 ?
						"no answer for 30 s" :
						"no answer for minutes");
		cmd->patience = min(2 * cmd->patience, NB_PATIENCE);
	} else if (cmd->timeouts >= NB_PATIENCE) {
		nb_conn_lost(conn, -ETIMEDOUT,
			     "no answer to one request, only to others");
	}
	return BLK_EH_RESET_TIMER;
}

static int nb_init_hctx(struct blk_mq_hw_ctx *hctx, void *data,
			unsigned int index)
{
	struct nb_device *dev = data;

	hctx->driver_data = &dev->queues[index];
	return 0;
}

const struct blk_mq_ops nb_mq_ops = {
	.queue_rq = nb_queue_rq,
	.queue_rqs = nb_queue_rqs,
	.commit_rqs = nb_commit_rqs,
	.complete = nb_complete_rq,
	.timeout = nb_timeout,
	.init_hctx = nb_init_hctx,
};
