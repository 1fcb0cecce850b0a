/* SPDX-License-Identifier: GPL-2.0 */
/*
 * dns.h - DNS messages (RFC 1035, RFC 3596) without I/O: one question, and
 * what can be believed of an answer.
 */
#ifndef CLIENT_DNS_H
#define CLIENT_DNS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "address.h"

#define DNS_A		1
#define DNS_AAAA	28
#define DNS_NAME	255	/* longest name as it is on the wire */
#define DNS_QUERY	(12 + DNS_NAME + 4)

/* The later, the more a person learns from it. */
enum dns_result {
	DNS_STRAY,	/* not the answer to this question: keep waiting */
	DNS_BROKEN,	/* it is the answer, but it is malformed */
	DNS_REFUSED,	/* this nameserver cannot or will not tell */
	DNS_NO_NAME,	/* the name does not exist */
	DNS_NO_ADDRESS,	/* it does, without an address of this kind */
	DNS_FOUND,	/* addresses were stored */
};

/*
 * Write the question for @name (dots between its labels, a final one may
 * stand) into @buf of DNS_QUERY bytes. Returns its length, or 0 when @name
 * cannot be a DNS name.
 */
size_t dns_query(uint8_t *buf, uint16_t id, const char *name, uint16_t type);

/*
 * Read the @len bytes of @msg as the answer to @query (as dns_query() wrote
 * it). Up to @max addresses go to @out, their number to @count. Aliases
 * (CNAME) are followed within the message.
 */
enum dns_result dns_answer(const uint8_t *msg, size_t len,
			   const uint8_t *query, size_t query_len,
			   struct address *out, unsigned int max,
			   unsigned int *count);

#endif /* CLIENT_DNS_H */
