// SPDX-License-Identifier: GPL-2.0
/*
 * faulty.c - a disk whose syncs are watched and can fail, for LD_PRELOAD: each
 * fdatasync() adds a line with the file's name to $FAULTY.log; the one that finds
 * $FAULTY.fail takes that away and says EIO. As Linux, which says it once.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

int fdatasync(int fd)
{
	const char *name = getenv("FAULTY");
	char path[4096], link[64], file[4096];
	ssize_t n;
	int log;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	n = readlink(link, file, sizeof(file) - 1);
	if (n < 0)
		n = 0;
	file[n++] = '\n';
	snprintf(path, sizeof(path), "%s.log", name);
	log = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
	if (log < 0 || write(log, file, (size_t)n) != n)
		abort();
	close(log);
	snprintf(path, sizeof(path), "%s.fail", name);
	if (unlink(path))
		return (int)syscall(SYS_fdatasync, fd);
	errno = EIO;
	return -1;
}
