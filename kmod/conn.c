// SPDX-License-Identifier: GPL-2.0
/*
 * A connection: from connect over negotiation to its end.
 *
 * The socket is the kernel's own; no process has a descriptor of it. While it
 * connects and negotiates, its callbacks wake the control work, which sleeps
 * here with a deadline and can be told to stop; once live, they start
 * io_work. Everything that lies on the way back to a swap device or a root
 * filesystem allocates within the caller's memalloc scope.
 */

#include <linux/if.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/delay.h>
#include <linux/gfp.h>
#include <linux/slab.h>
#include <linux/tcp.h>
#include <net/dst.h>
#include <net/sock.h>
#include <net/tcp.h>

#include "nb.h"

/*
 * Sockets of this driver in their own lock classes: they are locked on the
 * way to reclaim's I/O, user sockets are not, and lockdep must see two things.
 */
#ifdef CONFIG_DEBUG_LOCK_ALLOC
static struct lock_class_key nb_sk_key[2];
static struct lock_class_key nb_slock_key[2];

static void nb_reclassify(struct sock *sk)
{
	if (sk->sk_family == AF_INET6)
		sock_lock_init_class_and_name(sk, "slock-AF_INET6-NB",
					      &nb_slock_key[1],
					      "sk_lock-AF_INET6-NB",
					      &nb_sk_key[1]);
	else
		sock_lock_init_class_and_name(sk, "slock-AF_INET-NB",
					      &nb_slock_key[0],
					      "sk_lock-AF_INET-NB",
					      &nb_sk_key[0]);
}
#else
static void nb_reclassify(struct sock *sk)
{
}
#endif

/* What an errno of the network means to the person at the console. */
const char *nb_errno_text(int error)
{
	switch (error) {
	case -ECONNREFUSED:
		return "connection refused: nothing listens on that port; is nbd-server up?";
	case -ETIMEDOUT:
		return "no answer in time; is the host up, does a firewall drop the packets?";
	case -EHOSTUNREACH:
		return "no such host on this network; check the address and the cable";
	case -ENETUNREACH:
		return "no route to that network; is the network up, is there a gateway?";
	case -ECONNRESET:
	case -EPIPE:
		return "closed by the server";
	case -ESHUTDOWN:
		return "the server is shutting down";
	case -EINTR:
		return "interrupted";
	case -ENOMEM:
	case -ENOBUFS:
	case -ENFILE:	/* what a socket without memory is called */
		return "out of memory";
	case -EAFNOSUPPORT:
		return "this kernel lacks that address family (IPv6: is the module ipv6 loaded?)";
	default:
		return NULL;
	}
}

static int nb_why(char *why, int error, const char *doing)
{
	const char *text = nb_errno_text(error);

	if (text)
		strscpy(why, text, NB_TEXT);
	else
		snprintf(why, NB_TEXT, "%s: error %d", doing, -error);
	return error;
}

/*
 * Socket callbacks, softirq. sk_user_data is cleared under sk_callback_lock
 * before the connection goes, so what is found there is alive.
 */
static void nb_news(struct sock *sk)
{
	struct nb_conn *conn;

	read_lock_bh(&sk->sk_callback_lock);
	conn = sk->sk_user_data;
	if (conn) {
		if (READ_ONCE(conn->live)) {
			queue_work(conn->dev->io_wq, &conn->io_work);
		} else {
			/* Pairs with nb_forget_news(). */
			smp_mb__before_atomic();
			set_bit(0, &conn->event);
			wake_up(&conn->dev->wait);
		}
	}
	read_unlock_bh(&sk->sk_callback_lock);
}

/* Bytes have come: read them here and now if that is quick. */
static void nb_data_ready(struct sock *sk)
{
	struct nb_conn *conn;

	read_lock_bh(&sk->sk_callback_lock);
	conn = sk->sk_user_data;
	/* Pairs with nb_conn_live(). */
	if (conn && smp_load_acquire(&conn->live) && nb_receive_now(conn))
		conn = NULL;
	read_unlock_bh(&sk->sk_callback_lock);
	if (conn)
		nb_news(sk);
}

