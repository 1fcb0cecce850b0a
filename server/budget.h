/* SPDX-License-Identifier: GPL-2.0 */
/*
 * budget.h - how much memory all requests in flight may hold together.
 *
 * A connection that holds little (BUDGET_FREE) is always let in, whatever the
 * others do; everything above that comes out of the common budget. So that
 * clients who take no answers cannot keep a well-behaved station from it, the
 * loops end those of them that stand still while the budget is pressed.
 */
#ifndef SERVER_BUDGET_H
#define SERVER_BUDGET_H

#include <stdbool.h>
#include <stddef.h>

/* What one connection may hold in any case, in bytes. */
#define BUDGET_FREE		(256U << 10)
/*
 * What one connection may hold at most; or one READ that cannot be answered in
 * parts, of any length.
 */
#define BUDGET_CONNECTION	(33U << 20)
/* The least that all of them have: room for a READ of the largest payload. */
#define BUDGET_LEAST		(72U << 20)

/* Set the total, in bytes; 0: what suits the machine. Before the threads start. */
void budget_init(size_t total);

/* May a connection that holds @held bytes have @need more? True: it has. */
bool budget_take(size_t held, size_t need);
void budget_give(size_t bytes);

/* Bytes that are held already, of a reply that is being made. */
void budget_add(size_t bytes);

/* Is there no more than the free part for anybody? */
bool budget_pressed(void);

#endif
