// SPDX-License-Identifier: GPL-2.0
/*
 * facts_test.c - the files the client reads (resolv.conf, net-*.conf, hosts)
 * and the line it writes to the driver.
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

#include "control.h"
#include "facts.h"
#include "resolve.h"
#include "text.h"

static struct facts facts;
static const char *const none[OPTIONS];

/* Give a parser its text in memory of exactly that size. */
static void feed(void (*parse)(struct facts *f, char *text), const char *text)
{
	char *copy = strdup(text);

	parse(&facts, copy);
	free(copy);
}

static const char *nameserver(unsigned int i)
{
	static char text[ADDRESS_TEXT];

	assert_true(i < facts.nameservers);
	address_format(&facts.nameserver[i], text);
	return text;
}

static int start(void **state)
{
	(void)state;
	memset(&facts, 0, sizeof(facts));
	return 0;
}

/* What klibc's ipconfig writes after a DHCP answer. */
static void ipconfig_file(void **state)
{
	(void)state;
	feed(facts_add_netconf,
	     "DEVICE='eth0'\n"
	     "PROTO='dhcp'\n"
	     "IPV4ADDR='10.0.2.15'\n"
	     "IPV4DNS0='10.0.2.3'\n"
	     "IPV4DNS1='0.0.0.0'\n"
	     "HOSTNAME='station'\n"
	     "DNSDOMAIN='lab.example'\n"
	     "ROOTSERVER='10.0.2.2'\n"
	     "ROOTPATH='server1:1234/it'\\''s'\n"
	     "filename=''\n"
	     "DOMAINSEARCH='a.example b.example'\n");
	assert_true(facts.dhcp);
	assert_int_equal(facts.nameservers, 1);
	assert_string_equal(nameserver(0), "10.0.2.3:53");
	assert_int_equal(facts.searches, 3);
	assert_string_equal(facts.search[0], "lab.example");
	assert_string_equal(facts.search[2], "b.example");
	assert_string_equal(facts.root_server, "10.0.2.2");
	assert_string_equal(facts.root_path, "server1:1234/it's");

	/* A second interface adds what the first did not know. */
	feed(facts_add_netconf,
	     "ROOTSERVER=192.0.2.9\nROOTPATH=other\nIPV4DNS0=\"192.0.2.53\"");
	assert_string_equal(facts.root_server, "10.0.2.2");
	assert_int_equal(facts.nameservers, 2);
	assert_string_equal(nameserver(1), "192.0.2.53:53");
}

/* The same facts as systemd-networkd, udhcpc and dhclient write them. */
static void other_leases(void **state)
{
	static const char *const leases[] = {
		"# This is private data. Do not parse.\n"
		"ADDRESS=192.0.2.7\nSERVER_ADDRESS=192.0.2.1\n"
		"NEXT_SERVER=192.0.2.2\nDNS=192.0.2.53 192.0.2.54\n"
		"DOMAINNAME=lab.example\nHOSTNAME=kiosk7\n"
		"ROOT_PATH=server1:1234/x,ro\n",
		"interface='eth0'\nserverid='192.0.2.1'\nsiaddr='192.0.2.2'\n"
		"dns='192.0.2.53 192.0.2.54'\ndomain='lab.example'\n"
		"hostname='kiosk7'\nrootpath='server1:1234/x,ro'\n",
		"new_dhcp_server_identifier=192.0.2.1\n"
		"new_next_server=192.0.2.2\n"
		"new_domain_name_servers='192.0.2.53 192.0.2.54'\n"
		"new_domain_name=lab.example\nnew_host_name=kiosk7\n"
		"new_root_path=server1:1234/x,ro\n",
	};
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(leases) / sizeof(leases[0]); i++) {
		memset(&facts, 0, sizeof(facts));
		feed(facts_add_netconf, leases[i]);
		assert_string_equal(facts.root_server, "192.0.2.2");
		assert_string_equal(facts.dhcp_server, "192.0.2.1");
		assert_int_equal(facts.nameservers, 2);
		assert_string_equal(nameserver(1), "192.0.2.54:53");
		assert_string_equal(facts.search[0], "lab.example");
		assert_string_equal(facts.host, "kiosk7");
		assert_string_equal(facts.root_path, "server1:1234/x,ro");
	}
}

