// SPDX-License-Identifier: GPL-2.0
/*
 * facts.c - fuzz target: the files that the client reads. The first byte picks
 * the parser: net-*.conf, resolv.conf or hosts.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "facts.h"
#include "resolve.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool ok)
{
	if (!ok)
		abort();
}

static void check_fact(const char *fact)
{
	check(memchr(fact, '\0', MAX_FACT) != NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct address found[4];
	struct facts f;
	unsigned int i;
	char *text;

	if (!size)
		return 0;
	text = malloc(size);
	memcpy(text, data + 1, size - 1);
	text[size - 1] = '\0';
	memset(&f, 0, sizeof(f));
	if (data[0] % 3 == 0)
		facts_add_netconf(&f, text);
	else if (data[0] % 3 == 1)
		facts_add_resolv(&f, text);
	else
		check(hosts_lookup(text, "server1", found, 4) <= 4);
	free(text);
	check(f.nameservers <= MAX_NAMESERVERS && f.searches <= MAX_SEARCH);
	for (i = 0; i < f.nameservers; i++)
		check(f.nameserver[i].port == 53);
	for (i = 0; i < f.searches; i++)
		check_fact(f.search[i]);
	check_fact(f.root_path);
	check_fact(f.root_server);
	check_fact(f.dhcp_server);
	check_fact(f.host);
	return 0;
}
