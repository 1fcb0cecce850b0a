// SPDX-License-Identifier: GPL-2.0
/*
 * os-linux.c - os.h for Linux 4.14 and later.
 */
#define _GNU_SOURCE
#include "os.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

/* Since Linux 5.6. */
#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER	57
#endif

ssize_t os_pread_now(int fd, void *buf, size_t len, uint64_t off)
{
	struct iovec iov = { buf, len };
	ssize_t n = preadv2(fd, &iov, 1, (off_t)off, RWF_NOWAIT);

	if (n >= 0)
		return n;
	/* A file system without it: the caller has another way. */
	return errno == EOPNOTSUPP || errno == ENOSYS ? -EAGAIN : -errno;
}

ssize_t os_pwrite_durable(int fd, const void *buf, size_t len, uint64_t off)
{
	struct iovec iov = { (void *)buf, len };
	ssize_t n = pwritev2(fd, &iov, 1, (off_t)off, RWF_DSYNC);

	return n < 0 ? -errno : n;
}

int os_reopen(int fd)
{
	char link[64];
	int again;

	/* Whatever its name is by now. */
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	again = open(link, O_WRONLY | O_CLOEXEC);
	return again < 0 ? -errno : again;
}

static int allocate(int fd, int mode, uint64_t off, uint64_t len)
{
	int r;

	do
		r = fallocate(fd, mode | FALLOC_FL_KEEP_SIZE, (off_t)off,
			      (off_t)len);
	while (r < 0 && errno == EINTR);
	return r < 0 ? -errno : 0;
}

int os_punch_hole(int fd, uint64_t off, uint64_t len)
{
	return allocate(fd, FALLOC_FL_PUNCH_HOLE, off, len);
}

int os_zero_range(int fd, uint64_t off, uint64_t len)
{
	return allocate(fd, FALLOC_FL_ZERO_RANGE, off, len);
}

int os_device_size(int fd, uint64_t *size)
{
	return ioctl(fd, BLKGETSIZE64, size) < 0 ? -errno : 0;
}

int os_device_block(int fd, uint32_t *logical)
{
	int n;

	if (ioctl(fd, BLKSSZGET, &n) < 0)
		return -errno;
	*logical = (uint32_t)n;
	return 0;
}

int os_device_discard(int fd, uint64_t off, uint64_t len)
{
	uint64_t range[2] = { off, len };

	return ioctl(fd, BLKDISCARD, range) < 0 ? -errno : 0;
}

/*
 * mincore(2) tells the truth only to the file's owner, to root and to those
 * who may write it; to others every page is "in memory".
 */
bool os_resident_usable(int fd)
{
	char link[64];
	struct stat st;

	if (fstat(fd, &st) < 0)
		return false;
	if (!geteuid() || geteuid() == st.st_uid)
		return true;
	link[0] = '\0';
	/* /proc/self/fd answers for the file that is open, whatever its name. */
	if (snprintf(link, sizeof(link), "/proc/self/fd/%d", fd) < 0)
		return false;
	return !faccessat(AT_FDCWD, link, W_OK, AT_EACCESS);
}

bool os_resident(const void *map, uint64_t off, size_t len)
{
	const size_t page = (size_t)sysconf(_SC_PAGESIZE), batch = 1024;
	unsigned char vec[1024];
	uint64_t end = off + len;

	off &= ~(uint64_t)(page - 1);
	while (off < end) {
		size_t n = (size_t)((end - off + page - 1) / page), i;

		if (n > batch)
			n = batch;
		if (mincore((char *)(uintptr_t)map + off, n * page, vec) < 0)
			return false;
		for (i = 0; i < n; i++)
			if (!(vec[i] & 1))
				return false;
		off += n * page;
	}
	return true;
}

ssize_t os_recv(int sock, struct iovec *iov, int n)
{
	struct msghdr m = { .msg_iov = iov, .msg_iovlen = (size_t)n };
	ssize_t r;

	do
		r = recvmsg(sock, &m, MSG_DONTWAIT);
	while (r < 0 && errno == EINTR);
	return r < 0 ? -errno : r;
}

