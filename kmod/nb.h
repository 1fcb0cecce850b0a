/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the files of nb.ko share. One section a file, in the order in
 * which a device comes to life.
 *
 * Contexts and locks:
 *   nb_devices_lock (mutex)	the list of devices and their names. Held only
 *				by attach and detach, never while waiting for
 *				a server, never on the I/O path.
 *   nb_device.lock (spinlock)	texts for people: last_error; and a connection's
 *				lost and cause. Taken from softirq too, so
 *				always with _bh.
 *   nb_conn.send_mutex		the sending half of a connection. Taken by
 *				queue_rq with trylock only.
 *   the socket lock		the receiving half: nb_conn.rx.
 * The state, the connections' sockets and the server in use change only in the
 * control work (recover.c), which is therefore the one place to read for who
 * does what when; and in nb_destroy(), once that work is over. Which
 * connection a queue uses changes there too, while the queue is quiesced.
 */
#ifndef NB_H
#define NB_H

#include <linux/atomic.h>
#include <linux/blk-mq.h>
#include <linux/blkdev.h>
#include <linux/completion.h>
#include <linux/jiffies.h>
#include <linux/llist.h>
#include <linux/list.h>
#include <linux/mutex.h>
#include <linux/net.h>
#include <linux/socket.h>
#include <linux/spinlock.h>
#include <linux/uio.h>
#include <linux/wait.h>
#include <linux/workqueue.h>

#include "nbd-nego.h"
#include "nbd-reply.h"
#include "nbd-session.h"

struct sock;

#define NB_NAME			"nb"
#define NB_VERSION		"0.1"
#define NB_PART_BITS		5	/* nb0p1 .. nb0p31 */
#define NB_MAX_INDEX		1023
#define NB_MAX_SERVERS		8
#define NB_MAX_CONNS		16	/* connections of one device */
#define NB_DEFAULT_CONNS	4	/* unless conns= says otherwise */
#define NB_DEPTH		128	/* requests in flight, per queue */
#define NB_TX_HEADS		64	/* requests sent by one call */
#define NB_TX_VECS		64	/* segments of them */
#define NB_COMPANY		8	/* in flight, and one more may wait */
#define NB_COPY_MAX		(16U << 10)	/* payloads among them, bytes */
#define NB_LATENCIES		25	/* 1 us .. 8 s and more, by twos */
#define NB_TEXT			512	/* a sentence for people */
#define NB_CAUSE		128	/* why a connection was lost */
#define NB_MAX_LINE		4096	/* a command to /dev/nb-control */

/* How long the driver waits; see the table at the top of recover.c. */
#define NB_CONNECT_TIMEOUT	(3 * HZ)
#define NB_STEP_TIMEOUT		(5 * HZ)
#define NB_REQUEST_TIMEOUT	(30 * HZ)
#define NB_PATIENCE		10	/* so many of them at most */
#define NB_SILENCE		6	/* s; timeout= says otherwise */
#define NB_MIN_SILENCE		2
#define NB_MAX_SILENCE		240
#define NB_WATCH		(2 * HZ)
#define NB_STABLE		(5 * HZ)
#define NB_COMPLAIN		(30 * HZ)
#define NB_TOLD			5	/* losses in a row, in the log */
#define NB_PART_TIME		HZ

enum nb_state {
	NB_CONNECTING,		/* first attach: there is no disk yet */
	NB_LIVE,		/* requests flow */
	NB_RECOVERING,		/* queue quiesced, requests wait */
	NB_FAILED,		/* lost= ran out: requests fail, still trying */
	NB_DELETING,		/* detach: requests fail, not trying */
};

/* Bits of nb_device.flags. */
enum {
	NB_LINK_LOST,		/* a connection is dead: control work, act */
	NB_FAIL_IO,		/* queue_rq answers with an error */
	NB_DETACHING,		/* no reconnect any more */
	NB_GONE,		/* control work has nothing to do any more */
	NB_ADDING,		/* attach reads the partitions: it must not wait */
	NB_ADD_BROKEN,		/* the link was lost meanwhile */
	NB_CACHE_LOST,		/* the next flush fails: see cache.c */
	NB_FLUSH_FAILED,	/* one did for that, at flush_failed_at */
	NB_RETRY_NOW,		/* every server's turn: see events.c */
	NB_HOLD,		/* writes wait until hold_until, or a fence */
	NB_LEAVING,		/* the machine goes down: say goodbye */
};

