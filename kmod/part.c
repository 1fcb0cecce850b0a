// SPDX-License-Identifier: GPL-2.0
/*
 * Leaving a server in good order: when the device goes, or the machine, or when
 * the server says that it is shutting down (NBD_ESHUTDOWN).
 *
 * In the last case requests are in flight, and those that were not carried out
 * are to go to another server. None may be carried out twice, so what the
 * server has begun is not torn from its hands: nothing more is sent, what it
 * still answers is taken, and only then comes NBD_CMD_DISC and our end of the
 * stream. When the server has closed its end too, what is not answered will
 * never be done by it. A server that takes too long is left as any that is lost.
 *
 * All of this is the control work's.
 */

#include <linux/delay.h>
#include <linux/tcp.h>
#include <net/sock.h>
#include <net/tcp.h>

#include "nb.h"

/* Tell the server that we leave (spec: NBD_CMD_DISC has no reply). */
static void nb_goodbye(struct nb_conn *conn)
{
	struct nbd_request nbd = { .type = NBD_CMD_DISC };
	struct msghdr msg = { .msg_flags = MSG_DONTWAIT | MSG_NOSIGNAL };
	u8 head[NBD_REQUEST_SIZE];
	struct kvec vec = { .iov_base = head, .iov_len = sizeof(head) };

	nbd_request_put(head, &nbd);
	kernel_sendmsg(conn->sock, &msg, &vec, 1, sizeof(head));
}

/*
 * Tell the server goodbye and close, but do not let go of the connection yet:
 * the server closes its end in answer, and that must be acknowledged. The
 * caller has made sure of the same as that of nb_conn_stop().
 */
void nb_conn_part(struct nb_conn *conn)
{
	struct sock *sk;

	if (!conn->sock)
		return;
	sk = conn->sock->sk;
	nb_conn_silence(conn);
	/* Polite only between requests, and if nothing of ours would linger. */
	if (!conn->tx_busy && sk->sk_state == TCP_ESTABLISHED &&
	    !(conn->spliced && sk->sk_wmem_queued)) {
		nb_goodbye(conn);
		kernel_sock_shutdown(conn->sock, SHUT_RDWR);
	}
}

/* After nb_conn_part(): has the server answered, and does nothing travel? */
bool nb_conn_parted(const struct nb_conn *conn)
{
	const struct sock *sk;

	if (!conn->sock)
		return true;
	sk = conn->sock->sk;
	return !(READ_ONCE(sk->sk_shutdown) & SEND_SHUTDOWN) ||
	       READ_ONCE(sk->sk_state) == TCP_CLOSE;
}

/* From here on nothing is sent but the rest of what was begun. */
static void nb_conn_hush(struct nb_conn *conn)
{
	/* Whoever is sending is done with it then, and the next one sees it. */
	mutex_lock(&conn->send_mutex);
	WRITE_ONCE(conn->leaving, true);
	mutex_unlock(&conn->send_mutex);
	/* It may have been told that more would follow. */
	tcp_sock_set_nodelay(conn->sock->sk);
}

/* After that: is all that was sent answered? */
static bool nb_conn_answered(const struct nb_conn *conn)
{
	unsigned int i;

	if (READ_ONCE(conn->tx_busy))
		return false;
	for (i = 0; i < conn->dev->nr_slots; i++)
		if (READ_ONCE(conn->inflight[i]))
			return false;
	return true;
}

/* Wait until every live connection is over, or @answered before that. */
static void nb_wait_part(struct nb_device *dev, bool answered)
{
	unsigned long end = jiffies + NB_PART_TIME;
	unsigned int i = 0;

	while (i < dev->nr_queues && time_before(jiffies, end)) {
		const struct nb_conn *conn = &dev->conns[i];

		if (!conn->live || nb_conn_over(conn) ||
		    READ_ONCE(conn->sock->sk->sk_state) == TCP_CLOSE ||
		    (answered && nb_conn_answered(conn)))
			i++;
		else
			usleep_range(500, 1000);
	}
}

/*
 * The server is shutting down. Leave it with all live connections: afterwards
 * they are lost, for that reason, and ready for nb_conn_stop(). The queue is
 * quiesced. Takes two NB_PART_TIME at most.
 */
void nb_part_live(struct nb_device *dev)
{
	unsigned int i;

	for (i = 0; i < dev->nr_queues; i++) {
		if (!dev->conns[i].live)
			continue;
		nb_conn_lost(&dev->conns[i], -ESHUTDOWN, NULL);
		nb_conn_hush(&dev->conns[i]);
	}
	nb_wait_part(dev, true);
	for (i = 0; i < dev->nr_queues; i++) {
		struct nb_conn *conn = &dev->conns[i];

		if (!conn->live || READ_ONCE(conn->tx_busy) ||
		    READ_ONCE(conn->sock->sk->sk_state) != TCP_ESTABLISHED)
			continue;
		nb_goodbye(conn);
		/* Not the receiving half: who still answers would be reset. */
		kernel_sock_shutdown(conn->sock, SHUT_WR);
	}
	nb_wait_part(dev, false);
	/* What it said before its end, if io_work has not come to it yet. */
	for (i = 0; i < dev->nr_queues; i++)
		while (dev->conns[i].live && nb_receive(&dev->conns[i]) > 0)
			;
}
