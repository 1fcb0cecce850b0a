// SPDX-License-Identifier: GPL-2.0
/*
 * server.c - talking to an NBD server: see server.h. The negotiation is
 * proto/nbd-nego.c; this file is its socket and its patience.
 */
#include "sys.h"
#include "server.h"
#include "text.h"

#define CONNECT_MS	3000
#define STEP_MS		5000	/* without a byte */
#define TOTAL_MS	15000

/* Wait until @fd is ready for @events. 0 or an errno. */
static int wait_for(int fd, short events, unsigned long long end)
{
	struct pollfd p = { .fd = fd, .events = events };
	unsigned long long now;

	for (;;) {
		now = clock_ms();
		if (now >= end)
			return ETIMEDOUT;
		if (poll(&p, 1, (int)(end - now)) > 0)
			return 0;
	}
}

static int connected(int fd)
{
	int error = wait_for(fd, POLLOUT, clock_ms() + CONNECT_MS);
	socklen_t len = sizeof(error);

	if (!error && getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0)
		error = errno;
	return error;
}

/* One send or recv of the negotiation. 0 or an errno. */
static int step(struct nbd_nego *n, int fd, bool sending,
		unsigned long long end)
{
	unsigned long long limit = clock_ms() + STEP_MS;
	const u8 *out;
	ssize_t done;
	size_t len;
	u8 *in;
	int error;

	error = wait_for(fd, sending ? POLLOUT : POLLIN,
			 limit < end ? limit : end);
	if (error)
		return error;
	if (sending) {
		out = nbd_nego_tx(n, &len);
		done = send(fd, out, len, MSG_NOSIGNAL);
	} else {
		in = nbd_nego_rx(n, &len);
		done = recv(fd, in, len, 0);
	}
	if (done < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : errno;
	if (sending)
		nbd_nego_tx_done(n, (size_t)done);
	else if (done)
		nbd_nego_rx_done(n, (size_t)done);
	else
		nbd_nego_eof(n);
	return 0;
}

/* Until the negotiation ends. 0 or an errno. */
static int talk(struct nbd_nego *n, int fd, list_fn fn, void *context)
{
	unsigned long long end = clock_ms() + TOTAL_MS;
	int error = 0;

	while (!error) {
		enum nbd_nego_want want = nbd_nego_next(n);

		if (want == NBD_NEGO_ITEM) {
			fn(context, n->item.name, n->item.description);
			nbd_nego_item_done(n);
		} else if (want == NBD_NEGO_SEND || want == NBD_NEGO_RECV) {
			error = step(n, fd, want == NBD_NEGO_SEND, end);
		} else {
			break;
		}
	}
	return error;
}

/* What the driver would make of it. */
static int errno_of(const struct nbd_nego *n)
{
	if (n->error == NBD_NEGO_CLOSED)
		return ECONNRESET;
	if (n->error != NBD_NEGO_REFUSED)
		return EPROTO;
	switch (n->refusal) {
	case NBD_REP_ERR_UNKNOWN:
		return ENOENT;
	case NBD_REP_ERR_POLICY:
		return EACCES;
	default:
		return EOPNOTSUPP;
	}
}

/* @export is NULL to list; the socket stays open where *@fd is wanted. */
static int converse(const struct address *a, const char *export, list_fn fn,
		    void *context, int *fd, struct nbd_export *found, char *why,
		    size_t size)
{
	static struct nbd_nego n;
	int sock, error;

	why[0] = '\0';
	sock = address_connect(a, SOCK_STREAM);
	error = sock < 0 ? errno : connected(sock);
	if (error) {
		if (error == ENODEV)
			append(why, size, "there is no network interface %s yet",
			       a->zone);
		else
			append(why, size, "%s", error_text(error));
		/* To whoever called, ENOENT is an export, EACCES a rule. */
		if (a->family == AF_UNIX)
			error = ENOTCONN;
		goto out;
	}
	nbd_nego_init(&n, export ? NBD_NEGO_GO : NBD_NEGO_LIST, export,
		      export ? strlen(export) : 0);
	error = talk(&n, sock, fn, context);
	if (error == ETIMEDOUT) {
		append(why, size, "connected, but silent (timed out); is it an NBD server, and is it well?");
		error = EPROTO;	/* not -1: it may come to itself */
	} else if (error) {
		append(why, size, "%s", error_text(error));
	} else if (nbd_nego_next(&n) == NBD_NEGO_FAIL) {
		nbd_nego_explain(&n, why, size);
		error = errno_of(&n);
	}
out:
	if (!error && export) {
		*fd = sock;
		*found = n.export;
	} else if (sock >= 0) {
		close(sock);
	}
	return error;
}

int server_list(const struct address *a, list_fn fn, void *context, char *why,
		size_t size)
{
	return converse(a, NULL, fn, context, NULL, NULL, why, size);
}

int server_open(const struct address *a, const char *export, int *fd,
		struct nbd_export *found, char *why, size_t size)
{
	return converse(a, export, NULL, NULL, fd, found, why, size);
}