struct nb_server {
	struct sockaddr_storage addr;
	char text[64];		/* as written in the attach line */
};

/* What an attach line asks for. */
struct nb_config {
	int index;			/* nbINDEX */
	unsigned int nr_servers;
	struct nb_server servers[NB_MAX_SERVERS];
	char *export;			/* kmalloc'ed, export_len bytes */
	size_t export_len;
	unsigned int lost;		/* seconds until I/O fails; 0: never */
	unsigned int conns;		/* at most so many; 0: the default */
	unsigned int timeout;		/* s of silence until a server is given up */
	unsigned int hold;		/* s until writes may be sent again */
	bool hold_given;		/* else it follows from @timeout */
	bool ro;			/* never write */
	char station[NBD_SESSION_WORD];	/* "": not told */
	char boot[NBD_SESSION_WORD];
};

/*
 * A request's private part (blk-mq pdu). A write is completed by whoever lets
 * go of it last: the sender, which holds it until its last byte is with TCP, or
 * the receiver, which holds it until the whole reply is in. So a reply that
 * comes early, even from a hostile server, never pulls a bio away from under
 * the sender. Of all others the sender keeps nothing but a copy of the head,
 * and the receiver alone holds them.
 */
struct nb_cmd {
	struct llist_node node;		/* in nb_conn.submitted, tx_next or tx_held */
	struct nb_conn *conn;		/* which carries it */
	atomic_t holders;		/* sender (of a write) and receiver */
	blk_status_t status;		/* written by the receiver */
	u8 timeouts;			/* of this issue, so far */
	u8 patience;			/* give up after so many of silence */
	bool again;			/* taken back, to be issued again */
	bool refused;			/* the server will not do it: it leaves */
	u16 type;			/* NBD_CMD_* */
	u16 flags;			/* NBD_CMD_FLAG_* */
	u64 cookie;			/* nb_queue.seq << 32 | slot */
	u64 covers;			/* a flush: bytes it makes durable */
	u32 cache_losses;		/* those of the device, at its first issue */
	struct nbd_answer answer;	/* where, how much, what came of it */
};

/*
 * A hardware queue: hctx->driver_data. There are as many as the device may
 * have connections, but which connection a queue uses is told by @conn, so
 * that a dead one's queues go to its siblings, and all queues share the only
 * one that a server without NBD_FLAG_CAN_MULTI_CONN gets.
 */
struct nb_queue {
	struct nb_device *dev;
	struct nb_conn *conn;		/* changes only while quiesced */
	unsigned int slot;		/* that of its tag 0 */
	atomic_t seq;			/* generation of cookies */
	atomic64_t unflushed;		/* bytes; see cache.c */
} ____cacheline_aligned_in_smp;

/* One TCP connection; reused by each reconnect. */
struct nb_conn {
	struct nb_device *dev;
	unsigned int index;		/* in nb_device.conns */
	struct socket *sock;		/* NULL while there is none */
	void (*data_ready)(struct sock *sk);	/* the socket's own */
	void (*state_change)(struct sock *sk);
	void (*write_space)(struct sock *sk);
	void (*error_report)(struct sock *sk);
	struct work_struct io_work;	/* sends what is queued, receives */
	bool live;			/* callbacks go to io_work, not dev->wait */
	unsigned long live_at;		/* jiffies; since when */
	bool lost;			/* it is dead; @error and @cause say why */
	bool reset;			/* by the peer */
	bool ended;			/* stopped; the peer had ended it before */
	bool leaving;			/* no more requests go out: see part.c */
	int error;
	u32 losses;			/* for people */
	unsigned long event;		/* bit 0: the socket has news */
	char cause[NB_CAUSE];

