// SPDX-License-Identifier: GPL-2.0
/*
 * stopwatch.c - how long a command takes, from just before its exec to its end:
 *
 *	stopwatch COUNT BETWEEN COMMAND...
 *
 * runs COMMAND so often, and BETWEEN (a shell's line) after each, which is not
 * counted. Prints the microseconds of each run, the quickest first.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

int main(int argc, char **argv)
{
	int count = argc > 3 ? atoi(argv[1]) : 0, status, i;
	uint64_t *took;

	if (count < 1) {
		fprintf(stderr, "usage: stopwatch COUNT BETWEEN COMMAND...\n");
		return 2;
	}
	took = calloc((size_t)count, sizeof(*took));
	if (!took)
		return 1;
	for (i = 0; i < count; i++) {
		uint64_t start;
		pid_t pid;

		/* The child's own fork is not the command's: time it by vfork. */
		start = now();
		pid = vfork();
		if (!pid) {
			execvp(argv[3], argv + 3);
			_exit(127);
		}
		if (pid < 0 || waitpid(pid, &status, 0) != pid || status) {
			fprintf(stderr, "stopwatch: %s failed\n", argv[3]);
			return 1;
		}
		took[i] = now() - start;
		if (system(argv[2])) {
			fprintf(stderr, "stopwatch: \"%s\" failed\n", argv[2]);
			return 1;
		}
	}
	qsort(took, (size_t)count, sizeof(*took), compare);
	for (i = 0; i < count; i++)
		printf("%llu ", (unsigned long long)took[i]);
	printf("us\n");
	return 0;
}
