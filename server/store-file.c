// SPDX-License-Identifier: GPL-2.0
/*
 * store-file.c - a store that is a regular file or a block device, through
 * the page cache.
 *
 * Locking. A writable file is locked exclusively with flock(2), a read-only
 * one shared, for as long as the server lives: two servers cannot write one
 * image, and nobody serves as read-only what another server writes. A writable
 * block device is opened with O_EXCL besides, which fails while it is mounted
 * (and the flock keeps udev from probing it at each close, systemd "Locking
 * Block Device Access"). The lock dies with the process, so a restart after a
 * kill needs no clean-up, but the dead one may take a moment to go: the lock is
 * tried for a few seconds. Where locks are not to be had (some network file
 * systems) the image is served without.
 *
 * A failed sync is remembered. Linux reports a lost page once and then takes
 * it for clean, so a second fdatasync() would say that all is well; every later
 * flush fails until the server is started again, of this store and of the next
 * one of the same file (loss.c).
 */
#define _GNU_SOURCE
#include "store.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "log.h"
#include "loss.h"
#include "nbd-wire.h"
#include "os.h"

/* How long a killed server may keep its locks, in milliseconds. */
#define LOCK_PATIENCE	5000
/* Zeroes are written in pieces of this size where there is no better way. */
#define ZERO_PIECE	(256U << 10)
/* Holes that are remembered: this long, in bytes, and found among so many. */
#define HOLE_MIN	(32 << 10)
#define HOLES_LOOKED_AT	100000U

struct hole {
	uint64_t start, end;
};

/* Is the map's answer true? It depends on who we are. */
enum residency { NOT_ASKED, USABLE, UNUSABLE };

struct file {
	struct store store;
	int fd;
	int durable_fd;		/* for durable writes; -1: none */
	bool device;
	uint32_t block;		/* of a device: its logical block */
	void *map;		/* only ever asked for residency, never read */
	uint64_t map_len;
	_Atomic(enum residency) residency;
	struct hole *holes;	/* the long ones of a read-only file, in order */
	size_t n_holes;
	atomic_bool sync_lost;
	pthread_mutex_t sync_lock;	/* a sync, and the mark that it failed */
	atomic_bool no_punch, no_zero_range, no_discard;
	char path[];
};

static struct file *file_of(struct store *s)
{
	return (struct file *)s;
}

static void file_close(struct store *s)
{
	struct file *f = file_of(s);

	if (f->map)
		munmap(f->map, f->map_len);
	if (f->durable_fd >= 0)
		close(f->durable_fd);
	if (f->fd >= 0)
		close(f->fd);	/* and the lock with it */
	pthread_mutex_destroy(&f->sync_lock);
	free(f->holes);
	free(f);
}

/* The image ends before the export does: somebody cut it while it was served. */
static int file_shrunk(struct file *f, uint64_t off)
{
	log_peer(LOG_ERR, "%s: no data at offset %llu: the file was made shorter while it is served; put it back and restart the server",
		 f->path, (unsigned long long)off);
	return -EIO;
}

static int file_read(struct store *s, void *buf, uint32_t len, uint64_t off)
{
	struct file *f = file_of(s);
	uint8_t *p = buf;

	while (len) {
		ssize_t n = pread(f->fd, p, len, (off_t)off);

		if (n < 0) {
			if (errno == EINTR)
				continue;
			return -errno;
		}
		if (!n)
			return file_shrunk(f, off);
		p += n;
		off += (uint64_t)n;
		len -= (uint32_t)n;
	}
	return 0;
}

static int file_read_now(struct store *s, void *buf, uint32_t len, uint64_t off)
{
	struct file *f = file_of(s);
	ssize_t n = os_pread_now(f->fd, buf, len, off);

	if (n < 0)
		return (int)n;
	/*
	 * Short, or 0 as Linux 5.9 and 5.10 may answer where they mean
	 * EAGAIN: file_read() finds out why.
	 */
	return (uint32_t)n == len ? 0 : -EAGAIN;
}

