/* SPDX-License-Identifier: GPL-2.0 */
/*
 * log.h - one line per event, to stderr or to syslog.
 */
#ifndef SERVER_LOG_H
#define SERVER_LOG_H

#include <stdbool.h>
#include <stddef.h>
#include <syslog.h>

/* Longest line that is kept whole, with its NUL. */
#define LOG_LINE	1024

/*
 * Write one line at a syslog priority (LOG_ERR .. LOG_DEBUG). Callable from
 * any thread. LOG_DEBUG lines appear only after log_debug(true).
 */
void log_msg(int priority, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

/*
 * The same for events a peer can cause at will: past LOG_PEER_RATE lines in a
 * second the rest of that second is counted, not written.
 */
#define LOG_PEER_RATE	200
void log_peer(int priority, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

/*
 * The same for what happens to stations, who have an export: @who is a number for
 * their address, access_group(). Not counted among the above, so strangers cannot
 * take these lines' place; and nor can a station take another address's. One
 * address has LOG_STATION_BURST at once, which is a whole lab that comes behind
 * one, and then LOG_STATION_RATE a second.
 */
#define LOG_STATION_BURST	8192U
#define LOG_STATION_RATE	20U
void log_station(unsigned int who, int priority, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* Show LOG_DEBUG lines. Before the threads start. */
void log_debug(bool on);

/* From now on to syslog (the background has no stderr). */
void log_to_syslog(void);

/*
 * Copy @len bytes of a hostile string into @buf, as printable ASCII: quotes,
 * backslashes and everything else become \ooo; what does not fit is cut and
 * marked with "...". Returns @buf. @size is at least 8.
 */
char *log_quote(char *buf, size_t size, const char *s, size_t len);

/* "64 MiB", "1.5 GiB", "1234567 bytes"; returns @buf. */
char *log_bytes(char *buf, size_t size, unsigned long long bytes);

#endif
