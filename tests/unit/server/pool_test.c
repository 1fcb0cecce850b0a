// SPDX-License-Identifier: GPL-2.0
/*
 * pool_test.c - who has to wait for whom at the workers. The store stands still
 * where the test wants it to, so no clock is in it but that of giving up.
 */
#include "unit.h"

#include <errno.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <time.h>

#include "conn.h"
#include "pool.h"

#define WORKERS	16
#define PATIENCE	100	/* s; nothing here takes as much as one */

static sem_t begun, go_on, done;
/* What the store does not go on with until ->go_on; NBD_CMD_*, JOB_*. */
static atomic_int held;
static atomic_uint calls, flushes;
static atomic_int outcome;
static _Atomic(u64) longest, end;
static struct conn conn, modest;
/* Where the reads and writes of ->modest begin. */
#define MODEST	(1ULL << 40)
static atomic_bool modest_one_read, modest_one_wrote;
/* What a write with FUA has become: STORE_UNSYNCED, as with an overlay. */
static atomic_int durable;

static void wait_for(sem_t *s, const char *what)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	t.tv_sec += PATIENCE;
	while (sem_timedwait(s, &t))
		if (errno == ETIMEDOUT)
			fail_msg("%s", what);
}

static void let_go(int n)
{
	while (n--)
		sem_post(&go_on);
}

static void hold(int type)
{
	if (atomic_load(&held) != type)
		return;
	sem_post(&begun);
	while (sem_wait(&go_on))
		;
}

/* -- what job.c needs ---------------------------------------------------- */

struct loop *conn_loop(const struct conn *c)
{
	return c->loop;
}

bool conn_open(struct conn *c)
{
	(void)c;
	hold(JOB_OPEN);
	return true;
}

void conn_identify(struct conn *c, struct export *e)
{
	(void)c;
	(void)e;
	hold(JOB_OPEN);
}

void conn_close(struct conn *c)
{
	(void)c;
	hold(JOB_CLOSE);
}

static int disk_flush(struct store *s)
{
	(void)s;
	atomic_fetch_add(&flushes, 1);
	hold(NBD_CMD_FLUSH);
	return 0;
}

static int disk_read(struct store *s, void *buf, uint32_t len, uint64_t off)
{
	(void)s;
	(void)buf;
	(void)len;
	if (off == MODEST)
		atomic_store(&modest_one_read, true);
	hold(NBD_CMD_READ);
	return 0;
}

static int disk_write(struct store *s, const void *buf, uint32_t len,
		      uint64_t off, bool fua)
{
	(void)s;
	(void)buf;
	(void)len;
	if (off == MODEST)
		atomic_store(&modest_one_wrote, true);
	hold(NBD_CMD_WRITE);
	return fua ? atomic_load(&durable) : 0;
}

static int range(u64 off, u64 len)
{
	atomic_fetch_add(&calls, 1);
	if (len > atomic_load(&longest))
		atomic_store(&longest, len);
	if (off + len > atomic_load(&end))
		atomic_store(&end, off + len);
	hold(NBD_CMD_WRITE_ZEROES);
	return atomic_load(&outcome);
}

static int disk_zero(struct store *s, uint64_t off, uint64_t len,
		     unsigned int flags)
{
	(void)s;
	(void)flags;
	return range(off, len);
}

static int disk_trim(struct store *s, uint64_t off, uint64_t len)
{
	(void)s;
	return range(off, len);
}

static const struct store_ops ops = {
	.read = disk_read,
	.write = disk_write,
	.zero = disk_zero,
	.trim = disk_trim,
	.cache = disk_trim,
	.flush = disk_flush,
};
static struct store store = { .ops = &ops, .size = 1ULL << 50 };

static _Atomic(struct job *) last;

static void take_back(struct job *list)
{
	struct job *next;

	for (; list; list = next) {
		next = list->next;
		free(atomic_exchange(&last, list));
		sem_post(&done);
	}
}

/* -- the tests ----------------------------------------------------------- */

static int start_with(unsigned int workers)
{
	sem_init(&begun, 0, 0);
	sem_init(&go_on, 0, 0);
	sem_init(&done, 0, 0);
	atomic_store(&held, -1);
	atomic_store(&calls, 0);
	atomic_store(&flushes, 0);
	atomic_store(&outcome, 0);
	atomic_store(&longest, 0);
	atomic_store(&end, 0);
	atomic_store(&conn.gone, false);
	conn.store = modest.store = &store;
	atomic_store(&modest_one_read, false);
	atomic_store(&modest_one_wrote, false);
	atomic_store(&durable, 0);
	return !pool_start(workers, take_back);
}

