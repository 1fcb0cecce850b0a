// SPDX-License-Identifier: GPL-2.0
/*
 * load.c - a load of NBD requests that costs as little as it can, so that what
 * is measured is the server: replies are counted by their bytes and thrown away
 * in the kernel (MSG_TRUNC, tcp(7)), requests are sent as many at a time as
 * replies have come. Before that a few reads are held against the image, so
 * that a fast server is also a right one.
 *
 *	load PORT EXPORT IMAGE read|seq|write|idle CONNECTIONS DEPTH SIZE SECONDS
 *
 * Negotiates with NBD_OPT_EXPORT_NAME, which every server knows. Prints
 * "ready" when all are connected and waits for a line; then works for SECONDS
 * and prints requests, seconds, median and 99th percentile (microseconds; only
 * when DEPTH is 1); then keeps the connections until its input ends. "idle"
 * only connects; "read!" and "seq!" take the data unseen.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "nbd-wire.h"

#define SAMPLES	(1U << 20)
#define CHECKS	32

struct conn {
	int fd;
	uint64_t got;		/* bytes of replies since the last whole one */
	uint64_t next;		/* sequential: where */
	unsigned int flying;	/* requests without a reply */
	double since;
};

static uint64_t image_size;
static unsigned int size, depth;
static bool writes, sequential, checks;
static uint32_t *sample;
static unsigned int samples;
static uint8_t *requests;
static size_t request_size;

static void die(const char *what)
{
	fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
	exit(1);
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void get(int fd, void *p, size_t n)
{
	if (recv(fd, p, n, MSG_WAITALL) != (ssize_t)n)
		die("a reply");
}

static void put(int fd, const void *p, size_t n)
{
	while (n) {
		ssize_t k = send(fd, p, n, MSG_NOSIGNAL);

		if (k < 0)
			die("send");
		p = (const char *)p + k;
		n -= (size_t)k;
	}
}

static int dial(int port, const char *export)
{
	struct sockaddr_in a = {
		.sin_family = AF_INET,
		.sin_port = htons((uint16_t)port),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
	const struct nbd_option o = { NBD_OPT_EXPORT_NAME, (u32)strlen(export) };
	u8 buf[64];
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;

	if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof(a)))
		die("connect");
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	get(fd, buf, NBD_GREETING_SIZE);
	nbd_put32(buf, NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES);
	nbd_option_put(buf + 4, &o);
	put(fd, buf, 4 + NBD_OPTION_SIZE);
	put(fd, export, o.length);
	get(fd, buf, NBD_EXPORT_NAME_REPLY_SIZE);
	return fd;
}

static uint64_t somewhere(struct conn *c)
{
	static uint64_t seed = 88172645463325252ULL;
	uint64_t at;

	if (sequential) {
		at = c->next;
		c->next += size;
		if (c->next + size > image_size)
			c->next = 0;
		return at;
	}
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed % (image_size / size) * size;
}

/* @n requests more; they go out in one send. */
static void issue(struct conn *c, unsigned int n)
{
	unsigned int i;

	for (i = 0; i < n; i++) {
		const struct nbd_request r = {
			.type = writes ? NBD_CMD_WRITE : NBD_CMD_READ,
			.cookie = i, .offset = somewhere(c), .length = size,
		};

		nbd_request_put(requests + i * request_size, &r);
	}
	put(c->fd, requests, n * request_size);
	c->flying += n;
	c->since = depth == 1 ? now() : 0;
}

/* What has come, in requests. */
static unsigned int harvest(struct conn *c)
{
	const uint64_t whole = NBD_SIMPLE_REPLY_SIZE + (writes ? 0 : size);
	ssize_t n = recv(c->fd, NULL, 16 << 20, MSG_TRUNC | MSG_DONTWAIT);
	unsigned int done;

	if (n < 0 && errno == EAGAIN)
		return 0;
	if (n <= 0)
		die("the server hung up");
	c->got += (uint64_t)n;
	done = (unsigned int)(c->got / whole);
	c->got %= whole;
	c->flying -= done;
	if (done && depth == 1 && samples < SAMPLES)
		sample[samples++] = (uint32_t)((now() - c->since) * 1e9);
	return done;
}

