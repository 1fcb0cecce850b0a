/* SPDX-License-Identifier: GPL-2.0 */
/*
 * sys.h - the system headers, the same for klibc, musl and glibc. klibc has
 * no netdb.h, no clock_gettime, no getline and an ioctl of exactly three
 * arguments; what it lacks is not used anywhere in this folder.
 * Nor is what brings its malloc or its stdio along: opendir, printf, strtoull.
 */
#ifndef CLIENT_SYS_H
#define CLIENT_SYS_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE	/* getdents64 of glibc and musl */
#endif

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/types.h>
#include <sys/socket.h>
#include <netinet/in.h>
#ifdef __KLIBC__
#include <netinet/in6.h>
#endif
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/times.h>
#include <sys/un.h>
#include <sys/utsname.h>
#include <sys/wait.h>

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

/* Records of struct dirent into @buf; their length in bytes, 0 at the end, or -1. */
static inline long sys_getdents(int fd, void *buf, size_t size)
{
#ifdef __KLIBC__
	return getdents((unsigned int)fd, buf, (unsigned int)size);
#else
	return getdents64(fd, buf, size);
#endif
}

#endif /* CLIENT_SYS_H */
