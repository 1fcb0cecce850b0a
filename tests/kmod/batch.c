// SPDX-License-Identifier: GPL-2.0
/*
 * batch r|w FILE N - N requests of 4 KiB, at every second block from the start,
 * by one io_submit(). They are written from, or must read as, the words that say
 * where they are.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define BLOCK	4096
#define MAX	64

static uint32_t *buf[MAX];
static struct iocb cb[MAX], *list[MAX];
static struct io_event ev[MAX];

static int die(const char *what)
{
	perror(what);
	return 1;
}

static void fill(uint32_t *p, uint32_t block)
{
	unsigned int i;

	for (i = 0; i < BLOCK / sizeof(*p); i++)
		p[i] = block << 16 | i;
}

int main(int argc, char **argv)
{
	int n = argc == 4 ? atoi(argv[3]) : 0, i, fd, write;
	static uint32_t want[BLOCK / sizeof(uint32_t)];
	aio_context_t ctx = 0;

	if (n < 1 || n > MAX)
		return 2;
	write = *argv[1] == 'w';
	fd = open(argv[2], (write ? O_WRONLY : O_RDONLY) | O_DIRECT);
	if (fd < 0 || syscall(SYS_io_setup, n, &ctx))
		return die(argv[2]);
	for (i = 0; i < n; i++) {
		if (posix_memalign((void **)&buf[i], BLOCK, BLOCK))
			return die("memory");
		memset(buf[i], 0, BLOCK);
		if (write)
			fill(buf[i], 2 * i);
		cb[i].aio_lio_opcode = write ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD;
		cb[i].aio_fildes = fd;
		cb[i].aio_buf = (uintptr_t)buf[i];
		cb[i].aio_nbytes = BLOCK;
		cb[i].aio_offset = 2LL * i * BLOCK;
		list[i] = &cb[i];
	}
	if (syscall(SYS_io_submit, ctx, n, list) != n)
		return die("io_submit");
	if (syscall(SYS_io_getevents, ctx, n, n, ev, NULL) != n)
		return die("io_getevents");
	for (i = 0; i < n; i++) {
		if (ev[i].res != BLOCK) {
			fprintf(stderr, "a request ended with %lld\n",
				(long long)ev[i].res);
			return 1;
		}
		fill(want, 2 * i);
		if (!write && memcmp(buf[i], want, BLOCK)) {
			fprintf(stderr, "block %d is wrong\n", 2 * i);
			return 1;
		}
	}
	return 0;
}