static void nb_write_space(struct sock *sk)
{
	if (sk_stream_is_writeable(sk)) {
		if (sk->sk_socket)
			clear_bit(SOCK_NOSPACE, &sk->sk_socket->flags);
		nb_news(sk);
	}
}

/*
 * The only place where the peer's reset can be told from our own giving up:
 * later whoever looks at sk_err first takes it away.
 */
static void nb_error_report(struct sock *sk)
{
	struct nb_conn *conn;

	read_lock_bh(&sk->sk_callback_lock);
	conn = sk->sk_user_data;
	if (conn && (READ_ONCE(sk->sk_err) == ECONNRESET ||
		     READ_ONCE(sk->sk_err) == EPIPE))
		WRITE_ONCE(conn->reset, true);
	read_unlock_bh(&sk->sk_callback_lock);
	nb_news(sk);
}

static void nb_set_callbacks(struct nb_conn *conn)
{
	struct sock *sk = conn->sock->sk;

	write_lock_bh(&sk->sk_callback_lock);
	conn->data_ready = sk->sk_data_ready;
	conn->state_change = sk->sk_state_change;
	conn->write_space = sk->sk_write_space;
	conn->error_report = sk->sk_error_report;
	sk->sk_user_data = conn;
	sk->sk_data_ready = nb_data_ready;
	sk->sk_state_change = nb_news;
	sk->sk_write_space = nb_write_space;
	sk->sk_error_report = nb_error_report;
	write_unlock_bh(&sk->sk_callback_lock);
}

static void nb_restore_callbacks(struct nb_conn *conn)
{
	struct sock *sk = conn->sock->sk;

	write_lock_bh(&sk->sk_callback_lock);
	sk->sk_user_data = NULL;
	sk->sk_data_ready = conn->data_ready;
	sk->sk_state_change = conn->state_change;
	sk->sk_write_space = conn->write_space;
	sk->sk_error_report = conn->error_report;
	write_unlock_bh(&sk->sk_callback_lock);
}

/* Before a look at the socket: what changes after that look is news. */
static void nb_forget_news(struct nb_conn *conn)
{
	clear_bit(0, &conn->event);
	/* Pairs with nb_news(). */
	smp_mb__after_atomic();
}

/* Has the control work something better to do than to wait for @conn? */
static bool nb_wait_no_more(const struct nb_conn *conn)
{
	return nb_ctl_wanted(conn->dev) ||
	       (READ_ONCE(conn->sock->sk->sk_state) == TCP_SYN_SENT &&
		nb_retry_wanted(conn->dev));
}

/*
 * Sleep until the socket has news, at most until @deadline, never past the
 * moment when lost= runs out, and not while the control work is wanted
 * elsewhere: by live siblings, for one, which it watches meanwhile. Call
 * nb_forget_news() before looking at the socket, then this.
 */
static int nb_wait(struct nb_conn *conn, unsigned long deadline)
{
	struct nb_device *dev = conn->dev;
	long left;

	if (dev->cfg.lost && dev->state == NB_RECOVERING) {
		unsigned long end = dev->lost_at + dev->cfg.lost * HZ;

		if (time_before(end, deadline))
			deadline = end;
	}
	for (;;) {
		left = deadline - jiffies;
		if (left <= 0)
			return -ETIMEDOUT;
		if (dev->state == NB_LIVE)
			left = min_t(long, left, nb_watch_time(dev));
		left = wait_event_timeout(dev->wait,
					  test_bit(0, &conn->event) ||
					  nb_wait_no_more(conn), left);
		if (nb_wait_no_more(conn))
			return -EINTR;
		if (left)
			return 0;
		if (dev->state == NB_LIVE)
			nb_watch(dev);
	}
}

