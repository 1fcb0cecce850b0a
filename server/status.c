// SPDX-License-Identifier: GPL-2.0
/*
 * status.c - the list of connections in use, and the reports made of it. The
 * list's lock is taken when a connection begins and ends, and by whoever asks
 * for a report; requests never see it.
 */
#define _GNU_SOURCE
#include "status.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "image.h"
#include "store-overlay.h"

#ifndef VERSION
#define VERSION "0.1"
#endif

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct status_conn *first, **last = &first;
static uint64_t next_id;
static unsigned int in_use;
/* Of connections that have ended, so that the sums never go back. */
static struct status_counts ended;
static uint64_t ended_n;

static uint64_t get(const _Atomic uint64_t *n)
{
	return atomic_load_explicit(n, memory_order_relaxed);
}

static void add_counts(struct status_counts *to, const struct status_counts *c)
{
	status_count(&to->reads, get(&c->reads));
	status_count(&to->writes, get(&c->writes));
	status_count(&to->others, get(&c->others));
	status_count(&to->read_bytes, get(&c->read_bytes));
	status_count(&to->written_bytes, get(&c->written_bytes));
	status_count(&to->errors, get(&c->errors));
	status_count(&to->waited, get(&c->waited));
	status_count(&to->waited_us, get(&c->waited_us));
	if (get(&c->longest_us) > get(&to->longest_us))
		atomic_store(&to->longest_us, get(&c->longest_us));
}

void status_enter(struct status_conn *c)
{
	pthread_mutex_lock(&lock);
	c->id = ++next_id;
	c->since = time(NULL);
	c->next = NULL;
	c->prev = last;
	*last = c;
	last = &c->next;
	in_use++;
	pthread_mutex_unlock(&lock);
}

void status_leave(struct status_conn *c)
{
	pthread_mutex_lock(&lock);
	if (!c->prev) {
		pthread_mutex_unlock(&lock);
		return;
	}
	*c->prev = c->next;
	if (c->next)
		c->next->prev = c->prev;
	else
		last = c->prev;
	c->prev = NULL;
	in_use--;
	ended_n++;
	add_counts(&ended, &c->counts);
	pthread_mutex_unlock(&lock);
}

static uint64_t mean_us(const struct status_counts *c)
{
	uint64_t n = get(&c->waited);

	return n ? get(&c->waited_us) / n : 0;
}

static const char *overlay_name(enum overlay_kind kind)
{
	switch (kind) {
	case OVERLAY_KEEP:
		return "keep";
	case OVERLAY_FRESH:
		return "fresh";
	default:
		return "none";
	}
}

/* -- JSON ---------------------------------------------------------------------- */

static void json_field(struct text *t, const char *key, const char *value)
{
	text_add(t, "\"%s\":", key);
	if (value)
		text_quoted(t, value);
	else
		text_add(t, "null");
	text_add(t, ",");
}

static void json_counts(struct text *t, const struct status_counts *c)
{
	text_add(t, "\"reads\":%" PRIu64 ",\"writes\":%" PRIu64
		 ",\"others\":%" PRIu64 ",\"read_bytes\":%" PRIu64
		 ",\"written_bytes\":%" PRIu64 ",\"errors\":%" PRIu64
		 ",\"disk_requests\":%" PRIu64 ",\"disk_latency_us\":%" PRIu64
		 ",\"disk_latency_max_us\":%" PRIu64,
		 get(&c->reads), get(&c->writes), get(&c->others),
		 get(&c->read_bytes), get(&c->written_bytes), get(&c->errors),
		 get(&c->waited), mean_us(c), get(&c->longest_us));
}

