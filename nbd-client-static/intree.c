// SPDX-License-Identifier: GPL-2.0
/*
 * intree.c - the kernel's own nbd driver: see intree.h.
 *
 * That driver is given connections that are past negotiation. One that dies it
 * only reports; somebody must bring a new one, and until then, for as long as
 * its dead-connection timeout, it waits. So a process stays behind. It does
 * nothing but poll() its own descriptor of the socket, which shows both ends of
 * a connection: the server's, and the driver's own when it gives up waiting for
 * a reply. That process must live and must not wait for the disk that it
 * serves: it is locked in memory, needs no file, and is marked with '@', so
 * that systemd spares it (systemd.io/ROOT_STORAGE_DAEMONS).
 */
#include "sys.h"
#include <sys/mman.h>
#include <sys/prctl.h>
#include "attach.h"
#include "intree.h"
#include "netlink.h"
#include "server.h"
#include "text.h"

#define LINK_SECONDS	10		/* for a reply, unless timeout= is said */
#define FOREVER_SECONDS	315360000	/* ten years */
#define FIRST_WAIT_MS	250
#define LONGEST_WAIT_MS	4000

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif
#ifndef POLLRDHUP
#define POLLRDHUP 0x2000
#endif

char *intree_mark;

const char intree_price[] =
	"a process must live on to connect again, requests under way at a loss wait for a timeout, swap can deadlock, and what a crashed server lost is not noticed";

struct message {
	struct nl_header h;
	uint8_t data[128];
};

static void *add_attr(struct message *m, uint16_t type, const void *value,
		      size_t len)
{
	struct nl_attr *a = (void *)((char *)m + m->h.len);

	a->len = (uint16_t)(sizeof(*a) + len);
	a->type = type;
	memcpy(a + 1, value, len);
	m->h.len += (uint32_t)((sizeof(*a) + len + 3) & ~3UL);
	return a + 1;
}

static void add_u64(struct message *m, uint16_t type, uint64_t value)
{
	add_attr(m, type, &value, sizeof(value));
}

static void start(struct message *m, uint16_t family, uint8_t cmd)
{
	memset(m, 0, sizeof(*m));
	m->h.len = sizeof(m->h);
	m->h.type = family;
	m->h.flags = NL_REQUEST | NL_ACK;
	m->h.cmd = cmd;
	m->h.version = 1;
}

/*
 * Send @m and read until it is acknowledged. 0 or an errno. Where @id is wanted
 * a message that comes before that tells the number of the family.
 */
static int request(struct message *m, uint16_t *id)
{
	uint32_t buf[1024];
	const struct nl_header *h = (void *)buf;
	const struct nl_attr *a;
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NL_GENERIC);
	int error;
	ssize_t n;

	if (fd < 0)
		return errno;
	if (send(fd, m, m->h.len, 0) < 0)
		goto fail;
	for (;;) {
		n = recv(fd, buf, sizeof(buf), 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < (ssize_t)sizeof(*h))
			goto fail;
		/* after the 16 bytes of nlmsghdr comes the error, negative */
		if (h->type == NL_ERROR) {
			memcpy(&error, &h->cmd, sizeof(error));
			error = -error;
			break;
		}
		if (!id)
			continue;
		for (a = (const void *)(h + 1);
		     (const char *)(a + 1) < (const char *)buf + n &&
		     a->len >= sizeof(*a);
		     a = (const void *)((const char *)a + ((a->len + 3) & ~3)))
			if (a->type == CTRL_FAMILY_ID)
				memcpy(id, a + 1, sizeof(*id));
	}
	close(fd);
	return error;
fail:
	error = errno ? errno : EIO;
	close(fd);
	return error;
}

