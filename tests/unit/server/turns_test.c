// SPDX-License-Identifier: GPL-2.0
/*
 * turns_test.c - one connection cannot keep a loop to itself. The real server,
 * with a single loop, against a peer whose socket takes whatever it is given,
 * at once and without end: nothing but the server's own turns lets another
 * connection in between. That one asks for 512 bytes each time it has been
 * answered; what is measured is how much the greedy one was sent meanwhile.
 * In bytes, by the loop's own thread: no clock has a say in it.
 */
#include "unit.h"

#include <semaphore.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "engine.h"
#include "export.h"
#include "nbd-wire.h"
#include "os.h"
#include "out.h"

#define IMAGE	(32U << 20)

/* -- the sockets ----------------------------------------------------------- */

static _Atomic int greedy = -1, patient = -1;	/* the server's ends */
static int asking = -1;			/* our end of the patient one's */
static atomic_bool begun;
static sem_t over;

/* The loop's thread only. */
static bool waiting;
static uint64_t wanted, had, meanwhile, worst;
static unsigned int answers;

/* Not in the test's thread, where cmocka could tell of it. */
static void check(bool ok)
{
	if (!ok)
		abort();
}

/* How much of @n bytes: all; and before that the patient one asks. */
static ssize_t devour(size_t n)
{
	const struct nbd_request r = { .type = NBD_CMD_READ, .length = 512 };
	u8 p[NBD_REQUEST_SIZE];

	if (!waiting) {
		nbd_request_put(p, &r);
		check(write(asking, p, sizeof(p)) == sizeof(p));
		waiting = true;
		meanwhile = 0;
	}
	had += n;
	meanwhile += n;
	if (meanwhile > worst)
		worst = meanwhile;
	if (had >= wanted && had - n < wanted)
		sem_post(&over);
	return (ssize_t)n;
}

ssize_t __real_os_send(int sock, struct iovec *iov, int n, bool more);
ssize_t __wrap_os_send(int sock, struct iovec *iov, int n, bool more);
ssize_t __real_os_sendfile(int sock, int fd, uint64_t off, size_t len);
ssize_t __wrap_os_sendfile(int sock, int fd, uint64_t off, size_t len);

ssize_t __wrap_os_send(int sock, struct iovec *iov, int n, bool more)
{
	size_t len = 0;
	int i;

	if (!atomic_load(&begun))
		return __real_os_send(sock, iov, n, more);
	for (i = 0; i < n; i++)
		len += iov[i].iov_len;
	if (sock == greedy)
		return devour(len);
	check(sock == patient);
	answers++;
	waiting = false;
	return (ssize_t)len;
}

ssize_t __wrap_os_sendfile(int sock, int fd, uint64_t off, size_t len)
{
	if (!atomic_load(&begun))
		return __real_os_sendfile(sock, fd, off, len);
	check(sock == greedy);
	return devour(len);
}

/* The server's end is known by whom it greets. */
static _Atomic int *greeted;

pid_t __wrap_os_peer_process(int sock);

pid_t __wrap_os_peer_process(int sock)
{
	*greeted = sock;
	return 0;
}

/* -- the clients ------------------------------------------------------------- */

static struct sockaddr_un place;

static void say(int fd, const void *p, size_t n)
{
	assert_int_equal(send(fd, p, n, MSG_NOSIGNAL), n);
}

static void hear(int fd, size_t n)
{
	u8 p[64];

	assert_true(n <= sizeof(p));
	assert_int_equal(recv(fd, p, n, MSG_WAITALL), n);
}

static void ask_option(int fd, u32 number)
{
	const struct nbd_option o = { .option = number };
	u8 p[NBD_OPTION_SIZE];

	nbd_option_put(p, &o);
	say(fd, p, sizeof(p));
}

/* Connected to the export "", through the negotiation. */
static int connected(_Atomic int *servers_end, bool structured)
{
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	u8 flags[4];

	greeted = servers_end;
	assert_int_equal(connect(fd, (struct sockaddr *)&place, sizeof(place)), 0);
	hear(fd, NBD_GREETING_SIZE);
	nbd_put32(flags, NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES);
	say(fd, flags, sizeof(flags));
	if (structured) {
		ask_option(fd, NBD_OPT_STRUCTURED_REPLY);
		hear(fd, NBD_OPTION_REPLY_SIZE);
	}
	ask_option(fd, NBD_OPT_EXPORT_NAME);
	hear(fd, NBD_EXPORT_NAME_REPLY_SIZE);
	assert_true(*servers_end >= 0);
	return fd;
}

