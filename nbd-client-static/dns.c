// SPDX-License-Identifier: GPL-2.0
/*
 * dns.c - DNS messages without I/O: see dns.h. An answer is hostile: anybody
 * on the network may have sent it. Every offset is checked, names are never
 * longer than the protocol allows, and a compression pointer may only point
 * backwards, so that reading a name ends.
 */

#include "sys.h"
#include "dns.h"

#define HEADER		12
#define TYPE_CNAME	5
#define CLASS_IN	1
#define FLAG_QR		0x8000
#define FLAG_OPCODE	0x7800
#define FLAG_RD		0x0100
#define RCODE		0x000f
#define MAX_ALIASES	8
#define MAX_LABEL	63

static uint16_t get16(const uint8_t *p)
{
	return (uint16_t)(p[0] << 8 | p[1]);
}

static void put16(uint8_t *p, uint16_t v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

size_t dns_query(uint8_t *buf, uint16_t id, const char *name, uint16_t type)
{
	size_t pos = HEADER;

	memset(buf, 0, HEADER);
	put16(buf, id);
	put16(buf + 2, FLAG_RD);
	put16(buf + 4, 1);
	while (*name) {
		const char *dot = strchr(name, '.');
		size_t len = dot ? (size_t)(dot - name) : strlen(name);

		/* one byte of length here, one of the root at the end */
		if (!len || len > MAX_LABEL ||
		    pos - HEADER + 1 + len + 1 > DNS_NAME)
			return 0;
		buf[pos++] = (uint8_t)len;
		memcpy(buf + pos, name, len);
		pos += len;
		name += len + (dot != NULL);
	}
	if (pos == HEADER)
		return 0;
	buf[pos++] = 0;
	put16(buf + pos, type);
	put16(buf + pos + 2, CLASS_IN);
	return pos + 4;
}

/*
 * Read the name at *@pos into @name, uncompressed, letters in lower case, and
 * move *@pos behind it. Returns its length, or 0 when it is malformed.
 */
static size_t read_name(const uint8_t *msg, size_t len, size_t *pos,
			uint8_t name[DNS_NAME])
{
	size_t p = *pos, limit = len, n = 0, i;
	bool jumped = false;

	for (;;) {
		uint8_t label;

		if (p >= limit)
			return 0;
		label = msg[p];
		if ((label & 0xc0) == 0xc0) {
			if (limit - p < 2)
				return 0;
			if (!jumped)
				*pos = p + 2;
			jumped = true;
			/* What is pointed to must end before the pointer. */
			limit = p;
			p = get16(msg + p) & 0x3fff;
			continue;
		}
		if (label > MAX_LABEL || limit - p - 1 < label ||
		    n + 1 + label > DNS_NAME)
			return 0;
		name[n++] = label;
		for (i = 1; i <= label; i++) {
			uint8_t c = msg[p + i];

			name[n++] = c >= 'A' && c <= 'Z' ? c | 0x20 : c;
		}
		p += 1 + (size_t)label;
		if (!label)
			break;
	}
	if (!jumped)
		*pos = p;
	return n;
}

struct record {
	uint8_t owner[DNS_NAME];
	size_t owner_len;
	uint16_t type, class;
	size_t data, data_len;
};

static bool read_record(const uint8_t *msg, size_t len, size_t *pos,
			struct record *r)
{
	r->owner_len = read_name(msg, len, pos, r->owner);
	if (!r->owner_len || len - *pos < 10)
		return false;
	r->type = get16(msg + *pos);
	r->class = get16(msg + *pos + 2);
	r->data_len = get16(msg + *pos + 8);
	r->data = *pos + 10;
	if (len - r->data < r->data_len)
		return false;
	*pos = r->data + r->data_len;
	return true;
}

static bool is_question(const uint8_t *msg, size_t len, const uint8_t *query,
			size_t query_len, size_t *pos, uint8_t name[DNS_NAME],
			size_t *name_len)
{
	uint8_t asked[DNS_NAME];
	size_t p = HEADER, asked_len;

	asked_len = read_name(query, query_len, &p, asked);
	*pos = HEADER;
	*name_len = read_name(msg, len, pos, name);
	if (!*name_len || *name_len != asked_len ||
	    memcmp(name, asked, asked_len) || len - *pos < 4 ||
	    memcmp(msg + *pos, query + p, 4))
		return false;
	*pos += 4;
	return true;
}

/*
 * One pass over the answers to @name: addresses are stored; an alias replaces
 * @name. Returns false when the message is malformed.
 */
static bool scan(const uint8_t *msg, size_t len, size_t pos, unsigned int records,
		 uint16_t type, uint8_t name[DNS_NAME], size_t *name_len,
		 bool *alias, struct address *out, unsigned int max,
		 unsigned int *count)
{
	size_t ip_len = type == DNS_A ? 4 : 16;
	struct record r;

	*alias = false;
	while (records--) {
		if (!read_record(msg, len, &pos, &r))
			return false;
		if (r.class != CLASS_IN || r.owner_len != *name_len ||
		    memcmp(r.owner, name, *name_len))
			continue;
		if (r.type == type) {
			if (r.data_len != ip_len)
				return false;
			if (*count < max) {
				struct address *a = &out[(*count)++];

				memset(a, 0, sizeof(*a));
				a->family = type == DNS_A ? AF_INET : AF_INET6;
				memcpy(a->ip, msg + r.data, ip_len);
				/* On which interface, it does not say. */
				if (address_lacks_zone(a))
					--*count;
			}
		} else if (r.type == TYPE_CNAME && !*alias) {
			size_t p = r.data;

			*name_len = read_name(msg, r.data + r.data_len, &p,
					      name);
			if (!*name_len || p != r.data + r.data_len)
				return false;
			*alias = true;
		}
	}
	return true;
}

enum dns_result dns_answer(const uint8_t *msg, size_t len,
			   const uint8_t *query, size_t query_len,
			   struct address *out, unsigned int max,
			   unsigned int *count)
{
	uint8_t name[DNS_NAME];
	size_t pos, name_len;
	uint16_t flags, type;
	unsigned int answers;
	bool alias = true;
	int i;

	*count = 0;
	if (len < HEADER || memcmp(msg, query, 2))
		return DNS_STRAY;
	flags = get16(msg + 2);
	if (!(flags & FLAG_QR) || flags & FLAG_OPCODE)
		return DNS_STRAY;
	/* Some servers leave the question out when they refuse it. */
	if (get16(msg + 4) == 0 && (flags & RCODE) && len == HEADER)
		return DNS_REFUSED;
	if (get16(msg + 4) != 1 ||
	    !is_question(msg, len, query, query_len, &pos, name, &name_len))
		return DNS_STRAY;
	if ((flags & RCODE) == 3)
		return DNS_NO_NAME;
	if (flags & RCODE)
		return DNS_REFUSED;

	type = get16(query + query_len - 4);
	answers = get16(msg + 6);
	for (i = 0; i < MAX_ALIASES && alias && !*count; i++)
		if (!scan(msg, len, pos, answers, type, name, &name_len,
			  &alias, out, max, count)) {
			*count = 0;
			return DNS_BROKEN;
		}
	return *count ? DNS_FOUND : DNS_NO_ADDRESS;
}
