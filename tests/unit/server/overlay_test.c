// SPDX-License-Identifier: GPL-2.0
/*
 * overlay_test.c - an overlay on a disk that is full, or fails.
 */
#define _GNU_SOURCE
#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "overlay-map.h"
#include "store-overlay.h"

#define SIZE (256U << 20)	/* its maps have several pages */

/*
 * What the disk says of the pages of map A, of a sync, of a durable write and of a
 * hole; 0: it works.
 */
static int map_error, sync_error, durable_error, punch_error;
static int lost_error;		/* each descriptor is told once */
static uint64_t told;
static struct store *loses;	/* during the next durable write */

int __real_overlay_pwrite(int fd, const void *buf, size_t len, uint64_t off);
int __wrap_overlay_pwrite(int fd, const void *buf, size_t len, uint64_t off);
int __wrap_overlay_sync(int fd);
ssize_t __wrap_os_pwrite_durable(int fd, const void *buf, size_t len,
				 uint64_t off);

int __wrap_overlay_pwrite(int fd, const void *buf, size_t len, uint64_t off)
{
	if (map_error && off >= OVERLAY_MAP_AT &&
	    off < OVERLAY_MAP_AT + overlay_map_length(SIZE))
		return map_error;
	return __real_overlay_pwrite(fd, buf, len, off);
}

static bool is_told(int fd)
{
	const uint64_t bit = 1ULL << fd, before = told;

	told |= bit;
	return lost_error && !(before & bit);
}

ssize_t __wrap_os_pwrite_durable(int fd, const void *buf, size_t len,
				 uint64_t off)
{
	struct store *s = loses;

	if (s) {
		loses = NULL;
		durable_error = -EIO;
		assert_int_equal(s->ops->write(s, "x", 1, 0, true), -EIO);
		durable_error = 0;
	}
	if (durable_error)
		return durable_error;
	if (is_told(fd))
		return lost_error;
	return pwrite(fd, buf, len, (off_t)off);
}

int __wrap_overlay_sync(int fd)
{
	return is_told(fd) ? lost_error : sync_error;
}

int __real_os_punch_hole(int fd, uint64_t off, uint64_t len);
int __wrap_os_punch_hole(int fd, uint64_t off, uint64_t len);

int __wrap_os_punch_hole(int fd, uint64_t off, uint64_t len)
{
	return punch_error ? punch_error : __real_os_punch_hole(fd, off, len);
}

/* All tests have the same file, and mostly each begins anew. */
static bool remembers;

bool __real_loss_is_known(int fd);
bool __wrap_loss_is_known(int fd);

bool __wrap_loss_is_known(int fd)
{
	return remembers && __real_loss_is_known(fd);
}

static struct overlay_map *map;	/* of the last one that was opened */

bool __real_overlay_map_init(struct overlay_map *m, int fd, uint64_t size);
bool __wrap_overlay_map_init(struct overlay_map *m, int fd, uint64_t size);

bool __wrap_overlay_map_init(struct overlay_map *m, int fd, uint64_t size)
{
	map = m;
	return __real_overlay_map_init(m, fd, size);
}

static int base_read(struct store *s, void *buf, uint32_t len, uint64_t off)
{
	(void)s;
	(void)off;
	memset(buf, 'i', len);
	return 0;
}

static const struct store_ops base_ops = { .name = "base", .read = base_read };
static struct store base = { .ops = &base_ops, .size = SIZE };
static char path[] = "/tmp/overlay_test.XXXXXX";

static struct store *open_it(const char *server_boot)
{
	char why[512];
	struct store *s = store_overlay_open(path, &base, "1-2.3", server_boot,
					     0, why, sizeof(why));

	assert_non_null(s);
	return s;
}

static struct store *make_and_open(void)
{
	struct overlay_info info = {
		.export_name = "lab", .station = "pc", .image = "1-2.3",
		.image_path = "/srv/lab.img", .size = SIZE, .station_boot = "-",
	};
	char why[512];

	map_error = sync_error = durable_error = punch_error = 0;
	lost_error = 0;
	assert_int_equal(overlay_create(path, &info, why, sizeof(why)), 0);
	return open_it("boot-1");
}

