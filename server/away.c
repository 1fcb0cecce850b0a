// SPDX-License-Identifier: GPL-2.0
/*
 * away.c - see away.h. A table without an order: it is looked through by a hash of
 * the name, twice in a connection's life.
 */
#include "away.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct away *list[AWAY_MAX];
static unsigned int n_away;

static uint32_t hash_of(const char *export_name, const char *station)
{
	uint32_t h = 2166136261U;
	const char *p;

	for (p = export_name; *p; p++)
		h = (h ^ (unsigned char)*p) * 16777619U;
	h *= 16777619U;
	for (p = station; *p; p++)
		h = (h ^ (unsigned char)*p) * 16777619U;
	return h;
}

/* Its place, or ->n_away. Under the lock. */
static unsigned int find(const char *export_name, const char *station,
			 uint32_t hash)
{
	unsigned int i;

	for (i = 0; i < n_away; i++)
		if (list[i]->hash == hash &&
		    !strcmp(list[i]->station, station) &&
		    !strcmp(list[i]->export_name, export_name))
			break;
	return i;
}

static unsigned int longest_away(void)
{
	unsigned int i, oldest = 0;

	for (i = 1; i < n_away; i++)
		if (list[i]->since < list[oldest]->since)
			oldest = i;
	return oldest;
}

void away_add(const struct away *a)
{
	const uint32_t hash = hash_of(a->export_name, a->station);
	struct away *copy = malloc(sizeof(*copy));
	struct away *old = NULL;
	unsigned int i;

	if (!copy)
		return;
	*copy = *a;
	copy->hash = hash;
	pthread_mutex_lock(&lock);
	i = find(a->export_name, a->station, hash);
	if (i == AWAY_MAX)
		i = longest_away();
	if (i == n_away)
		n_away++;
	else
		old = list[i];
	list[i] = copy;
	pthread_mutex_unlock(&lock);
	free(old);
}

void away_remove(const char *export_name, const char *station)
{
	const uint32_t hash = hash_of(export_name, station);
	struct away *old = NULL;
	unsigned int i;

	pthread_mutex_lock(&lock);
	i = find(export_name, station, hash);
	if (i < n_away) {
		old = list[i];
		list[i] = list[--n_away];
	}
	pthread_mutex_unlock(&lock);
	free(old);
}

struct away *away_all(unsigned int *n)
{
	struct away *copy = malloc(AWAY_MAX * sizeof(*copy));

	*n = 0;
	if (!copy)
		return NULL;
	pthread_mutex_lock(&lock);
	for (; *n < n_away; ++*n)
		copy[*n] = *list[*n];
	pthread_mutex_unlock(&lock);
	return copy;
}
