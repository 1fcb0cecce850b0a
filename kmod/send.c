// SPDX-License-Identifier: GPL-2.0
/*
 * Requests on their way out.
 *
 * queue_rq and queue_rqs put requests on a lockless list. Whoever gets the
 * send mutex sends what is there: the submitter itself if nobody else is at it
 * (no switch to a worker), else the one that holds it, or io_work. Nothing here
 * waits for room in the socket: when it is full, the socket's write_space
 * callback starts io_work, and sending resumes at the byte where it stopped.
 *
 * What is there is gathered first: the heads of many requests, and small
 * payloads between them, are one array of segments that TCP takes in one call
 * and copies. A large payload follows by itself, and TCP takes its pages
 * instead of copying them where the kernel can do that. From then on those
 * pages are in the hands of the socket, and of the network card, until they are
 * acknowledged; nb_conn_stop() waits for them before their requests go on.
 */

#include <linux/moduleparam.h>
#include <linux/sched/mm.h>
#include <linux/sizes.h>
#include <net/sock.h>
#include <net/tcp.h>

#include "nb.h"

static unsigned int nb_splice_from = SZ_16K;
module_param_named(splice_from, nb_splice_from, uint, 0644);
MODULE_PARM_DESC(splice_from,
		 "writes of so many bytes or more are sent from their pages, not copied; 0: none (default 16384)");

static unsigned int nb_company = NB_COMPANY;
module_param_named(company, nb_company, uint, 0644);
MODULE_PARM_DESC(company,
		 "READs that are more than so many in flight may wait a moment to be sent together; 0: never (default 8)");

void nb_submit(struct nb_conn *conn, struct nb_cmd *cmd)
{
	llist_add(&cmd->node, &conn->submitted);
}

/* The next request to send, or NULL. Under send_mutex. */
static struct nb_cmd *nb_next_cmd(struct nb_conn *conn)
{
	struct llist_node *node;

	if (!conn->tx_next)
		conn->tx_next = llist_reverse_order(llist_del_all(&conn->submitted));
	node = conn->tx_next;
	if (!node)
		return NULL;
	conn->tx_next = node->next;
	return llist_entry(node, struct nb_cmd, node);
}

static bool nb_more_to_send(const struct nb_conn *conn)
{
	return !READ_ONCE(conn->leaving) &&
	       (conn->tx_next || !llist_empty(&conn->submitted));
}

/* Append the head of @cmd to the heads of this batch. */
static void nb_gather_head(struct nb_conn *conn, const struct nb_cmd *cmd,
			   unsigned int heads, unsigned int *vecs)
{
	u8 *head = conn->tx_heads + heads * NBD_REQUEST_SIZE;
	struct bio_vec *bv = &conn->tx_vec[*vecs];
	struct nbd_request nbd = {
		.flags = cmd->flags,
		.type = cmd->type,
		.cookie = cmd->cookie,
		.offset = cmd->answer.offset,
		.length = cmd->answer.length,
	};

	nbd_request_put(head, &nbd);
	if (*vecs && bv[-1].bv_page == virt_to_page(conn->tx_heads) &&
	    bv[-1].bv_offset + bv[-1].bv_len == offset_in_page(head)) {
		bv[-1].bv_len += NBD_REQUEST_SIZE;
		return;
	}
	bv->bv_page = virt_to_page(conn->tx_heads);
	bv->bv_offset = offset_in_page(head);
	bv->bv_len = NBD_REQUEST_SIZE;
	++*vecs;
}

/* Append the payload of @cmd, if it is small and there is room for it. */
static bool nb_gather_data(struct nb_conn *conn, struct nb_cmd *cmd,
			   unsigned int *vecs)
{
	struct request *rq = blk_mq_rq_from_pdu(cmd);
	unsigned int from = READ_ONCE(nb_splice_from);
	unsigned int nr = *vecs;
	struct req_iterator iter;
	struct bio_vec bv;

	if (cmd->answer.length > NB_COPY_MAX ||
	    (from && cmd->answer.length >= from))
		return false;
	rq_for_each_bvec(bv, rq, iter) {
		if (nr == NB_TX_VECS)
			return false;
		conn->tx_vec[nr++] = bv;
	}
	*vecs = nr;
	return true;
}