/* -- the server ---------------------------------------------------------------- */

static int image(char *path)
{
	static u8 block[1 << 20];
	unsigned int i;
	int fd;

	memset(block, 'i', sizeof(block));
	strcpy(path, "/tmp/turns-test-XXXXXX");
	fd = mkstemp(path);
	for (i = 0; i < IMAGE / sizeof(block); i++)
		assert_int_equal(write(fd, block, sizeof(block)), sizeof(block));
	return fd;
}

static int listener(void)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	place.sun_family = AF_UNIX;
	/* A name that is no file. */
	snprintf(place.sun_path + 1, sizeof(place.sun_path) - 1,
		 "turns-test-%ld", (long)getpid());
	assert_int_equal(bind(fd, (struct sockaddr *)&place, sizeof(place)), 0);
	assert_int_equal(listen(fd, 8), 0);
	return fd;
}

struct feast {
	bool read_only, structured;
	u32 length;		/* of each of its reads */
	unsigned int reads;
};

static void feast(const struct feast *f)
{
	struct nbd_request r = { .type = NBD_CMD_READ, .length = f->length };
	struct export_settings *s;
	struct exports exports = { .may_list = true };
	struct engine_settings engine = {
		.n_listeners = 1, .exports = &exports, .loops = 1,
	};
	u8 *requests = malloc(f->reads * NBD_REQUEST_SIZE);
	int fd, eater, socket_of_all;
	char path[64], why[512];
	unsigned int i;

	fd = image(path);
	socket_of_all = listener();
	engine.listeners = &socket_of_all;
	s = export_settings_new("", path);
	s->read_only = f->read_only;
	assert_true(exports_add(&exports, s, why, sizeof(why)));
	assert_true(engine_start(&engine));

	wanted = (uint64_t)f->reads * f->length;
	had = meanwhile = worst = 0;
	answers = 0;
	waiting = false;
	eater = connected(&greedy, f->structured);
	asking = connected(&patient, false);
	for (i = 0; i < f->reads; i++) {
		r.offset = (uint64_t)i * f->length % IMAGE;
		nbd_request_put(requests + i * NBD_REQUEST_SIZE, &r);
	}
	atomic_store(&begun, true);
	say(eater, requests, f->reads * NBD_REQUEST_SIZE);
	sem_wait(&over);
	engine_stop();
	atomic_store(&begun, false);

	print_message("%u reads of %u KiB: %u answers between, %u KiB before one at most\n",
		      f->reads, f->length >> 10, answers,
		      (unsigned int)(worst >> 10));
	assert_true(had >= wanted);
	/*
	 * The turn that it comes in, and the next one if that is before its own;
	 * each may be one of input after one of output, and end what it began.
	 */
	assert_in_range(worst, 1, 6 * OUT_TURN);
	assert_in_range(answers, wanted / (6 * OUT_TURN), UINT32_MAX);
	exports_free(&exports);
	close(eater);
	close(asking);
	close(socket_of_all);
	close(fd);
	unlink(path);
	free(requests);
}

/* Files that leave by sendfile(2), which takes any length at once. */
static void files(void **state)
{
	(void)state;
	feast(&(struct feast){ true, false, 16 << 20, 40 });
	feast(&(struct feast){ true, false, 64 << 10, 2000 });
}

/* Buffers of workers, which come back many at a time. */
static void buffers(void **state)
{
	(void)state;
	feast(&(struct feast){ false, false, 8 << 20, 40 });
	feast(&(struct feast){ false, false, 256 << 10, 1000 });
}

static void chunks(void **state)
{
	(void)state;
	feast(&(struct feast){ false, true, 16 << 20, 20 });
}

/* Answered in the loop itself. */
static void in_the_loop(void **state)
{
	(void)state;
	feast(&(struct feast){ false, false, 128 << 10, 1000 });
	feast(&(struct feast){ false, false, 16 << 10, 4000 });
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(files),
		cmocka_unit_test(buffers),
		cmocka_unit_test(chunks),
		cmocka_unit_test(in_the_loop),
	};

	sem_init(&over, 0, 0);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
