// SPDX-License-Identifier: GPL-2.0
/*
 * keeper.c - a server in the station itself that keeps its answers until it has
 * several to give.
 *
 *	keeper PORT BATCH PAUSE
 *
 * serves 16 MiB of zeroes, read-only, to one connection on 127.0.0.1, where the
 * station's own TCP is at both ends. It answers BATCH READs by one send; fewer
 * when nothing has come for 20 ms. With a PAUSE (in ms) it answers BATCH of those
 * that have come and then looks at nothing for so long, so that its TCP takes its
 * time to acknowledge what comes.
 *
 * When the driver has said goodbye it prints how many READs came, in how many
 * segments, and, with a PAUSE, how many ms after each answer the last of as many
 * new READs had come (PAUSE: not in time).
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <endian.h>
#include <linux/tcp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define SIZE		(16 << 20)
#define IDLE		20		/* ms */
#define MAX_KEPT	256
#define MAX_LATE	512
#define PACKED		__attribute__((packed))

struct PACKED option { uint64_t magic; uint32_t option, length; };
struct PACKED option_reply { uint64_t magic; uint32_t option, type, length; };
struct PACKED export_info { uint16_t type; uint64_t size; uint16_t flags; };
struct PACKED request {
	uint32_t magic;
	uint16_t flags, type;
	uint64_t cookie, offset;
	uint32_t length;
};
struct PACKED reply { uint32_t magic, error; uint64_t cookie; };

static int sock;
static struct request kept[MAX_KEPT];
static unsigned int nr_kept;
static unsigned char out[SIZE];
static double late[MAX_LATE];
static unsigned int nr_late;

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}

static void put(const void *data, size_t len)
{
	if (send(sock, data, len, MSG_NOSIGNAL) != (ssize_t)len)
		die("send");
}

static void get(void *data, size_t len)
{
	int off = 0;

	if (recv(sock, data, len, MSG_WAITALL) != (ssize_t)len)
		die("recv");
	/* It sets a mode, and each acknowledgment may end that. */
	setsockopt(sock, IPPROTO_TCP, TCP_QUICKACK, &off, sizeof(off));
}

static unsigned int segments(void)
{
	struct tcp_info info = { };
	socklen_t len = sizeof(info);

	if (getsockopt(sock, IPPROTO_TCP, TCP_INFO, &info, &len))
		die("TCP_INFO");
	return info.tcpi_data_segs_in;
}

static void answer_option(uint32_t option, uint32_t type, const void *data,
			  size_t len)
{
	struct option_reply r = {
		htobe64(0x3e889045565a9), option, htobe32(type), htobe32(len)
	};

	put(&r, sizeof(r));
	if (len)
		put(data, len);
}

static void negotiate(void)
{
	static const char hello[] = "NBDMAGICIHAVEOPT\0\3";
	struct export_info info = { 0, htobe64(SIZE), htobe16(1 | 2) };
	struct option o;
	uint32_t flags;

	put(hello, 18);
	get(&flags, sizeof(flags));
	for (;;) {
		get(&o, sizeof(o));
		if (be32toh(o.length))
			get(out, be32toh(o.length));
		if (o.option == htobe32(7))	/* NBD_OPT_GO */
			break;
		answer_option(o.option, 0x80000001, NULL, 0);
	}
	answer_option(o.option, 3, &info, sizeof(info));
	answer_option(o.option, 1, NULL, 0);
	memset(out, 0, sizeof(out));
}

/* The oldest @n that were kept. */
static void answer(unsigned int n)
{
	size_t len = 0;
	unsigned int i;

	for (i = 0; i < n; i++) {
		struct reply r = { htobe32(0x67446698), 0, kept[i].cookie };
		size_t data = be32toh(kept[i].length);

		if (len + sizeof(r) + data > sizeof(out)) {
			put(out, len);
			len = 0;
		}
		memcpy(out + len, &r, sizeof(r));
		memset(out + len + sizeof(r), 0, data);
		len += sizeof(r) + data;
	}
	put(out, len);
	nr_kept -= n;
	memmove(kept, kept + n, nr_kept * sizeof(*kept));
}

static int came(int ms)
{
	struct pollfd p = { sock, POLLIN, 0 };

	return poll(&p, 1, ms) > 0;
}

/* Wait @pause ms: after how many of them have @batch new requests come? */
static double wait_and_see(unsigned int batch, unsigned int pause)
{
	double start = now(), passed, seen = pause;
	int bytes;

	while ((passed = now() - start) < pause) {
		if (ioctl(sock, FIONREAD, &bytes))
			die("FIONREAD");
		if (seen == pause && bytes >= (int)(batch * sizeof(*kept)))
			seen = passed;
		usleep(500);
	}
	return seen;
}

int main(int argc, char **argv)
{
	struct sockaddr_in addr = { .sin_family = AF_INET };
	unsigned int batch, pause, segs, requests = 0, i;
	int listener, on = 1;

	if (argc != 4)
		return 2;
	addr.sin_port = htons(atoi(argv[1]));
	addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	batch = atoi(argv[2]);
	pause = atoi(argv[3]);
	listener = socket(AF_INET, SOCK_STREAM, 0);
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (bind(listener, (struct sockaddr *)&addr, sizeof(addr)) ||
	    listen(listener, 1))
		die("listen");
	puts("listening");
	fflush(stdout);
	sock = accept(listener, NULL, NULL);
	if (sock < 0)
		die("accept");
	setsockopt(sock, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	negotiate();
	segs = segments();

	for (;;) {
		if (nr_kept < MAX_KEPT && came(pause && nr_kept ? 0 : IDLE)) {
			struct request *r = &kept[nr_kept];

			get(r, sizeof(*r));
			if (r->type == htobe16(2))	/* NBD_CMD_DISC */
				break;
			nr_kept++;
			requests++;
			if (pause || nr_kept < batch)
				continue;
		}
		if (!nr_kept)
			continue;
		answer(nr_kept < batch ? nr_kept : batch);
		if (pause && nr_late < MAX_LATE)
			late[nr_late++] = wait_and_see(batch, pause);
	}
	printf("%u %u", requests, segments() - segs);
	for (i = 0; i < nr_late; i++)
		printf(" %.1f", late[i]);
	puts("");
	return 0;
}