/* A message to the driver about @device. 0 or an errno. */
static int start_command(struct message *m, uint8_t cmd, const char *device)
{
	uint64_t number = 0;
	uint16_t family = 0;
	uint32_t index;
	int error;

	start(m, GENL_CTRL, CTRL_GETFAMILY);
	add_attr(m, CTRL_FAMILY_NAME, "nbd", 4);
	error = request(m, &family);
	if (error)
		return error;
	start(m, family, cmd);
	parse_number(device + 3, strlen(device + 3), UINT32_MAX, &number);
	index = (uint32_t)number;
	add_attr(m, NBD_ATTR_INDEX, &index, sizeof(index));
	return 0;
}

/*
 * This attachment's own name. The driver refuses a RECONFIGURE with another one:
 * the process that stays must not bring its server to whatever was attached there
 * after a detach. (Before Linux 5.14 it takes no notice.)
 */
static uint32_t tag;

/* CONNECT or RECONFIGURE: give the driver the socket @fd. */
static int give_socket(uint8_t cmd, const char *device, int fd,
		       const struct nbd_export *e, uint64_t timeout,
		       uint64_t dead)
{
	struct { struct nl_attr item, fd; uint32_t value; } socks = {
		.item = { sizeof(socks), NBD_SOCK_ITEM | NL_NESTED },
		.fd = { 8, NBD_SOCK_FD }, .value = (uint32_t)fd,
	};
	struct message m;
	int error = start_command(&m, cmd, device);

	if (error)
		return error;
	add_attr(&m, NBD_ATTR_SOCKETS | NL_NESTED, &socks, sizeof(socks));
	add_attr(&m, NBD_ATTR_BACKEND, &tag, sizeof(tag));
	if (cmd == NBD_CMD_CONNECT) {
		add_u64(&m, NBD_ATTR_SIZE, e->size);
		add_u64(&m, NBD_ATTR_BLOCK_SIZE,
			e->min_block > 512 ? e->min_block : 512);
		add_u64(&m, NBD_ATTR_SERVER_FLAGS, e->flags);
		add_u64(&m, NBD_ATTR_TIMEOUT, timeout);
		add_u64(&m, NBD_ATTR_DEAD_TIMEOUT, dead);
	}
	return request(&m, NULL);
}

int intree_detach(const char *device)
{
	struct message m;
	int error = start_command(&m, NBD_CMD_DISCONNECT, device);

	return error ? error : request(&m, NULL);
}

static uint64_t number_option(const char *value, uint64_t otherwise)
{
	if (value)
		parse_number(value, strlen(value), UINT32_MAX, &otherwise);
	return otherwise;
}

/* A connection that somebody else will read and write. */
static void set_socket(int fd)
{
	int one = 1;

	setsockopt(fd, IPPROTO_TCP, 1 /* TCP_NODELAY */, &one, sizeof(one));
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
}

/* The export must be what it was: the file system on it has not forgotten. */
static bool is_same(const struct nbd_export *was, const struct nbd_export *is)
{
	const unsigned int kept = NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA |
		NBD_FLAG_SEND_TRIM;

	return is->size == was->size && !(was->flags & ~is->flags & kept) &&
	       !(is->flags & ~was->flags & NBD_FLAG_READ_ONLY);
}

/* Become a process that nobody's shell, console or memory pressure ends. */
static void settle(int fd)
{
	int i, log = open("/dev/kmsg", O_WRONLY), null = open("/dev/null", O_RDWR);
	int oom = open("/proc/self/oom_score_adj", O_WRONLY);

	setsid();
	/* If that fails it is a process as any other. */
	i = oom >= 0 ? (int)write(oom, "-1000", 5) : 0;
	/* Our lines go where the driver's go; the console may be gone one day. */
	for (i = 0; i < 3; i++)
		dup2(i == 2 && log >= 0 ? log : null, i);
	for (i = 3; i < 256; i++)
		if (i != fd)
			close(i);
	i = chdir("/");
	(void)i;
	prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);
	mlockall(MCL_CURRENT | MCL_FUTURE);
	intree_mark[0] = '@';
}

/*
 * Try each server once, in their order, for an export that is the same as @was
 * where that is not NULL. 0 and *@fd; or an errno and what the last one said.
 */
static int open_any(struct attempt *at, const struct nbd_export *was, int *fd,
		    struct nbd_export *e, char *why, size_t size)
{
	int error = 1;

