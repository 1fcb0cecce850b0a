// SPDX-License-Identifier: GPL-2.0
/*
 * dns.c - fuzz target: DNS answers. Input: one byte of choices (bit 0: AAAA;
 * the other bits pick the name), then the answer. Its first two bytes are set
 * to the question's id, or next to nothing would get past that check.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "dns.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool ok)
{
	if (!ok)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char *const names[] = { "a", "server1.lab", "b.a.b.a" };
	uint8_t query[DNS_QUERY];
	struct address out[8];
	unsigned int count = 99, i;
	enum dns_result result;
	size_t query_len;
	uint8_t *msg;

	if (!size)
		return 0;
	query_len = dns_query(query, 0x1234, names[(data[0] >> 1) % 3],
			      data[0] & 1 ? DNS_AAAA : DNS_A);
	check(query_len != 0);
	msg = malloc(size - 1);
	memcpy(msg, data + 1, size - 1);
	if (size > 2)
		memcpy(msg, query, 2);
	result = dns_answer(msg, size - 1, query, query_len, out, 8, &count);
	free(msg);
	check(count <= 8);
	check((count > 0) == (result == DNS_FOUND));
	for (i = 0; i < count; i++) {
		check(out[i].family == (data[0] & 1 ? AF_INET6 : AF_INET));
		check(!out[i].zone[0] && !out[i].port);
	}
	return 0;
}