ssize_t os_send(int sock, struct iovec *iov, int n, bool more)
{
	struct msghdr m = { .msg_iov = iov, .msg_iovlen = (size_t)n };
	ssize_t r;

	do
		r = sendmsg(sock, &m, MSG_DONTWAIT | MSG_NOSIGNAL |
			    (more ? MSG_MORE : 0));
	while (r < 0 && errno == EINTR);
	return r < 0 ? -errno : r;
}

ssize_t os_sendfile(int sock, int fd, uint64_t off, size_t len)
{
	off_t pos = (off_t)off;
	ssize_t r;

	do
		r = sendfile(sock, fd, &pos, len);
	while (r < 0 && errno == EINTR);
	return r < 0 ? -errno : r;
}

bool os_unsent(int sock)
{
	int n;

	return !ioctl(sock, SIOCOUTQ, &n) && n > 0;
}

pid_t os_peer_process(int sock)
{
	struct ucred c = { .pid = 0 };
	socklen_t len = sizeof(c);

	return getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &c, &len) ? 0 : c.pid;
}

bool os_is_scheduled(pthread_t thread)
{
	struct sched_param p;
	int policy;

	return !pthread_getschedparam(thread, &policy, &p) &&
	       (policy & ~SCHED_RESET_ON_FORK) != SCHED_OTHER;
}

unsigned int os_processors(void)
{
	cpu_set_t set;

	if (!sched_getaffinity(0, sizeof(set), &set))
		return (unsigned int)CPU_COUNT(&set);
	return (unsigned int)sysconf(_SC_NPROCESSORS_ONLN);
}

/*
 * The least of the priorities. In turns, for two loops may meet on a processor
 * (a cgroup may have fewer of them than the machine).
 */
int os_realtime(pthread_t thread, bool on)
{
	const struct sched_param p = { .sched_priority = on };

	/* Not everybody may clear that flag again; it does no harm. */
	return pthread_setschedparam(thread, (on ? SCHED_RR : SCHED_OTHER) |
				     SCHED_RESET_ON_FORK, &p);
}

void os_allow_realtime(bool on)
{
	struct rlimit r;

	if (getrlimit(RLIMIT_RTPRIO, &r))
		return;
	if (!on)
		r.rlim_cur = r.rlim_max = 0;
	else if (r.rlim_max < 1)
		r.rlim_cur = r.rlim_max = 1;
	else if (r.rlim_cur < 1)
		r.rlim_cur = 1;
	/* Where it does not work, os_realtime() will say so. */
	(void)setrlimit(RLIMIT_RTPRIO, &r);
}

/*
 * Later mappings on fault only: a stack is much larger than what is used of it.
 * Everything but MCL_CURRENT goes by RLIMIT_MEMLOCK, even years from now, when we
 * may have become somebody who cannot raise it.
 */
int os_lock_memory(const char **what)
{
	const struct rlimit all = { RLIM_INFINITY, RLIM_INFINITY };

	*what = "PR_SET_IO_FLUSHER";
	if (prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0))
		return errno;
	*what = "RLIMIT_MEMLOCK";
	if (setrlimit(RLIMIT_MEMLOCK, &all))
		return errno;
	*what = "mlockall";
	if (mlockall(MCL_CURRENT) || mlockall(MCL_FUTURE | MCL_ONFAULT))
		return errno;
	return 0;
}

void os_unlock_memory(void *map, size_t len)
{
	(void)munlock(map, len);
}

static void set(int sock, int level, int name, int value)
{
	/* Each is an improvement, none is a condition. */
	(void)setsockopt(sock, level, name, &value, sizeof(value));
}

void os_tune_socket(int sock, int seconds)
{
	set(sock, IPPROTO_TCP, TCP_NODELAY, 1);
	set(sock, SOL_SOCKET, SO_KEEPALIVE, 1);
	set(sock, IPPROTO_TCP, TCP_KEEPIDLE, seconds / 2);
	set(sock, IPPROTO_TCP, TCP_KEEPINTVL, seconds / 8);
	set(sock, IPPROTO_TCP, TCP_KEEPCNT, 4);
	/* Covers data that is not acknowledged, and a window that stays shut. */
	set(sock, IPPROTO_TCP, TCP_USER_TIMEOUT, seconds * 1000);
}