/* May TCP have the pages of this bio? Not those of the slab allocator. */
static bool nb_may_splice(struct bio *bio)
{
	struct bvec_iter bi;
	struct bio_vec bv;

	bio_for_each_bvec(bv, bio, bi)
		if (!sendpages_ok(bv.bv_page, bv.bv_len, bv.bv_offset))
			return false;
	return true;
}

/* @bio, if there is one, is the next of tx_cmd's payload. */
static void nb_begin_bio(struct nb_conn *conn, struct bio *bio)
{
	unsigned int from = READ_ONCE(nb_splice_from);

	conn->tx_bio = bio;
	if (!bio)
		return;
	conn->tx_splice = from && bio->bi_iter.bi_size >= from &&
			  !conn->loopback && nb_may_splice(bio);
	/* Before TCP has any of it: nb_conn_stop() goes by this. */
	if (conn->tx_splice)
		conn->spliced = true;
	nb_bio_iter(&conn->tx_data, ITER_SOURCE, bio);
}

/*
 * Take the next requests to send: false if there are none. From the first
 * byte on a reply may come, and then a request that has no payload belongs to
 * the receiver alone.
 */
static bool nb_gather(struct nb_conn *conn)
{
	unsigned int heads = 0, vecs = 0, i;
	size_t bytes = 0;

	conn->tx_reads = true;
	while (heads < NB_TX_HEADS && vecs < NB_TX_VECS) {
		struct nb_cmd *cmd = nb_next_cmd(conn);
		bool write;

		if (!cmd)
			break;
		write = cmd->type == NBD_CMD_WRITE;
		if (cmd->type != NBD_CMD_READ)
			conn->tx_reads = false;
		nb_gather_head(conn, cmd, heads++, &vecs);
		conn->tx_requests++;
		/* Pairs with nb_find(): the request is seen whole. */
		smp_store_release(&conn->inflight[(u32)cmd->cookie], cmd);
		if (!write)
			continue;
		if (!nb_gather_data(conn, cmd, &vecs)) {
			conn->tx_cmd = cmd;
			nb_begin_bio(conn, blk_mq_rq_from_pdu(cmd)->bio);
			break;
		}
		cmd->node.next = conn->tx_held;
		conn->tx_held = &cmd->node;
	}
	for (i = 0; i < vecs; i++)
		bytes += conn->tx_vec[i].bv_len;
	iov_iter_bvec(&conn->tx_iter, ITER_SOURCE, conn->tx_vec, vecs, bytes);
	return heads;
}

/*
 * Hand what @iter has to TCP: 0 when all of it is out, -EAGAIN when the socket
 * takes no more (and write_space will be called), else it is dead. Under the
 * socket lock.
 */
static int nb_send_iter(struct nb_conn *conn, struct iov_iter *iter, int flags)
{
	while (iov_iter_count(iter)) {
		struct msghdr msg = {
			.msg_flags = MSG_DONTWAIT | MSG_NOSIGNAL | flags,
			.msg_iter = *iter,
		};
		int n = tcp_sendmsg_locked(conn->sock->sk, &msg,
					   msg_data_left(&msg));

		if (n < 0)
			return n;
		conn->tx_bytes += n;
		iov_iter_advance(iter, n);
	}
	return 0;
}

/* The payload of tx_cmd, a bio at a time. Under the socket lock. */
static int nb_send_data(struct nb_conn *conn)
{
	while (conn->tx_bio) {
		struct bio *next = conn->tx_bio->bi_next;
		int flags = conn->tx_splice ? MSG_SPLICE_PAGES : 0;
		int err;

		if (next || nb_more_to_send(conn))
			flags |= MSG_MORE;
		err = nb_send_iter(conn, &conn->tx_data, flags);
		if (err)
			return err;
		nb_begin_bio(conn, next);
	}
	return 0;
}

