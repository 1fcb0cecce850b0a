// SPDX-License-Identifier: GPL-2.0
/*
 * newcomer.c - read in the very moment in which a device is live again.
 *
 *	newcomer DEV ROUNDS	/dev/DEV, whose server hangs up on whoever
 *				reads its first 4 KiB, every other time; does
 *				not end if one of its reads never comes back
 *
 * udev does that at each change event. A child on the first processor loses
 * the connection and has its own read sent again; the newcomer on the second
 * one, whose queue nobody else uses, watches the state and reads the last
 * 4 KiB, each time a little later.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define BLOCK	4096

static char buffer[BLOCK] __attribute__((aligned(BLOCK)));

static void die(const char *what)
{
	perror(what);
	exit(2);
}

static void on_cpu(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		die("sched_setaffinity");
}

static void wait_state(int fd, const char *state)
{
	char now[32];
	ssize_t n;

	do {
		n = pread(fd, now, sizeof(now) - 1, 0);
		if (n < 0)
			die("state");
		now[n] = 0;
	} while (strncmp(now, state, strlen(state)));
}

/* A link that comes up ends the driver's back-off. */
static void link_up(int sock)
{
	struct ifreq lo = { .ifr_name = "lo" };

	if (ioctl(sock, SIOCSIFFLAGS, &lo))
		die("lo down");
	lo.ifr_flags = IFF_UP;
	if (ioctl(sock, SIOCSIFFLAGS, &lo))
		die("lo up");
}

int main(int argc, char **argv)
{
	char path[64], dev[64];
	int fd, state, sock, i;

	if (argc != 3)
		return 2;
	snprintf(dev, sizeof(dev), "/dev/%s", argv[1]);
	snprintf(path, sizeof(path), "/sys/block/%s/nb/state", argv[1]);
	fd = open(dev, O_RDONLY | O_DIRECT);
	state = open(path, O_RDONLY);
	sock = socket(AF_INET, SOCK_DGRAM, 0);
	if (fd < 0 || state < 0 || sock < 0)
		die(dev);
	for (i = 0; i < atoi(argv[2]); i++) {
		off_t last = lseek(fd, -BLOCK, SEEK_END);
		volatile int spin = i * 7919 % 1024 * 64;
		int status;
		pid_t pid;

		on_cpu(0);
		pid = fork();
		if (pid < 0)
			die("fork");
		if (!pid)
			_exit(pread(fd, buffer, BLOCK, 0) != BLOCK);
		on_cpu(1);
		wait_state(state, "recovering");
		link_up(sock);
		wait_state(state, "live");
		while (spin > 0)
			spin--;
		for (int k = 0; k < 40; k++)
			if (pread(fd, buffer, BLOCK, last - k * BLOCK) != BLOCK)
				die("read");
		if (waitpid(pid, &status, 0) != pid || status)
			die("the child");
	}
	return 0;
}
