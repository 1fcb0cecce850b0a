/* SPDX-License-Identifier: GPL-2.0 */
/*
 * run.h - the programs that a configuration names (prerun, postrun).
 */
#ifndef SERVER_RUN_H
#define SERVER_RUN_H

#include <stdbool.h>
#include <stddef.h>

/* Could its program be run, by who we are now? False with a sentence in @why. */
bool run_check(const char *line, char *why, size_t why_size);

/*
 * Run @line: words separated by blanks, the first one a program by its path; no
 * shell sees it, and it has our standard error only. "%s" in a word becomes @path. Waits for its end, a minute at
 * most. True if it ended with status 0; else that was logged. In its
 * environment: NBD_EXPORT, NBD_ADDRESS. May be called by any thread that may
 * wait.
 */
bool run_command(const char *line, const char *path, const char *export_name,
		 const char *address);

#endif
