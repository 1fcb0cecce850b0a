/* SPDX-License-Identifier: GPL-2.0 */
/*
 * intree.h - the kernel's own nbd driver, for where nb.ko cannot be loaded.
 */
#ifndef CLIENT_INTREE_H
#define CLIENT_INTREE_H

#include <stdbool.h>
#include <stddef.h>

struct attempt;

/*
 * Attach @device ("nbd0") from the servers in @at, asked in their order, for
 * @at->export. True once it can be used, and then a process stays behind that
 * connects it again when a server goes away; else @at says why not. @at->used
 * is the last server that was asked, on success the one in use.
 */
bool intree_attach(struct attempt *at, const char *device);

/* Detach it: 0 or an errno. */
int intree_detach(const char *device);

/* argv[0] of the program, which marks the process that stays behind. */
extern char *intree_mark;

/* What a person should know of it, a sentence. */
extern const char intree_price[];

#endif /* CLIENT_INTREE_H */