	for (at->used = 0; error && at->used < at->count; at->used++) {
		error = server_open(&at->servers[at->used], at->export, fd, e,
				    why, size);
		if (!error && was && !is_same(was, e)) {
			put(why, size, "the export is another one now");
			error = ESTALE;
			close(*fd);
		}
	}
	at->used--;
	if (!error)
		set_socket(*fd);
	return error;
}

/* 0: connected again; -1: nobody wants it any more. */
static int connect_again(struct attempt *at, const char *device, int fd,
			 const struct nbd_export *was, char *why, size_t size)
{
	struct nbd_export e;
	int sock, error = open_any(at, was, &sock, &e, why, size);

	if (error)
		return error;
	error = give_socket(NBD_CMD_RECONFIGURE, device, sock, NULL, 0, 0);
	if (!error) {
		dup2(sock, fd);
		why[0] = '\0';
		append_server(at, at->used, why, size);
	}
	close(sock);
	/* There is no such device any more: it was detached. */
	return error == EINVAL || error == ENODEV ? -1 : error;
}

__attribute__((noreturn))
static void stay(struct attempt *at, const char *device, int fd,
		 const struct nbd_export *e)
{
	unsigned int wait;
	struct pollfd p;
	char why[256];
	int error;

	settle(fd);
	for (;;) {
		p.fd = fd;
		p.events = POLLRDHUP;
		p.revents = 0;
		if (poll(&p, 1, -1) <= 0 || !p.revents)
			continue;
		say("%s: the connection is lost; connecting again until it works",
		    device);
		for (wait = FIRST_WAIT_MS;;) {
			error = connect_again(at, device, fd, e, why,
					      sizeof(why));
			if (error <= 0)
				break;
			if (wait == LONGEST_WAIT_MS / 2 || error == ESTALE)
				say("%s: still not connected: %s", device, why);
			sleep_ms(wait);
			if (wait < LONGEST_WAIT_MS)
				wait *= 2;
		}
		if (error)
			_exit(0);
		say("%s: connected again to %s", device, why);
	}
}

bool intree_attach(struct attempt *at, const char *device)
{
	struct nbd_export e;
	char why[256], path[32];
	int error, fd;
	pid_t pid;

	if (module_ready("nbd")) {
		attach_failed(at, STATUS_NO_DRIVER, -1, "the kernel's own driver nbd is not here either, or does not load");
		at->final = true;
		return false;
	}
	error = open_any(at, NULL, &fd, &e, why, sizeof(why));
	if (error) {
		/* As for the other driver, the last one is told of. */
		attach_failed(at, attach_status(error), error, "%s", "");
		append_server(at, at->used, at->why, MAX_WHY);
		append(at->why, MAX_WHY, ": %s", why);
		at->hint = attach_hint(error);
		return false;
	}
	if (at->option[OPT_RO] && at->option[OPT_RO][0] == '1')
		e.flags |= NBD_FLAG_READ_ONLY;
	random_bytes(&tag, sizeof(tag));
	tag |= 0x40404040;	/* a string: no NUL */
	error = give_socket(NBD_CMD_CONNECT, device, fd, &e,
			    number_option(at->option[OPT_TIMEOUT], LINK_SECONDS),
			    number_option(at->option[OPT_LOST], FOREVER_SECONDS));
	if (error) {
		close(fd);
		error = error == EBUSY ? EEXIST : error;
		attach_failed(at, attach_status(error), error,
			      "%s: the driver nbd does not take the connection: %s",
			      device, error_text(error));
		at->final = true;
		return false;
	}
	pid = fork();
	if (!pid)
		stay(at, device, fd, &e);
	if (pid < 0)
		say("warning: no process can stay behind (%s): %s is lost with its server",
		    error_text(errno), device);
	close(fd);
	/* The first to open it has the partitions read. */
	put(path, sizeof(path), "/dev/%s", device);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd >= 0)
		close(fd);
	at->status = STATUS_OK;
	return true;
}
