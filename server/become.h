/* SPDX-License-Identifier: GPL-2.0 */
/*
 * become.h - who the server is to be (user, group), and the folders that are to
 * be that one's.
 */
#ifndef SERVER_BECOME_H
#define SERVER_BECOME_H

#include <stdbool.h>
#include <stddef.h>

#include "config.h"

/*
 * Make the folders for what stations leave, and see that whom the server
 * becomes can use them. Pins that cannot be kept are taken out of @c: they are
 * then in memory only. False, where an overlay could not be, with one sentence
 * in @why. Before there are threads, or when it is that user already.
 */
bool become_folders(struct config *c, char *why, size_t why_size);

/* Would that fail? How often; each was logged. Leaves no trace. */
unsigned int become_check(const struct config *c);

/* Can anything be made in there? 0, or a positive errno. */
int become_try(const char *folder);

/* Become the configured user, once all that needs privilege is open. */
bool become_user(const struct config *c, char *why, size_t why_size);

#endif