	/* Sending, under send_mutex (submitted: lockless). */
	struct llist_head submitted;	/* newest first */
	struct mutex send_mutex;
	struct llist_node *tx_next;	/* taken from submitted, oldest first */
	bool tx_busy;			/* the following is not all with TCP */
	bool tx_splice;			/* tx_data goes without a copy */
	bool spliced;			/* TCP may have pages of ours */
	bool loopback;			/* and must not: the server is here */
	u8 *tx_heads;			/* a page of heads */
	struct bio_vec *tx_vec;		/* heads and small payloads */
	struct iov_iter tx_iter;	/* over tx_vec */
	struct llist_node *tx_held;	/* writes whose payload is in it */
	bool tx_reads;			/* and nothing but READs is */
	struct nb_cmd *tx_cmd;		/* a write whose payload comes next */
	struct bio *tx_bio;		/* its bio that is being sent */
	struct iov_iter tx_data;	/* over tx_bio */
	struct delayed_work push_work;	/* sends what waits for company */
	u64 tx_orphans;			/* never answered, of earlier sockets */
	u64 tx_requests;		/* for people, both */
	u64 tx_bytes;

	/*
	 * Requests whose reply may come on this connection, by slot: a place
	 * for each tag of each queue. Set by the sender before the first byte
	 * goes out, cleared by the receiver, or by the control work when both
	 * are stopped.
	 */
	struct nb_cmd **inflight;

	/* Receiving, under the socket lock. */
	struct {
		struct nbd_reply reply;	/* the stream, as the protocol has it */
		struct nb_cmd *cmd;	/* whose reply it is just now */
		struct bio *bio;	/* where its data goes; NULL: seek */
		struct iov_iter iter;
		struct io_comp_batch *done;	/* completed by this call */
		u64 now;		/* ns, of this call; 0: not known */
		int error;		/* the stream is unusable: errno */
		bool stopped;		/* amid the stream: see nb_recv_skb() */
	} rx;
	u64 rx_replies;			/* for people, both */
	u64 rx_bytes;
	unsigned long rx_jiffies;	/* when bytes last came */
};

/* What was measured on one processor, by kind of request; see stats.c. */
enum {
	NB_STAT_READ,
	NB_STAT_WRITE,
	NB_STAT_FLUSH,
	NB_STAT_OTHER,			/* trim, write zeroes */
	NB_STATS,
};

struct nb_stats {
	u64 latency[NB_STATS][NB_LATENCIES];
};

/* When it is a server's turn to be tried; see turns.c. */
struct nb_turn {
	unsigned long at;		/* jiffies */
	unsigned int failures;		/* in a row */
	u32 told;			/* why it was not taken: see log.c */
};

struct nb_device {
	struct list_head list;		/* nb_devices */
	char name[16];			/* "nb0" */
	struct nb_config cfg;

	/* The control work's own. */
	struct workqueue_struct *ctl_wq;
	struct delayed_work ctl_work;
	enum nb_state state;		/* read anywhere with READ_ONCE */
	unsigned long flags;
	unsigned int server;		/* index of the server in use or tried */
	struct nb_turn turns[NB_MAX_SERVERS];
	unsigned long live_at;		/* jiffies, all eight */
	unsigned long lost_at;		/* when the last connection was */
	unsigned long loss_at;		/* when any was */
	unsigned long heard_at;		/* when anything came of the server */
	unsigned long flush_failed_at;	/* see cache.c */
	unsigned long told_at;		/* the log: see log.c */
	unsigned long fill_at;		/* next try to make a missing connection */
	unsigned int fill_fails;	/* in a row */
	unsigned long hold_until;
	u64 live_replies;		/* nb_conn.rx_replies of all, at live_at */
	struct nbd_nego *nego;
	struct nbd_export export;
	struct nbd_session session;
	struct nbd_identity identity;	/* of the last server that told it: */
					/* if @identified, the one in use */
	bool identified;
	u32 cache_losses;		/* see cache.c */
	bool lost_identified;		/* these three: when we lost it */
	struct nbd_identity lost_identity;
	unsigned int lost_server;
	char conn_why[NB_TEXT];		/* what went wrong last */
	unsigned int why_server;	/* and with whom */
	unsigned int losses;		/* that the log was told, in a row */
	unsigned int untold;		/* and was not, since told_at */
	bool told;			/* the last one was */
	struct completion attached;	/* first attempts over: attach_error */
	int attach_error;
	struct completion quiet;	/* detach may delete the disk */

	struct workqueue_struct *io_wq;
	wait_queue_head_t wait;		/* connect and handshake sleep here */
	struct nb_conn *conns;		/* nr_queues of them */
	unsigned int want_conns;	/* so many of which the server allows */
	unsigned int live_conns;	/* so many are; read with READ_ONCE */

