// SPDX-License-Identifier: GPL-2.0
/*
 * bootline_test.c - nbdroot= as a driver built into the kernel reads it
 * (kmod/bootline.c): what becomes a line for /dev/nb-control, and what is
 * quoted back with a right example. And that nbd-client, which reads more,
 * reads the same in it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <cmocka.h>

#include "bootline.h"
#include "cmdline.h"
#include "control.h"

#define BOOT_SERVER "192.0.2.9"

static char line[4096], why[512];

/* Values separated by blanks. */
static const char *read_values(const char *values, const char *boot_server)
{
	static char copy[20000];
	char *v[16];
	unsigned int n = 0;
	char *word;

	assert_true(strlen(values) < sizeof(copy));
	strcpy(copy, values);
	for (word = strtok(copy, " "); word; word = strtok(NULL, " "))
		v[n++] = word;
	if (!n)
		v[n++] = copy;
	if (nb_bootline(line, sizeof(line), v, n, boot_server, why, sizeof(why)))
		return line;
	return why;
}

static const char *const good[][2] = {
	{ "192.0.2.1:1234", "server=192.0.2.1:1234" },
	{ "192.0.2.1:1234/", "server=192.0.2.1:1234" },
	{ "192.0.2.1:65535/lab", "server=192.0.2.1:65535 export=lab" },
	{ "0.0.0.0:1/a/b:c", "server=0.0.0.0:1 export=a/b:c" },
	{ "255.255.255.255:10809", "server=255.255.255.255:10809" },
	{ "[2001:db8::1]:1234/x", "server=[2001:db8::1]:1234 export=x" },
	{ "[fe80::1%eth0]:1234", "server=[fe80::1%eth0]:1234" },
	{ "[::ffff:192.0.2.1]:9", "server=[::ffff:192.0.2.1]:9" },
	{ "192.0.2.1:1/x 192.0.2.2:2/x", "server=192.0.2.1:1 server=192.0.2.2:2 export=x" },
	{ "192.0.2.1:1/ 192.0.2.2:2", "server=192.0.2.1:1 server=192.0.2.2:2" },
	{ "dhcp:1234/lab", "server=" BOOT_SERVER ":1234 export=lab" },
	/* what would be another word, or the start of an escape */
	{ "192.0.2.1:1/\xc3\xa4\\101", "server=192.0.2.1:1 export=\\303\\244\\134101" },
};

static void good_values(void **state)
{
	unsigned int i;
	char want[200], blanks[] = "192.0.2.1:1/a\tb c";

	(void)state;
	for (i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		snprintf(want, sizeof(want), "attach dev=nb0 %s", good[i][1]);
		assert_string_equal(read_values(good[i][0], BOOT_SERVER), want);
	}
	/* the command line quotes what has blanks */
	assert_true(nb_bootline(line, sizeof(line), (char *const []){ blanks }, 1,
				NULL, why, sizeof(why)));
	assert_string_equal(line, "attach dev=nb0 server=192.0.2.1:1 export=a\\011b\\040c");
}