static int start(void **state)
{
	(void)state;
	return start_with(WORKERS);
}

static int start_one(void **state)
{
	(void)state;
	return start_with(1);
}

static int stop(void **state)
{
	(void)state;
	atomic_store(&held, -1);
	let_go(1000);
	pool_stop();
	free(atomic_exchange(&last, NULL));
	return 0;
}

static void submit_of(struct conn *c, u16 type, u64 offset, u64 length,
		      u16 flags)
{
	const struct nbd_request r = {
		.type = type, .offset = offset, .length = length,
		.flags = flags,
	};
	struct job_list l;
	struct job *j = job_new(c, NULL, &r, 16);

	assert_non_null(j);
	job_list_init(&l);
	job_list_add(&l, j);
	pool_submit(&l);
}

static void submit(u16 type, u64 offset, u64 length, u16 flags)
{
	submit_of(&conn, type, offset, length, flags);
}

static void others_are_served(const char *meanwhile)
{
	char why[100];

	submit(NBD_CMD_READ, 0, 1, 0);
	snprintf(why, sizeof(why), "a read waits for %s", meanwhile);
	wait_for(&done, why);
	submit(NBD_CMD_WRITE, 0, 1, 0);
	snprintf(why, sizeof(why), "a write waits for %s", meanwhile);
	wait_for(&done, why);
}

/* Who is done in one sync does not wait for the next. */
static void flushes_in_groups(void **state)
{
	int i;

	(void)state;
	atomic_store(&held, NBD_CMD_FLUSH);
	submit(NBD_CMD_FLUSH, 0, 0, 0);
	wait_for(&begun, "no sync");
	for (i = 0; i < 12; i++)
		submit(NBD_CMD_FLUSH, 0, 0, 0);
	/* Until they are in its queue. */
	while (others_are_served("flushes"), !store.flush_waiting)
		;
	let_go(1);
	wait_for(&begun, "no second sync");
	wait_for(&done, "the first flush waits for the second sync");
	atomic_store(&held, -1);
	let_go(1);
	for (i = 0; i < 12; i++)
		wait_for(&done, "flushes without an answer");
	assert_in_range(atomic_load(&flushes), 2, 13);
}

static void slow_programs(void **state)
{
	int i;

	(void)state;
	atomic_store(&held, JOB_OPEN);
	for (i = 0; i < 2 * WORKERS; i++)
		submit(i % 3 ? JOB_OPEN : JOB_IDENTIFY, 0, 0, 0);
	for (i = 0; i < WORKERS / 4; i++)
		wait_for(&begun, "opens use less than their quarter");
	others_are_served("opens");
	let_go(2 * WORKERS);
	for (i = 0; i < 2 * WORKERS; i++)
		wait_for(&done, "opens without an end");
}

/* Those who leave, whose overlays are synced then, do not keep others from coming. */
static void opens_beside_closes(void **state)
{
	int i;

	(void)state;
	atomic_store(&held, JOB_CLOSE);
	for (i = 0; i < 2 * WORKERS; i++)
		submit(JOB_CLOSE, 0, 0, 0);
	for (i = 0; i < WORKERS / 4; i++)
		wait_for(&begun, "closes use less than their quarter");
	submit(JOB_OPEN, 0, 0, 0);
	wait_for(&done, "an open waits for closes");
	others_are_served("closes");
	let_go(2 * WORKERS);
	for (i = 0; i < 2 * WORKERS; i++)
		wait_for(&done, "closes without an end");
}

static void long_ones(void **state)
{
	static const u16 types[] = {
		NBD_CMD_WRITE_ZEROES, NBD_CMD_TRIM, NBD_CMD_CACHE,
	};
	int i;

	(void)state;
	atomic_store(&held, NBD_CMD_WRITE_ZEROES);
	for (i = 0; i < 3 * WORKERS; i++)
		submit(types[i % 3], 4096, 3ULL * JOB_SPAN, 0);
	for (i = 0; i < WORKERS / 4; i++)
		wait_for(&begun, "long ones use less than their quarter");
	others_are_served("long zeroings");
	/* They go on in turns: after so many spans none has its third. */
	let_go(3 * WORKERS);
	for (i = 0; i < 3 * WORKERS; i++)
		wait_for(&begun, "no next span");
	assert_int_equal(sem_trywait(&done), -1);
	atomic_store(&held, -1);
	let_go(1000);
	for (i = 0; i < 3 * WORKERS; i++)
		wait_for(&done, "long ones without an answer");
	assert_int_equal(atomic_load(&longest), JOB_SPAN);
	assert_int_equal(atomic_load(&end), 4096 + 3ULL * JOB_SPAN);
	/* 4096 bytes less in the first, and so a fourth one. */
	assert_int_equal(atomic_load(&calls), 3 * WORKERS * 4);
}

