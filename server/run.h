/* SPDX-License-Identifier: GPL-2.0 */
/*
 * run.h - the programs that a configuration names (prerun, postrun).
 */
#ifndef SERVER_RUN_H
#define SERVER_RUN_H

#include <stdbool.h>

/*
 * Run @line: words separated by blanks, the first one a program by its path; no
 * shell sees it. "%s" in a word becomes @path. Waits for its end, a minute at
 * most. True if it ended with status 0; else that was logged. In its
 * environment: NBD_EXPORT, NBD_ADDRESS. May be called by any thread that may
 * wait.
 */
bool run_command(const char *line, const char *path, const char *export_name,
		 const char *address);

#endif