/*
 * Asked at the first read: an image is opened as root, and read as the user
 * that we have become since, to whom the kernel need not tell the truth.
 */
static bool residency_usable(struct file *f)
{
	enum residency r = atomic_load(&f->residency);

	if (r == NOT_ASKED) {
		r = os_resident_usable(f->fd) ? USABLE : UNUSABLE;
		atomic_store(&f->residency, r);
	}
	return r == USABLE;
}

/*
 * Of a file that is written, too: what TCP still holds may change under it, but
 * only by a write that came before the READ was answered in full. Which of the
 * two such a reader gets, or how much of each, is open anyway, and pread() does
 * not promise more. (The kernel's NFS server does the same.)
 */
static int file_send_fd(struct store *s, uint32_t len, uint64_t off)
{
	struct file *f = file_of(s);

	if (!f->map || !residency_usable(f) || !os_resident(f->map, off, len))
		return -1;
	return f->fd;
}

static void sync_failed(struct file *f, int err)
{
	if (atomic_exchange(&f->sync_lost, true))
		return;
	log_msg(LOG_CRIT, "%s: sync failed: %s: writes may be lost, so every flush fails until the server is restarted; check the disk under it",
		f->path, strerror(err));
	loss_note(f->fd, f->path);
}

/* job.c brings flushes together; a second one at a time is a reload's, or an end's. */
static int file_flush(struct store *s)
{
	struct file *f = file_of(s);
	int err = 0;

	/* The kernel says it once: nobody's sync comes before it is marked. */
	pthread_mutex_lock(&f->sync_lock);
	if (!atomic_load(&f->sync_lost)) {
		while (fdatasync(f->fd) < 0 && (err = errno) == EINTR)
			err = 0;
		if (err)
			sync_failed(f, err);
	}
	pthread_mutex_unlock(&f->sync_lock);
	/* What a durable write was told meanwhile, this one was not. */
	return err ? -err : atomic_load(&f->sync_lost) ? -EIO : 0;
}

static int write_all(struct file *f, const uint8_t *p, uint32_t len,
		     uint64_t off)
{
	while (len) {
		ssize_t n = pwrite(f->fd, p, len, (off_t)off);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? -errno : -EIO;
		p += n;
		off += (uint64_t)n;
		len -= (uint32_t)n;
	}
	return 0;
}

/*
 * ENOSPC, EDQUOT and ENOMEM may be this write's, which loses nothing, or the
 * sync's, of pages written long before. It need not be known which: the flush has
 * a description of its own (fsync(2): each is told of a lost page once), and is
 * told too. EIO may be of what no description keeps, such as a disk's cache, so
 * that is taken for a loss at once.
 */
static int write_durable(struct file *f, const uint8_t *p, uint32_t len,
			 uint64_t off)
{
	int err;

	while (len && f->durable_fd >= 0) {
		ssize_t n = os_pwrite_durable(f->durable_fd, p, len, off);

		if (n == -EINTR)
			continue;
		if (n == -EOPNOTSUPP || n == -ENOSYS)
			break;
		if (n <= 0) {
			err = n ? (int)n : -EIO;
			if (err == -EIO)
				sync_failed(f, EIO);
			return err;
		}
		p += n;
		off += (uint64_t)n;
		len -= (uint32_t)n;
	}
	if (len) {
		err = write_all(f, p, len, off);
		return err ? err : STORE_UNSYNCED;
	}
	/* What another one's sync was told meanwhile, this one was not. */
	return atomic_load(&f->sync_lost) ? -EIO : 0;
}

static int file_write(struct store *s, const void *buf, uint32_t len,
		      uint64_t off, bool fua)
{
	struct file *f = file_of(s);

	if (!fua)
		return write_all(f, buf, len, off);
	if (atomic_load(&f->sync_lost))
		return -EIO;
	return write_durable(f, buf, len, off);
}

