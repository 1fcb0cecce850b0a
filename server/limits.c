// SPDX-License-Identifier: GPL-2.0
/*
 * limits.c - counts by address, in a hash table under one lock that is taken
 * three times in a connection's life. An address without connections takes no
 * memory. An IPv4 address that came in through an IPv6 socket is that IPv4
 * address.
 */
#include "limits.h"

#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "station.h"

#define BUCKETS	1024U

struct entry {
	struct entry *next;
	char address[NBD_SESSION_WORD];
	unsigned int open, half_open;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct entry *table[BUCKETS];
static unsigned int all_half_open;

/* Where it is, or would be. */
static struct entry **find(const char *address)
{
	uint64_t h = 0xcbf29ce484222325ULL;
	struct entry **e;
	const char *p;

	for (p = address; *p; p++)
		h = (h ^ (unsigned char)*p) * 0x100000001b3ULL;
	for (e = &table[h % BUCKETS]; *e; e = &(*e)->next)
		if (!strcmp((*e)->address, address))
			break;
	return e;
}

const char *limits_enter(const struct sockaddr *peer, unsigned int max)
{
	const bool local = peer->sa_family == AF_UNIX;
	char address[NBD_SESSION_WORD];
	const char *why = NULL;
	struct entry **at, *e;

	station_address(peer, address);
	pthread_mutex_lock(&lock);
	at = find(address);
	e = *at;
	if (all_half_open >= LIMITS_HALF_OPEN)
		why = "too many connections are in negotiation";
	else if (e && e->half_open >= LIMITS_HALF_OPEN_ADDRESS)
		why = "too many connections of its address are in negotiation";
	else if (e && max && !local && e->open >= max)
		why = "its address has as many connections as it may have (maxperaddress)";
	if (!why && !e) {
		e = calloc(1, sizeof(*e));
		if (e) {
			strcpy(e->address, address);
			*at = e;
		} else {
			why = "out of memory";
		}
	}
	if (!why) {
		e->open++;
		e->half_open++;
		all_half_open++;
	}
	pthread_mutex_unlock(&lock);
	return why;
}

void limits_negotiated(const struct sockaddr *peer)
{
	char address[NBD_SESSION_WORD];
	struct entry *e;

	station_address(peer, address);
	pthread_mutex_lock(&lock);
	e = *find(address);
	if (e) {
		e->half_open--;
		all_half_open--;
	}
	pthread_mutex_unlock(&lock);
}

void limits_leave(const struct sockaddr *peer, bool negotiated)
{
	char address[NBD_SESSION_WORD];
	struct entry **at, *e;

	station_address(peer, address);
	pthread_mutex_lock(&lock);
	at = find(address);
	e = *at;
	if (e) {
		if (!negotiated) {
			e->half_open--;
			all_half_open--;
		}
		if (!--e->open) {
			*at = e->next;
			free(e);
		}
	}
	pthread_mutex_unlock(&lock);
}