static void json_export(struct text *t, struct export *e)
{
	const struct export_settings *s = e->settings;
	struct image *i = export_image(e);

	text_add(t, "{");
	json_field(t, "name", s->name);
	json_field(t, "file", s->path);
	json_field(t, "image", i ? i->id : NULL);
	json_field(t, "image_file", i ? i->path : NULL);
	json_field(t, "overlay", overlay_name(s->overlay));
	text_add(t, "\"size\":%llu,\"read_only\":%s,\"connections\":%u}",
		 (unsigned long long)export_size(e),
		 s->read_only ? "true" : "false",
		 atomic_load(&e->counts->connections));
	image_put(i);
}

static void json_conn(struct text *t, const struct status_conn *c)
{
	text_add(t, "{\"id\":%" PRIu64 ",", c->id);
	json_field(t, "export", c->export_name);
	json_field(t, "station", c->opened->station);
	json_field(t, "address", c->peer);
	json_field(t, "state", "in use");
	json_field(t, "image", c->opened->image);
	text_add(t, "\"since\":%" PRId64 ",\"read_only\":%s,", c->since,
		 c->read_only ? "true" : "false");
	if (c->store && store_is_overlay(c->store))
		text_add(t, "\"overlay_bytes\":%" PRIu64 ",",
			 store_overlay_used(c->store));
	json_counts(t, &c->counts);
	text_add(t, "}");
}

void status_json(struct text *t, struct exports *x)
{
	struct status_conn *c;
	struct export *e;

	text_add(t, "{");
	json_field(t, "version", VERSION);
	text_add(t, "\"pid\":%ld,\"exports\":[", (long)getpid());
	for (e = exports_next(x, NULL); e; ) {
		json_export(t, e);
		e = exports_next(x, e);
		if (e)
			text_add(t, ",");
	}
	text_add(t, "],\"connections\":[");
	pthread_mutex_lock(&lock);
	for (c = first; c; c = c->next) {
		json_conn(t, c);
		if (c->next)
			text_add(t, ",");
	}
	pthread_mutex_unlock(&lock);
	text_add(t, "]}\n");
}

/* -- tables --------------------------------------------------------------------- */

/* "1.2M": four characters at most. */
static const char *short_bytes(char *buf, size_t size, double n)
{
	static const char unit[] = "BKMGTPE";
	int u = 0;

	while (n >= 999.5 && unit[u + 1]) {
		n /= 1024;
		u++;
	}
	if (u && n < 9.95)
		snprintf(buf, size, "%.1f%c", n, unit[u]);
	else
		snprintf(buf, size, "%.0f%c", n, unit[u]);
	return buf;
}

static const char *how_long(char *buf, size_t size, int64_t since)
{
	long s = (long)(time(NULL) - since);

	if (s < 0)
		s = 0;
	if (s < 100)
		snprintf(buf, size, "%lds", s);
	else if (s < 6000)
		snprintf(buf, size, "%ldm", s / 60);
	else if (s < 360000)
		snprintf(buf, size, "%ldh", s / 3600);
	else
		snprintf(buf, size, "%ldd", s / 86400);
	return buf;
}

static void export_column(struct text *t, const char *name, size_t width)
{
	text_column(t, *name ? name : "(default)", width);
}

