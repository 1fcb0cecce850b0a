// SPDX-License-Identifier: GPL-2.0
/*
 * translog.c - two buffers and a thread: the loops fill one of them under a
 * lock, which is never held for longer than a copy of some bytes, while the
 * thread writes the other.
 *
 * A write that fails is said once and ends the log, at the last whole batch of
 * it: a log that goes on with a part missing in the middle would show answers to
 * what nobody asked.
 */
#define _GNU_SOURCE
#include "translog.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "log.h"

/* One of the two buffers, in bytes. */
#define ROOM		(4U << 20)
/* What comes waits for company so long, or until its buffer is half full. */
#define GATHER_MS	200

/* Begins what the nbd project's server writes about a log with data in it. */
#define TRACE_MAGIC	0x25609514U

struct translog {
	struct translog *next;
	unsigned int users;
	char *path;
	int fd;
	dev_t dev;		/* of ->fd, or of ->new_fd */
	ino_t ino;
	pthread_t thread;

	pthread_mutex_t lock;
	pthread_cond_t work;	/* there is some; much; another file; the end */
	int new_fd;		/* to go on with; -1: with ->fd */
	u8 *fill, *spare;
	size_t len;		/* bytes in ->fill */
	u64 lost;		/* headers for which there was no room */
	bool ended, stop;
};

static struct translog *logs;

/* -- the file ---------------------------------------------------------- */

/* Is it one of ours to write, empty or begun? */
static bool usable(int fd, const char *path, char *why, size_t why_size)
{
	u8 begin[4];
	struct stat st;
	u32 magic;

	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
		snprintf(why, why_size, "%s: not a regular file; a transaction log is one",
			 path);
		return false;
	}
	if (!st.st_size)
		return true;
	magic = pread(fd, begin, sizeof(begin), 0) == sizeof(begin) ?
		nbd_get32(begin) : 0;
	if (magic == NBD_REQUEST_MAGIC || magic == NBD_SIMPLE_REPLY_MAGIC ||
	    magic == NBD_STRUCTURED_REPLY_MAGIC || magic == TRACE_MAGIC)
		return true;
	snprintf(why, why_size, "%s: holds something else than a transaction log, so nothing is appended to it; name another file",
		 path);
	return false;
}

/*
 * A pipe must not make us wait for its other end, nor a link lead root to where he
 * whose folder it is may not write.
 */
static int open_file(const char *path, int flags)
{
	return open(path, O_RDWR | O_APPEND | O_CLOEXEC | O_NONBLOCK |
		    O_NOFOLLOW | flags, 0600);
}

static const char *why_not(int err)
{
	return err == ELOOP ? "is a link; name the file itself" : strerror(err);
}

static void note_file(struct translog *t, int fd)
{
	struct stat st;

	if (!fstat(fd, &st)) {
		t->dev = st.st_dev;
		t->ino = st.st_ino;
	}
}

static bool may_be_made(const char *path, char *why, size_t why_size)
{
	const char *slash = strrchr(path, '/');
	char *dir = strndup(path, slash > path ? (size_t)(slash - path) : 1);
	bool ok = dir && !access(dir, W_OK | X_OK);

	if (!ok)
		snprintf(why, why_size, "%s: cannot be made: %s", path,
			 strerror(errno));
	free(dir);
	return ok;
}

bool translog_check(const char *path, char *why, size_t why_size)
{
	int fd = open_file(path, 0);
	bool ok;

	if (fd < 0 && errno == ENOENT)
		return may_be_made(path, why, why_size);
	if (fd < 0) {
		snprintf(why, why_size, "%s: %s", path, why_not(errno));
		return false;
	}
	ok = usable(fd, path, why, why_size);
	close(fd);
	return ok;
}

/* What a failed write has left behind the @start of its batch. */
static void cut_back(int fd, off_t start, size_t written)
{
	struct stat st;

	/* Somebody else may have made it shorter, or longer. */
	if (fstat(fd, &st) < 0 || st.st_size != start + (off_t)written ||
	    ftruncate(fd, start) < 0)
		return;
}

