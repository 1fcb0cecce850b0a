// SPDX-License-Identifier: GPL-2.0
/*
 * Replies on their way in.
 *
 * Bytes are taken straight out of the socket's receive queue: tcp_read_sock()
 * calls nb_recv_skb() under the socket lock with one packet after the other,
 * and that copies data into the pages of the request they answer. What they
 * mean is proto/nbd-reply.c's to say, and every byte is the server's word only:
 * a reply must name a request that is in flight on this connection, by a cookie
 * that no earlier request had, and bring each byte of it once, or the
 * connection is given up.
 *
 * Short replies are read where they arrive, in softirq, so that no worker has
 * to be woken for 4 KiB; io_work reads the long ones, and whatever came while
 * somebody was sending. What one call finds complete is completed together.
 */

#include <linux/moduleparam.h>
#include <linux/sizes.h>
#include <net/sock.h>
#include <net/tcp.h>

#include "nb.h"
#include "trace.h"

/* Sending and receiving take turns in io_work; then others may run. */
#define NB_IO_WORK_TIME		msecs_to_jiffies(2)

/* Holes that softirq zeroes at a time, in bytes; a worker does the rest. */
#define NB_ZERO_SOFTIRQ		SZ_1M

static unsigned int nb_softirq_bytes = SZ_64K;
module_param_named(softirq_bytes, nb_softirq_bytes, uint, 0644);
MODULE_PARM_DESC(softirq_bytes,
		 "receive where packets arrive while no more than this is waiting; 0: always in a worker (default 65536)");

static int nb_bad_stream(struct nb_conn *conn, const char *cause)
{
	conn->rx.error = -EPROTO;
	nb_conn_lost(conn, -EPROTO, cause);
	return -EPROTO;
}

/* The server could not do what it was asked: one line, not a flood. */
static void nb_log_error(struct nb_conn *conn, const struct nb_cmd *cmd)
{
	const struct nbd_reply *r = &conn->rx.reply;

	pr_warn_ratelimited("%s: %s: the server answers %s (%u) to %s at byte %llu, length %u%s%s\n",
			    conn->dev->name,
			    conn->dev->cfg.servers[conn->dev->server].text,
			    nbd_error_name(r->error), r->error,
			    nbd_command_name(cmd->type), cmd->answer.offset,
			    cmd->answer.length, r->text[0] ? ": " : "", r->text);
}

/* The request that a cookie names, if it is in flight here. */
static struct nbd_answer *nb_find(struct nb_conn *conn, u64 cookie)
{
	u32 slot = (u32)cookie;
	struct nb_cmd *cmd;

	if (slot >= conn->dev->nr_slots)
		return NULL;
	/* Pairs with nb_gather(): the request is seen whole. */
	cmd = smp_load_acquire(&conn->inflight[slot]);
	if (!cmd || cmd->cookie != cookie)
		return NULL;
	conn->rx.cmd = cmd;
	conn->rx.bio = NULL;
	return &cmd->answer;
}

/* Let conn->rx.iter begin with byte @offset of the READ's data. */
static void nb_recv_seek(struct nb_conn *conn, u32 offset)
{
	struct bio *bio = blk_mq_rq_from_pdu(conn->rx.cmd)->bio;

	while (offset >= bio->bi_iter.bi_size) {
		offset -= bio->bi_iter.bi_size;
		bio = bio->bi_next;
	}
	conn->rx.bio = bio;
	nb_bio_iter(&conn->rx.iter, ITER_DEST, bio);
	if (offset)
		iov_iter_advance(&conn->rx.iter, offset);
}

/* How many of @len bytes at @offset can be put at conn->rx.iter. */
static size_t nb_recv_room(struct nb_conn *conn, u32 offset, size_t len)
{
	if (!conn->rx.bio || !iov_iter_count(&conn->rx.iter))
		nb_recv_seek(conn, offset);
	return min(len, iov_iter_count(&conn->rx.iter));
}