static int write_zeroes(struct store *s, uint64_t off, uint64_t len)
{
	static const uint8_t zeroes[ZERO_PIECE];

	while (len) {
		uint32_t n = len < ZERO_PIECE ? (uint32_t)len : ZERO_PIECE;
		int err = file_write(s, zeroes, n, off, false);

		if (err)
			return err;
		off += n;
		len -= n;
	}
	return 0;
}

static bool unsupported(int err)
{
	return err == -EOPNOTSUPP || err == -ENOSYS || err == -ENODEV;
}

/* @off and @len suit the device. -EOPNOTSUPP: only by writing. */
static int zero_quickly(struct file *f, uint64_t off, uint64_t len,
			unsigned int flags)
{
	int err = -EOPNOTSUPP;

	if (!(flags & STORE_ZERO_NO_HOLE) && !atomic_load(&f->no_punch)) {
		err = os_punch_hole(f->fd, off, len);
		if (unsupported(err))
			atomic_store(&f->no_punch, true);
		else if (err != -EINVAL)
			return err;
	}
	/* Of a device: if it cannot do it by itself, the kernel writes zeroes. */
	if (f->device && flags & STORE_ZERO_FAST)
		return -EOPNOTSUPP;
	if (!atomic_load(&f->no_zero_range)) {
		err = os_zero_range(f->fd, off, len);
		if (unsupported(err))
			atomic_store(&f->no_zero_range, true);
		else if (err != -EINVAL)
			return err;
	}
	return -EOPNOTSUPP;
}

static int file_zero(struct store *s, uint64_t off, uint64_t len,
		     unsigned int flags)
{
	struct file *f = file_of(s);
	uint64_t head = 0, tail = 0;
	int err;

	/* fallocate(2) of a device takes whole logical blocks only. */
	if (f->device) {
		head = (f->block - off % f->block) % f->block;
		if (head > len)
			head = len;
		tail = (len - head) % f->block;
	}
	if (len > head + tail) {
		err = zero_quickly(f, off + head, len - head - tail, flags);
		if (err == -EOPNOTSUPP) {
			if (flags & STORE_ZERO_FAST)
				return -ENOTSUP;
			return write_zeroes(s, off, len);
		}
		if (err)
			return err;
	}
	err = write_zeroes(s, off, head);
	return err ? err : write_zeroes(s, off + len - tail, tail);
}

static int file_trim(struct store *s, uint64_t off, uint64_t len)
{
	struct file *f = file_of(s);
	int err;

	if (atomic_load(&f->no_discard))
		return 0;
	if (f->device) {
		uint64_t head = (f->block - off % f->block) % f->block;

		if (head >= len || len - head < f->block)
			return 0;
		len = (len - head) / f->block * f->block;
		err = os_device_discard(f->fd, off + head, len);
	} else {
		err = os_punch_hole(f->fd, off, len);
	}
	if (unsupported(err)) {
		atomic_store(&f->no_discard, true);
		return 0;
	}
	return err;
}

static int file_cache(struct store *s, uint64_t off, uint64_t len)
{
	struct file *f = file_of(s);

	(void)posix_fadvise(f->fd, (off_t)off, (off_t)len, POSIX_FADV_WILLNEED);
	return 0;
}

/*
 * A file's holes, by lseek(2). A device has none that can be asked for. A page
 * that was written but has no block yet counts as data (lseek(2) sees to it).
 */
static int file_extents(struct store *s, uint64_t off, uint64_t len,
			struct store_extent *e, unsigned int max)
{
	const uint64_t end = off + len;
	struct file *f = file_of(s);
	unsigned int n;