/* Many reads of one connection, and @same; another's one does not wait for them all. */
static void beside_deep_reads(unsigned int same)
{
	unsigned int i;

	atomic_store(&held, NBD_CMD_READ);
	for (i = 0; i < WORKERS + 100; i++)
		submit(NBD_CMD_READ, i, 1, 0);
	for (i = 0; i < same; i++)
		submit(NBD_CMD_READ, MODEST, 1, 0);
	for (i = 0; i < WORKERS; i++)
		wait_for(&begun, "not every worker reads");
	submit_of(&modest, NBD_CMD_READ, MODEST, 1, 0);
	/* One that came before may be taken before. */
	let_go(2);
	for (i = 0; i < 2; i++)
		wait_for(&begun, "no further read");
	assert_true(atomic_load(&modest_one_read));
	atomic_store(&held, -1);
	let_go(1000);
	for (i = 0; i < WORKERS + 101 + same; i++)
		wait_for(&done, "reads without an answer");
}

static void deep_reader(void **state)
{
	(void)state;
	beside_deep_reads(0);
}

/* Nor if the same is the last of the many: who waits for that is the one. */
static void same_as_a_deep_reader(void **state)
{
	(void)state;
	beside_deep_reads(1);
}

/* What writes and syncs has its turn though reads never end. */
static void writes_beside_a_deep_reader(void **state)
{
	int i;

	(void)state;
	atomic_store(&held, NBD_CMD_READ);
	for (i = 0; i < WORKERS + 100; i++)
		submit(NBD_CMD_READ, i, 1, 0);
	for (i = 0; i < WORKERS; i++)
		wait_for(&begun, "not every worker reads");
	submit_of(&modest, NBD_CMD_WRITE, 0, 1, 0);
	submit_of(&modest, NBD_CMD_WRITE, 0, 1, NBD_CMD_FLAG_FUA);
	submit_of(&modest, NBD_CMD_FLUSH, 0, 0, 0);
	submit_of(&modest, NBD_CMD_WRITE_ZEROES, 0, 1, 0);
	submit_of(&modest, NBD_CMD_TRIM, 0, 2ULL * JOB_SPAN, 0);
	/* Six things to do, each after a read that is done. */
	let_go(6);
	for (i = 0; i < 6 + 5; i++)
		wait_for(&done, "writes wait for every read");
	for (i = 0; i < 6; i++)
		wait_for(&begun, "no further read");
	assert_int_equal(sem_trywait(&done), -1);
	atomic_store(&held, -1);
	let_go(1000);
	for (i = 0; i < WORKERS + 94; i++)
		wait_for(&done, "reads without an answer");
}

/* Long ones of one connection, too: another's is not one of so many. */
static void beside_many_long_ones(void **state)
{
	int i;

	(void)state;
	atomic_store(&held, NBD_CMD_WRITE_ZEROES);
	for (i = 0; i < 100; i++)
		submit(NBD_CMD_WRITE_ZEROES, 0, 3ULL * JOB_SPAN, 0);
	for (i = 0; i < WORKERS / 4; i++)
		wait_for(&begun, "long ones use less than their quarter");
	submit_of(&modest, NBD_CMD_TRIM, MODEST, 3ULL * JOB_SPAN, 0);
	/* One that came before may be taken before. */
	let_go(2);
	for (i = 0; i < 2; i++)
		wait_for(&begun, "no further span");
	assert_int_equal(atomic_load(&end), MODEST + JOB_SPAN);
	atomic_store(&held, -1);
	let_go(1000);
	for (i = 0; i < 101; i++)
		wait_for(&done, "long ones without an answer");
}