void status_table(struct text *t, struct exports *x)
{
	char r[16], w[16], o[16], age[32];
	struct status_conn *c;
	struct export *e;

	text_add(t, "%-20s %6s %5s %-7s %-26s %s\n", "EXPORT", "SIZE", "CONNS",
		 "OVERLAY", "IMAGE", "FILE");
	for (e = exports_next(x, NULL); e; e = exports_next(x, e)) {
		struct image *i = export_image(e);

		export_column(t, e->info.name, 20);
		text_add(t, "%6s %5u %-7s %-26s ",
			 short_bytes(r, sizeof(r), (double)export_size(e)),
			 atomic_load(&e->counts->connections),
			 overlay_name(e->settings->overlay), i ? i->id : "-");
		text_column(t, e->settings->path, 0);
		text_add(t, "%s\n", e->settings->read_only ? "(read-only)" : "");
		image_put(i);
	}
	text_add(t, "\n%-16s %-16s %-22s %5s %6s %6s %8s %8s %6s\n", "STATION",
		 "EXPORT", "ADDRESS", "SINCE", "READ", "WRIT.", "REQUESTS",
		 "DISK us", "OVERL.");
	pthread_mutex_lock(&lock);
	for (c = first; c; c = c->next) {
		const struct status_counts *n = &c->counts;
		bool overlay = c->store && store_is_overlay(c->store);

		text_add(t, "%-16s ", c->opened->station);
		export_column(t, c->export_name, 16);
		text_add(t, "%-22s %5s %6s %6s %8" PRIu64 " %8" PRIu64 " %6s\n",
			 c->peer, how_long(age, sizeof(age), c->since),
			 short_bytes(r, sizeof(r), (double)get(&n->read_bytes)),
			 short_bytes(w, sizeof(w), (double)get(&n->written_bytes)),
			 get(&n->reads) + get(&n->writes) + get(&n->others),
			 mean_us(n), overlay ?
			 short_bytes(o, sizeof(o), (double)store_overlay_used(c->store)) : "-");
	}
	pthread_mutex_unlock(&lock);
}

struct status_seen {
	uint64_t id, read_bytes, written_bytes, requests;
	double read_rate, write_rate, request_rate;
	char station[NBD_SESSION_WORD], peer[64];
	const char *export_name;	/* exports stay until the server ends */
};

static int busiest_first(const void *pa, const void *pb)
{
	const struct status_seen *a = pa, *b = pb;
	double x = a->read_rate + a->write_rate, y = b->read_rate + b->write_rate;

	return x > y ? -1 : x < y ? 1 : a->id < b->id ? -1 : 1;
}

static int by_id(const void *pa, const void *pb)
{
	const struct status_seen *a = pa, *b = pb;

	return a->id < b->id ? -1 : a->id > b->id;
}

/* Most of a terminal; the sum speaks for the rest. */
#define TOP_LINES	20U