static void nothing_known(void **state)
{
	(void)state;
	feed(facts_add_netconf,
	     "ROOTSERVER='0.0.0.0'\nROOTPATH=''\nIPV4DNS0='0.0.0.0'\n"
	     "DNSDOMAIN=''\n");
	assert_int_equal(facts.nameservers + facts.searches, 0);
	assert_string_equal(facts.root_server, "");
	assert_string_equal(facts.root_path, "");
}

static void resolv_conf(void **state)
{
	(void)state;
	feed(facts_add_resolv,
	     "# made by hand\n"
	     "search lab.example example  # two\n"
	     "domain LAB.example\n"
	     "options ndots:2\n"
	     "nameserver 192.0.2.53\n"
	     "  nameserver\tfe80::53%eth0\n"
	     "nameserver 192.0.2.53\n"
	     "nameserver ns.example\n"
	     "nameserver\n"
	     ";nameserver 1.1.1.1\n"
	     "nameserver 2001:db8::53");
	assert_int_equal(facts.nameservers, 3);
	assert_string_equal(nameserver(0), "192.0.2.53:53");
	assert_string_equal(nameserver(1), "[fe80::53%eth0]:53");
	assert_string_equal(nameserver(2), "[2001:db8::53]:53");
	assert_int_equal(facts.searches, 2);
	assert_string_equal(facts.search[1], "example");
}

/* Too many, too long, and nonsense. */
static void hostile_files(void **state)
{
	static char text[20000];
	int i;

	(void)state;
	for (i = 0; i < 300; i++)
		sprintf(text + strlen(text), "nameserver 10.0.%d.1\nsearch a%d\n",
			i % 256, i);
	feed(facts_add_resolv, text);
	assert_int_equal(facts.nameservers, MAX_NAMESERVERS);
	assert_int_equal(facts.searches, MAX_SEARCH);

	start(NULL);
	memset(text, 'x', sizeof(text) - 1);
	memcpy(text, "ROOTPATH=", 9);
	feed(facts_add_netconf, text);
	memcpy(text, "DNSDOMAIN=", 10);
	feed(facts_add_netconf, text);
	memcpy(text, "search ", 7);
	feed(facts_add_resolv, text);
	assert_string_equal(facts.root_path, "");
	assert_int_equal(facts.searches, 0);

	feed(facts_add_netconf, "=\n==\n'\nROOTPATH='\nROOTPATH\nIPV4DNS0=\\");
	feed(facts_add_netconf, "ROOTPATH='a\\");
	assert_string_equal(facts.root_path, "a\\");
	feed(facts_add_resolv, "\n\n \nsearch\nnameserver \n");
}

static unsigned int lookup(const char *name, struct address *a)
{
	char text[] =
		"127.0.0.1\tlocalhost\n"
		"192.0.2.1 server1.lab Server1 # server9\n"
		"2001:db8::1\tserver1\n"
		"192.0.2.300 server2\n"
		"server3 192.0.2.3\n"
		"#192.0.2.4 server4\n"
		"192.0.2.5\n"
		"192.0.2.6 server66 server6";

	return hosts_lookup(text, name, a, 4);
}

static void hosts_file(void **state)
{
	struct address a[4];
	char text[ADDRESS_TEXT];

	(void)state;
	assert_int_equal(lookup("SERVER1", a), 2);
	address_format(&a[0], text);
	assert_string_equal(text, "192.0.2.1");
	address_format(&a[1], text);
	assert_string_equal(text, "[2001:db8::1]");
	assert_int_equal(lookup("server1.lab", a), 1);
	assert_int_equal(lookup("server6", a), 1);
	assert_int_equal(lookup("server", a), 0);
	assert_int_equal(lookup("server2", a), 0);
	assert_int_equal(lookup("server3", a), 0);
	assert_int_equal(lookup("server4", a), 0);
	assert_int_equal(lookup("server9", a), 0);
}