static int nb_socket(struct nb_conn *conn, const struct nb_server *server)
{
	unsigned int idle = conn->dev->cfg.timeout / 2;
	struct sock *sk;
	int err;

	err = sock_create_kern(&init_net, server->addr.ss_family, SOCK_STREAM,
			       IPPROTO_TCP, &conn->sock);
	if (err) {
		conn->sock = NULL;
		return err;
	}
	sk = conn->sock->sk;
	nb_reclassify(sk);
	/*
	 * The flag goes with the mask it stands for. sk_set_memalloc() would
	 * also take cpus_read_lock(): see nb_memalloc_sock.
	 */
	sk->sk_allocation = GFP_NOIO | __GFP_MEMALLOC;
	sock_set_flag(sk, SOCK_MEMALLOC);
	/* current->task_frag may be in use by whoever led us into reclaim. */
	sk->sk_use_task_frag = false;

	tcp_sock_set_nodelay(sk);
	tcp_sock_set_syncnt(sk, 1);
	/*
	 * A peer that is gone without a word while we only wait for it is
	 * found out after timeout= seconds; while it owes us acknowledgments,
	 * by nb_conn_deaf(). TCP_USER_TIMEOUT would do both, but it also ends
	 * a live peer that is too busy to open its window.
	 */
	sock_set_keepalive(sk);
	tcp_sock_set_keepidle(sk, idle);
	tcp_sock_set_keepintvl(sk, 1);
	tcp_sock_set_keepcnt(sk, conn->dev->cfg.timeout - idle);
	return 0;
}

static int nb_connect(struct nb_conn *conn, const struct nb_server *server)
{
	struct sockaddr_storage addr = server->addr;
	unsigned long deadline = jiffies + NB_CONNECT_TIMEOUT;
	struct sock *sk = conn->sock->sk;
	size_t len = addr.ss_family == AF_INET6 ? sizeof(struct sockaddr_in6) :
						  sizeof(struct sockaddr_in);
	int err;

	nb_forget_news(conn);
	err = kernel_connect(conn->sock, (struct sockaddr_unsized *)&addr, len,
			     O_NONBLOCK);
	if (err != -EINPROGRESS)
		return err;
	for (;;) {
		nb_forget_news(conn);
		switch (READ_ONCE(sk->sk_state)) {
		case TCP_SYN_SENT:
		case TCP_SYN_RECV:
			break;
		case TCP_ESTABLISHED:
		case TCP_CLOSE_WAIT:	/* its last words are worth reading */
			return 0;
		default:
			return sock_error(sk) ?: -ECONNREFUSED;
		}
		err = nb_wait(conn, deadline);
		if (err)
			/* A host that did not answer ARP is told softly. */
			return err == -ETIMEDOUT && sk->sk_err_soft ?
			       -sk->sk_err_soft : err;
	}
}

static int nb_nego_io(struct nb_conn *conn, bool send, unsigned long deadline)
{
	struct nbd_nego *n = conn->dev->nego;
	struct msghdr msg = { };
	struct kvec vec;
	size_t len;
	int ret;

	for (;;) {
		nb_forget_news(conn);
		msg.msg_flags = MSG_DONTWAIT | MSG_NOSIGNAL;
		if (send) {
			vec.iov_base = (void *)nbd_nego_tx(n, &len);
			vec.iov_len = len;
			ret = kernel_sendmsg(conn->sock, &msg, &vec, 1, len);
		} else {
			vec.iov_base = nbd_nego_rx(n, &len);
			vec.iov_len = len;
			ret = kernel_recvmsg(conn->sock, &msg, &vec, 1, len,
					     MSG_DONTWAIT);
		}
		if (ret != -EAGAIN)
			break;
		ret = nb_wait(conn, deadline);
		if (ret)
			return ret;
	}
	if (ret < 0)
		return ret;
	if (send)
		nbd_nego_tx_done(n, ret);
	else if (ret)
		nbd_nego_rx_done(n, ret);
	else
		nbd_nego_eof(n);
	return 0;
}

