/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Into the background, while whoever started us waits until we serve.
 */
#ifndef SERVER_BACKGROUND_H
#define SERVER_BACKGROUND_H

#include <stdbool.h>

/*
 * Leaves the parent waiting for the child's word. Returns in the child, with
 * what background_detach() is given when it serves; the parent exits with the
 * status that tells how it went.
 */
int background_fork(void);

/* Give the word, and let go of the terminal. False: logged. */
bool background_detach(int tell);

#endif
