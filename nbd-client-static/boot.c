// SPDX-License-Identifier: GPL-2.0
/*
 * boot.c - nbd-client --boot: attach the root device that the kernel command
 * line names, and wait as long as it takes. A station may be switched on
 * before its server, its switch or its nameserver; each of those is a reason
 * to tell the person at the console and go on, never to give up. What waiting
 * cannot mend (a malformed command line, no driver) ends the program.
 *
 * The first failure is told at once, with what to do about it. After that a
 * line every REPEAT_MS says that it still tries, and why if the reason is a
 * new one.
 */
#include "sys.h"
#include "attach.h"
#include "boot.h"
#include "intree.h"
#include "paths.h"
#include "text.h"

#define FIRST_WAIT_MS	500
#define LONGEST_WAIT_MS	2000
#define REPEAT_MS	10000
#define PARTITION_MS	5000

/* What the person at the console has been told. */
struct told {
	unsigned long long start, last;		/* ms; last 0: nothing yet */
	int error;
	const char *hint;
	char why[MAX_WHY];
};

static bool is_silence(int error)
{
	return error == EHOSTUNREACH || error == ETIMEDOUT;
}

/*
 * Is it another reason than the one that was told? A host that is off is
 * unreachable at one time and timed out at the next, and no news.
 */
static bool is_news(const struct told *t, const struct attempt *at)
{
	return strcmp(t->why, at->why) &&
	       !(is_silence(t->error) && is_silence(at->error) &&
		 t->hint == at->hint);
}

static void tell(struct told *t, const struct attempt *at, const char *device)
{
	unsigned long long now = clock_ms();
	char why[2 * MAX_WHY], since[40];
	unsigned int seconds = (unsigned int)((now - t->start) / 1000);

	if (t->last && now - t->last < REPEAT_MS)
		return;
	if (t->last && !is_news(t, at)) {
		say("still waiting for /dev/%s after %u s: %s", device, seconds,
		    at->why);
	} else {
		attach_explain(at, why, sizeof(why));
		put(since, sizeof(since), " after %u s, now because", seconds);
		say("%swaiting for /dev/%s%s: %s", t->last ? "still " : "",
		    device, t->last ? since : "", why);
	}
	strcpy(t->why, at->why);
	t->error = at->error;
	t->hint = at->hint;
	t->last = now;
}

/* Stations that were switched on together should not ask in step. */
static void pause_before_retry(unsigned int *wait)
{
	unsigned char jitter;

	random_bytes(&jitter, 1);
	sleep_ms(*wait + *wait * jitter / 1024);
	*wait *= 2;
	if (*wait > LONGEST_WAIT_MS)
		*wait = LONGEST_WAIT_MS;
}

/* The partitions of @device, for a message. */
static void append_partitions(char *buf, size_t size, const char *device)
{
	unsigned int i, count = 0;
	char name[32], fact[32];

	for (i = 1; i < 32; i++) {
		put(name, sizeof(name), "%sp%u/size", device, i);
		if (device_fact(device, name, fact, sizeof(fact)))
			append(buf, size, "%s%sp%u", count++ ? ", " : "it has ",
			       device, i);
	}
	if (!count)
		append(buf, size, "it has no partitions: root=/dev/%s perhaps",
		       device);
}

/* root= names a partition: is it there? The driver has scanned for them. */
static void check_partition(const struct boot *b)
{
	unsigned long long end = clock_ms() + PARTITION_MS;
	char name[32], fact[32], line[512];

	if (!b->partition)
		return;
	put(name, sizeof(name), "%sp%u/size", b->device, b->partition);
	while (!device_fact(b->device, name, fact, sizeof(fact))) {
		if (clock_ms() > end) {
			line[0] = '\0';
			append_partitions(line, sizeof(line), b->device);
			say("warning: root=/dev/%sp%u: the disk has no such partition; %s",
			    b->device, b->partition, line);
			return;
		}
		sleep_ms(100);
	}
}