static void bad_values(void **state)
{
	static const char *const bad[][2] = {
		{ "", "only an initramfs can resolve a name" },
		{ "server1:1234", "nbdroot=\"server1:1234\": not an address, and only an initramfs can resolve a name; without an initramfs, write it like nbdroot=192.0.2.1:1234" },
		{ "192.0.2.1", "the port is missing" },
		{ "192.0.2.1/lab", "the port is missing" },
		{ "192.0.2.1:", "the port is not a number" },
		{ "192.0.2.1:/lab", "the port is not a number" },
		{ "192.0.2.1:0", "the port is not a number" },
		{ "192.0.2.1:65536", "the port is not a number" },
		{ "192.0.2.1:99999999999999999999", "the port is not a number" },
		{ "192.0.2.1:012", "the port is not a number" },
		{ "192.0.2.1:+1", "the port is not a number" },
		{ "192.0.2.1:1x", "the port is not a number" },
		{ "192.0.2.256:1", "not an address" },
		{ "192.0.2:1", "not an address" },
		{ "192.0.2.1.5:1", "not an address" },
		{ "192.0.2.01:1", "not an address" },
		{ "192.0..1:1", "not an address" },
		{ ".1.2.3.4:1", "not an address" },
		{ "1.2.3.4.:1", "not an address" },
		{ "2001:db8::1", "not an address" },
		{ "[2001:db8::1:5", "a bracket is not closed" },
		{ "[2001:db8::1]", "the port is missing" },
		{ "[2001:db8::1]x:1", "the port is missing" },
		{ "[192.0.2.1]:1", "no IPv6 address" },
		{ "[]:1", "no IPv6 address" },
		{ "[::1%]:1", "no IPv6 address" },
		{ "[::1%a%b]:1", "no IPv6 address" },
		{ "[::1 server=x]:1", "a bracket is not closed" },
		{ "[::g]:1", "no IPv6 address" },
		{ "[fe\0270::1]:1", "no IPv6 address" },
		{ "nbd://192.0.2.1:1", "not an address" },
		{ ":1234", "not an address" },
		{ "/lab", "not an address" },
		{ "dhcp", "the port is missing" },
		{ "192.0.2.1:1/a 192.0.2.2:2/b", "nbdroot=\"192.0.2.2:2/b\": every server must have the same export" },
		{ "192.0.2.1:1/a 192.0.2.2:2", "every server must have the same export" },
		{ "192.0.2.1:1 192.0.2.2:2/b", "every server must have the same export" },
		{ "192.0.2.1:1 server2:2", "nbdroot=\"server2:2\"" },
	};
	unsigned int i;
	char *longest;

	(void)state;
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		const char *said = read_values(bad[i][0], BOOT_SERVER);

		if (said != why || !strstr(said, bad[i][1]))
			fail_msg("%s gives: %s", bad[i][0], said);
	}
	assert_non_null(strstr(read_values("dhcp:1234", NULL), "no boot server is known"));

	/* too long for the line, as it is and once it is escaped */
	longest = calloc(1, 6000);
	strcpy(longest, "192.0.2.1:1/");
	memset(longest + 12, 'x', 5000);
	assert_non_null(strstr(read_values(longest, NULL), ": too long;"));
	longest[12 + 1200] = '\0';
	assert_ptr_equal(read_values(longest, NULL), line);
	memset(longest + 12, '\x01', 1200);
	assert_non_null(strstr(read_values(longest, NULL), ": too long;"));
	free(longest);
}

/* One meaning: an initramfs put before a kernel that did without changes nothing. */
static void the_client_agrees(void **state)
{
	static struct boot boot;
	static char theirs[CONTROL_LINE + 2];
	unsigned int i, j;

	(void)state;
	for (i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		char cmdline[200] = "root=/dev/nb0", copy[200];
		struct address a[MAX_TARGETS];
		char *word;

		strcpy(copy, good[i][0]);
		for (word = strtok(copy, " "); word; word = strtok(NULL, " ")) {
			strcat(cmdline, " nbdroot=");
			strcat(cmdline, word);
		}
		assert_int_equal(boot_parse(&boot, cmdline), BOOT_OK);
		for (j = 0; j < boot.count; j++) {
			const struct target *t = &boot.targets[j];

			a[j] = t->address;
			if (!t->literal) {
				assert_string_equal(t->host, "");
				address_parse(BOOT_SERVER, strlen(BOOT_SERVER), &a[j]);
			}
			a[j].port = t->port;
		}
		assert_true(control_attach_line(theirs, boot.device, a, boot.count,
						boot.said.option, NULL,
						boot.targets[0].export));
		/* It says more, and spells one of the addresses in another way. */
		read_values(good[i][0], BOOT_SERVER);
		if (strstr(line, "::ffff:"))
			continue;
		strcat(theirs, " ");
		for (word = strtok(line, " "); word; word = strtok(NULL, " ")) {
			snprintf(copy, sizeof(copy), "%s ", word);
			if (!strstr(theirs, copy))
				fail_msg("%s: no %sin: %s", cmdline, copy, theirs);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(good_values),
		cmocka_unit_test(bad_values),
		cmocka_unit_test(the_client_agrees),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