	for (n = 0; n < max && off < end; n++) {
		off_t next = f->device ? (off_t)off :
			     lseek(f->fd, (off_t)off, SEEK_DATA);

		e[n].flags = 0;
		if (next < 0 && errno == ENXIO) {
			/* A hole up to the end of the file, wherever that is. */
			next = lseek(f->fd, 0, SEEK_END);
			if (next >= 0 && (uint64_t)next < end)
				return file_shrunk(f, (uint64_t)next);
		}
		/* A file system that does not tell. */
		if (next < 0)
			next = (off_t)off;
		if ((uint64_t)next > off) {
			e[n].flags = NBD_STATE_HOLE | NBD_STATE_ZERO;
		} else {
			next = f->device ? -1 :
			       lseek(f->fd, (off_t)off, SEEK_HOLE);
			if (next < 0 || (uint64_t)next <= off)
				next = (off_t)end;
		}
		if ((uint64_t)next > end)
			next = (off_t)end;
		e[n].length = (uint64_t)next - off;
		off = (uint64_t)next;
		/* Neighbours may look alike when somebody writes meanwhile. */
		if (n && e[n].flags == e[n - 1].flags) {
			e[n - 1].length += e[n].length;
			n--;
		}
	}
	return (int)n;
}

/*
 * Where the holes are, looked at once. (In memory a hole that was read cannot be
 * told from zeroes.) An image that is written may lose some of them, and gain
 * others: has_hole() is a hint, and only what is told of a READ hangs on it.
 */
static void find_holes(struct file *f)
{
	const off_t size = (off_t)f->store.size;
	off_t start, end = 0;
	size_t room = 0;
	unsigned int i;

	for (i = 0; i < HOLES_LOOKED_AT && end < size; i++) {
		start = lseek(f->fd, end, SEEK_HOLE);
		if (start < 0 || start >= size)
			return;
		end = lseek(f->fd, start, SEEK_DATA);
		if (end < 0 && errno != ENXIO)
			return;
		if (end < 0 || end > size)
			end = size;
		if (end - start < HOLE_MIN)
			continue;
		if (f->n_holes == room) {
			struct hole *more = realloc(f->holes, (2 * room + 16) *
						    sizeof(*more));

			if (!more)
				return;
			f->holes = more;
			room = 2 * room + 16;
		}
		f->holes[f->n_holes++] = (struct hole){
			(uint64_t)start, (uint64_t)end,
		};
	}
}

static bool file_has_hole(struct store *s, uint64_t off, uint64_t len)
{
	struct file *f = file_of(s);
	size_t low = 0, high = f->n_holes;

	/* The first that ends after @off. */
	while (low < high) {
		size_t mid = (low + high) / 2;

		if (f->holes[mid].end <= off)
			low = mid + 1;
		else
			high = mid;
	}
	return low < f->n_holes && f->holes[low].start < off + len;
}

static const struct store_ops file_ops = {
	.name = "file",
	.close = file_close,
	.read = file_read,
	.read_now = file_read_now,
	.send_fd = file_send_fd,
	.write = file_write,
	.zero = file_zero,
	.trim = file_trim,
	.flush = file_flush,
	.cache = file_cache,
	.extents = file_extents,
	.has_hole = file_has_hole,
};

/* 0, or -EWOULDBLOCK when another process keeps the lock. */
static int take_lock(int fd, const char *path, bool shared)
{
	const struct timespec step = { .tv_nsec = 20 * 1000000L };
	int waited;

	for (waited = 0; ; waited += 20) {
		if (!flock(fd, (shared ? LOCK_SH : LOCK_EX) | LOCK_NB))
			return 0;
		if (errno != EWOULDBLOCK) {
			log_msg(LOG_NOTICE, "%s: cannot be locked here (%s): take care that no other server writes it",
				path, strerror(errno));
			return 0;
		}
		if (waited >= LOCK_PATIENCE)
			return -EWOULDBLOCK;
		nanosleep(&step, NULL);
	}
}

static const char *open_hint(int err, bool read_only)
{
	switch (err) {
	case EROFS:
	case EACCES:
		return read_only ? "" : "; to serve it read-only, say -r";
	case EBUSY:
		return "; it is mounted or in use: unmount it first, or serve it read-only with -r";
	case EISDIR:
		return "; name an image in it";
	case ENOENT:
		return "; name an image or a block device that exists (truncate -s 1G FILE makes an empty one)";
	default:
		return "";
	}
}

