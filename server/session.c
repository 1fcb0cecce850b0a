// SPDX-License-Identifier: GPL-2.0
/*
 * session.c - the registry of sessions: a hash table under one lock. It is
 * taken when a connection names its session and when it ends, never for a
 * request.
 *
 * Who is the same station: who has its name (the word STATION) and can show
 * either the random word of its boot, which only that boot of it knows, or
 * its address. A station without a name ("-") is known by its boot alone,
 * since several of them may share an address.
 *
 * What a newer session supersedes: older ones of the same boot, by (ATTACH,
 * GENERATION), and those of other boots. Equal ones are one client's several
 * connections.
 */
#include "session.h"

#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "loop.h"

#define BUCKETS	1024U

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct session *table[BUCKETS];

static bool known(const char *word)
{
	return strcmp(word, "-") != 0;
}

/* FNV-1a: spreads names; nothing depends on nobody finding collisions. */
static uint64_t hash(const char *s)
{
	uint64_t h = 0xcbf29ce484222325ULL;

	while (*s)
		h = (h ^ (unsigned char)*s++) * 0x100000001b3ULL;
	return h;
}

static struct session **bucket(const struct nbd_session *id)
{
	const char *key = known(id->station) ? id->station : id->boot;

	return &table[hash(key) % BUCKETS];
}

static bool same_address(const struct sockaddr_storage *a,
			 const struct sockaddr_storage *b)
{
	if (a->ss_family != b->ss_family)
		return false;
	switch (a->ss_family) {
	case AF_INET:
		return ((const struct sockaddr_in *)a)->sin_addr.s_addr ==
		       ((const struct sockaddr_in *)b)->sin_addr.s_addr;
	case AF_INET6:
		return !memcmp(&((const struct sockaddr_in6 *)a)->sin6_addr,
			       &((const struct sockaddr_in6 *)b)->sin6_addr,
			       sizeof(struct in6_addr));
	default:
		/* A Unix socket: whoever may open it. */
		return a->ss_family == AF_UNIX;
	}
}

static bool same_boot(const struct session *a, const struct session *b)
{
	return known(a->id.boot) && !strcmp(a->id.boot, b->id.boot);
}

static bool same_station(const struct session *a, const struct session *b)
{
	if (strcmp(a->id.station, b->id.station) ||
	    strcmp(a->export_name, b->export_name))
		return false;
	if (same_boot(a, b))
		return true;
	return known(a->id.station) && same_address(&a->peer, &b->peer);
}

/* Below 0: @a is older than @b, a session of the same boot. */
static int order(const struct session *a, const struct session *b)
{
	if (a->id.attach != b->id.attach)
		return a->id.attach < b->id.attach ? -1 : 1;
	if (a->id.generation != b->id.generation)
		return a->id.generation < b->id.generation ? -1 : 1;
	return 0;
}

/* Under the lock. Ends the older ones; what @s has to do about the others. */
static enum session_state fence(struct session *s)
{
	enum session_state state = SESSION_READY;
	struct session *o;

	for (o = *bucket(&s->id); o; o = o->next) {
		if (o == s || !same_station(s, o))
			continue;
		/* What counts of a superseded one is only that it ends. */
		if (!atomic_load(&o->superseded)) {
			int n = same_boot(s, o) ? order(o, s) : -1;

			if (n > 0)
				return SESSION_OLD;
			if (!n)
				continue;
			atomic_store(&o->superseded, true);
			loop_poke(o->loop, o->conn);
		}
		state = SESSION_WAIT;
	}
	return state;
}

enum session_state session_enter(struct session *s, const char *export_name,
				 const struct sockaddr_storage *peer,
				 struct conn *conn, struct loop *loop)
{
	enum session_state state;

	if (!s->entered) {
		s->export_name = strdup(export_name);
		if (!s->export_name)
			return SESSION_MEMORY;
		s->peer = *peer;
		s->conn = conn;
		s->loop = loop;
	}
	pthread_mutex_lock(&lock);
	if (!s->entered) {
		struct session **b = bucket(&s->id);

		s->next = *b;
		s->prev = b;
		if (s->next)
			s->next->prev = &s->next;
		*b = s;
		s->entered = true;
	}
	/* Superseded itself while it waited: its loop is about to end it. */
	state = atomic_load(&s->superseded) ? SESSION_OLD : fence(s);
	s->waiting = state == SESSION_WAIT;
	pthread_mutex_unlock(&lock);
	return state;
}

void session_leave(struct session *s)
{
	struct session *o;

	if (!s->entered)
		return;
	pthread_mutex_lock(&lock);
	*s->prev = s->next;
	if (s->next)
		s->next->prev = s->prev;
	s->entered = false;
	/* Those that waited for this one look for themselves. */
	if (atomic_load(&s->superseded))
		for (o = *bucket(&s->id); o; o = o->next)
			if (o->waiting && same_station(o, s))
				loop_poke(o->loop, o->conn);
	pthread_mutex_unlock(&lock);
	free(s->export_name);
	s->export_name = NULL;
}

/* The first line of a file of /proc or /etc; "" if there is none. */
static void first_line(const char *path, char *buf, size_t size)
{
	FILE *f = fopen(path, "re");

	buf[0] = '\0';
	if (!f)
		return;
	if (!fgets(buf, (int)size, f))
		buf[0] = '\0';
	fclose(f);
	buf[strcspn(buf, "\n")] = '\0';
}

static struct nbd_identity server;

static void find_server(void)
{
	char line[NBD_SESSION_WORD];

	first_line("/proc/sys/kernel/random/boot_id", line, sizeof(line));
	strcpy(server.boot, nbd_session_word(line) ? line : "-");
	/* machine-id(5) asks that it is not shown as it is. */
	first_line("/etc/machine-id", line, sizeof(line));
	if (*line)
		snprintf(server.host, sizeof(server.host), "%016llx",
			 (unsigned long long)hash(line));
	else
		/* No name to keep: the same host for this boot only. */
		strcpy(server.host, server.boot);
	strcpy(server.image, "-");
}

void session_server(struct nbd_identity *id)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, find_server);
	*id = server;
}