/* Every byte of some reads is the image's. */
static void check(struct conn *c, int image)
{
	u8 *want = malloc(size), *have = malloc(size), head[NBD_SIMPLE_REPLY_SIZE];
	struct nbd_simple_reply r;
	int i;

	for (i = 0; i < CHECKS; i++) {
		const struct nbd_request q = {
			.type = NBD_CMD_READ, .cookie = 1000 + (u64)i,
			.offset = somewhere(c), .length = size,
		};
		u8 buf[NBD_REQUEST_SIZE];

		nbd_request_put(buf, &q);
		put(c->fd, buf, sizeof(buf));
		get(c->fd, head, sizeof(head));
		if (!nbd_simple_reply_get(head, &r) || r.error ||
		    r.cookie != q.cookie)
			die("a reply that is wrong");
		get(c->fd, have, size);
		if (pread(image, want, size, (off_t)q.offset) != (ssize_t)size ||
		    memcmp(want, have, size))
			die("wrong data");
	}
	free(want);
	free(have);
}

static int compare(const void *a, const void *b)
{
	const uint32_t *x = a, *y = b;

	return *x < *y ? -1 : *x > *y;
}

static double percentile(double p)
{
	return samples ? sample[(size_t)(p * (samples - 1))] / 1e3 : 0;
}

static void wait_line(void)
{
	char buf[8];

	if (read(STDIN_FILENO, buf, sizeof(buf)) < 0)
		die("stdin");
}

int main(int argc, char **argv)
{
	struct rlimit files = { 65536, 65536 };
	struct epoll_event e[64];
	unsigned int n, i;
	struct conn *conn;
	int image, ep;
	double start, end, t;
	uint64_t total = 0;
	struct stat st;
	bool idle;

	if (argc != 9) {
		fprintf(stderr, "usage: load PORT EXPORT IMAGE read|seq|write|idle CONNECTIONS DEPTH SIZE SECONDS\n");
		return 1;
	}
	setrlimit(RLIMIT_NOFILE, &files);
	image = open(argv[3], O_RDONLY);
	if (image < 0 || fstat(image, &st))
		die(argv[3]);
	image_size = (uint64_t)st.st_size;
	writes = !strcmp(argv[4], "write");
	sequential = !strncmp(argv[4], "seq", 3);
	checks = !strchr(argv[4], '!') && !writes;
	idle = !strcmp(argv[4], "idle");
	n = (unsigned int)atoi(argv[5]);
	depth = (unsigned int)atoi(argv[6]);
	size = (unsigned int)atoi(argv[7]);
	request_size = NBD_REQUEST_SIZE + (writes ? size : 0);
	requests = calloc(depth, request_size);
	sample = malloc(SAMPLES * sizeof(*sample));
	conn = calloc(n, sizeof(*conn));
	ep = epoll_create1(0);
	start = now();
	for (i = 0; i < n; i++) {
		struct epoll_event ev = { .events = EPOLLIN, .data.ptr = &conn[i] };

		conn[i].fd = dial(atoi(argv[1]), argv[2]);
		conn[i].next = image_size / n / size * size * i;
		epoll_ctl(ep, EPOLL_CTL_ADD, conn[i].fd, &ev);
		if (i < 4 && !idle && checks)
			check(&conn[i], image);
	}
	printf("ready %.6f\n", now() - start);
	fflush(stdout);
	wait_line();
	if (idle) {
		wait_line();
		return 0;
	}
	start = now();
	end = start + atof(argv[8]);
	for (i = 0; i < n; i++)
		issue(&conn[i], depth);
	do {
		int k = epoll_wait(ep, e, 64, 10000), j;

		if (k <= 0)
			die("no reply for 10 s");
		for (j = 0; j < k; j++) {
			struct conn *c = e[j].data.ptr;
			unsigned int done = harvest(c);

			total += done;
			if (done)
				issue(c, done);
		}
		t = now();
	} while (t < end);
	for (i = 0; i < n; i++) {
		struct pollfd p = { .fd = conn[i].fd, .events = POLLIN };

		while (conn[i].flying && poll(&p, 1, 10000) > 0)
			harvest(&conn[i]);
	}
	qsort(sample, samples, sizeof(*sample), compare);
	printf("%llu %.6f %.2f %.2f\n", (unsigned long long)total, t - start,
	       percentile(.5), percentile(.99));
	fflush(stdout);
	wait_line();
	/* A polite end: some servers mind another one. */
	for (i = 0; i < n; i++) {
		const struct nbd_request bye = { .type = NBD_CMD_DISC };
		u8 buf[NBD_REQUEST_SIZE];

		nbd_request_put(buf, &bye);
		put(conn[i].fd, buf, sizeof(buf));
	}
	return 0;
}