/* 0 or an errno. */
static int write_batch(int fd, const u8 *p, size_t len)
{
	off_t start = lseek(fd, 0, SEEK_END);
	size_t done = 0;

	while (done < len) {
		ssize_t n = write(fd, p + done, len - done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0) {
			int err = n ? errno : EIO;

			cut_back(fd, start, done);
			return err;
		}
		done += (size_t)n;
	}
	return 0;
}

/* -- its thread ---------------------------------------------------------- */

/* Under the lock, with something to write: until it is worth a write. */
static void gather(struct translog *t)
{
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_nsec += GATHER_MS * 1000000L;
	if (until.tv_nsec >= 1000000000L) {
		until.tv_nsec -= 1000000000L;
		until.tv_sec++;
	}
	while (!t->stop && t->len < ROOM / 2)
		if (pthread_cond_timedwait(&t->work, &t->lock, &until))
			return;
}

/* Under the lock, which it lets go meanwhile. */
static void write_out(struct translog *t)
{
	u8 *p = t->fill;
	size_t len = t->len;
	int err;

	t->fill = t->spare;
	t->spare = p;
	t->len = 0;
	pthread_mutex_unlock(&t->lock);
	err = write_batch(t->fd, p, len);
	if (err)
		log_msg(LOG_ERR, "transaction log %s: %s; it ends here, until the server is started again",
			t->path, strerror(err));
	pthread_mutex_lock(&t->lock);
	t->ended = err;
}

/*
 * Under the lock: to the file that has taken the name. The lock is let go for
 * the close, which takes long if it is the end of a big file.
 */
static void change_file(struct translog *t)
{
	int old = t->fd;

	if (t->new_fd < 0)
		return;
	t->fd = t->new_fd;
	t->new_fd = -1;
	pthread_mutex_unlock(&t->lock);
	close(old);
	pthread_mutex_lock(&t->lock);
}

/* Under the lock, which it lets go meanwhile: loops wait for it. */
static void say_missing(struct translog *t)
{
	pthread_mutex_unlock(&t->lock);
	log_msg(LOG_WARNING, "transaction log %s: its disk is slower than the clients; headers are missing in it",
		t->path);
	pthread_mutex_lock(&t->lock);
}

static void *write_log(void *arg)
{
	struct translog *t = arg;
	bool told = false;

	pthread_mutex_lock(&t->lock);
	while (!t->ended) {
		while (!t->len && !t->stop && t->new_fd < 0)
			pthread_cond_wait(&t->work, &t->lock);
		change_file(t);
		if (!t->len && t->stop)
			break;
		if (!t->len)
			continue;
		gather(t);
		write_out(t);
		if (t->lost && !told) {
			told = true;
			say_missing(t);
		}
	}
	pthread_mutex_unlock(&t->lock);
	return NULL;
}

