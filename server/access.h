/* SPDX-License-Identifier: GPL-2.0 */
/*
 * access.h - which addresses may use an export: the `authfile` of a
 * configuration, one address or ADDRESS/BITS a line, or "unix" for those who come
 * by a Unix socket; # begins a comment. The word "readonly" may follow.
 */
#ifndef SERVER_ACCESS_H
#define SERVER_ACCESS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>

/*
 * Does the file at @path name the address of @peer; and in *@read_only, does the
 * first line that does so let it only read? The file is read anew at
 * each call (a worker's, not a loop's), so an edit holds from the next connection on. A file that cannot
 * be read, or has a line that is not understood, allows nobody and says so in
 * the log. May block for the file system.
 */
bool access_allows(const char *path, const struct sockaddr *peer,
		   bool *read_only);

/*
 * The same check of the file alone, for a start: true when all lines are
 * understood; else one sentence in @why.
 */
bool access_check_file(const char *path, char *why, size_t why_size);

/*
 * A number for the address of @peer, or for the network of 64 bits that an IPv6 one
 * is in. Others may have the same, but nobody can know which.
 */
unsigned int access_group(const struct sockaddr *peer);

/* Does "ADDRESS" or "ADDRESS/BITS" name @peer? -1: not understood. */
int access_match(const char *rule, const struct sockaddr *peer);

#endif