/* As job.c does it. */
static int write_durably(struct store *s, const void *p, uint32_t n,
			 uint64_t off)
{
	int err = s->ops->write(s, p, n, off, true);

	return err == STORE_UNSYNCED ? s->ops->flush(s) : err;
}

static void assert_bytes(struct store *s, uint64_t off, const char *bytes)
{
	char got[8];

	assert_int_equal(s->ops->read(s, got, (uint32_t)strlen(bytes), off), 0);
	assert_memory_equal(got, bytes, strlen(bytes));
}

/* A flush that found no room for the map has lost nothing: the next one does it. */
static void full_for_a_moment(void **state)
{
	struct store *s = make_and_open();
	char byte;

	(void)state;
	assert_int_equal(s->ops->write(s, "w", 1, 200 << 20, false), 0);
	map_error = -ENOSPC;
	assert_int_equal(s->ops->flush(s), -ENOSPC);
	assert_int_equal(write_durably(s, "f", 1, 100 << 20), -ENOSPC);
	map_error = 0;
	assert_int_equal(s->ops->flush(s), 0);
	assert_int_equal(write_durably(s, "x", 1, 100), 0);
	/* What was flushed is there after a crash of the machine. */
	assert_int_equal(s->ops->write(s, "l", 1, 50 << 20, false), 0);
	map_error = sync_error = -EIO;	/* so that the close adds nothing */
	s->ops->close(s);
	map_error = sync_error = 0;
	s = open_it("boot-2");
	assert_int_equal(s->ops->read(s, &byte, 1, 200 << 20), 0);
	assert_int_equal(byte, 'w');
	assert_int_equal(s->ops->read(s, &byte, 1, 100 << 20), 0);
	assert_int_equal(byte, 'f');
	assert_int_equal(s->ops->read(s, &byte, 1, 100), 0);
	assert_int_equal(byte, 'x');
	assert_int_equal(s->ops->read(s, &byte, 1, 50 << 20), 0);
	assert_int_equal(byte, 'i');
	s->ops->close(s);
}

/* A sync that failed is another matter: the kernel says it only once. */
static void failed_sync_is_told_for_ever(void **state)
{
	struct store *s = make_and_open();

	(void)state;
	assert_int_equal(s->ops->write(s, "w", 1, 0, false), 0);
	sync_error = -ENOSPC;
	assert_int_equal(s->ops->flush(s), -ENOSPC);
	sync_error = 0;
	assert_int_equal(s->ops->flush(s), -EIO);
	assert_int_equal(s->ops->write(s, "w", 1, 0, true), -EIO);
	s->ops->close(s);
	/* Nor does a store that is opened later take it for safe. */
	remembers = true;
	s = open_it("boot-1");
	assert_int_equal(s->ops->flush(s), -EIO);
	assert_int_equal(s->ops->write(s, "w", 1, 0, true), -EIO);
	s->ops->close(s);
	s = open_it("boot-2");
	remembers = false;
	assert_bytes(s, 0, "i");
	s->ops->close(s);
}

/* The last sync of a store, too, of which nobody is told. */
static void failed_sync_at_the_end(void **state)
{
	struct store *s = make_and_open();

	(void)state;
	assert_int_equal(s->ops->write(s, "w", 1, 0, false), 0);
	sync_error = -EIO;
	s->ops->close(s);
	sync_error = 0;
	remembers = true;
	s = open_it("boot-1");
	remembers = false;
	assert_bytes(s, 0, "w");
	assert_int_equal(s->ops->flush(s), -EIO);
	s->ops->close(s);
}

/* Of pages written long before: a flush is told as well, and remembers. */
static void full_disk_in_a_sync(void **state)
{
	static const int errors[] = { -ENOSPC, -EDQUOT, -ENOMEM, -EIO };
	unsigned int i;

	(void)state;
	for (i = 0; i < 4; i++) {
		struct store *s = make_and_open();

		assert_int_equal(s->ops->write(s, "w", 1, 0, false), 0);
		assert_int_equal(s->ops->flush(s), 0);
		lost_error = errors[i];
		told = 0;
		assert_int_equal(s->ops->write(s, "x", 1, 0, true), errors[i]);
		assert_int_equal(s->ops->flush(s), errors[i]);
		assert_int_equal(s->ops->flush(s), -EIO);
		assert_int_equal(s->ops->write(s, "x", 1, 0, true), -EIO);
		s->ops->close(s);
	}
}

