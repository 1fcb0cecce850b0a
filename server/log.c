// SPDX-License-Identifier: GPL-2.0
/*
 * log.c - where the server's lines go, and how a peer is kept from flooding
 * them. A line is composed first and written by one write(2), so that lines of
 * several threads never mix.
 */
#include "log.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static bool debug;
static bool to_syslog;
static pthread_once_t journal_once = PTHREAD_ONCE_INIT;
static bool to_journal;

static pthread_mutex_t rate_lock = PTHREAD_MUTEX_INITIALIZER;
static time_t rate_second;
static unsigned int rate_lines, rate_dropped;

/* Addresses share a place by chance, of a hash that nobody outside knows. */
#define STATION_PLACES	256U
static struct place {
	uint64_t used;
	time_t at;	/* the second when ->used was right */
	unsigned int dropped;
} station_place[STATION_PLACES];

void log_debug(bool on)
{
	debug = on;
}

void log_to_syslog(void)
{
	openlog("nbd-server", LOG_PID, LOG_DAEMON);
	to_syslog = true;
}

/*
 * systemd.exec(5), $JOURNAL_STREAM: stderr goes to the journal if it is the
 * file that the variable names; then sd-daemon(3) prefixes carry the priority.
 */
static void find_journal(void)
{
	const char *s = getenv("JOURNAL_STREAM");
	unsigned long long dev, ino;
	struct stat st;

	if (s && sscanf(s, "%llu:%llu", &dev, &ino) == 2 &&
	    !fstat(STDERR_FILENO, &st))
		to_journal = st.st_dev == dev && st.st_ino == ino;
}

static void put_line(int priority, const char *fmt, va_list ap)
{
	char line[LOG_LINE + 24];
	size_t start, len;
	int n;

	if (priority == LOG_DEBUG && !debug)
		return;
	if (to_syslog) {
		vsyslog(priority, fmt, ap);
		return;
	}
	pthread_once(&journal_once, find_journal);
	if (to_journal)
		n = snprintf(line, sizeof(line), "<%d>", priority);
	else
		n = snprintf(line, sizeof(line), "nbd-server: ");
	start = (size_t)n;
	n = vsnprintf(line + start, LOG_LINE, fmt, ap);
	if (n < 0)
		return;
	len = start + ((size_t)n < LOG_LINE ? (size_t)n : LOG_LINE - 1);
	line[len++] = '\n';
	/* Nobody can be told that the log is gone. */
	if (write(STDERR_FILENO, line, len) < 0)
		return;
}

void log_msg(int priority, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	put_line(priority, fmt, ap);
	va_end(ap);
}

void log_peer(int priority, const char *fmt, ...)
{
	unsigned int dropped = 0;
	struct timespec now;
	bool show;
	va_list ap;

	if (priority == LOG_DEBUG && !debug)
		return;
	clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
	pthread_mutex_lock(&rate_lock);
	if (now.tv_sec != rate_second) {
		rate_second = now.tv_sec;
		rate_lines = 0;
		dropped = rate_dropped;
		rate_dropped = 0;
	}
	show = rate_lines < LOG_PEER_RATE;
	if (show)
		rate_lines++;
	else
		rate_dropped++;
	pthread_mutex_unlock(&rate_lock);

	if (dropped)
		log_msg(LOG_WARNING, "%u lines about clients were not written: more than %d in a second",
			dropped, LOG_PEER_RATE);
	if (!show)
		return;
	va_start(ap, fmt);
	put_line(priority, fmt, ap);
	va_end(ap);
}

void log_station(unsigned int who, int priority, const char *fmt, ...)
{
	struct place *p = &station_place[who % STATION_PLACES];
	unsigned int dropped = 0;
	struct timespec now;
	uint64_t less;
	bool show;
	va_list ap;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
	pthread_mutex_lock(&rate_lock);
	less = (uint64_t)(now.tv_sec - p->at) * LOG_STATION_RATE;
	p->at = now.tv_sec;
	p->used = less < p->used ? p->used - less : 0;
	show = p->used < LOG_STATION_BURST;
	if (show) {
		p->used++;
		dropped = p->dropped;
		p->dropped = 0;
	} else {
		p->dropped++;
	}
	pthread_mutex_unlock(&rate_lock);

	if (dropped)
		log_msg(LOG_WARNING, "%u lines about stations were not written: their address has more than %u at once and %u in a second",
			dropped, LOG_STATION_BURST, LOG_STATION_RATE);
	if (!show)
		return;
	va_start(ap, fmt);
	put_line(priority, fmt, ap);
	va_end(ap);
}

char *log_quote(char *buf, size_t size, const char *s, size_t len)
{
	size_t out = 0, i;

	for (i = 0; i < len; i++) {
		unsigned char c = (unsigned char)s[i];
		bool plain = c >= 0x20 && c < 0x7f && c != '"' && c != '\\';

		/* Room for this one, then for "..." and the NUL. */
		if (out + (plain ? 1 : 4) + 4 > size) {
			memcpy(buf + out, "...", 3);
			out += 3;
			break;
		}
		if (plain)
			buf[out++] = (char)c;
		else
			out += (size_t)snprintf(buf + out, 5, "\\%03o", c);
	}
	buf[out] = '\0';
	return buf;
}

char *log_bytes(char *buf, size_t size, unsigned long long bytes)
{
	static const char unit[] = "KMGTPE";
	unsigned long long n = bytes;
	int u = -1;

	while (n >= 1024 && n % 1024 == 0 && unit[u + 1]) {
		n /= 1024;
		u++;
	}
	if (u < 0)
		snprintf(buf, size, "%llu bytes", bytes);
	else
		snprintf(buf, size, "%llu %ciB", n, unit[u]);
	return buf;
}