void status_top(struct text *t, struct exports *x, struct status_top *top)
{
	double read_rate = 0, write_rate = 0, requests = 0, span, now;
	char r[16], w[16];
	struct status_seen *seen;
	struct status_conn *c;
	struct timespec ts;
	unsigned int n = 0, i;

	(void)x;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	now = (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
	span = top->at > 0 && now > top->at ? now - top->at : 0;
	pthread_mutex_lock(&lock);
	seen = calloc(in_use + 1, sizeof(*seen));
	for (c = seen ? first : NULL; c; c = c->next) {
		struct status_seen *s = &seen[n++], *old;

		s->id = c->id;
		s->read_bytes = get(&c->counts.read_bytes);
		s->written_bytes = get(&c->counts.written_bytes);
		s->requests = get(&c->counts.reads) + get(&c->counts.writes) +
			      get(&c->counts.others);
		snprintf(s->station, sizeof(s->station), "%s",
			 c->opened->station);
		snprintf(s->peer, sizeof(s->peer), "%s", c->peer);
		s->export_name = c->export_name;
		old = top->n ? bsearch(s, top->seen, top->n, sizeof(*s), by_id) :
		      NULL;
		if (span > 0) {
			s->read_rate = (double)(s->read_bytes - (old ? old->read_bytes : 0)) / span;
			s->write_rate = (double)(s->written_bytes - (old ? old->written_bytes : 0)) / span;
			s->request_rate = (double)(s->requests - (old ? old->requests : 0)) / span;
		}
		read_rate += s->read_rate;
		write_rate += s->write_rate;
		requests += s->request_rate;
	}
	pthread_mutex_unlock(&lock);
	if (!seen)
		return;
	text_add(t, "%u connections: reading %s/s, writing %s/s, %.0f requests/s\n\n",
		 n, short_bytes(r, sizeof(r), read_rate),
		 short_bytes(w, sizeof(w), write_rate), requests);
	text_add(t, "%-20s %-16s %-22s %7s %7s %8s\n", "STATION", "EXPORT",
		 "ADDRESS", "READ/s", "WRIT./s", "REQ./s");
	qsort(seen, n, sizeof(*seen), busiest_first);
	for (i = 0; i < n && i < TOP_LINES; i++) {
		text_add(t, "%-20s ", seen[i].station);
		export_column(t, seen[i].export_name, 16);
		text_add(t, "%-22s %7s %7s %8.0f\n", seen[i].peer,
			 short_bytes(r, sizeof(r), seen[i].read_rate),
			 short_bytes(w, sizeof(w), seen[i].write_rate),
			 seen[i].request_rate);
	}
	if (n > TOP_LINES)
		text_add(t, "... and %u more\n", n - TOP_LINES);
	qsort(seen, n, sizeof(*seen), by_id);
	free(top->seen);
	top->seen = seen;
	top->n = n;
	top->at = now;
}

void status_top_free(struct status_top *top)
{
	free(top->seen);
	memset(top, 0, sizeof(*top));
}

/* -- Prometheus ------------------------------------------------------------------- */

static void metric(struct text *t, const char *name, const char *type,
		   const char *help, uint64_t value)
{
	text_add(t, "# HELP nbdroot_%s %s\n# TYPE nbdroot_%s %s\nnbdroot_%s %" PRIu64 "\n",
		 name, help, name, type, name, value);
}

struct overlay_lines {
	struct text *t;
	bool any;
};

static void overlay_metric(void *ctx, const char *export_name,
			   const char *station, const struct store *s)
{
	struct overlay_lines *l = ctx;

	if (!l->any)
		text_add(l->t, "# HELP nbdroot_overlay_bytes What a connected station has written.\n"
			 "# TYPE nbdroot_overlay_bytes gauge\n");
	l->any = true;
	text_add(l->t, "nbdroot_overlay_bytes{export=");
	text_label(l->t, export_name);
	text_add(l->t, ",station=");
	text_label(l->t, station);
	text_add(l->t, "} %" PRIu64 "\n", store_overlay_used(s));
}

void status_metrics(struct text *t, struct exports *x)
{
	struct overlay_lines lines = { .t = t };
	struct status_counts sum;
	struct status_conn *c;
	struct export *e;
	uint64_t n, old;

	memset(&sum, 0, sizeof(sum));
	pthread_mutex_lock(&lock);
	add_counts(&sum, &ended);
	for (c = first; c; c = c->next)
		add_counts(&sum, &c->counts);
	n = in_use;
	old = ended_n;
	pthread_mutex_unlock(&lock);

	metric(t, "connections", "gauge", "Connections in use.", n);
	metric(t, "connections_total", "counter",
	       "Connections that chose an export.", n + old);
	metric(t, "read_requests_total", "counter", "Read requests.",
	       get(&sum.reads));
	metric(t, "write_requests_total", "counter", "Write requests.",
	       get(&sum.writes));
	metric(t, "other_requests_total", "counter", "Requests of other kinds.",
	       get(&sum.others));
	metric(t, "read_bytes_total", "counter", "Bytes asked for by reads.",
	       get(&sum.read_bytes));
	metric(t, "written_bytes_total", "counter", "Bytes of writes.",
	       get(&sum.written_bytes));
	metric(t, "request_errors_total", "counter",
	       "Requests answered with an error.", get(&sum.errors));
	metric(t, "disk_requests_total", "counter",
	       "Requests that a worker carried out.", get(&sum.waited));
	metric(t, "disk_microseconds_total", "counter",
	       "Time these took, queueing included.", get(&sum.waited_us));
	text_add(t, "# HELP nbdroot_export_connections Connections in use, by export.\n"
		 "# TYPE nbdroot_export_connections gauge\n");
	for (e = exports_next(x, NULL); e; e = exports_next(x, e)) {
		text_add(t, "nbdroot_export_connections{export=");
		text_label(t, e->info.name);
		text_add(t, "} %u\n", atomic_load(&e->counts->connections));
	}
	station_overlays_each(&lines, overlay_metric);
}
