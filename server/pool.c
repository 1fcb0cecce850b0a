// SPDX-License-Identifier: GPL-2.0
/*
 * pool.c - worker threads and their five queues. Reads are one; what writes or
 * syncs is another, and may hold no more than three quarters of the workers (from 4
 * on): when the disk throttles writers, stations that boot still read. Nor do reads that wait
 * without an end keep writers from the disk: up to a quarter of the workers
 * writes meanwhile, each second one that takes something to do. Connections that
 * open their exports run programs that take as long as they like, those that close
 * them sync, and long zeroings and their like take the disk's time: of the workers a
 * quarter each.
 *
 * Reads, writes and long ones are taken from each connection in its turn: one that
 * asks for much at once does not make the others wait until all of it is done.
 *
 * Stations that boot together want the same of an image that is not in memory
 * yet. Of identical reads one goes to the disk; the others hold no worker
 * meanwhile, and find it in memory then.
 *
 * Small writes end in the page cache, each in a microsecond or two and one
 * after the other under the file's lock, so waking a worker and a loop for
 * each would cost ten times the work. A worker takes a group of them, and gives
 * the group back at once.
 */
#include "pool.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "conn.h"

/* A group: this many small writes, and this many bytes. */
#define GROUP_JOBS	16U
#define GROUP_BYTES	(512U << 10)
/* A part of one may have to be read first. */
#define GROUP_BLOCK	4096U
/* The table of reads. */
#define MERGE_SLOTS	256U

enum { READ, WRITE, LONG, OPEN, CLOSE, QUEUES };

struct queue {
	struct job_turn *turn, **last_turn;	/* up to LONG: connections */
	struct job_list jobs;			/* the others */
	unsigned int running, max;		/* workers */
};

static struct {
	pthread_mutex_t lock;
	pthread_cond_t work;
	struct queue queue[QUEUES];
	struct job *reads[MERGE_SLOTS];	/* running, each another one */
	atomic_uint reads_begun, reads_ended;
	unsigned int idle;
	unsigned int max_busy;	/* workers that do not read */
	unsigned int reserve;	/* workers that write though reads wait */
	bool was_write;		/* before reads that waited: READ is next */
	bool was_long;		/* LONG had its turn, so WRITE is next */
	bool stop;
	void (*done)(struct job *list);
	pthread_t *thread;
	unsigned int threads;
} pool = {
	.lock = PTHREAD_MUTEX_INITIALIZER,
	.work = PTHREAD_COND_INITIALIZER,
};

static unsigned int kind_of(const struct job *j)
{
	switch (j->type) {
	case JOB_OPEN:
	case JOB_IDENTIFY:
		return OPEN;
	case JOB_CLOSE:
		return CLOSE;
	case NBD_CMD_READ:
	case NBD_CMD_BLOCK_STATUS:
		return READ;
	default:
		if (job_is_long(j))
			return LONG;
		return j->type == NBD_CMD_CACHE ? READ : WRITE;
	}
}

static struct job *pop(struct job_list *l)
{
	struct job *j = l->first;

	l->first = j->next;
	if (!l->first)
		l->last = &l->first;
	l->n--;
	return j;
}

/* No sync, no long copy, and no block of which a part has to be read. */
static bool is_quick(const struct job *j)
{
	return j->type == NBD_CMD_WRITE && !(j->flags & NBD_CMD_FLAG_FUA) &&
	       j->length <= GROUP_BYTES / 4 &&
	       !((j->offset | j->length) % GROUP_BLOCK);
}

/* May @j be the next one of a group of @n jobs and @bytes? Counts it if so. */
static bool joins(const struct job *j, unsigned int *n, uint32_t *bytes)
{
	if (*n && (!is_quick(j) || *n == GROUP_JOBS ||
		   *bytes + j->length > GROUP_BYTES))
		return false;
	*bytes += (uint32_t)j->length;
	*n = is_quick(j) ? *n + 1 : GROUP_JOBS;
	return true;
}

/* Under the lock, as all up to has_work(). */
static void add_turn(struct queue *q, struct job_turn *t)
{
	t->next = NULL;
	*q->last_turn = t;
	q->last_turn = &t->next;
}

static void add_job(unsigned int kind, struct job *j)
{
	struct queue *q = &pool.queue[kind];
	struct job_turn *t;

	if (kind > LONG) {
		job_list_add(&q->jobs, j);
		return;
	}
	t = kind == READ ? &j->conn->reads :
	    kind == WRITE ? &j->conn->writes : &j->conn->longs;
	j->next = NULL;
	if (!t->first) {
		t->last = &t->first;
		add_turn(q, t);
	}
	*t->last = j;
	t->last = &j->next;
}

/* One of the connection whose turn it is. */
static struct job *take_turn(struct queue *q)
{
	struct job_turn *t = q->turn;
	struct job *j = t->first;

	q->turn = t->next;
	if (!q->turn)
		q->last_turn = &q->turn;
	t->first = j->next;
	if (t->first)
		add_turn(q, t);
	j->next = NULL;
	return j;
}

