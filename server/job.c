// SPDX-License-Identifier: GPL-2.0
/*
 * job.c - what a worker thread does with a request: the one place where
 * commands of the protocol become operations of a store.
 *
 * Flushes of one store, and what FUA asks for, are committed in groups. The first becomes the runner;
 * those that arrive while it is syncing are queued and give their worker back
 * at once; when the sync ends, one further sync answers all that were queued
 * before it began. So however many stations flush, a store holds one worker
 * and syncs no more often than the disk can.
 */
#include "job.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "conn.h"

struct job *job_new(struct conn *c, struct export *e,
		    const struct nbd_request *r, u32 data)
{
	struct job *j = malloc(sizeof(*j) + data);

	if (!j)
		return NULL;
	memset(j, 0, sizeof(*j));
	j->conn = c;
	j->loop = conn_loop(c);
	j->export = e;
	j->store = c->store;
	j->cookie = r->cookie;
	j->offset = r->offset;
	j->length = r->length;
	j->type = r->type;
	j->flags = r->flags;
	j->data = data ? j->room : NULL;
	j->charge = sizeof(*j) + data;
	return j;
}

void job_list_init(struct job_list *l)
{
	l->first = NULL;
	l->last = &l->first;
	l->n = 0;
}

void job_list_add(struct job_list *l, struct job *j)
{
	j->next = NULL;
	*l->last = j;
	l->last = &j->next;
	l->n++;
}

/* For the few instructions around a sync, not the sync. */
static pthread_mutex_t flush_lock = PTHREAD_MUTEX_INITIALIZER;

static void run_flush(struct job *j, void (*done)(struct job *),
		      void (*now)(void))
{
	struct store *s = j->store;
	struct job *group;

	pthread_mutex_lock(&flush_lock);
	j->next = s->flush_waiting;
	s->flush_waiting = j;
	if (s->flushing) {
		pthread_mutex_unlock(&flush_lock);
		return;
	}
	s->flushing = true;
	while ((group = s->flush_waiting)) {
		int err;

		s->flush_waiting = NULL;
		pthread_mutex_unlock(&flush_lock);
		/* The group before this one. This one's jobs hold the store. */
		now();
		err = s->ops->flush(s);
		while (group) {
			struct job *next = group->next;

			group->error = err;
			done(group);
			group = next;
		}
		pthread_mutex_lock(&flush_lock);
	}
	s->flushing = false;
	pthread_mutex_unlock(&flush_lock);
}

/*
 * Which parts of a READ are holes worth telling, into @part: .flags says hole
 * or data, in turns. 0: none of it.
 */
static unsigned int find_parts(const struct job *j, struct store_extent *part)
{
	u64 left = j->length;
	unsigned int n = 0;
	bool any = false;
	int i, found = j->store->ops->extents(j->store, j->offset, j->length,
					      part, JOB_PARTS);

	/* An error: the read will meet it too, and say it. */
	for (i = 0; i < found; i++) {
		const struct store_extent e = part[i];
		const bool hole = e.flags & NBD_STATE_ZERO &&
				  e.length >= JOB_HOLE;

		any |= hole;
		left -= e.length;
		if (n && part[n - 1].flags == hole) {
			part[n - 1].length += e.length;
			continue;
		}
		part[n].length = e.length;
		part[n++].flags = hole;
	}
	if (!any)
		return 0;
	if (!left)
		return n;
	/* More extents than parts: the rest as data. */
	if (part[n - 1].flags && n < JOB_PARTS) {
		part[n].length = 0;
		part[n++].flags = 0;
	}
	part[n - 1].flags = 0;
	part[n - 1].length += left;
	return n;
}

static int run_read(struct job *j)
{
	struct store_extent part[JOB_PARTS];
	unsigned int n = j->sparse ? find_parts(j, part) : 0, i;
	u64 at = 0;
	int err = 0;

	/* Spec: with DF, one chunk. */
	if (n > 1 && j->flags & NBD_CMD_FLAG_DF)
		n = 0;
	if (n)
		j->parts = malloc(n * sizeof(*part));
	if (!j->parts)
		return j->store->ops->read(j->store, j->data, (u32)j->length,
					   j->offset);
	memcpy(j->parts, part, n * sizeof(*part));
	j->n_extents = n;
	for (i = 0; i < n && !err; i++) {
		if (!part[i].flags)
			err = j->store->ops->read(j->store, j->data + at,
						  (u32)part[i].length,
						  j->offset + at);
		at += part[i].length;
	}
	return err;
}

