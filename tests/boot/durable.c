// SPDX-License-Identifier: GPL-2.0
/*
 * durable.c - write records that can be told apart, note which ones fsync
 * confirmed, and check later that nothing confirmed is lost.
 *
 *	durable write FILE SLOTS NOTE [direct]	until SIGTERM
 *	durable check FILE SLOTS CONFIRMED	exit 0 if all is there
 *
 * FILE has SLOTS slots of RECORD bytes. Write number SEQ goes to slot
 * SEQ % SLOTS. With few slots, blocks are written over and over: a stale write
 * that overtakes a newer one shows. With many, what was written stays: a lost
 * one shows however long it goes on. After each BATCH an fsync; once it succeeds,
 * NOTE (on a file system in memory) holds the number of writes confirmed.
 * "direct" bypasses the page cache and makes every write durable by itself
 * (O_DIRECT | O_DSYNC: FUA on the wire, where the server has it).
 *
 * A slot is right if it holds, whole, a write of its own at least as new as
 * the newest one confirmed for it. The host checks the image the same way,
 * see check() in test_server_killed.py.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define RECORD	4096
#define BATCH	8

static volatile sig_atomic_t stop;

static void on_term(int sig)
{
	(void)sig;
	stop = 1;
}

static void die(const char *what)
{
	printf("durable: %s: %s\n", what, strerror(errno));
	exit(1);
}

/* Every word of a record follows from its number, and differs along it. */
static void fill(uint64_t *record, uint64_t seq)
{
	for (size_t i = 0; i < RECORD / sizeof(*record); i++)
		record[i] = i ? seq * UINT64_C(0x9e3779b97f4a7c15) + i : seq;
}

static void note(int fd, uint64_t confirmed)
{
	char text[32];
	int len = snprintf(text, sizeof(text), "%-20llu\n",
			   (unsigned long long)confirmed);

	if (pwrite(fd, text, len, 0) != len)
		die("note");
}

static int write_on(const char *path, uint64_t slots, const char *note_path,
		    int direct, uint64_t *record)
{
	struct sigaction term = { .sa_handler = on_term };
	int fd = open(path, O_RDWR | O_CREAT |
		      (direct ? O_DIRECT | O_DSYNC : 0), 0644);
	int note_fd = open(note_path, O_WRONLY | O_CREAT, 0644);
	uint64_t seq = 0;

	if (fd < 0 || note_fd < 0)
		die(path);
	sigaction(SIGTERM, &term, NULL);
	if (posix_fallocate(fd, 0, slots * RECORD) || fsync(fd))
		die("making the file");
	while (!stop) {
		/* Numbers start at 1: a slot never written holds 0. */
		seq++;
		fill(record, seq);
		if (pwrite(fd, record, RECORD, seq % slots * RECORD) != RECORD)
			die("write");
		if (direct) {
			note(note_fd, seq);
		} else if (seq % BATCH == 0) {
			if (fsync(fd))
				die("fsync");
			note(note_fd, seq);
		}
	}
	printf("durable: %s: stopped after %llu writes\n", path,
	       (unsigned long long)seq);
	return 0;
}

static int check(const char *path, uint64_t slots, uint64_t confirmed,
		 uint64_t *record)
{
	static uint64_t right[RECORD / sizeof(uint64_t)];
	int fd = open(path, O_RDONLY | O_DIRECT);
	uint64_t newest = 0;

	if (fd < 0)
		die(path);
	for (uint64_t slot = 0; slot < slots; slot++) {
		uint64_t least = 0;

		if (pread(fd, record, RECORD, slot * RECORD) != RECORD)
			die("read");
		/* The newest confirmed number that belongs to this slot. */
		if (confirmed >= slot)
			least = confirmed - (confirmed - slot) % slots;
		if (!record[0] && !least)
			continue;
		fill(right, record[0]);
		if (record[0] % slots != slot || record[0] < least ||
		    memcmp(record, right, RECORD)) {
			printf("durable: %s: slot %llu holds write %llu%s; %llu is confirmed\n",
			       path, (unsigned long long)slot,
			       (unsigned long long)record[0],
			       memcmp(record, right, RECORD) ? ", damaged" : "",
			       (unsigned long long)least);
			return 1;
		}
		if (record[0] > newest)
			newest = record[0];
	}
	printf("durable: %s: all %llu confirmed writes are there, newest %llu\n",
	       path, (unsigned long long)confirmed, (unsigned long long)newest);
	return 0;
}

int main(int argc, char **argv)
{
	uint64_t *record = aligned_alloc(RECORD, RECORD);
	uint64_t slots = 0;

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (!record)
		die("memory");
	if (argc >= 4)
		slots = strtoull(argv[3], NULL, 10);
	if (argc >= 5 && slots && !strcmp(argv[1], "write"))
		return write_on(argv[2], slots, argv[4], argc > 5, record);
	if (argc == 5 && slots && !strcmp(argv[1], "check"))
		return check(argv[2], slots, strtoull(argv[4], NULL, 10), record);
	printf("usage: durable write FILE SLOTS NOTE [direct] | check FILE SLOTS CONFIRMED\n");
	return 2;
}