/* A hole is data that did not have to be sent. */
static void nb_recv_hole(struct nb_conn *conn)
{
	const struct nbd_reply *r = &conn->rx.reply;
	u32 offset = r->offset, left = r->length;

	conn->rx.bio = NULL;
	while (left) {
		size_t n = nb_recv_room(conn, offset, left);

		iov_iter_zero(n, &conn->rx.iter);
		offset += n;
		left -= n;
	}
	conn->rx.bio = NULL;
}

static void nb_recv_error(struct nb_conn *conn)
{
	if (conn->rx.reply.error != NBD_ESHUTDOWN) {
		nb_log_error(conn, conn->rx.cmd);
	} else if (!READ_ONCE(conn->leaving)) {
		/* Spec: a client that gets this should leave: see part.c. */
		WRITE_ONCE(conn->leaving, true);
		nb_conn_lost(conn, -ESHUTDOWN, NULL);
	}
}

static void nb_recv_end(struct nb_conn *conn)
{
	struct nb_cmd *cmd = conn->rx.cmd;
	struct request *rq = blk_mq_rq_from_pdu(cmd);

	conn->rx.cmd = NULL;
	conn->rx.bio = NULL;
	if (!conn->rx.now)
		conn->rx.now = ktime_get_ns();
	trace_nb_reply(cmd, conn->rx.now - rq->start_time_ns);
	if (cmd->answer.error == NBD_ESHUTDOWN) {
		/* It stays ours, until the control work takes it back. */
		cmd->refused = true;
		WRITE_ONCE(conn->inflight[(u32)cmd->cookie], NULL);
		return;
	}
	conn->rx_replies++;
	WRITE_ONCE(conn->inflight[(u32)cmd->cookie], NULL);
	cmd->status = nb_error_status(req_op(rq), cmd->answer.error);
	nb_measure(conn->dev, rq, conn->rx.now);
	nb_cmd_put(cmd, conn->rx.done);
}

/*
 * tcp_read_sock()'s actor: take all @len bytes, or say why not. Or fewer, with
 * ->rx.stopped set, once more than @desc->count bytes of holes would have been
 * zeroed: a few bytes on the wire can stand for many. The next call goes on,
 * with or without new bytes.
 */
static int nb_recv_skb(read_descriptor_t *desc, struct sk_buff *skb,
		       unsigned int offset, size_t len)
{
	struct nb_conn *conn = desc->arg.data;
	struct nbd_reply *r = &conn->rx.reply;
	size_t left = len, n;
	u8 *p;

	if (conn->rx.error)
		return conn->rx.error;
	if (conn->rx.stopped)
		return 0;
	for (;;) {
		switch (nbd_reply_next(r)) {
		case NBD_REPLY_RECV:
			if (!left)
				return len;
			p = nbd_reply_rx(r, &n);
			n = min(n, left);
			if (skb_copy_bits(skb, offset, p, n))
				return nb_bad_stream(conn, "a packet that cannot be read");
			nbd_reply_rx_done(r, n);
			break;
		case NBD_REPLY_FIND:
			nbd_reply_found(r, nb_find(conn, r->cookie));
			continue;
		case NBD_REPLY_DATA:
			if (!left)
				return len;
			n = nb_recv_room(conn, r->offset,
					 min_t(size_t, left, r->length));
			if (skb_copy_datagram_iter(skb, offset, &conn->rx.iter, n))
				return nb_bad_stream(conn, "data that cannot be copied");
			nbd_reply_data_done(r, n);
			break;
		case NBD_REPLY_HOLE:
			/* Not to 0 either: tcp_read_sock() would stop amid data. */
			if (r->length >= desc->count) {
				conn->rx.stopped = true;
				return len - left;
			}
			desc->count -= r->length;
			nb_recv_hole(conn);
			nbd_reply_hole_done(r);
			continue;
		case NBD_REPLY_ERROR:
			nb_recv_error(conn);
			nbd_reply_error_done(r);
			continue;
		case NBD_REPLY_END:
			nb_recv_end(conn);
			nbd_reply_end_done(r);
			continue;
		case NBD_REPLY_BAD:
			return nb_bad_stream(conn, r->bad);
		}
		offset += n;
		left -= n;
	}
}

