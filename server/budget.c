// SPDX-License-Identifier: GPL-2.0
/*
 * budget.c - one counter for all loops.
 */
#include "budget.h"

#include <stdatomic.h>
#include <unistd.h>

static atomic_size_t in_use;
static size_t limit = 256U << 20;

/* A quarter of the memory for requests in flight, 1 GiB at most. */
static size_t share_of_machine(void)
{
	long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
	unsigned long long bytes = (unsigned long long)pages * page / 4;

	if (pages < 0 || page < 0)
		return 256U << 20;
	if (bytes < BUDGET_LEAST)
		return BUDGET_LEAST;
	return bytes < 1U << 30 ? (size_t)bytes : 1U << 30;
}

void budget_init(size_t total)
{
	limit = total ? total : share_of_machine();
}

bool budget_take(size_t held, size_t need)
{
	if (held && held + need > BUDGET_CONNECTION)
		return false;
	if (atomic_fetch_add(&in_use, need) + need <= limit ||
	    held + need <= BUDGET_FREE)
		return true;
	atomic_fetch_sub(&in_use, need);
	return false;
}

void budget_add(size_t bytes)
{
	atomic_fetch_add(&in_use, bytes);
}

/* A little before the end, so that small requests are not all that is left. */
bool budget_pressed(void)
{
	return atomic_load(&in_use) > limit - limit / 16;
}

void budget_give(size_t bytes)
{
	atomic_fetch_sub(&in_use, bytes);
}