	struct nb_queue *queues;	/* by hctx->queue_num */
	unsigned int nr_queues;
	unsigned int nr_slots;
	struct blk_mq_tag_set tag_set;
	struct gendisk *disk;		/* NULL until the first connection */
	bool added;			/* attach is over; set under nb_devices_lock */
	struct work_struct uevent_work;
	struct work_struct flush_work;	/* the last one, see events.c */

	/* For people. */
	struct nb_stats __percpu *stats;
	spinlock_t lock;		/* see the top of this file */
	char last_error[NB_TEXT];
	u32 reconnects;			/* successful ones */
	u64 requeued;			/* requests sent again */
};

/* main.c */
extern int nb_major;

/* control.c: /dev/nb-control */
int nb_control_init(void);
void nb_control_exit(void);
/*
 * Carry out one command, as if @line had been written. Takes @line apart;
 * leaves a sentence in @why (NB_TEXT bytes, empty before). Process context,
 * sleeps as long as nb_attach() does.
 */
int nb_command(char *line, char *why);

/*
 * device.c: attach and detach.
 *
 * nb_attach() makes the device that @cfg describes and returns when it can be
 * used; it takes over cfg->export in any case. nb_detach() removes one;
 * @force, also when it is open. Both may sleep for seconds, return 0 or an
 * errno, and leave one line without newline for the operator in @why
 * (NB_TEXT bytes). Process context, no locks held.
 */
int nb_attach(struct nb_config *cfg, char *why);
int nb_detach(int index, bool force, char *why);
/* Call @fn for each device, under nb_devices_lock: it must not wait. */
void nb_call_devices(void (*fn)(struct nb_device *dev));
int nb_disk_create(struct nb_device *dev);

/* queue.c: blk-mq operations */
extern const struct blk_mq_ops nb_mq_ops;
/*
 * Give up one hold; see struct nb_cmd. With @done, what can be is completed
 * together, when the caller calls @done->complete. Any context.
 */
void nb_cmd_put(struct nb_cmd *cmd, struct io_comp_batch *done);
blk_status_t nb_error_status(enum req_op op, u32 nbd_error);

/*
 * conn.c: a socket's life. Open and stop are the control work's; @why gets a
 * sentence on failure. Both may sleep; allocations follow the caller's
 * memalloc scope. Init needs dev->nr_slots, and is undone by free.
 */
int nb_conn_init(struct nb_conn *conn, struct nb_device *dev,
		 unsigned int index);
void nb_conn_free(struct nb_conn *conn);
int nb_conn_open(struct nb_conn *conn, const struct nb_server *server,
		 char *why);
void nb_conn_live(struct nb_conn *conn);
bool nb_conn_over(const struct nb_conn *conn);
void nb_conn_silence(struct nb_conn *conn);
void nb_conn_stop(struct nb_conn *conn, bool goodbye);
bool nb_conn_deaf(const struct nb_conn *conn);
void nb_conn_heard(const struct nb_conn *conn);
bool nb_conn_dead(struct nb_conn *conn);
bool nb_conn_waits(const struct nb_conn *conn);
/*
 * The stream is dead or unusable; any context. @error: negative errno; @cause:
 * a sentence, or NULL for that of the errno. The first one counts.
 */
void nb_conn_lost(struct nb_conn *conn, int error, const char *cause);
const char *nb_errno_text(int error);

/* part.c: leaving a server in good order. Control work. */
void nb_conn_part(struct nb_conn *conn);
bool nb_conn_parted(const struct nb_conn *conn);
void nb_part_live(struct nb_device *dev);

/* send.c, receive.c: the data path */
void nb_submit(struct nb_conn *conn, struct nb_cmd *cmd);
void nb_kick(struct nb_conn *conn);
int nb_send(struct nb_conn *conn);
int nb_receive(struct nb_conn *conn);
/*
 * Bytes have come. Softirq, or the owner of the socket lock; sk_callback_lock
 * is held. True: they are dealt with; false: io_work must.
 */
bool nb_receive_now(struct nb_conn *conn);
void nb_conn_io_work(struct work_struct *work);
void nb_conn_push_work(struct work_struct *work);

/*
 * cache.c: what the server acknowledged but may still lose. A request that
 * was answered is told to nb_account(), before its submitter hears of it.
 */
bool nb_flush_begins(struct nb_device *dev, struct nb_cmd *cmd);
void nb_flush_undone(struct nb_device *dev, struct nb_cmd *cmd);
u64 nb_unflushed(struct nb_device *dev);
void nb_cache_lost(struct nb_device *dev);