/* All that was gathered is with TCP: let go of the writes. */
static void nb_sent(struct nb_conn *conn)
{
	while (conn->tx_held) {
		struct nb_cmd *cmd = llist_entry(conn->tx_held, struct nb_cmd,
						 node);

		conn->tx_held = cmd->node.next;
		nb_cmd_put(cmd, NULL);
	}
	if (conn->tx_cmd) {
		struct nb_cmd *cmd = conn->tx_cmd;

		conn->tx_cmd = NULL;
		nb_cmd_put(cmd, NULL);
	}
}

/*
 * May a few READs wait with TCP for more to come? While many are in flight
 * replies come all the time, and each acknowledges what went before it, at
 * which TCP sends what has gathered meanwhile: in softirq, and nobody is woken
 * for it. Not if that would only make them late, on a line whose length is what
 * they wait for: the round trip must be mostly a queue, and the server must
 * answer just now. What TCP has sent must be unacknowledged, or nothing would
 * make it send the rest; and push_work does, after a jiffy. Under the socket
 * lock.
 */
static bool nb_may_wait(const struct nb_conn *conn)
{
	const struct tcp_sock *tp = tcp_sk(conn->sock->sk);
	u64 unanswered = conn->tx_requests - conn->tx_orphans -
			 conn->rx_replies;
	unsigned int company = READ_ONCE(nb_company);

	return company && unanswered > company && conn->tx_reads &&
	       tp->packets_out && tp->srtt_us >> 3 > 2 * tcp_min_rtt(tp) &&
	       time_before_eq(jiffies, conn->rx_jiffies + 1);
}

/* What has waited for a moment waits no longer. Takes the socket lock. */
void nb_conn_push_work(struct work_struct *work)
{
	struct nb_conn *conn = container_of(to_delayed_work(work),
					    struct nb_conn, push_work);
	const struct tcp_sock *tp = tcp_sk(conn->sock->sk);

	if (READ_ONCE(tp->write_seq) != READ_ONCE(tp->snd_nxt))
		tcp_sock_set_nodelay(conn->sock->sk);
}

/*
 * Send what is queued. 0: all is out; -EAGAIN: the socket is full, its
 * callback will start io_work; else the connection is lost (and reported).
 * Context: process, under send_mutex; takes the socket lock.
 */
int nb_send(struct nb_conn *conn)
{
	struct sock *sk = conn->sock->sk;
	unsigned int noreclaim;
	int err = 0;

	if (!conn->tx_busy && !nb_more_to_send(conn))
		return 0;

	noreclaim = memalloc_noreclaim_save();
	lock_sock(sk);
	while (conn->tx_busy || (nb_more_to_send(conn) && nb_gather(conn))) {
		bool more = conn->tx_cmd || nb_more_to_send(conn);
		bool wait = !more && nb_may_wait(conn);

		WRITE_ONCE(conn->tx_busy, true);
		err = nb_send_iter(conn, &conn->tx_iter,
				   more || wait ? MSG_MORE : 0);
		/* Only now: whoever finds it queued already may rely on it. */
		if (wait)
			queue_delayed_work(conn->dev->io_wq, &conn->push_work,
					   1);
		if (!err)
			err = nb_send_data(conn);
		if (err)
			break;
		nb_sent(conn);
		WRITE_ONCE(conn->tx_busy, false);
	}
	release_sock(sk);
	memalloc_noreclaim_restore(noreclaim);

	if (err && err != -EAGAIN)
		nb_conn_lost(conn, err, nb_errno_text(err));
	return err;
}

/*
 * Requests were submitted: get them sent. Context: process (queue_rq,
 * queue_rqs); the queue being dispatched, conn->sock cannot go away.
 */
void nb_kick(struct nb_conn *conn)
{
	/*
	 * Whoever holds the mutex may just have looked at the list for the
	 * last time, and write_space may have started io_work in vain while
	 * we held it; so after giving it back, and after failing to get it,
	 * io_work must look again.
	 */
	if (mutex_trylock(&conn->send_mutex)) {
		nb_send(conn);
		mutex_unlock(&conn->send_mutex);
		/* Order the release before the look at the list. */
		smp_mb();
		if (!READ_ONCE(conn->tx_busy) && llist_empty(&conn->submitted))
			return;
	}
	queue_work(conn->dev->io_wq, &conn->io_work);
}
