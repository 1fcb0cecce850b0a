// SPDX-License-Identifier: GPL-2.0
/*
 * pool.c - worker threads and their two queues. Reads are one; whatever
 * writes or syncs is the other, and may hold no more than three quarters of the
 * workers: when the disk throttles writers, stations that boot still read.
 *
 * Small writes end in the page cache, each in a microsecond or two and one
 * after the other under the file's lock, so waking a worker and a loop for
 * each would cost ten times the work. A worker takes a group of them, and gives
 * the group back at once.
 */
#include "pool.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

#include "log.h"

/* A group: this many small writes, and this many bytes. */
#define GROUP_JOBS	16U
#define GROUP_BYTES	(256U << 10)

static struct {
	pthread_mutex_t lock;
	pthread_cond_t work;
	struct job_list reads, writes;
	unsigned int idle, writing, max_writing;
	bool stop;
	void (*done)(struct job *list);
	pthread_t *thread;
	unsigned int threads;
} pool = {
	.lock = PTHREAD_MUTEX_INITIALIZER,
	.work = PTHREAD_COND_INITIALIZER,
};

static bool is_read(const struct job *j)
{
	return j->type == NBD_CMD_READ || j->type == NBD_CMD_CACHE ||
	       j->type == NBD_CMD_BLOCK_STATUS || j->type == JOB_OPEN ||
	       j->type == JOB_IDENTIFY;
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

/* No sync, and no long copy. */
static bool is_quick(const struct job *j)
{
	return j->type == NBD_CMD_WRITE && !(j->flags & NBD_CMD_FLAG_FUA) &&
	       j->length <= GROUP_BYTES / 4;
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

/* Under the lock: what to do next, a list; NULL: nothing. */
static struct job *next_jobs(void)
{
	struct job *list = NULL, **end = &list;
	uint32_t bytes = 0;
	unsigned int n = 0;

	if (pool.reads.first) {
		list = pop(&pool.reads);
		list->next = NULL;
		return list;
	}
	if (pool.writing >= pool.max_writing)
		return NULL;
	while (pool.writes.first && joins(pool.writes.first, &n, &bytes)) {
		*end = pop(&pool.writes);
		end = &(*end)->next;
		*end = NULL;
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

static void run(struct job *j)
{
	struct job *next;

	finished = NULL;
	finished_end = &finished;
	for (; j; j = next) {
		next = j->next;
		job_run(j, finish);
	}
	if (finished)
		pool.done(finished);
}

static void *worker(void *arg)
{
	(void)arg;
	pthread_mutex_lock(&pool.lock);
	for (;;) {
		struct job *j = next_jobs();
		bool writes;

		if (!j) {
			if (pool.stop && !pool.writes.first)
				break;
			pool.idle++;
			pthread_cond_wait(&pool.work, &pool.lock);
			pool.idle--;
			continue;
		}
		writes = !is_read(j);
		pool.writing += writes;
		pthread_mutex_unlock(&pool.lock);
		run(j);
		pthread_mutex_lock(&pool.lock);
		pool.writing -= writes;
		/* A writer may wait for just this, in a sleeping worker. */
		if (writes && pool.writes.first && pool.idle)
			pthread_cond_signal(&pool.work);
	}
	/* Wake the next one to leave. */
	pthread_cond_broadcast(&pool.work);
	pthread_mutex_unlock(&pool.lock);
	return NULL;
}

bool pool_start(unsigned int threads, void (*done)(struct job *list))
{
	pthread_attr_t attr;
	sigset_t all, old;

	job_list_init(&pool.reads);
	job_list_init(&pool.writes);
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
	pool.max_writing = pool.threads - pool.threads / 4;
	pthread_mutex_unlock(&pool.lock);
	return pool.threads > 0;
}


void pool_submit(struct job_list *l)
{
	struct job *j = l->first, *next;
	unsigned int wake = 0, n = 0;
	uint32_t bytes = 0;

	if (!j)
		return;
	pthread_mutex_lock(&pool.lock);
	for (; j; j = next) {
		next = j->next;
		if (is_read(j)) {
			wake++;
			job_list_add(&pool.reads, j);
			continue;
		}
		/* The groups they will be taken in: a worker for each. */
		if (!joins(j, &n, &bytes)) {
			n = bytes = 0;
			joins(j, &n, &bytes);
		}
		wake += n == 1 || !is_quick(j);
		job_list_add(&pool.writes, j);
	}
	if (wake > pool.idle)
		wake = pool.idle;
	pthread_mutex_unlock(&pool.lock);
	while (wake--)
		pthread_cond_signal(&pool.work);
	job_list_init(l);
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
