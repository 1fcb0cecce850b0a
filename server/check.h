/* SPDX-License-Identifier: GPL-2.0 */
/*
 * check.h - nbd-server --check: could this configuration be served?
 */
#ifndef SERVER_CHECK_H
#define SERVER_CHECK_H

#include <stdbool.h>

/* Says what is wrong in the log, else so on standard output. Changes nothing. */
bool check(const char *config);

#endif