static struct job **read_slot(const struct job *j)
{
	const uintptr_t n = (uintptr_t)j->origin / 64 + j->offset / 4096;

	return &pool.reads[n % MERGE_SLOTS];
}

/*
 * Is the same being read by a worker? Then @j waits for it. Not for one that is only
 * queued: that one may have to wait for all that its own connection asked for before.
 */
static bool follows(struct job *j)
{
	struct job *k = *read_slot(j);

	while (k && (k->origin != j->origin || k->offset != j->offset ||
		     k->length != j->length))
		k = k->same;
	if (!k)
		return false;
	j->next = k->followers;
	k->followers = j;
	return true;
}

/* What to read next; others may wait for it. NULL: all wait for others. */
static struct job *next_read(struct queue *q)
{
	while (q->turn) {
		struct job *j = take_turn(q), **slot;

		if (!j->origin)
			return j;
		if (follows(j))
			continue;
		slot = read_slot(j);
		j->same = *slot;
		*slot = j;
		return j;
	}
	return NULL;
}

/* @j has been read: who waited for it reads it now, each for itself. */
static unsigned int release_followers(struct job *j)
{
	struct job **k = read_slot(j), *f, *next;
	unsigned int n = 0;

	while (*k != j)
		k = &(*k)->same;
	*k = j->same;
	for (f = j->followers; f; f = next, n++) {
		next = f->next;
		f->origin = NULL;
		add_job(READ, f);
	}
	return n;
}

static bool has_work(const struct queue *q)
{
	return q->turn || q->jobs.first;
}

static bool may_take(const struct queue *q)
{
	return has_work(q) && q->running < q->max;
}

/* Workers that write, or sync. */
static unsigned int writing(void)
{
	return pool.queue[LONG].running + pool.queue[WRITE].running +
	       pool.queue[CLOSE].running;
}

/* Under the lock, as the next: LONG and WRITE in their turns; NULL: neither. */
static struct queue *next_writer(void)
{
	struct queue *q = pool.queue;

	if (writing() + q[OPEN].running >= q[WRITE].max)
		return NULL;
	if (may_take(&q[LONG]) && !(has_work(&q[WRITE]) && pool.was_long)) {
		pool.was_long = true;
		return &q[LONG];
	}
	pool.was_long = false;
	return may_take(&q[WRITE]) ? &q[WRITE] : NULL;
}

/* The queue that is to be served next; NULL: none. */
static struct queue *next_queue(void)
{
	struct queue *q = pool.queue, *writer = NULL;

	if (may_take(&q[OPEN]) && writing() + q[OPEN].running < pool.max_busy)
		return &q[OPEN];
	if (may_take(&q[CLOSE]) && writing() < q[WRITE].max &&
	    writing() + q[OPEN].running < pool.max_busy)
		return &q[CLOSE];
	if (!may_take(&q[READ]))
		return next_writer();
	if (writing() < pool.reserve && !pool.was_write)
		writer = next_writer();
	pool.was_write = writer != NULL;
	return writer ? writer : &q[READ];
}

/* Under the lock: what to do next out of @q, a list; NULL: nothing after all. */
static struct job *next_jobs(struct queue *q)
{
	struct job *list = NULL, **end = &list;
	uint32_t bytes = 0;
	unsigned int n = 0;

	if (q == &pool.queue[READ])
		return next_read(q);
	if (q == &pool.queue[LONG])
		return take_turn(q);
	if (q != &pool.queue[WRITE]) {
		list = pop(&q->jobs);
		list->next = NULL;
		return list;
	}
	while (q->turn && joins(q->turn->first, &n, &bytes)) {
		*end = take_turn(q);
		end = &(*end)->next;
	}
	return list;
}

/* What the jobs of a group, or of a flush, have become: a list for ->done. */
static _Thread_local struct job *finished, **finished_end;

static void finish(struct job *j)
{
	j->next = NULL;
	*finished_end = j;
	finished_end = &j->next;
}

static void wake_workers(unsigned int n)
{
	while (n--)
		pthread_cond_signal(&pool.work);
}

/* Those of a group together: each hand-over may wake a loop. */
static void hand_over(void)
{
	struct job *list = finished;
	unsigned int wake;

	finished = NULL;
	finished_end = &finished;
	/* A read is alone, and from here on the loop's. */
	if (list && list->origin) {
		pthread_mutex_lock(&pool.lock);
		wake = release_followers(list);
		if (wake > pool.idle)
			wake = pool.idle;
		pthread_mutex_unlock(&pool.lock);
		wake_workers(wake);
	}
	if (list)
		pool.done(list);
}

/* A group, or one job; returns it if it wants to be run again. */
static struct job *run(struct job *j)
{
	struct job *next, *again = NULL;

	finished = NULL;
	finished_end = &finished;
	for (; j; j = next) {
		next = j->next;
		/* Only of a long one, or an open, which are alone. */
		if (job_run(j, finish, hand_over))
			again = j;
	}
	hand_over();
	return again;
}

