// SPDX-License-Identifier: GPL-2.0
/*
 * stall.c - how long does a program that reads, or writes, have to wait?
 *
 *	stall r|w DEV	4 KiB after 4 KiB past the cache, until /tmp/stop is
 *			there; each one that took LONG or more is a line: when
 *			it began and when it ended, by the machine's own clock.
 *			Ends with the number of all.
 *	stall clock	what that clock says now
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define SIZE	4096
#define BLOCKS	1000
#define LONG	0.05

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
	static char buffer[SIZE] __attribute__((aligned(SIZE)));
	unsigned long n;
	int fd, writes;

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (argc == 2) {
		printf("%.6f\n", now());
		return 0;
	}
	if (argc != 3)
		return 2;
	writes = *argv[1] == 'w';
	fd = open(argv[2], (writes ? O_WRONLY : O_RDONLY) | O_DIRECT);
	if (fd < 0) {
		perror(argv[2]);
		return 1;
	}
	for (n = 0; access("/tmp/stop", F_OK); n++) {
		off_t at = (off_t)(n % BLOCKS) * SIZE;
		double start = now(), end;
		ssize_t did;

		memcpy(buffer, &n, sizeof(n));
		did = writes ? pwrite(fd, buffer, SIZE, at) :
			       pread(fd, buffer, SIZE, at);
		end = now();
		if (did != SIZE) {
			perror("FAILED");
			return 1;
		}
		if (end - start >= LONG)
			printf("%.6f %.6f\n", start, end);
	}
	printf("all %lu\n", n);
	return 0;
}