static int nb_nego_errno(const struct nbd_nego *n)
{
	switch (n->error) {
	case NBD_NEGO_NAME_TOO_LONG:
		return -ENAMETOOLONG;
	case NBD_NEGO_CLOSED:
		return -ECONNRESET;
	case NBD_NEGO_REFUSED:
		switch (n->refusal) {
		case NBD_REP_ERR_UNKNOWN:
			return -ENOENT;
		case NBD_REP_ERR_POLICY:
			return -EACCES;
		case NBD_REP_ERR_TLS_REQD:
			return -EOPNOTSUPP;
		case NBD_REP_ERR_SHUTDOWN:
			return -ESHUTDOWN;
		}
		return -EPROTO;
	default:
		return -EPROTO;
	}
}

static const char nb_silent[] =
	"connected, but the server is silent; is that an NBD server's port?";

/*
 * Each turn of the conversation has one deadline: a server that trickles
 * bytes gets no more time than one that is silent.
 */
static int nb_negotiate(struct nb_conn *conn, char *why)
{
	struct nb_device *dev = conn->dev;
	struct nbd_nego *n = dev->nego;
	unsigned long deadline = jiffies + NB_STEP_TIMEOUT;
	enum nbd_nego_want last = NBD_NEGO_RECV, want;
	int err;

	nbd_nego_init(n, NBD_NEGO_GO, dev->cfg.export ?: "",
		      dev->cfg.export_len);
	if (!nbd_nego_ask_session(n, &dev->session))
		nbd_nego_ask_structured(n);
	for (;;) {
		want = nbd_nego_next(n);
		if (want != last)
			deadline = jiffies + NB_STEP_TIMEOUT;
		last = want;
		switch (want) {
		case NBD_NEGO_SEND:
		case NBD_NEGO_RECV:
			err = nb_nego_io(conn, want == NBD_NEGO_SEND, deadline);
			if (err == -ETIMEDOUT) {
				strscpy(why, nb_silent, NB_TEXT);
				return err;
			}
			if (err)
				return nb_why(why, err, "negotiation");
			break;
		case NBD_NEGO_DONE:
			return 0;
		default:
			nbd_nego_explain(n, why, NB_TEXT);
			return nb_nego_errno(n);
		}
	}
}

int nb_conn_init(struct nb_conn *conn, struct nb_device *dev,
		 unsigned int index)
{
	conn->dev = dev;
	conn->index = index;
	INIT_WORK(&conn->io_work, nb_conn_io_work);
	INIT_DELAYED_WORK(&conn->push_work, nb_conn_push_work);
	init_llist_head(&conn->submitted);
	mutex_init(&conn->send_mutex);
	BUILD_BUG_ON(NB_TX_HEADS * NBD_REQUEST_SIZE > PAGE_SIZE);
	conn->tx_heads = (u8 *)__get_free_page(GFP_KERNEL);
	conn->tx_vec = kcalloc(NB_TX_VECS, sizeof(*conn->tx_vec), GFP_KERNEL);
	conn->inflight = kvcalloc(dev->nr_slots, sizeof(*conn->inflight),
				  GFP_KERNEL);
	return conn->tx_heads && conn->tx_vec && conn->inflight ? 0 : -ENOMEM;
}

void nb_conn_free(struct nb_conn *conn)
{
	free_page((unsigned long)conn->tx_heads);
	kfree(conn->tx_vec);
	kvfree(conn->inflight);
}

/*
 * Is the server on this machine? Then what we send is, until the server reads
 * it, not in a network card's hands but in its receive queue, where neither a
 * reset nor nb_drain() gets it back: pages must not be lent to that.
 */