/* Under the lock: is anything but a read in the queues? */
static bool others_wait(void)
{
	unsigned int i;

	for (i = WRITE; i < QUEUES; i++)
		if (has_work(&pool.queue[i]))
			return true;
	return false;
}

static void *worker(void *arg)
{
	(void)arg;
	pthread_mutex_lock(&pool.lock);
	for (;;) {
		struct queue *q = next_queue();
		struct job *j;
		bool read;

		if (!q) {
			if (pool.stop && !others_wait())
				break;
			pool.idle++;
			pthread_cond_wait(&pool.work, &pool.lock);
			pool.idle--;
			continue;
		}
		j = next_jobs(q);
		if (!j)
			continue;
		q->running++;
		read = j->type == NBD_CMD_READ;
		if (read)
			atomic_fetch_add(&pool.reads_begun, 1);
		pthread_mutex_unlock(&pool.lock);
		j = run(j);
		pthread_mutex_lock(&pool.lock);
		q->running--;
		if (read)
			atomic_fetch_add(&pool.reads_ended, 1);
		if (j)
			add_job(kind_of(j), j);
		/* One may wait for just this, in a sleeping worker. */
		if (q != &pool.queue[READ] && pool.idle && others_wait())
			pthread_cond_signal(&pool.work);
	}
	/* Wake the next one to leave. */
	pthread_cond_broadcast(&pool.work);
	pthread_mutex_unlock(&pool.lock);
	return NULL;
}

/* Under the lock: how many of the workers each may have. */
static void share_out(unsigned int threads)
{
	const unsigned int quarter = threads / 4 ? threads / 4 : 1;

	pool.queue[READ].max = threads;
	pool.queue[OPEN].max = quarter;
	pool.queue[CLOSE].max = quarter;
	pool.queue[LONG].max = quarter;
	pool.queue[WRITE].max = threads - threads / 4;
	pool.reserve = quarter;
	/* Opens must not wait for writers, nor, from 8 on, reads for both. */
	pool.max_busy = threads - threads / 8;
}

bool pool_start(unsigned int threads, void (*done)(struct job *list))
{
	pthread_attr_t attr;
	sigset_t all, old;
	unsigned int i;

	for (i = 0; i < QUEUES; i++) {
		job_list_init(&pool.queue[i].jobs);
		pool.queue[i].turn = NULL;
		pool.queue[i].last_turn = &pool.queue[i].turn;
	}
	pool.done = done;
	pool.stop = false;
	pool.thread = calloc(threads, sizeof(*pool.thread));
	if (!pool.thread)
		return false;
	/* Signals belong to the main thread. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 256 << 10);
	for (pool.threads = 0; pool.threads < threads; pool.threads++)
		if (pthread_create(&pool.thread[pool.threads], &attr, worker,
				   NULL))
			break;
	pthread_attr_destroy(&attr);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	pthread_mutex_lock(&pool.lock);
	share_out(pool.threads);
	pthread_mutex_unlock(&pool.lock);
	return pool.threads > 0;
}

/* Whose bytes a READ is to have, if anybody else may want the same. */
static void find_origin(struct job *j)
{
	struct store *s = j->store;

	if (j->type == NBD_CMD_READ)
		j->origin = s->ops->origin ?
			    s->ops->origin(s, (u32)j->length, j->offset) : s;
}

void pool_submit(struct job_list *l)
{
	struct job *j = l->first, *next;
	unsigned int wake = 0, n = 0;
	uint32_t bytes = 0;

	if (!j)
		return;
	for (; j; j = j->next)
		find_origin(j);
	pthread_mutex_lock(&pool.lock);
	for (j = l->first; j; j = next) {
		const unsigned int kind = kind_of(j);

		next = j->next;
		if (j->origin && follows(j))
			continue;
		add_job(kind, j);
		if (kind != WRITE) {
			wake++;
			continue;
		}
		/* The groups they will be taken in: a worker for each. */
		if (!joins(j, &n, &bytes)) {
			n = bytes = 0;
			joins(j, &n, &bytes);
		}
		wake += n == 1 || !is_quick(j);
	}
	if (wake > pool.idle)
		wake = pool.idle;
	pthread_mutex_unlock(&pool.lock);
	wake_workers(wake);
	job_list_init(l);
}

bool pool_disk_busy(unsigned int *since)
{
	const unsigned int ended = atomic_load(&pool.reads_ended);
	const unsigned int begun = atomic_load(&pool.reads_begun);
	const bool busy = begun != ended || begun != *since;

	*since = begun;
	return busy;
}

void pool_stop(void)
{
	unsigned int i;

	pthread_mutex_lock(&pool.lock);
	pool.stop = true;
	pthread_cond_broadcast(&pool.work);
	pthread_mutex_unlock(&pool.lock);
	for (i = 0; i < pool.threads; i++)
		pthread_join(pool.thread[i], NULL);
	free(pool.thread);
	pool.thread = NULL;
	pool.threads = 0;
}