static int find_size(struct file *f, const struct stat *st, uint64_t want,
		     char *why, size_t why_size)
{
	uint64_t size;
	int err;

	if (f->device) {
		err = os_device_size(f->fd, &size);
		if (!err)
			err = os_device_block(f->fd, &f->block);
		if (err) {
			snprintf(why, why_size, "%s: cannot ask the device for its size: %s",
				 f->path, strerror(-err));
			return err;
		}
	} else {
		size = (uint64_t)st->st_size;
	}
	if (want > size) {
		snprintf(why, why_size, "%s: has %llu bytes, fewer than the %llu to be served; make it that long first: truncate -s %llu %s",
			 f->path, (unsigned long long)size,
			 (unsigned long long)want, (unsigned long long)want,
			 f->path);
		return -EINVAL;
	}
	if (!size) {
		snprintf(why, why_size, "%s: is empty; nothing to serve (truncate -s 1G %s makes room)",
			 f->path, f->path);
		return -EINVAL;
	}
	f->store.size = want ? want : size;
	f->store.pref_block = 4096;
	if (f->device && f->block > 4096)
		f->store.pref_block = f->block;
	return 0;
}

int store_file_fd(const struct store *s)
{
	return ((const struct file *)s)->fd;
}

struct store *store_file_open(const char *path, bool read_only, uint64_t size,
			      char *why, size_t why_size)
{
	struct file *f = calloc(1, sizeof(*f) + strlen(path) + 1);
	int flags = O_CLOEXEC | O_NONBLOCK | (read_only ? O_RDONLY : O_RDWR);
	struct stat st;

	if (!f) {
		snprintf(why, why_size, "%s: out of memory", path);
		return NULL;
	}
	f->store.ops = &file_ops;
	pthread_mutex_init(&f->sync_lock, NULL);
	strcpy(f->path, path);
	/* O_NONBLOCK: a FIFO must not hang us before we can refuse it. */
	f->fd = f->durable_fd = -1;
	if (!stat(path, &st) && S_ISBLK(st.st_mode) && !read_only)
		flags |= O_EXCL;
	f->fd = open(path, flags);
	if (f->fd < 0) {
		snprintf(why, why_size, "%s: %s%s", path, strerror(errno),
			 open_hint(errno, read_only));
		goto fail;
	}
	if (fstat(f->fd, &st) < 0 ||
	    !(S_ISREG(st.st_mode) || S_ISBLK(st.st_mode))) {
		snprintf(why, why_size, "%s: not a regular file or a block device",
			 path);
		goto fail;
	}
	(void)fcntl(f->fd, F_SETFL, fcntl(f->fd, F_GETFL) & ~O_NONBLOCK);
	f->device = S_ISBLK(st.st_mode);
	if (find_size(f, &st, size, why, why_size))
		goto fail;
	if (take_lock(f->fd, f->path, read_only)) {
		snprintf(why, why_size, "%s: in use by another process (another nbd-server?); stop that one, or copy the image%s",
			 path, read_only ? "" : "; several servers may share it if all of them serve it read-only (-r)");
		goto fail;
	}
	if (!read_only) {
		f->durable_fd = os_reopen(f->fd);
		atomic_store(&f->sync_lost, loss_is_known(f->fd));
	}
	if (!f->device)
		find_holes(f);
	f->map = mmap(NULL, f->store.size, PROT_READ,
		      MAP_SHARED | MAP_NORESERVE, f->fd, 0);
	if (f->map == MAP_FAILED)
		f->map = NULL;
	/* "lockmemory": of it nothing is touched, but all of it would count. */
	if (f->map)
		os_unlock_memory(f->map, f->store.size);
	f->map_len = f->store.size;
	return &f->store;
fail:
	file_close(&f->store);
	return NULL;
}
