// SPDX-License-Identifier: GPL-2.0
/*
 * cmdline.c - fuzz target: the kernel command line. Whatever it holds, a
 * result is complete and within its limits, or a message says what is wrong.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "cmdline.h"
#include "control.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool ok)
{
	if (!ok)
		abort();
}

static void check_target(const struct boot *b, const struct target *t)
{
	static char line[CONTROL_LINE + 1];
	struct address a = t->address;
	char device[MAX_DEVICE];
	const char *p;

	if (t->dhcp)
		return;
	check(strlen(t->host) <= MAX_CMDLINE);
	check(strlen(t->export) <= MAX_CMDLINE);
	check(device_parse(b->device, device));
	check(strlen(b->said.warning) < MAX_ERROR);
	if (!t->literal) {
		/* What goes into a DNS question holds nothing odd. */
		for (p = t->host; *p; p++)
			check(strchr("-._", *p) || (*p >= '0' && *p <= '9') ||
			      ((*p | 0x20) >= 'a' && (*p | 0x20) <= 'z'));
		return;
	}
	check(a.family == AF_INET || a.family == AF_INET6);
	check(memchr(a.zone, '\0', sizeof(a.zone)) != NULL);
	/* The line for the driver has as many words as it should. */
	a.port = t->port ? t->port : b->port;
	check(a.port != 0);
	if (control_attach_line(line, device, &a, 1, b->said.option, NULL,
				t->export)) {
		unsigned int spaces = 0, words = 4, i;

		for (p = line; *p; p++) {
			check(*p >= ' ' && *p < 0x7f);
			spaces += *p == ' ';
		}
		for (i = 0; i < DRIVER_OPTIONS; i++)
			words += b->said.option[i] && i != OPT_LOST &&
				 (i != OPT_RO || b->said.option[i][0] == '1');
		check(spaces == words);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct boot b;
	char *line = malloc(size + 1);
	unsigned int i;

	memcpy(line, data, size);
	line[size] = '\0';
	memset(&b, 0xa5, sizeof(b));
	switch (boot_parse(&b, line)) {
	case BOOT_OK:
		check(b.count >= 1 && b.count <= MAX_TARGETS && b.port);
		check(!b.said.error[0] && b.partition <= 31);
		for (i = 0; i < b.count; i++)
			check_target(&b, &b.targets[i]);
		break;
	case BOOT_BAD:
		check(b.said.error[0] && strlen(b.said.error) < MAX_ERROR);
		break;
	case BOOT_NONE:
		check(!b.count);
		break;
	}
	free(line);
	return 0;
}
