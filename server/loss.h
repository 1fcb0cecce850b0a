/* SPDX-License-Identifier: GPL-2.0 */
/*
 * loss.h - which files have lost writes in a sync that failed. The kernel says so
 * once, to a descriptor; it has to outlive that one and the store around it.
 *
 * In the run of the server that it happened in, flushes of such a file go on to
 * fail, whoever opens it again. A later run cannot know who has been told, so it
 * calls itself another boot of the machine towards stations of that file, which
 * makes those that have writes not flushed fail their next flush (docs/consistency.md).
 *
 * Any thread.
 */
#ifndef SERVER_LOSS_H
#define SERVER_LOSS_H

#include <stdbool.h>

#include "nbd-session.h"

/*
 * Where later runs find it, and which boot of the machine this is: after another
 * one nobody needs it. Without this call it is known to this run only.
 */
void loss_keep_in(const char *dir, const char *machine_boot);

/* A sync of the file @fd, called @path, has failed. May block. */
void loss_note(int fd, const char *path);

/* Has one in this run of the server? */
bool loss_is_known(int fd);

/* @boot becomes another word if one has in a former run. May block. */
void loss_rename_boot(int fd, char boot[NBD_SESSION_WORD]);

#endif
