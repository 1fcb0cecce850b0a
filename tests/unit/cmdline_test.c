// SPDX-License-Identifier: GPL-2.0
/*
 * cmdline_test.c - the grammar of nbdroot= (nbd-client-static/cmdline.c) by the
 * table tests/client/grammar.txt, and literal addresses.
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

#include "cmdline.h"
#include "text.h"

static struct boot boot;

/* What was parsed, as tests/client/grammar.txt writes it. */
static const char *parsed(const char *cmdline)
{
	static char buf[10000];
	size_t len = 0;
	unsigned int i;

	if (boot_parse(&boot, cmdline) == BOOT_NONE)
		return "none";
	if (boot.said.error[0])
		return boot.said.error;
#define ADD(...) (len += (size_t)snprintf(buf + len, sizeof(buf) - len, __VA_ARGS__))
	ADD("%s", boot.device);
	if (boot.partition)
		ADD("/%u", boot.partition);
	for (i = 0; i < boot.count; i++) {
		const struct target *t = &boot.targets[i];

		if (t->dhcp)
			ADD(" DHCP");
		else
			ADD(" %s%s:%u/%s", t->literal ? "=" : "",
			    t->host[0] ? t->host : "dhcp",
			    t->port ? t->port : boot.port, t->export);
	}
	for (i = 0; i < OPTIONS; i++)
		if (boot.said.option[i])
			ADD(" %s=%s", option_keys[i], boot.said.option[i]);
#undef ADD
	return buf;
}

/* The next line of the table, its escapes undone; NULL at the end. */
static char *table_line(FILE *table, char buf[5000])
{
	char *s, *d;

	do {
		if (!fgets(buf, 5000, table))
			return NULL;
		buf[strcspn(buf, "\n")] = '\0';
	} while (!buf[0] || buf[0] == '#');
	for (s = d = buf; *s; s++) {
		unsigned int c = (unsigned char)*s;

		if (c == '\\') {
			s++;
			c = (unsigned char)*s;
			if (c == 'x') {
				assert_int_equal(sscanf(s + 1, "%2x", &c), 1);
				s += 2;
			} else if (c == 't' || c == 'n') {
				c = c == 't' ? '\t' : '\n';
			}
		}
		*d++ = (char)c;
	}
	*d = '\0';
	return buf;
}

/* Every line of the table means what it says there. */
static void table(void **state)
{
	static char buf[5000], cmdline[5000];
	FILE *f = fopen(GRAMMAR, "r");
	unsigned int lines = 0;
	bool first = false;
	char *line;

	(void)state;
	assert_non_null(f);
	while ((line = table_line(f, buf))) {
		if (*line != '\t') {
			strcpy(cmdline, line);
			lines++;
			first = true;
			continue;
		}
		line++;
		if (first && !strcmp(line, "!")) {
			if (boot_parse(&boot, cmdline) != BOOT_BAD)
				fail_msg("%s is taken", cmdline);
		} else if (first) {
			if (strcmp(parsed(cmdline), line))
				fail_msg("%s\n gives %s\n not   %s", cmdline,
					 parsed(cmdline), line);
		} else if (starts_with(line, "~ ")) {
			if (!strstr(boot.said.warning, line + 2))
				fail_msg("%s\n warns \"%s\"\n not   %s", cmdline,
					 boot.said.warning, line + 2);
		} else if (!strstr(boot.said.error, line)) {
			fail_msg("%s\n says %s\n not  %s", cmdline,
				 boot.said.error, line);
		}
		first = false;
	}
	fclose(f);
	assert_true(lines > 150);
}

/* A wrong word is followed by a right one. */
static void example_is_right(void **state)
{
	static char example[MAX_ERROR];
	char *p;

	(void)state;
	assert_int_equal(boot_parse(&boot, "nbdroot=a:b"), BOOT_BAD);
	p = strstr(boot.said.error, "write it like ");
	assert_non_null(p);
	strcpy(example, p + strlen("write it like "));
	example[strcspn(example, " ")] = '\0';
	assert_string_equal(parsed(example), "nb0 server1:1234/");
}

static void very_long_lines(void **state)
{
	static char line[3 * MAX_CMDLINE];

	(void)state;
	memset(line, 'x', sizeof(line) - 1);
	assert_int_equal(boot_parse(&boot, line), BOOT_BAD);
	line[MAX_CMDLINE] = '\0';
	assert_int_equal(boot_parse(&boot, line), BOOT_NONE);
	memcpy(line, "nbdroot=", 8);
	assert_int_equal(boot_parse(&boot, line), BOOT_BAD);
	assert_true(strlen(boot.said.error) < MAX_ERROR);
	memcpy(line, "nbdroot=a/", 10);
	assert_int_equal(boot_parse(&boot, line), BOOT_OK);
	assert_int_equal(strlen(boot.targets[0].export), MAX_CMDLINE - 10);
	memcpy(line, "nbdroot=a:", 10);
	assert_int_equal(boot_parse(&boot, line), BOOT_BAD);
	memcpy(line, "nbdroot=a,", 10);
	assert_int_equal(boot_parse(&boot, line), BOOT_OK);
	assert_true(strlen(boot.said.warning) < MAX_ERROR);
	memcpy(line, "nbdopts=a,", 10);
	assert_int_equal(boot_parse(&boot, line), BOOT_BAD);
	memcpy(line, "root=/dev/nb", 12);
	assert_int_equal(boot_parse(&boot, line), BOOT_BAD);
}

