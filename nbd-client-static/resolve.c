// SPDX-License-Identifier: GPL-2.0
/*
 * resolve.c - from a host's name to its addresses: see resolve.h.
 *
 * Each lookup has a socket of its own, so a random port, and each question a
 * random id; the socket is connected, so only the nameserver's address can
 * answer. A and AAAA are asked at the same time. IPv4 addresses come first because early
 * userspace configures IPv4; a machine may well hold an IPv6 address that a
 * router announced and that leads nowhere.
 */
#include "sys.h"
#include "dns.h"
#include "paths.h"
#include "resolve.h"
#include "text.h"

#define ROUNDS		2	/* times each nameserver is asked */
#define ANSWER_MS	1500	/* for the first of the two answers */
#define OTHER_MS	400	/* more for the other one */
#define TOTAL_MS	8000
#define MAX_HOSTS	16384	/* bytes of /etc/hosts */

unsigned int hosts_lookup(char *text, const char *name, struct address *out,
			  unsigned int max)
{
	struct address a;
	unsigned int n = 0;
	char *line, *word;

	while (n < max && (line = next_line(&text))) {
		line[strcspn(line, "#")] = '\0';
		word = next_word(&line);
		if (!word || !address_parse(word, strlen(word), &a) ||
		    address_lacks_zone(&a))
			continue;
		while ((word = next_word(&line)))
			if (same_name(word, name)) {
				out[n++] = a;
				break;
			}
	}
	return n;
}

/* A, then AAAA. */
struct question {
	size_t len;
	uint8_t query[DNS_QUERY];
	enum dns_result result;	/* DNS_STRAY: none yet */
};

/* 0 or an errno. */
static int ask_both(struct question q[2], int fd, const char *name)
{
	uint16_t id;
	int i, error = 0;

	for (i = 0; i < 2; i++) {
		random_bytes(&id, sizeof(id));
		q[i].len = dns_query(q[i].query, id, name, i ? DNS_AAAA : DNS_A);
		/* A search domain may make it too long: nobody has that name. */
		q[i].result = q[i].len ? DNS_STRAY : DNS_NO_NAME;
		if (q[i].len && send(fd, q[i].query, q[i].len, 0) < 0)
			error = errno;
	}
	return error;
}

/* What one nameserver said; addresses to @out. */
static enum dns_result ask(const struct address *server, const char *name,
			   struct address *out, unsigned int max,
			   unsigned int *count, int *error)
{
	unsigned long long now = clock_ms(), end = now + ANSWER_MS;
	struct address found[8];
	struct question q[2];
	unsigned int i, n, at;
	uint8_t msg[1500];
	struct pollfd p;
	ssize_t len;

	*count = 0;
	p.events = POLLIN;
	p.fd = address_connect(server, SOCK_DGRAM);
	*error = p.fd < 0 ? errno : ask_both(q, p.fd, name);
	if (p.fd < 0)
		return DNS_STRAY;
	while (!*error && now < end &&
	       (!q[0].result || !q[1].result)) {
		poll(&p, 1, (int)(end - now));
		len = recv(p.fd, msg, sizeof(msg), 0);
		now = clock_ms();
		if (len < 0) {
			if (errno == EAGAIN || errno == EINTR)
				continue;
			*error = errno;
			break;
		}
		for (i = 0; i < 2; i++) {
			if (q[i].result)
				continue;
			q[i].result = dns_answer(msg, (size_t)len, q[i].query,
						 q[i].len, found, 8, &n);
			if (!q[i].result)
				continue;
			/* IPv4 goes first, whatever came first. */
			if (n > max - *count)
				n = max - *count;
			at = i ? *count : 0;
			memmove(out + at + n, out + at,
				(*count - at) * sizeof(*out));
			memcpy(out + at, found, n * sizeof(*out));
			*count += n;
			if (end > now + OTHER_MS)
				end = now + OTHER_MS;
			break;
		}
	}
	close(p.fd);
	if (*count)
		return DNS_FOUND;
	/* A name that one says is not there has no address of the other kind. */
	if (q[0].result == DNS_NO_NAME || q[1].result == DNS_NO_NAME)
		return DNS_NO_NAME;
	return q[0].result ? q[0].result : q[1].result;
}

static void explain(enum dns_result result, int error, const char *name,
		    const struct address *server, char *why, size_t size)
{
	static const char *const what[] = {
		"does not answer about", "gives a broken answer for",
		"refuses to look up", "knows no host", "has no address for",
	};
	char text[ADDRESS_TEXT];
	struct address a = *server;

	a.port = 0;
	address_format(&a, text);
	put(why, size, "nameserver %s %s \"%s\"%s%s%s; check the %s, or write the server's address",
	    text, what[result], name, error ? " (" : "",
	    error ? error_text(error) : "", error ? ")" : "",
	    result < DNS_NO_NAME ? "cable and the nameserver" : "name");
}

/* One name being looked up. */
struct lookup {
	const char *name;
	const struct facts *facts;
	struct address *out;
	unsigned int max, count;
	unsigned long long end;
	char *why;
	size_t size;
	int told;		/* the result that @why tells; -1: nothing yet */
};

/*
 * Ask one nameserver: for the name in each search domain, unless it has a dot,
 * and then as it stands.
 */
static enum dns_result look_up(struct lookup *l, const struct address *server)
{
	unsigned int searches = strchr(l->name, '.') ? 0 : l->facts->searches;
	char full[2 * MAX_FACT + 2];
	enum dns_result result = DNS_STRAY;
	unsigned int i;
	int error;

	for (i = 0; i <= searches && clock_ms() < l->end; i++) {
		put(full, sizeof(full), "%s%s%s", l->name,
			 i < searches ? "." : "",
			 i < searches ? l->facts->search[i] : "");
		result = ask(server, full, l->out, l->max, &l->count, &error);
		if (l->count)
			break;
		if ((int)result > l->told) {
			l->told = (int)result;
			explain(result, error, l->name, server, l->why,
				l->size);
		}
		if (result == DNS_STRAY)
			break;
	}
	return result;
}

unsigned int resolve(const char *name, const struct facts *facts,
		     struct address *out, unsigned int max,
		     char *why, size_t size)
{
	static char hosts[MAX_HOSTS];
	struct lookup l = {
		.name = name, .facts = facts, .out = out, .max = max,
		.end = clock_ms() + TOTAL_MS, .why = why, .size = size,
		.told = -1,
	};
	unsigned int round, i;
	enum dns_result result;

	why[0] = '\0';
	if (read_file(HOSTS_PATH, hosts, sizeof(hosts)) > 0)
		l.count = hosts_lookup(hosts, name, out, max);
	if (l.count)
		return l.count;
	if (!facts->nameservers) {
		append(why, size, "no nameserver is known yet to look it up (none in "
		       RESOLV_PATH " or " RUN_PATH
		       "/net-*.conf); is the network up? An address needs none");
		return 0;
	}
	for (round = 0; round < ROUNDS; round++) {
		for (i = 0; i < facts->nameservers; i++) {
			result = look_up(&l, &facts->nameserver[i]);
			/* That there is no such name is an answer too. */
			if (l.count || result == DNS_NO_NAME ||
			    result == DNS_NO_ADDRESS)
				return l.count;
		}
	}
	return 0;
}