/*
 * Take what has come, and zero up to @zeroes bytes (at least 1). Bytes taken,
 * 0 if there was nothing, or an errno once the stream is unusable (and
 * reported). Under the socket lock.
 */
static int nb_read_sock(struct nb_conn *conn, size_t zeroes)
{
	read_descriptor_t desc = { .arg.data = conn, .count = zeroes };
	DEFINE_IO_COMP_BATCH(done);
	int n = 0;

	if (conn->rx.error)
		return conn->rx.error;
	/* tcp_read_sock() would stop there for ever. NBD knows no such thing. */
	if (unlikely(READ_ONCE(tcp_sk(conn->sock->sk)->urg_data)))
		return nb_bad_stream(conn, "urgent data amid the replies");
	conn->rx.done = &done;
	conn->rx.now = 0;
	if (conn->rx.stopped) {
		conn->rx.stopped = false;
		n = nb_recv_skb(&desc, NULL, 0, 0);
	}
	if (!n && !conn->rx.stopped)
		n = tcp_read_sock(conn->sock->sk, &desc, nb_recv_skb);
	conn->rx.done = NULL;
	if (done.complete)
		done.complete(&done);
	if (n > 0) {
		conn->rx_bytes += n;
		WRITE_ONCE(conn->rx_jiffies, jiffies);
	}
	return n;
}

/* The same. Context: process; takes the socket lock. */
int nb_receive(struct nb_conn *conn)
{
	struct sock *sk = conn->sock->sk;
	int n;

	lock_sock(sk);
	n = nb_read_sock(conn, SIZE_MAX);
	release_sock(sk);
	return n;
}

bool nb_receive_now(struct nb_conn *conn)
{
	struct sock *sk = conn->sock->sk;

	/*
	 * Owned: somebody sends, and we are called from his release_sock() or
	 * from amid it; his stack is deep enough as it is.
	 */
	if (sock_owned_by_user_nocheck(sk) ||
	    tcp_inq(sk) > READ_ONCE(nb_softirq_bytes))
		return false;
	nb_read_sock(conn, NB_ZERO_SOFTIRQ + 1);
	return !conn->rx.stopped;
}

/*
 * The socket has room, data or news, or a submitter left something to send.
 * Replies that came before the end of the stream are still taken, so that
 * their requests need not be sent again.
 */
void nb_conn_io_work(struct work_struct *work)
{
	struct nb_conn *conn = container_of(work, struct nb_conn, io_work);
	unsigned long deadline = jiffies + NB_IO_WORK_TIME;
	struct sock *sk;
	bool busy;

	if (!READ_ONCE(conn->live))
		return;
	sk = conn->sock->sk;
	do {
		busy = false;
		if (mutex_trylock(&conn->send_mutex)) {
			busy = nb_send(conn) == 0 &&
			       !READ_ONCE(conn->leaving) &&
			       !llist_empty(&conn->submitted);
			mutex_unlock(&conn->send_mutex);
		}
		if (nb_receive(conn) > 0)
			busy = true;
		if (!busy) {
			int state = READ_ONCE(sk->sk_state);

			/* A last look at the list: see nb_kick(). */
			if (state != TCP_ESTABLISHED)
				nb_conn_lost(conn, READ_ONCE(sk->sk_err) ?
					     -READ_ONCE(sk->sk_err) : -ECONNRESET,
					     NULL);
			return;
		}
	} while (!time_after(jiffies, deadline));

	queue_work(conn->dev->io_wq, &conn->io_work);
}