/* As many writes as there may be, and more of them waiting: reads go on. */
static void deep_writer(void **state)
{
	int i;

	(void)state;
	atomic_store(&held, NBD_CMD_WRITE);
	for (i = 0; i < WORKERS + 100; i++)
		submit(NBD_CMD_WRITE, 0, 1, NBD_CMD_FLAG_FUA);
	for (i = 0; i < WORKERS * 3 / 4; i++)
		wait_for(&begun, "writes use less than three quarters");
	for (i = 0; i < 100; i++)
		submit_of(&modest, NBD_CMD_READ, 0, 1, 0);
	for (i = 0; i < 100; i++)
		wait_for(&done, "reads wait for writes");
	assert_int_equal(sem_trywait(&begun), -1);
	atomic_store(&held, -1);
	let_go(1000);
	for (i = 0; i < WORKERS + 100; i++)
		wait_for(&done, "writes without an answer");
}

/* Many writes of one connection; another's does not wait for all of them. */
static void beside_a_deep_writer(void **state)
{
	int i;

	(void)state;
	atomic_store(&held, NBD_CMD_WRITE);
	for (i = 0; i < WORKERS + 100; i++)
		submit(NBD_CMD_WRITE, 0, 1, NBD_CMD_FLAG_FUA);
	for (i = 0; i < WORKERS * 3 / 4; i++)
		wait_for(&begun, "writes use less than three quarters");
	submit_of(&modest, NBD_CMD_WRITE, MODEST, 4096, 0);
	let_go(2);
	for (i = 0; i < 2; i++)
		wait_for(&begun, "no further write");
	assert_true(atomic_load(&modest_one_wrote));
	atomic_store(&held, -1);
	let_go(1000);
	for (i = 0; i < WORKERS + 101; i++)
		wait_for(&done, "writes without an answer");
}

/* A flush is what makes such writes durable: one for many of them. */
static void durable_writes_in_groups(void **state)
{
	int i;

	(void)state;
	atomic_store(&durable, STORE_UNSYNCED);
	atomic_store(&held, NBD_CMD_FLUSH);
	submit(NBD_CMD_WRITE, 0, 1, NBD_CMD_FLAG_FUA);
	wait_for(&begun, "no sync");
	for (i = 0; i < 50; i++)
		submit(i % 2 ? NBD_CMD_WRITE : NBD_CMD_WRITE_ZEROES, 0, 1,
		       NBD_CMD_FLAG_FUA);
	/* All of them, and no worker waits for the sync. */
	while (others_are_served("durable writes"), !store.flush_waiting)
		;
	let_go(1);
	wait_for(&begun, "no second sync");
	wait_for(&done, "the first one waits for the second sync");
	atomic_store(&held, -1);
	let_go(1);
	for (i = 0; i < 50; i++)
		wait_for(&done, "writes without an answer");
	assert_in_range(atomic_load(&flushes), 2, 51);
	assert_int_equal(atomic_load(&last)->error, 0);
}

/* One goes to the disk; the others hold no worker until it is back. */
static void identical_reads(void **state)
{
	int i;

	(void)state;
	atomic_store(&held, NBD_CMD_READ);
	submit(NBD_CMD_READ, 8192, 16, 0);
	wait_for(&begun, "no read");
	for (i = 0; i < 100; i++)
		submit_of(i % 2 ? &conn : &modest, NBD_CMD_READ, 8192, 16, 0);
	/* Others, of as many bytes or from there, are no such. */
	submit(NBD_CMD_READ, 8192, 8, 0);
	submit_of(&modest, NBD_CMD_READ, 4096, 16, 0);
	for (i = 0; i < 2; i++)
		wait_for(&begun, "another read waits for these");
	assert_int_equal(sem_trywait(&begun), -1);
	assert_int_equal(sem_trywait(&done), -1);
	let_go(3);
	for (i = 0; i < 3; i++)
		wait_for(&done, "a read without an answer");
	/* Now it is in memory: each for itself, and side by side. */
	for (i = 0; i < WORKERS; i++)
		wait_for(&begun, "those who waited are not read");
	atomic_store(&held, -1);
	let_go(1000);
	for (i = 0; i < 100; i++)
		wait_for(&done, "a read without an answer");
}

/* Who goes first may be gone; the others read for themselves. */
static void first_of_them_leaves(void **state)
{
	(void)state;
	atomic_store(&held, NBD_CMD_WRITE);
	atomic_store(&conn.gone, true);
	submit(NBD_CMD_READ, 8192, 16, 0);
	submit_of(&modest, NBD_CMD_READ, 8192, 16, 0);
	wait_for(&done, "no answer for who is gone");
	wait_for(&done, "no answer for the other one");
}