static int run_block_status(struct job *j)
{
	struct store *s = j->store;
	int n;

	if (!s->ops->extents) {
		j->extents[0].length = j->length;
		j->extents[0].flags = 0;
		j->n_extents = 1;
		return 0;
	}
	n = s->ops->extents(s, j->offset, j->length, j->extents, j->n_extents);
	if (n <= 0)
		return n ? n : -EIO;
	j->n_extents = (unsigned int)n;
	return 0;
}

static int run_zero(const struct job *j, u64 off, u64 len)
{
	struct store *s = j->store;
	unsigned int flags = 0;

	if (j->flags & NBD_CMD_FLAG_NO_HOLE)
		flags |= STORE_ZERO_NO_HOLE;
	if (j->flags & NBD_CMD_FLAG_FAST_ZERO)
		flags |= STORE_ZERO_FAST;
	return s->ops->zero(s, off, len, flags);
}

bool job_is_long(const struct job *j)
{
	if (j->length <= JOB_SPAN)
		return false;
	switch (j->type) {
	case NBD_CMD_TRIM:
	case NBD_CMD_CACHE:
		return true;
	case NBD_CMD_WRITE_ZEROES:
		/* That is fast or fails, and fails as a whole. */
		return !(j->flags & NBD_CMD_FLAG_FAST_ZERO);
	default:
		return false;
	}
}

static int run_range(const struct job *j, u64 off, u64 len)
{
	struct store *s = j->store;

	switch (j->type) {
	case NBD_CMD_TRIM:
		return s->ops->trim(s, off, len);
	case NBD_CMD_CACHE:
		return s->ops->cache(s, off, len);
	default:
		return run_zero(j, off, len);
	}
}

/* A span of a long one, else all. True: there is more. */
static bool run_ranges(struct job *j)
{
	const u64 at = j->offset + j->progress;
	u64 len = j->length - j->progress;

	/* To where the next one begins in step with the store's blocks. */
	if (job_is_long(j) && len > JOB_SPAN - at % JOB_SPAN)
		len = JOB_SPAN - at % JOB_SPAN;
	j->error = run_range(j, at, len);
	j->progress += len;
	return !j->error && j->progress < j->length;
}

bool job_run(struct job *j, void (*done)(struct job *), void (*now)(void))
{
	const bool fua = j->flags & NBD_CMD_FLAG_FUA;
	struct store *s = j->store;

	/* Nobody waits for it, and no answer was given: it may stay undone. */
	if (j->type != JOB_CLOSE && atomic_load(&j->conn->gone)) {
		j->error = -ECANCELED;
		done(j);
		return false;
	}
	switch (j->type) {
	case JOB_OPEN:
		if (!conn_open(j->conn))
			return true;
		break;
	case JOB_IDENTIFY:
		conn_identify(j->conn, j->export);
		break;
	case JOB_CLOSE:
		conn_close(j->conn);
		break;
	case NBD_CMD_BLOCK_STATUS:
		j->error = run_block_status(j);
		break;
	case NBD_CMD_READ:
		j->error = run_read(j);
		break;
	case NBD_CMD_WRITE:
		j->error = s->ops->write(s, j->data, (u32)j->length, j->offset,
					 fua);
		if (j->error == STORE_UNSYNCED) {
			run_flush(j, done, now);
			return false;
		}
		break;
	case NBD_CMD_CACHE:
	case NBD_CMD_TRIM:
	case NBD_CMD_WRITE_ZEROES:
		if (run_ranges(j))
			return true;
		if (!j->error && fua && j->type != NBD_CMD_CACHE) {
			run_flush(j, done, now);
			return false;
		}
		break;
	case NBD_CMD_FLUSH:
		run_flush(j, done, now);
		return false;
	default:
		j->error = -EINVAL;
	}
	done(j);
	return false;
}