static bool nb_is_loopback(struct sock *sk)
{
	struct dst_entry *dst = sk_dst_get(sk);
	bool loopback = dst && (dst->dev->flags & IFF_LOOPBACK);

	dst_release(dst);
	return loopback;
}

/*
 * Connect and negotiate: what the server says of the export is then in
 * dev->nego->export. On failure there is no socket left.
 */
int nb_conn_open(struct nb_conn *conn, const struct nb_server *server,
		 char *why)
{
	int err;

	memset(&conn->rx, 0, sizeof(conn->rx));
	conn->lost = false;
	conn->reset = false;
	conn->ended = false;
	conn->leaving = false;
	conn->error = 0;
	err = nb_socket(conn, server);
	if (err)
		return nb_why(why, err, "socket");
	nb_set_callbacks(conn);
	err = nb_connect(conn, server);
	if (err) {
		nb_why(why, err, "connect");
	} else {
		err = nb_negotiate(conn, why);
		if (err)
			nb_log_refused(conn->dev, err, why);
	}
	if (err) {
		nb_conn_stop(conn, false);
		return err;
	}
	nbd_reply_init(&conn->rx.reply, conn->dev->nego->structured);
	conn->loopback = nb_is_loopback(conn->sock->sk);
	return 0;
}

/* From here on requests may be submitted and replies are awaited. */
void nb_conn_live(struct nb_conn *conn)
{
	conn->live_at = jiffies;
	WRITE_ONCE(conn->rx_jiffies, jiffies);
	/* Pairs with nb_data_ready(): who sees it live sees ->rx made ready. */
	smp_store_release(&conn->live, true);
	/* The state may have changed while nobody was listening for it. */
	queue_work(conn->dev->io_wq, &conn->io_work);
}

/*
 * Has the peer stopped to acknowledge what TCP sends it again and again? Data,
 * or probes of a closed window. Control work, which owns the socket.
 */
bool nb_conn_deaf(const struct nb_conn *conn)
{
	const struct sock *sk = conn->sock->sk;
	const struct inet_connection_sock *icsk = inet_csk(sk);
	u32 silence = tcp_jiffies32 - READ_ONCE(tcp_sk(sk)->rcv_tstamp);
	const struct nb_device *dev = conn->dev;

	/* Looked at each nb_watch_time(): found out in time. */
	return silence > dev->cfg.timeout * HZ - nb_watch_time(dev) &&
	       (READ_ONCE(icsk->icsk_retransmits) >= 3 ||
		READ_ONCE(icsk->icsk_probes_out) >= 3);
}

/* Note when the last of the peer came, data or an acknowledgment. */
void nb_conn_heard(const struct nb_conn *conn)
{
	const struct sock *sk = conn->sock->sk;
	u32 acked = READ_ONCE(tcp_sk(sk)->rcv_tstamp);
	u32 came = READ_ONCE(inet_csk(sk)->icsk_ack.lrcvtime);
	unsigned long now = jiffies;	/* not before those */
	unsigned long heard = now - min((u32)now - acked, (u32)now - came);

	if (time_after(heard, conn->dev->heard_at))
		conn->dev->heard_at = heard;
}

/* Is there something that the peer has still to acknowledge? */
bool nb_conn_waits(const struct nb_conn *conn)
{
	const struct sock *sk = conn->sock->sk;

	return READ_ONCE(tcp_sk(sk)->packets_out) ||
	       READ_ONCE(inet_csk(sk)->icsk_probes_out);
}

/*
 * Is it lost, or about to be? Then it is lost, with a cause, when this
 * returns true. Control work, which owns the socket.
 */
bool nb_conn_dead(struct nb_conn *conn)
{
	const struct sock *sk = conn->sock->sk;

	if (!READ_ONCE(conn->lost) &&
	    READ_ONCE(sk->sk_state) != TCP_ESTABLISHED)
		nb_conn_lost(conn, READ_ONCE(sk->sk_err) ?
				   -READ_ONCE(sk->sk_err) : -ECONNRESET, NULL);
	return READ_ONCE(conn->lost);
}