static int attach_until_done(const struct boot *b)
{
	static struct facts facts;
	static struct attempt at;
	struct told told = { .start = clock_ms() };
	unsigned int wait = FIRST_WAIT_MS;
	char why[2 * MAX_WHY], state[32];

	for (;;) {
		facts_load(&facts);
		attach_try(&at, b->device, b->targets, b->count, b->port,
			   b->said.option, &facts);
		if (at.status == STATUS_OK)
			break;
		if (at.error == EEXIST &&
		    attach_state(b->device, state, sizeof(state))) {
			say("/dev/%s is attached already", b->device);
			return STATUS_OK;
		}
		/* Somebody else is attaching it just now: see how that ends. */
		if (at.final && at.error != EEXIST) {
			attach_explain(&at, why, sizeof(why));
			say("%s", why);
			return at.status;
		}
		tell(&told, &at, b->device);
		pause_before_retry(&wait);
	}
	attach_report(&at, b->device);
	return STATUS_OK;
}

/*
 * Parse the command line in the file @path, telling what is wrong with it. That
 * there is nothing to do is told only if @all.
 */
static enum status parse_file(struct boot *b, const char *path, bool all)
{
	static char cmdline[2 * MAX_CMDLINE];

	if (read_line(path, cmdline, sizeof(cmdline)) < 0) {
		say("%s: %s", path, error_text(errno));
		return STATUS_FAILED;
	}
	switch (boot_parse(b, cmdline)) {
	case BOOT_BAD:
		say("%s", b->said.error);
		return STATUS_USAGE;
	case BOOT_NONE:
		if (all)
			say("no nbdroot= on the kernel command line: nothing to attach");
		return STATUS_NOTHING;
	default:
		if (b->said.warning[0])
			say("warning: %s", b->said.warning);
		return STATUS_OK;
	}
}

/*
 * Without nb.ko (Secure Boot, a kernel that it was not built for) the in-tree
 * driver carries the root, under the name that root= has.
 */
static bool fall_back(struct boot *b)
{
	char path[32], partition[16] = "", name[32];
	unsigned int i = 0;

	if (module_ready("nbd"))
		return false;
	do {
		put(path, sizeof(path), DEV_PATH "/%s%s", b->device, partition);
		put(name, sizeof(name), "nbd%s%s", b->device + 2, partition);
		if (symlink(name, path) < 0 && errno != EEXIST)
			break;
		put(partition, sizeof(partition), "p%u", ++i);
	} while (i < 16);
	put(name, sizeof(name), "nbd%s", b->device + 2);
	strcpy(b->device, name);
	return true;
}

static struct boot b;

int boot_main(const char *path)
{
	enum status status;
	char why[512];

	status = parse_file(&b, path, true);
	if (status != STATUS_OK)
		return status;
	if (!device_is_intree(b.device) && !control_ready(why, sizeof(why))) {
		say("%s", why);
		if (!fall_back(&b))
			return STATUS_NO_DRIVER;
	}
	status = attach_until_done(&b);
	if (status != STATUS_OK)
		return status;
	if (device_is_intree(b.device))
		say("warning: the root is on the kernel's own driver nbd, not on nb: %s",
		    intree_price);
	check_partition(&b);
	return status;
}

/* KEY='value', for a shell to read. */
static void print_variable(const char *key, unsigned int number,
			   const char *value)
{
	char name[32] = "NB_", c[2] = "", *p;

	append(name, sizeof(name), number ? "%s_%u" : "%s", key, number);
	for (p = name; *p; p++)
		if (*p >= 'a' && *p <= 'z')
			*p -= 0x20;
	print(name);
	print("='");
	for (; *value; value++) {
		c[0] = *value;
		print(*value == '\'' ? "'\\''" : c);
	}
	print("'\n");
}

int parse_main(const char *path)
{
	char number[16] = "";
	enum status status;
	unsigned int i;

	status = parse_file(&b, path, false);
	if (status != STATUS_OK)
		return status;
	print_variable("DEVICE", 0, b.device);
	if (b.partition)
		put(number, sizeof(number), "%u", b.partition);
	print_variable("PARTITION", 0, number);
	for (i = 0; i < OPTIONS; i++)
		print_variable(option_keys[i], 0,
			       b.said.option[i] ? b.said.option[i] : "");
	put(number, sizeof(number), "%u", b.count);
	print_variable("SERVERS", 0, number);
	for (i = 0; i < b.count; i++) {
		const struct target *t = &b.targets[i];

		put(number, sizeof(number), "%u",
		    (unsigned int)(t->port ? t->port : b.port));
		print_variable("HOST", i + 1, t->host[0] ? t->host : "dhcp");
		print_variable("PORT", i + 1, t->dhcp ? "" : number);
		print_variable("EXPORT", i + 1, t->export);
	}
	return STATUS_OK;
}