static void attach_line(void **state)
{
	static const char *const said[OPTIONS] = {
		[OPT_RO] = "1", [OPT_CONNS] = "4", [OPT_LOST] = "60",
		[OPT_STATION] = "x",
	};
	static const char *const rw[OPTIONS] = { [OPT_RO] = "0" };
	static char line[CONTROL_LINE + 1];
	struct address servers[CONTROL_SERVERS];

	(void)state;
	assert_true(address_parse("192.0.2.1", 9, &servers[0]));
	assert_true(address_parse("fe80::1%eth0", 12, &servers[1]));
	servers[0].port = servers[1].port = 1234;
	assert_true(control_attach_line(line, "nb0", servers, 2, none, NULL, "root"));
	assert_string_equal(line,
		"attach dev=nb0 server=192.0.2.1:1234 "
		"server=[fe80::1%eth0]:1234 lost=wait export=root");
	assert_true(control_attach_line(line, "nb0", servers, 1, none, NULL, ""));
	assert_string_equal(line,
		"attach dev=nb0 server=192.0.2.1:1234 lost=wait export=");
	assert_true(control_attach_line(line, "nb0", servers, 1, said, "id",
					""));
	assert_string_equal(line,
		"attach dev=nb0 server=192.0.2.1:1234 ro=1 conns=4 lost=60 station=x boot=id export=");
	assert_true(control_attach_line(line, "nb0", servers, 1, rw, "", ""));
	assert_string_equal(line,
		"attach dev=nb0 server=192.0.2.1:1234 lost=wait export=");
	/* Nothing in a name can become a word of its own. */
	assert_true(control_attach_line(line, "nb1", servers, 1, none, NULL,
					"a b\\\n\t\x7f\xc3\xa9=~ lost=1"));
	assert_string_equal(strstr(line, "export="),
		"export=a\\040b\\134\\012\\011\\177\\303\\251=~\\040lost=1");
}

static void attach_line_too_long(void **state)
{
	static char line[CONTROL_LINE + 1], export[4097];
	struct address a;
	size_t head;

	(void)state;
	assert_true(address_parse("192.0.2.1", 9, &a));
	a.port = 1;
	control_attach_line(line, "nb0", &a, 1, none, NULL, "");
	head = strlen(line);
	memset(export, 'x', 4096);
	assert_false(control_attach_line(line, "nb0", &a, 1, none, NULL, export));
	export[4096 - head] = '\0';
	assert_true(control_attach_line(line, "nb0", &a, 1, none, NULL, export));
	assert_int_equal(strlen(line), 4096);
	export[4096 - head - 1] = ' ';
	assert_false(control_attach_line(line, "nb0", &a, 1, none, NULL, export));
}

static void numbers_and_words(void **state)
{
	char buf[8] = "abc", text[] = " one\ttwo  ", *p = text;
	uint64_t v;

	(void)state;
	assert_true(parse_number("1023", 4, 1023, &v));
	assert_int_equal(v, 1023);
	assert_false(parse_number("1024", 4, 1023, &v));
	assert_false(parse_number("", 0, 1023, &v));
	assert_false(parse_number("7", 1, 5, &v));
	assert_false(parse_number("18446744073709551616", 20, ~0UL, &v));
	assert_true(append(buf, sizeof(buf), "%d", 1234));
	assert_string_equal(buf, "abc1234");
	assert_false(append(buf, sizeof(buf), "x"));
	assert_string_equal(buf, "abc1234");
	assert_string_equal(next_word(&p), "one");
	assert_string_equal(next_word(&p), "two");
	assert_null(next_word(&p));
}

int main(void)
{
#define T(f) cmocka_unit_test_setup(f, start)
	const struct CMUnitTest tests[] = {
		T(ipconfig_file),
		T(other_leases),
		T(nothing_known),
		T(resolv_conf),
		T(hostile_files),
		T(hosts_file),
		T(attach_line),
		T(attach_line_too_long),
		T(numbers_and_words),
	};

	return cmocka_run_group_tests_name("facts", tests, NULL, NULL);
}