/* What no description keeps, such as a disk's own cache. */
static void lost_in_a_durable_write(void **state)
{
	struct store *s = make_and_open();

	(void)state;
	assert_int_equal(s->ops->write(s, "w", 1, 0, false), 0);
	assert_int_equal(s->ops->flush(s), 0);
	durable_error = -EIO;
	assert_int_equal(s->ops->write(s, "x", 1, 0, true), -EIO);
	durable_error = 0;
	assert_int_equal(s->ops->flush(s), -EIO);
	assert_int_equal(s->ops->write(s, "x", 1, 0, true), -EIO);
	s->ops->close(s);
}

/* It never came to a sync, so nothing is lost. */
static void full_disk_in_a_write(void **state)
{
	static const int errors[] = { -ENOSPC, -EDQUOT, -ENOMEM };
	struct store *s = make_and_open();
	unsigned int i;

	(void)state;
	assert_int_equal(s->ops->write(s, "w", 1, 0, false), 0);
	assert_int_equal(s->ops->flush(s), 0);
	for (i = 0; i < 3; i++) {
		durable_error = errors[i];
		assert_int_equal(s->ops->write(s, "x", 1, 0, true), errors[i]);
		durable_error = 0;
		assert_int_equal(s->ops->flush(s), 0);
		assert_int_equal(s->ops->write(s, "x", 1, 0, true), 0);
	}
	s->ops->close(s);
}

/* The kernel tells one of two that sync: it was the other one this time. */
static void lost_during_a_durable_write(void **state)
{
	struct store *s = make_and_open();

	(void)state;
	assert_int_equal(s->ops->write(s, "w", 1, 0, false), 0);
	assert_int_equal(s->ops->flush(s), 0);
	loses = s;
	assert_int_equal(s->ops->write(s, "x", 1, 9, true), -EIO);
	s->ops->close(s);
}

/* Not by writing, where the disk cannot give space back. */
static void zero_fast(void **state)
{
	struct store *s = make_and_open();
	char data[2 * OVERLAY_BLOCK], byte;

	(void)state;
	memset(data, 'w', sizeof(data));
	punch_error = -EOPNOTSUPP;
	assert_int_equal(s->ops->write(s, data, sizeof(data), 0, false), 0);
	assert_int_equal(s->ops->zero(s, 10, sizeof(data) - 10, STORE_ZERO_FAST),
			 -ENOTSUP);
	assert_bytes(s, 8, "wwww");
	assert_bytes(s, sizeof(data) - 2, "wwii");
	/* What is the image's needs no space back. */
	assert_int_equal(s->ops->zero(s, 1 << 20, 1 << 20, STORE_ZERO_FAST), 0);
	assert_int_equal(s->ops->read(s, &byte, 1, 1 << 20), 0);
	assert_int_equal(byte, 0);
	assert_int_equal(s->ops->trim(s, 0, sizeof(data)), 0);
	assert_bytes(s, 8, "wwww");
	assert_int_equal(s->ops->zero(s, 10, sizeof(data) - 10, 0), 0);
	assert_bytes(s, 8, "ww");
	assert_int_equal(s->ops->read(s, &byte, 1, 10), 0);
	assert_int_equal(byte, 0);
	assert_int_equal(s->ops->read(s, &byte, 1, sizeof(data) - 1), 0);
	assert_int_equal(byte, 0);
	assert_bytes(s, sizeof(data), "ii");
	s->ops->close(s);
}

/* -- a write that has changed the map and not yet marked its page ------------ */

/*
 * The marks of the pages are put where they cannot be written, so whoever does
 * stops there, until he is let go.
 */
static _Atomic uint8_t *marks;
static sem_t half_done, go_on;

static void stop_at_mark(int sig, siginfo_t *info, void *context)
{
	const uint8_t *at = info->si_addr;

	(void)context;
	if (at < (uint8_t *)(uintptr_t)marks ||
	    at >= (uint8_t *)(uintptr_t)marks + 4096) {
		signal(sig, SIG_DFL);
		return;
	}
	sem_post(&half_done);
	while (sem_wait(&go_on))
		;
	mprotect((void *)(uintptr_t)marks, 4096, PROT_READ | PROT_WRITE);
}