static bool start_thread(struct translog *t)
{
	sigset_t all, old;
	bool ok;

	/* Signals belong to the main thread. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	ok = !pthread_create(&t->thread, NULL, write_log, t);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return ok;
}

/* -- translog.h ---------------------------------------------------------- */

static void free_log(struct translog *t)
{
	if (t->fd >= 0)
		close(t->fd);
	if (t->new_fd >= 0)
		close(t->new_fd);
	pthread_cond_destroy(&t->work);
	pthread_mutex_destroy(&t->lock);
	free(t->fill);
	free(t->spare);
	free(t->path);
	free(t);
}

struct translog *translog_open(const char *path, char *why, size_t why_size)
{
	pthread_condattr_t clock;
	struct translog *t;

	for (t = logs; t; t = t->next) {
		if (!strcmp(t->path, path)) {
			t->users++;
			return t;
		}
	}
	t = calloc(1, sizeof(*t));
	if (!t) {
		snprintf(why, why_size, "out of memory");
		return NULL;
	}
	pthread_mutex_init(&t->lock, NULL);
	pthread_condattr_init(&clock);
	pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
	pthread_cond_init(&t->work, &clock);
	pthread_condattr_destroy(&clock);
	t->users = 1;
	t->new_fd = -1;
	t->path = strdup(path);
	t->fill = malloc(ROOM);
	t->spare = malloc(ROOM);
	t->fd = open_file(path, O_CREAT);
	if (t->fd < 0) {
		snprintf(why, why_size, "%s: %s", path, why_not(errno));
	} else if (!t->path || !t->fill || !t->spare) {
		snprintf(why, why_size, "out of memory");
	} else if (usable(t->fd, path, why, why_size)) {
		note_file(t, t->fd);
		if (start_thread(t)) {
			t->next = logs;
			logs = t;
			return t;
		}
		snprintf(why, why_size, "%s: no thread to be had to write it",
			 path);
	}
	free_log(t);
	return NULL;
}

void translog_put(struct translog *t)
{
	struct translog **p = &logs;

	if (!t || --t->users)
		return;
	while (*p != t)
		p = &(*p)->next;
	*p = t->next;
	pthread_mutex_lock(&t->lock);
	t->stop = true;
	pthread_cond_signal(&t->work);
	pthread_mutex_unlock(&t->lock);
	pthread_join(t->thread, NULL);
	if (t->lost)
		log_msg(LOG_WARNING, "transaction log %s: %llu headers are missing in it",
			t->path, (unsigned long long)t->lost);
	free_log(t);
}

static void reopen(struct translog *t)
{
	char why[512] = "";
	struct stat st;
	bool ended;
	int fd, old;

	pthread_mutex_lock(&t->lock);
	ended = t->ended;
	pthread_mutex_unlock(&t->lock);
	if (ended)
		return;
	if (!stat(t->path, &st) && st.st_dev == t->dev && st.st_ino == t->ino)
		return;
	fd = open_file(t->path, O_CREAT);
	if (fd < 0)
		snprintf(why, sizeof(why), "%s: %s", t->path, why_not(errno));
	if (fd < 0 || !usable(fd, t->path, why, sizeof(why))) {
		log_msg(LOG_ERR, "transaction log %s; it goes on in the file that had this name",
			why);
		if (fd >= 0)
			close(fd);
		return;
	}
	note_file(t, fd);
	pthread_mutex_lock(&t->lock);
	/* One that the thread has not come to. */
	old = t->new_fd;
	t->new_fd = fd;
	pthread_cond_signal(&t->work);
	pthread_mutex_unlock(&t->lock);
	if (old >= 0)
		close(old);
}

void translog_reopen(void)
{
	struct translog *t;

	for (t = logs; t; t = t->next)
		reopen(t);
}

static void append(struct translog *t, const u8 *header, size_t n)
{
	bool wake = false;

	pthread_mutex_lock(&t->lock);
	if (t->ended) {
		/* That was said. */
	} else if (t->len + n > ROOM) {
		t->lost++;
	} else {
		memcpy(t->fill + t->len, header, n);
		wake = !t->len || (t->len < ROOM / 2 && t->len + n >= ROOM / 2);
		t->len += n;
	}
	pthread_mutex_unlock(&t->lock);
	if (wake)
		pthread_cond_signal(&t->work);
}

void translog_request(struct translog *t, const struct nbd_request *r)
{
	struct nbd_request short_one = *r;
	u8 header[NBD_REQUEST_SIZE];

	if (r->length > 0xffffffff)
		short_one.length = 0xffffffff;
	nbd_request_put(header, &short_one);
	append(t, header, sizeof(header));
}

void translog_reply(struct translog *t, const struct nbd_simple_reply *r)
{
	u8 header[NBD_SIMPLE_REPLY_SIZE];

	nbd_simple_reply_put(header, r);
	append(t, header, sizeof(header));
}

void translog_chunk(struct translog *t, const struct nbd_chunk *k)
{
	u8 header[NBD_CHUNK_SIZE];

	nbd_chunk_put(header, k);
	append(t, header, sizeof(header));
}