/* A part of a block may have to be read first: no group waits for that. */
static void parts_of_blocks(void **state)
{
	int i;

	(void)state;
	atomic_store(&held, NBD_CMD_WRITE);
	for (i = 0; i < WORKERS / 2; i++)
		submit(NBD_CMD_WRITE, 512 * (u64)i, 512, 0);
	for (i = 0; i < WORKERS / 2; i++)
		wait_for(&begun, "a write waits for another one's block");
	let_go(WORKERS / 2);
	for (i = 0; i < WORKERS / 2; i++)
		wait_for(&done, "writes without an answer");
}

/* One worker has no quarter to keep: either is the next but one at the latest. */
static void one_worker(void **state)
{
	int i;

	(void)state;
	atomic_store(&held, NBD_CMD_WRITE);
	for (i = 0; i < 10; i++)
		submit(NBD_CMD_WRITE, 0, 1, NBD_CMD_FLAG_FUA);
	wait_for(&begun, "no write");
	submit_of(&modest, NBD_CMD_READ, MODEST, 1, 0);
	let_go(2);
	for (i = 0; i < 2; i++)
		wait_for(&begun, "no further write");
	assert_true(atomic_load(&modest_one_read));
	atomic_store(&held, -1);
	let_go(1000);
	for (i = 0; i < 11; i++)
		wait_for(&done, "writes without an answer");
}

static void their_answer(void **state)
{
	(void)state;
	/* All of it, and one sync for all. */
	submit(NBD_CMD_WRITE_ZEROES, 0, 5ULL * JOB_SPAN, NBD_CMD_FLAG_FUA);
	wait_for(&done, "no answer");
	assert_int_equal(atomic_load(&calls), 5);
	assert_int_equal(atomic_load(&flushes), 1);
	assert_int_equal(atomic_load(&last)->error, 0);
	assert_int_equal(atomic_load(&last)->length, 5ULL * JOB_SPAN);

	/* That is fast, or is refused as a whole. */
	submit(NBD_CMD_WRITE_ZEROES, 0, 5ULL * JOB_SPAN,
	       NBD_CMD_FLAG_FAST_ZERO);
	wait_for(&done, "no answer");
	assert_int_equal(atomic_load(&calls), 6);

	/* The first error is the answer; nothing is synced then. */
	atomic_store(&outcome, -ENOSPC);
	submit(NBD_CMD_TRIM, 0, 5ULL * JOB_SPAN, NBD_CMD_FLAG_FUA);
	wait_for(&done, "no answer");
	assert_int_equal(atomic_load(&calls), 7);
	assert_int_equal(atomic_load(&flushes), 1);
	assert_int_equal(atomic_load(&last)->error, -ENOSPC);
	atomic_store(&outcome, 0);

	/* Nobody is there any more: no further span. */
	atomic_store(&held, NBD_CMD_WRITE_ZEROES);
	submit(NBD_CMD_WRITE_ZEROES, 0, 5ULL * JOB_SPAN, 0);
	wait_for(&begun, "no span");
	atomic_store(&conn.gone, true);
	let_go(1);
	wait_for(&done, "goes on for nobody");
	assert_int_equal(atomic_load(&calls), 8);
	assert_int_equal(atomic_load(&last)->error, -ECANCELED);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(flushes_in_groups, start, stop),
		cmocka_unit_test_setup_teardown(slow_programs, start, stop),
		cmocka_unit_test_setup_teardown(opens_beside_closes, start,
						stop),
		cmocka_unit_test_setup_teardown(long_ones, start, stop),
		cmocka_unit_test_setup_teardown(deep_reader, start, stop),
		cmocka_unit_test_setup_teardown(same_as_a_deep_reader, start,
						stop),
		cmocka_unit_test_setup_teardown(writes_beside_a_deep_reader,
						start, stop),
		cmocka_unit_test_setup_teardown(beside_many_long_ones, start,
						stop),
		cmocka_unit_test_setup_teardown(deep_writer, start, stop),
		cmocka_unit_test_setup_teardown(beside_a_deep_writer, start,
						stop),
		cmocka_unit_test_setup_teardown(durable_writes_in_groups, start,
						stop),
		cmocka_unit_test_setup_teardown(identical_reads, start, stop),
		cmocka_unit_test_setup_teardown(first_of_them_leaves, start,
						stop),
		cmocka_unit_test_setup_teardown(parts_of_blocks, start, stop),
		cmocka_unit_test_setup_teardown(one_worker, start_one, stop),
		cmocka_unit_test_setup_teardown(their_answer, start, stop),
	};

	return cmocka_run_group_tests_name("server pool", tests, NULL, NULL);
}
