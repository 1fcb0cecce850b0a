// SPDX-License-Identifier: GPL-2.0
/*
 * address.c - literal addresses: see address.h. Parsed here and not by
 * inet_pton, which is laxer in some C libraries than in others.
 */
#include "sys.h"
#include "address.h"
#include "text.h"

static bool parse_ipv4(const char *s, size_t len, uint8_t ip[4])
{
	size_t start = 0, i;
	int n = 0;

	for (i = 0; i <= len; i++) {
		uint64_t v;

		if (i < len && s[i] != '.')
			continue;
		if (n == 4 || i - start > 3 ||
		    !parse_number(s + start, i - start, 255, &v))
			return false;
		ip[n++] = (uint8_t)v;
		start = i + 1;
	}
	return n == 4;
}

/* RFC 4291, section 2.2, all three forms. */
static bool parse_ipv6(const char *s, size_t len, uint8_t ip[16])
{
	size_t i = 0, start, n = 0, gap = 17;

	memset(ip, 0, 16);
	if (len >= 2 && s[0] == ':' && s[1] == ':') {
		gap = 0;
		i = 2;
	}
	while (i < len) {
		unsigned int v = 0;

		if (n == 16)
			return false;
		for (start = i; i < len && hex_digit(s[i]) >= 0; i++) {
			if (i - start == 4)
				return false;
			v = v << 4 | (unsigned int)hex_digit(s[i]);
		}
		if (i < len && s[i] == '.') {
			/* the last 32 bits as an IPv4 address */
			if (n > 12 || !parse_ipv4(s + start, len - start, ip + n))
				return false;
			n += 4;
			i = len;
			break;
		}
		if (i == start)
			return false;
		ip[n++] = (uint8_t)(v >> 8);
		ip[n++] = (uint8_t)v;
		if (i == len)
			break;
		if (s[i++] != ':')
			return false;
		if (i < len && s[i] == ':') {
			if (gap != 17)
				return false;
			gap = n;
			i++;
		} else if (i == len) {
			return false;
		}
	}
	if (gap == 17)
		return n == 16;
	if (n == 16)
		return false;
	memmove(ip + 16 - (n - gap), ip + gap, n - gap);
	memset(ip + gap, 0, 16 - n);
	return true;
}

bool address_parse(const char *s, size_t len, struct address *a)
{
	const char *zone;

	memset(a, 0, sizeof(*a));
	if (!memchr(s, ':', len)) {
		a->family = AF_INET;
		return parse_ipv4(s, len, a->ip);
	}
	a->family = AF_INET6;
	zone = memchr(s, '%', len);
	if (zone) {
		size_t zone_len = len - (size_t)(zone + 1 - s), i;

		if (!zone_len || zone_len >= ZONE_MAX)
			return false;
		for (i = 1; i <= zone_len; i++)
			if (zone[i] <= ' ' || zone[i] >= 0x7f || zone[i] == ']' ||
			    zone[i] == '/' || zone[i] == '%')
				return false;
		memcpy(a->zone, zone + 1, zone_len);
		len = (size_t)(zone - s);
	}
	return parse_ipv6(s, len, a->ip);
}

bool address_lacks_zone(const struct address *a)
{
	/* fe80::/10 and, of multicast, ff02::/16 */
	return a->family == AF_INET6 && !a->zone[0] &&
	       ((a->ip[0] == 0xfe && (a->ip[1] & 0xc0) == 0x80) ||
		(a->ip[0] == 0xff && a->ip[1] == 0x02));
}

/* RFC 5952: the longest run of zero groups becomes "::". */
static void format_ipv6(const uint8_t ip[16], char *buf, size_t size)
{
	int i, run, best = -1, best_len = 1;

	for (i = 0; i < 8; i += run + 1) {
		for (run = 0; i + run < 8 && !ip[2 * (i + run)] &&
		     !ip[2 * (i + run) + 1]; run++)
			;
		if (run > best_len) {
			best = i;
			best_len = run;
		}
	}
	for (i = 0; i < 8; i++) {
		if (i == best) {
			append(buf, size, "::");
			i += best_len - 1;
			continue;
		}
		append(buf, size, "%s%x",
		       i && i != best + best_len ? ":" : "",
		       ip[2 * i] << 8 | ip[2 * i + 1]);
	}
}

void address_format(const struct address *a, char buf[ADDRESS_TEXT])
{
	buf[0] = '\0';
	if (a->family == AF_UNIX) {
		append(buf, ADDRESS_TEXT, "unix:%s", a->path);
		return;
	}
	if (a->family == AF_INET) {
		append(buf, ADDRESS_TEXT, "%u.%u.%u.%u", a->ip[0], a->ip[1],
		       a->ip[2], a->ip[3]);
	} else {
		append(buf, ADDRESS_TEXT, "[");
		format_ipv6(a->ip, buf, ADDRESS_TEXT);
		append(buf, ADDRESS_TEXT, "%s%s]", a->zone[0] ? "%" : "",
		       a->zone);
	}
	if (a->port)
		append(buf, ADDRESS_TEXT, ":%u", a->port);
}

/* The interface index of a zone: a number, or a name looked up through @fd. */
static bool zone_index(const char *zone, int fd, uint32_t *index)
{
	struct ifreq ifr;
	uint64_t v;

	*index = 0;
	if (!zone[0])
		return true;
	if (parse_number(zone, strlen(zone), 0x7fffffff, &v)) {
		*index = (uint32_t)v;
		return true;
	}
	memset(&ifr, 0, sizeof(ifr));
	memcpy(ifr.ifr_name, zone, strlen(zone));
	if (ioctl(fd, SIOCGIFINDEX, &ifr) < 0)
		return false;
	*index = (uint32_t)ifr.ifr_ifindex;
	return true;
}

int address_connect(const struct address *a, int type)
{
	int fd = socket(a->family, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	union {
		struct sockaddr any;
		struct sockaddr_in in;
		struct sockaddr_in6 in6;
		struct sockaddr_un un;
	} to;
	socklen_t len = sizeof(to.in);
	int error;

	if (fd < 0)
		return -1;
	memset(&to, 0, sizeof(to));
	to.any.sa_family = (sa_family_t)a->family;
	to.in.sin_port = htons(a->port);	/* sin6_port is there too */
	if (a->family == AF_UNIX) {
		strcpy(to.un.sun_path, a->path);
		len = sizeof(to.un);
	} else if (a->family == AF_INET) {
		memcpy(&to.in.sin_addr, a->ip, 4);
	} else {
		memcpy(&to.in6.sin6_addr, a->ip, 16);
		if (!zone_index(a->zone, fd, &to.in6.sin6_scope_id))
			goto fail;
		len = sizeof(to.in6);
	}
	if (connect(fd, &to.any, len) == 0 || errno == EINPROGRESS)
		return fd;
fail:
	error = errno;
	close(fd);
	errno = error;
	return -1;
}
