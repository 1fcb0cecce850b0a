// SPDX-License-Identifier: GPL-2.0
/*
 * access.c - address lists. Addresses are compared as numbers under a mask,
 * never as text: 10.0.0.1 is not the beginning of 10.0.0.10 (CVE-2013-6410).
 * IPv4 peers that came in through an IPv6 socket count as IPv4.
 */
#define _GNU_SOURCE
#include "access.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "log.h"

struct address {
	uint8_t byte[16];
	int bits;		/* 32 or 128 */
};

static bool address_of(const struct sockaddr *sa, struct address *a)
{
	const struct sockaddr_in6 *in6 = (const void *)sa;
	const struct sockaddr_in *in = (const void *)sa;

	memset(a, 0, sizeof(*a));
	if (sa->sa_family == AF_INET) {
		memcpy(a->byte, &in->sin_addr, 4);
		a->bits = 32;
		return true;
	}
	if (sa->sa_family != AF_INET6)
		return false;
	if (IN6_IS_ADDR_V4MAPPED(&in6->sin6_addr)) {
		memcpy(a->byte, in6->sin6_addr.s6_addr + 12, 4);
		a->bits = 32;
	} else {
		memcpy(a->byte, &in6->sin6_addr, 16);
		a->bits = 128;
	}
	return true;
}

static uint64_t group_key;

static void make_group_key(void)
{
	/* Without it the numbers can be guessed, and are as good otherwise. */
	if (getrandom(&group_key, sizeof(group_key), GRND_NONBLOCK) < 0)
		group_key = 0;
}

unsigned int access_group(const struct sockaddr *peer)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	struct address a;
	uint64_t h;
	int i;

	pthread_once(&once, make_group_key);
	h = group_key;
	if (address_of(peer, &a))
		for (i = 0; i < (a.bits == 32 ? 4 : 8); i++) {
			h = (h ^ a.byte[i]) * 0x9e3779b97f4a7c15ULL;
			h ^= h >> 32;
		}
	return (unsigned int)(h >> 16);
}

static bool parse_rule(const char *rule, struct address *a, int *prefix)
{
	char text[INET6_ADDRSTRLEN + 8];
	char *slash, *end;
	long bits;

	if (strlen(rule) >= sizeof(text))
		return false;
	strcpy(text, rule);
	slash = strchr(text, '/');
	if (slash)
		*slash++ = '\0';
	memset(a, 0, sizeof(*a));
	if (inet_pton(AF_INET, text, a->byte) == 1)
		a->bits = 32;
	else if (inet_pton(AF_INET6, text, a->byte) == 1)
		a->bits = 128;
	else
		return false;
	*prefix = a->bits;
	if (!slash)
		return true;
	if (*slash < '0' || *slash > '9')
		return false;
	bits = strtol(slash, &end, 10);
	if (*end || bits > a->bits)
		return false;
	*prefix = (int)bits;
	return true;
}

int access_match(const char *rule, const struct sockaddr *peer)
{
	struct address want, have;
	int prefix, i;

	if (!parse_rule(rule, &want, &prefix))
		return -1;
	if (!address_of(peer, &have) || have.bits != want.bits)
		return 0;
	for (i = 0; i < prefix; i++) {
		uint8_t mask = (uint8_t)(0x80 >> i % 8);

		if ((want.byte[i / 8] ^ have.byte[i / 8]) & mask)
			return 0;
	}
	return 1;
}

/*
 * -1 with @why set: the file is no good; else whether it names @peer, and in
 * *@read_only what the first line that does says of it.
 */
static int scan(const char *path, const struct sockaddr *peer,
		bool *read_only, char *why, size_t why_size)
{
	FILE *f = fopen(path, "re");
	size_t room = 0;
	char *line = NULL;
	int n = 0, found = 0;

	if (!f) {
		snprintf(why, why_size, "%s: %s; without its authfile an export is closed to everybody",
			 path, strerror(errno));
		return -1;
	}
	/* However long a line is: what a cut leaves of it would be a rule. */
	while (found >= 0 && getline(&line, &room, f) >= 0) {
		char *p = line + strspn(line, " \t"), *word;
		char quoted[80];
		int match;

		n++;
		p[strcspn(p, "#\r\n")] = '\0';
		word = p + strcspn(p, " \t");
		if (*word)
			*word++ = '\0';
		word += strspn(word, " \t");
		word[strcspn(word, " \t")] = '\0';
		if (!*p)
			continue;
		if (*word && strcmp(word, "readonly")) {
			snprintf(why, why_size, "%s:%d: \"%s\" behind an address; only \"readonly\" may be there",
				 path, n, log_quote(quoted, sizeof(quoted), word,
						    strlen(word)));
			found = -1;
			continue;
		}
		match = strcmp(p, "unix") ? access_match(p, peer) :
			peer->sa_family == AF_UNIX;
		if (match < 0) {
			snprintf(why, why_size, "%s:%d: \"%s\" is not an address; write 192.0.2.7, 192.0.2.0/24, 2001:db8::/64, or unix",
				 path, n, log_quote(quoted, sizeof(quoted), p,
						    strlen(p)));
			found = -1;
			continue;
		}
		if (match && !found)
			*read_only = *word;
		found |= match;
	}
	free(line);
	fclose(f);
	return found;
}

bool access_allows(const char *path, const struct sockaddr *peer,
		   bool *read_only)
{
	char why[512];
	int r = scan(path, peer, read_only, why, sizeof(why));

	if (r < 0)
		log_peer(LOG_ERR, "%s", why);
	return r > 0;
}

bool access_check_file(const char *path, char *why, size_t why_size)
{
	struct sockaddr_in nobody = { .sin_family = AF_INET };
	bool read_only;

	return scan(path, (struct sockaddr *)&nobody, &read_only, why,
		    why_size) >= 0;
}