static inline void nb_account(struct request *rq, struct nb_cmd *cmd)
{
	struct nb_queue *queue = rq->mq_hctx->driver_data;

	switch (req_op(rq)) {
	case REQ_OP_WRITE:
	case REQ_OP_WRITE_ZEROES:
		if (!(rq->cmd_flags & REQ_FUA) && cmd->status == BLK_STS_OK)
			atomic64_add(blk_rq_bytes(rq), &queue->unflushed);
		break;
	case REQ_OP_FLUSH:
		if (cmd->status == BLK_STS_OK)
			cmd->covers = 0;
		else
			nb_flush_undone(queue->dev, cmd);
		break;
	default:
		break;
	}
}

/* recover.c: the states */
void nb_ctl_work(struct work_struct *work);
void nb_ctl_kick(struct nb_device *dev);
bool nb_ctl_wanted(const struct nb_device *dev);
bool nb_retry_wanted(const struct nb_device *dev);
void nb_watch(struct nb_device *dev);
const char *nb_state_name(enum nb_state state);
const char *nb_server_text(const struct nb_device *dev);
void nb_set_error(struct nb_device *dev, const char *why);

/* accept.c: may this server carry the device? Control work, but for init. */
void nb_session_init(struct nb_device *dev);
int nb_accept(struct nb_device *dev, bool sibling, char *why);
bool nb_fenced(const struct nb_device *dev);
void nb_adopt(struct nb_device *dev);

/* turns.c: which server next, and when. Control work. */
void nb_turns_reset(struct nb_device *dev);
void nb_turns_begin(struct nb_device *dev, int err);
void nb_turns_end(struct nb_device *dev);
void nb_turn_failed(struct nb_device *dev, int err);
unsigned long nb_turn(struct nb_device *dev);
void nb_turns_age(struct nb_device *dev);

/*
 * log.c: what the kernel log is told of lost connections, and of servers that
 * are not taken, and how often.
 * Control work.
 */
void nb_log_lost(struct nb_device *dev, const struct nb_conn *lost,
		 unsigned int count);
void nb_log_one_lost(struct nb_device *dev, const struct nb_conn *lost,
		     unsigned int count);
void nb_log_still_lost(struct nb_device *dev);
void nb_log_found(const struct nb_device *dev);
void nb_log_refused(struct nb_device *dev, int err, const char *why);
void nb_log_live(struct nb_device *dev);

/* events.c: the network, power */
int nb_events_init(void);
void nb_events_exit(void);
void nb_flush_work(struct work_struct *work);
void nb_goodbye_done(void);

/* stats.c: how long requests take. nb_measure(): any context; @now in ns. */
void nb_measure(struct nb_device *dev, struct request *rq, u64 now);
ssize_t nb_latency_show(struct nb_device *dev, char *buf);
ssize_t nb_traffic_show(struct nb_device *dev, char *buf);

/* sysfs.c */
extern const struct attribute_group *nb_groups[];

/* Jiffies until @end, 0 when it is over. */
static inline unsigned long nb_until(unsigned long end)
{
	unsigned long now = jiffies;	/* once: it may pass @end meanwhile */

	return time_before(now, end) ? end - now : 0;
}

static inline unsigned int nb_seconds_lost(const struct nb_device *dev)
{
	return (jiffies - dev->lost_at) / HZ;
}

/* How often to look for a peer that is deaf, while it has something to hear. */
static inline unsigned long nb_watch_time(const struct nb_device *dev)
{
	return dev->cfg.timeout * HZ / 8;
}

/*
 * Point @iter at the data of one bio. @dir: ITER_SOURCE to send from it,
 * ITER_DEST to receive into it.
 */
static inline void nb_bio_iter(struct iov_iter *iter, unsigned int dir,
			       struct bio *bio)
{
	struct bvec_iter bi;
	struct bio_vec bv;
	unsigned int segs = 0;

	bio_for_each_bvec(bv, bio, bi)
		segs++;
	iov_iter_bvec(iter, dir,
		      __bvec_iter_bvec(bio->bi_io_vec, bio->bi_iter), segs,
		      bio->bi_iter.bi_size);
	iter->iov_offset = bio->bi_iter.bi_bvec_done;
}

#endif /* NB_H */