static void longest_host_name(void **state)
{
	char line[400] = "nbdroot=";
	int i;

	(void)state;
	for (i = 0; i < 63; i++)
		strcat(line, "abc.");
	strcat(line, "a");
	assert_int_equal(strlen(line) - 8, 253);
	assert_int_equal(boot_parse(&boot, line), BOOT_OK);
	strcat(line, "b");
	assert_int_equal(boot_parse(&boot, line), BOOT_BAD);

	strcpy(line, "nbdroot=");
	memset(line + 8, 'a', 63);
	line[71] = '\0';
	assert_int_equal(boot_parse(&boot, line), BOOT_OK);
	strcat(line, "a");
	assert_int_equal(boot_parse(&boot, line), BOOT_BAD);
}

static void hosts_and_devices(void **state)
{
	static const char *const devices[][2] = {
		{ "nb0", "nb0" }, { "/dev/nb12", "nb12" },
		{ "nb1023", "nb1023" }, { "nb", NULL }, { "nb1024", NULL },
		{ "/dev/nbd0", "nbd0" }, { "nbd", NULL }, { "nb0p1", NULL }, { "sda", NULL },
		{ "nb01", NULL }, { "", NULL }, { "nb-1", NULL },
		{ "/dev/dev/nb0", NULL }, { "nb99999999999999999999", NULL },
	};
	static const struct { const char *text; int family; } hosts[] = {
		{ "server1", 0 }, { "192.0.2.1", AF_INET },
		{ "2001:db8::1", AF_INET6 }, { "[2001:db8::1]", AF_INET6 },
		{ "fe80::1%3", AF_INET6 }, { "", -1 }, { "[", -1 },
		{ "[]", -1 }, { "[a]", -1 }, { "a b", -1 }, { "fe80::1", -1 },
	};
	char device[MAX_DEVICE], error[MAX_ERROR], text[100];
	struct target t;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(devices) / sizeof(devices[0]); i++) {
		bool ok = device_parse(devices[i][0], device);

		assert_int_equal(ok, devices[i][1] != NULL);
		if (ok)
			assert_string_equal(device, devices[i][1]);
	}
	for (i = 0; i < sizeof(hosts) / sizeof(hosts[0]); i++) {
		strcpy(text, hosts[i].text);
		assert_int_equal(host_parse(&t, text, error),
				 hosts[i].family >= 0);
		if (hosts[i].family > 0)
			assert_int_equal(t.address.family, hosts[i].family);
	}
}

static void good_addresses(void **state)
{
	/* as written, as printed */
	static const char *const a[][2] = {
		{ "0.0.0.0", "0.0.0.0" },
		{ "255.255.255.255", "255.255.255.255" },
		{ "010.001.0.09", "10.1.0.9" },
		{ "::", "[::]" },
		{ "::1", "[::1]" },
		{ "1::", "[1::]" },
		{ "2001:DB8:0:0:1::", "[2001:db8:0:0:1::]" },
		{ "2001:db8:0:0:1:0:0:1", "[2001:db8::1:0:0:1]" },
		{ "1:2:3:4:5:6:7:8", "[1:2:3:4:5:6:7:8]" },
		{ "1:0:3:4:5:6:7:8", "[1:0:3:4:5:6:7:8]" },
		{ "::2:3:4:5:6:7:8", "[0:2:3:4:5:6:7:8]" },
		{ "1:2:3:4:5:6:7::", "[1:2:3:4:5:6:7:0]" },
		{ "::ffff:192.0.2.1", "[::ffff:c000:201]" },
		{ "1:2:3:4:5:6:192.0.2.1", "[1:2:3:4:5:6:c000:201]" },
		{ "fe80::1%eth0.100", "[fe80::1%eth0.100]" },
		{ "fe80::1%123456789012345", "[fe80::1%123456789012345]" },
	};
	char text[ADDRESS_TEXT];
	struct address x;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(a) / sizeof(a[0]); i++) {
		assert_true(address_parse(a[i][0], strlen(a[i][0]), &x));
		address_format(&x, text);
		assert_string_equal(text, a[i][1]);
	}
	x.port = 65535;
	address_format(&x, text);
	assert_string_equal(text, "[fe80::1%123456789012345]:65535");
}

static void bad_addresses(void **state)
{
	static const char *const a[] = {
		"", ".", "1.2.3", "1.2.3.4.5", "1.2.3.", ".1.2.3", "1..2.3",
		"256.1.1.1", "1.2.3.0004", "0x1.2.3.4", "1.2.3.4 ", "-1.2.3.4",
		":", ":::", "1:", ":1", "1::2::3", "1:2:3:4:5:6:7",
		"1:2:3:4:5:6:7:8:9", "1:2:3:4:5:6:7:8::", "::1:2:3:4:5:6:7:8",
		"12345::", "g::", "1:2:3:4:5:6:7:1.2.3.4", "::1.2.3", "::1.2.3.4:1",
		"::1%", "::1%a b", "::1%a%b", "1:::2", "::1:", "1.2.3.4::",
		"::%1234567890123456",
	};
	struct address x;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(a) / sizeof(a[0]); i++)
		if (address_parse(a[i], strlen(a[i]), &x))
			fail_msg("%s is taken for an address", a[i]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(table),
		cmocka_unit_test(example_is_right),
		cmocka_unit_test(very_long_lines),
		cmocka_unit_test(longest_host_name),
		cmocka_unit_test(hosts_and_devices),
		cmocka_unit_test(good_addresses),
		cmocka_unit_test(bad_addresses),
	};

	return cmocka_run_group_tests_name("cmdline", tests, NULL, NULL);
}
