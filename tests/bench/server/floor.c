// SPDX-License-Identifier: GPL-2.0
/*
 * floor.c - the least a server can do for reads: no check of anything, a thread
 * per connection that blocks. Large reads leave by sendfile(2) behind their
 * header; small ones, as many as one recv(2) brings, by one send(2). A server
 * that must also be right can come near it, not below it.
 *
 *	floor PORT IMAGE
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "nbd-wire.h"

#define LARGE	(32U << 10)
#define IN	(64U << 10)
#define OUT	((IN / NBD_REQUEST_SIZE + 1) * (LARGE + NBD_SIMPLE_REPLY_SIZE))

static int image;
static uint64_t image_size;

static bool hello(int fd)
{
	u8 buf[NBD_MAX_STRING + 64];
	struct nbd_option o;

	nbd_put64(buf, NBD_MAGIC);
	nbd_put64(buf + 8, NBD_OPTS_MAGIC);
	nbd_put16(buf + 16, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
	send(fd, buf, NBD_GREETING_SIZE, 0);
	if (recv(fd, buf, 20, MSG_WAITALL) != 20)
		return false;
	nbd_option_get(buf + 4, &o);
	/* recv(2) of nothing would wait for something. */
	if (o.length > NBD_MAX_STRING ||
	    (o.length &&
	     recv(fd, buf, o.length, MSG_WAITALL) != (ssize_t)o.length))
		return false;
	nbd_put64(buf, image_size);
	nbd_put16(buf + 8, NBD_FLAG_HAS_FLAGS | NBD_FLAG_READ_ONLY);
	return send(fd, buf, NBD_EXPORT_NAME_REPLY_SIZE, 0) > 0;
}

static void *serve(void *arg)
{
	int fd = (int)(intptr_t)arg, on = 1;
	u8 *in = malloc(IN), *out = malloc(OUT);
	size_t have = 0, pos, len;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	if (!hello(fd))
		goto end;
	for (;;) {
		ssize_t n = recv(fd, in + have, IN - have, 0);

		if (n <= 0)
			break;
		have += (size_t)n;
		len = 0;
		for (pos = 0; have - pos >= NBD_REQUEST_SIZE;
		     pos += NBD_REQUEST_SIZE) {
			struct nbd_simple_reply a = { 0 };
			struct nbd_request r;
			off_t off;

			nbd_request_get(in + pos, &r);
			if (r.type != NBD_CMD_READ)
				goto end;
			a.cookie = r.cookie;
			nbd_simple_reply_put(out + len, &a);
			off = (off_t)r.offset;
			if (r.length < LARGE) {
				if (pread(image, out + len + NBD_SIMPLE_REPLY_SIZE,
					  r.length, off) < 0)
					goto end;
				len += NBD_SIMPLE_REPLY_SIZE + r.length;
				continue;
			}
			send(fd, out, NBD_SIMPLE_REPLY_SIZE, MSG_MORE);
			while (r.length) {
				ssize_t k = sendfile(fd, image, &off, r.length);

				if (k <= 0)
					goto end;
				r.length -= (u64)k;
			}
		}
		memmove(in, in + pos, have - pos);
		have -= pos;
		for (pos = 0; pos < len; pos += (size_t)n) {
			n = send(fd, out + pos, len - pos, MSG_NOSIGNAL);
			if (n <= 0)
				goto end;
		}
	}
end:
	close(fd);
	free(in);
	free(out);
	return NULL;
}

int main(int argc, char **argv)
{
	struct sockaddr_in a = { .sin_family = AF_INET };
	int fd = socket(AF_INET, SOCK_STREAM, 0), on = 1;
	struct stat st;

	if (argc != 3)
		return 1;
	signal(SIGPIPE, SIG_IGN);
	image = open(argv[2], O_RDONLY);
	if (image < 0 || fstat(image, &st))
		return 1;
	image_size = (uint64_t)st.st_size;
	a.sin_port = htons((uint16_t)atoi(argv[1]));
	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (bind(fd, (struct sockaddr *)&a, sizeof(a)) || listen(fd, 1024))
		return 1;
	for (;;) {
		int c = accept(fd, NULL, NULL);
		pthread_t t;

		if (c >= 0 && !pthread_create(&t, NULL, serve,
					      (void *)(intptr_t)c))
			pthread_detach(t);
	}
}