static void *first_write(void *arg)
{
	struct store *s = arg;

	assert_int_equal(s->ops->write(s, "w", 1, 0, false), 0);
	return NULL;
}

struct late {
	struct store *s;
	bool durable;
	int err;
	uint8_t a;	/* the beginning of map A, when it was answered */
	sem_t done;
};

static void *late_write(void *arg)
{
	struct late *l = arg;
	struct store *s = l->s;
	int fd = open(path, O_RDONLY);

	if (l->durable)
		l->err = write_durably(s, "x", 1, 100);
	else
		l->err = s->ops->write(s, "x", 1, 100, false);
	if (!l->err && !l->durable)
		l->err = s->ops->flush(s);
	if (pread(fd, &l->a, 1, OVERLAY_MAP_AT) != 1)
		l->a = 0;
	close(fd);
	sem_post(&l->done);
	return NULL;
}

/* What is durable is in map A, whoever is about to mark its page. */
static void half_an_update(bool durable)
{
	struct sigaction at_mark = {
		.sa_sigaction = stop_at_mark, .sa_flags = SA_SIGINFO,
	}, before;
	struct late l = { .s = make_and_open(), .durable = durable };
	_Atomic uint8_t *own = map->page;
	struct timespec until;
	pthread_t first, late;
	uint64_t i;

	assert_true(map->pages <= 4096);
	sem_init(&half_done, 0, 0);
	sem_init(&go_on, 0, 0);
	sem_init(&l.done, 0, 0);
	marks = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(marks, MAP_FAILED);
	sigaction(SIGSEGV, &at_mark, &before);
	map->page = marks;
	pthread_create(&first, NULL, first_write, l.s);
	sem_wait(&half_done);
	assert_int_equal(overlay_map_state(map, 0), OVERLAY_DATA);
	pthread_create(&late, NULL, late_write, &l);
	/* Either it waits for the first one, or it must do without. */
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec++;
	(void)sem_timedwait(&l.done, &until);
	sem_post(&go_on);
	pthread_join(first, NULL);
	pthread_join(late, NULL);
	sigaction(SIGSEGV, &before, NULL);
	for (i = 0; i < map->pages; i++)
		atomic_store(&own[i], atomic_load(&marks[i]));
	map->page = own;
	munmap((void *)(uintptr_t)marks, 4096);
	assert_int_equal(l.err, 0);
	l.s->ops->close(l.s);
	assert_int_equal(l.a & 3, OVERLAY_DATA);
}

static void flush_at_half_an_update(void **state)
{
	(void)state;
	half_an_update(false);
}

static void durable_write_at_half_an_update(void **state)
{
	(void)state;
	half_an_update(true);
}

/* What no station has written is the image's, for whoever reads it. */
static void whose_bytes(void **state)
{
	struct store *s = make_and_open();

	(void)state;
	assert_ptr_equal(s->ops->origin(s, 65536, 0), &base);
	assert_int_equal(s->ops->write(s, "x", 1, 20000, false), 0);
	assert_ptr_equal(s->ops->origin(s, 65536, 0), s);
	assert_ptr_equal(s->ops->origin(s, 1, 20000), s);
	assert_ptr_equal(s->ops->origin(s, 4096, 20480), &base);
	assert_int_equal(s->ops->zero(s, 20480, 4096, 0), 0);
	assert_ptr_equal(s->ops->origin(s, 4096, 20480), s);
	s->ops->close(s);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(whose_bytes),
		cmocka_unit_test(full_for_a_moment),
		cmocka_unit_test(failed_sync_is_told_for_ever),
		cmocka_unit_test(failed_sync_at_the_end),
		cmocka_unit_test(full_disk_in_a_sync),
		cmocka_unit_test(lost_in_a_durable_write),
		cmocka_unit_test(full_disk_in_a_write),
		cmocka_unit_test(lost_during_a_durable_write),
		cmocka_unit_test(zero_fast),
		cmocka_unit_test(flush_at_half_an_update),
		cmocka_unit_test(durable_write_at_half_an_update),
	};
	int r, fd = mkstemp(path);

	if (fd < 0)
		return 1;
	close(fd);
	r = cmocka_run_group_tests_name("server overlay", tests, NULL, NULL);
	unlink(path);
	return r;
}
