// SPDX-License-Identifier: GPL-2.0
/*
 * slowdisk.c - preloaded into nbd-server: a disk with a will of its own.
 *
 *	SLOWDISK_GATE=FILE	while FILE is there, one write stays in the disk's
 *				hands; FILE.held is there when it has it. The
 *				others pass.
 *	SLOWDISK_NOLOCK=1	it knows no locks, as some network file systems
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/uio.h>
#include <unistd.h>

static void gate(void)
{
	static atomic_flag taken = ATOMIC_FLAG_INIT;
	const char *path = getenv("SLOWDISK_GATE");
	char held[4096];
	int fd;

	if (!path || access(path, F_OK) || atomic_flag_test_and_set(&taken))
		return;
	snprintf(held, sizeof(held), "%s.held", path);
	fd = open(held, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	if (fd >= 0)
		close(fd);
	while (!access(path, F_OK))
		usleep(5000);
}

ssize_t pwrite(int fd, const void *data, size_t len, off_t at)
{
	ssize_t (*real)(int, const void *, size_t, off_t) =
		(ssize_t (*)(int, const void *, size_t, off_t))dlsym(RTLD_NEXT, "pwrite");

	gate();
	return real(fd, data, len, at);
}

ssize_t pwritev2(int fd, const struct iovec *iov, int n, off_t at, int flags)
{
	ssize_t (*real)(int, const struct iovec *, int, off_t, int) =
		(ssize_t (*)(int, const struct iovec *, int, off_t, int))dlsym(RTLD_NEXT, "pwritev2");

	gate();
	return real(fd, iov, n, at, flags);
}

int flock(int fd, int how)
{
	int (*real)(int, int) = (int (*)(int, int))dlsym(RTLD_NEXT, "flock");

	if (getenv("SLOWDISK_NOLOCK")) {
		errno = ENOLCK;
		return -1;
	}
	return real(fd, how);
}