/*
 * TCP was given pages that belong to requests. It lets go of what is not sent
 * when the socket is reset; what is in the hands of the network card it may
 * still send, with what the pages hold by then, and the old server may still
 * carry that out. So nobody else gets the pages, nor is any of those writes
 * sent again, until the last of them is back. A card takes microseconds for
 * that, and drops what it holds when its link goes.
 */
static void nb_drain(struct nb_conn *conn, struct sock *sk)
{
	unsigned long complain = jiffies + NB_CONNECT_TIMEOUT;

	while (sk_wmem_alloc_get(sk)) {
		if (time_after(jiffies, complain)) {
			complain = jiffies + NB_COMPLAIN;
			pr_warn("%s: the network card does not give back %d bytes of the connection that was lost; waiting for it\n",
				conn->dev->name, sk_wmem_alloc_get(sk));
		}
		usleep_range(100, 1000);
	}
}

/* Has the peer ended it? Then nothing comes any more that is not here yet. */
bool nb_conn_over(const struct nb_conn *conn)
{
	return READ_ONCE(conn->reset) || sock_flag(conn->sock->sk, SOCK_DONE);
}

/* Afterwards no callback and no io_work of it runs, and nobody sends. */
void nb_conn_silence(struct nb_conn *conn)
{
	nb_restore_callbacks(conn);
	WRITE_ONCE(conn->live, false);
	cancel_work_sync(&conn->io_work);
	cancel_delayed_work_sync(&conn->push_work);
}

/*
 * End the connection: afterwards no callback and no io_work of it runs, and
 * nobody sends. The caller has made sure that no request is submitted
 * on it meanwhile (queue quiesced or gone, or NB_FAIL_IO). Requests in flight stay
 * where they are; their owner takes them back.
 */
void nb_conn_stop(struct nb_conn *conn, bool goodbye)
{
	struct sock *sk;

	if (!conn->sock)
		return;
	sk = conn->sock->sk;
	/* A reset that is being taken in just now is reported before we ask. */
	lock_sock(sk);
	release_sock(sk);
	nb_conn_silence(conn);
	conn->ended = nb_conn_over(conn);
	if (goodbye)
		nb_conn_part(conn);
	/*
	 * Without goodbye, or if that was not to be, reset it and drop what it
	 * has not sent: writes on it will be sent again on the next one, and
	 * must not reach the old server after those.
	 */
	if (!goodbye || !(sk->sk_shutdown & SEND_SHUTDOWN))
		sock_no_linger(sk);
	sock_hold(sk);
	sock_release(conn->sock);
	if (conn->spliced)
		nb_drain(conn, sk);
	sock_put(sk);
	conn->sock = NULL;
	conn->spliced = false;

	init_llist_head(&conn->submitted);
	conn->tx_next = NULL;
	conn->tx_held = NULL;
	conn->tx_cmd = NULL;
	conn->tx_bio = NULL;
	conn->tx_busy = false;
	conn->tx_orphans = conn->tx_requests - conn->rx_replies;
	memset(conn->inflight, 0,
	       conn->dev->nr_slots * sizeof(*conn->inflight));
}

void nb_conn_lost(struct nb_conn *conn, int error, const char *cause)
{
	struct nb_device *dev = conn->dev;

	if (!cause)
		cause = nb_errno_text(error);
	spin_lock_bh(&dev->lock);
	if (!conn->lost) {
		if (cause)
			strscpy(conn->cause, cause, sizeof(conn->cause));
		else
			snprintf(conn->cause, sizeof(conn->cause), "error %d",
				 -error);
		conn->error = error;
		WRITE_ONCE(conn->lost, true);
	}
	spin_unlock_bh(&dev->lock);
	set_bit(NB_LINK_LOST, &dev->flags);
	wake_up(&dev->wait);
	nb_ctl_kick(dev);
}
