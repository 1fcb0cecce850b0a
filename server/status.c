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
static unsigned int listed, in_use;
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
	status_count(&to->answered, get(&c->answered));
	status_count(&to->answered_ns, get(&c->answered_ns));
	if (get(&c->longest_us) > get(&to->longest_us))
		atomic_store(&to->longest_us, get(&c->longest_us));
}

void status_enter(struct status_conn *c, const char *peer)
{
	pthread_mutex_lock(&lock);
	c->id = ++next_id;
	c->since = time(NULL);
	c->peer = peer;
	c->next = NULL;
	c->prev = last;
	*last = c;
	last = &c->next;
	listed++;
	pthread_mutex_unlock(&lock);
}

void status_use(struct status_conn *c, const char *export_name,
		const struct export_opened *opened, const struct store *store,
		bool read_only)
{
	pthread_mutex_lock(&lock);
	c->since = time(NULL);
	c->export_name = export_name;
	c->opened = opened;
	c->store = store;
	c->read_only = read_only;
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
	listed--;
	if (c->opened) {
		in_use--;
		ended_n++;
		add_counts(&ended, &c->counts);
	}
	pthread_mutex_unlock(&lock);
}

/* -- a look at all of them ------------------------------------------------------- */

/* A connection at one moment, to be told of without the lock. */
struct status_seen {
	uint64_t id;
	int64_t since;
	struct status_counts counts;
	const char *export_name;	/* exports stay until the server ends */
	const char *state;
	char station[NBD_SESSION_WORD], image[NBD_SESSION_WORD], peer[64];
	const struct store *store;	/* to be compared: it may be gone */
	bool used, read_only, overlay;
	uint64_t overlay_bytes;
	double read_rate, write_rate, request_rate;	/* for status_top() */
};

static uint32_t coarse_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &t);
	return (uint32_t)((uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000);
}

void status_changed(struct status_conn *c, enum status_state state)
{
	atomic_store_explicit(&c->state_at, coarse_ms(), memory_order_relaxed);
	/* Who sees the state sees its time as well. */
	atomic_store_explicit(&c->state, state, memory_order_release);
}

/* What lasts for a moment only is how it goes with every busy station. */
static const char *state_name(const struct status_conn *c, uint32_t now)
{
	const int state = atomic_load_explicit(&c->state, memory_order_acquire);
	const uint32_t at = atomic_load_explicit(&c->state_at, memory_order_relaxed);

	if (!c->opened)
		return "negotiating";
	if ((int32_t)(now - at) < STATUS_LASTS_MS)
		return "in use";
	return state == STATUS_STALLED ? "stalled" :
	       state == STATUS_MEMORY ? "no memory" : "in use";
}

static void look_at(struct status_seen *s, const struct status_conn *c,
		    uint32_t now)
{
	s->id = c->id;
	s->since = c->since;
	s->state = state_name(c, now);
	snprintf(s->peer, sizeof(s->peer), "%s", c->peer);
	s->used = c->opened;
	if (!s->used)
		return;
	add_counts(&s->counts, &c->counts);
	s->export_name = c->export_name;
	strcpy(s->station, c->opened->station);
	strcpy(s->image, c->opened->image);
	s->read_only = c->read_only;
	s->store = c->store;
	s->overlay = store_is_overlay(c->store);
	if (s->overlay)
		s->overlay_bytes = store_overlay_used(c->store);
}

/*
 * All of the list, and in *@n how many; NULL without memory. A connection that
 * begins or ends waits no longer than it takes to copy them.
 */
static struct status_seen *look(unsigned int *n)
{
	const uint32_t now = coarse_ms();
	struct status_seen *seen;
	struct status_conn *c;
	unsigned int room;

	pthread_mutex_lock(&lock);
	for (;;) {
		room = listed + listed / 8 + 8;
		pthread_mutex_unlock(&lock);
		seen = malloc(room * sizeof(*seen));
		if (!seen)
			return NULL;
		memset(seen, 0, room * sizeof(*seen));
		pthread_mutex_lock(&lock);
		if (listed <= room)
			break;
		/* More have come in the meantime. */
		pthread_mutex_unlock(&lock);
		free(seen);
		pthread_mutex_lock(&lock);
	}
	for (*n = 0, c = first; c; c = c->next)
		look_at(&seen[(*n)++], c, now);
	pthread_mutex_unlock(&lock);
	return seen;
}

static uint64_t mean_us(const struct status_counts *c)
{
	uint64_t n = get(&c->waited);

	return n ? get(&c->waited_us) / n : 0;
}

static double answer_us(const struct status_counts *c)
{
	uint64_t n = get(&c->answered);

	return n ? (double)get(&c->answered_ns) / (double)n / 1000 : 0;
}

static uint64_t all_requests(const struct status_counts *c)
{
	return get(&c->reads) + get(&c->writes) + get(&c->others);
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
		 ",\"disk_latency_max_us\":%" PRIu64
		 ",\"answers_timed\":%" PRIu64 ",\"answer_latency_us\":%.1f",
		 get(&c->reads), get(&c->writes), get(&c->others),
		 get(&c->read_bytes), get(&c->written_bytes), get(&c->errors),
		 get(&c->waited), mean_us(c), get(&c->longest_us),
		 get(&c->answered), answer_us(c));
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

static void json_conn(struct text *t, const struct status_seen *c)
{
	text_add(t, "{\"id\":%" PRIu64 ",", c->id);
	if (c->used) {
		json_field(t, "export", c->export_name);
		json_field(t, "station", c->station);
	}
	json_field(t, "address", c->peer);
	json_field(t, "state", c->state);
	text_add(t, "\"since\":%" PRId64, c->since);
	if (c->used) {
		text_add(t, ",");
		json_field(t, "image", c->image);
		text_add(t, "\"read_only\":%s,", c->read_only ? "true" : "false");
		if (c->overlay)
			text_add(t, "\"overlay_bytes\":%" PRIu64 ",",
				 c->overlay_bytes);
		json_counts(t, &c->counts);
	}
	text_add(t, "}");
}

/* Those that are used, or those that are not yet. */
static void json_conns(struct text *t, const struct status_seen *seen,
		       unsigned int n, bool used)
{
	const char *comma = "";
	unsigned int i;

	for (i = 0; i < n; i++) {
		if (seen[i].used != used)
			continue;
		text_add(t, "%s", comma);
		json_conn(t, &seen[i]);
		comma = ",";
	}
}

void status_json(struct text *t, struct exports *x)
{
	struct status_seen *seen;
	struct export *e;
	unsigned int n;

	text_add(t, "{");
	json_field(t, "version", VERSION);
	text_add(t, "\"pid\":%ld,\"exports\":[", (long)getpid());
	for (e = exports_next(x, NULL); e; ) {
		json_export(t, e);
		e = exports_next(x, e);
		if (e)
			text_add(t, ",");
	}
	seen = look(&n);
	if (!seen) {
		text_free(t);
		t->failed = true;
		return;
	}
	text_add(t, "],\"connections\":[");
	json_conns(t, seen, n, true);
	text_add(t, "],\"negotiating\":[");
	json_conns(t, seen, n, false);
	text_add(t, "]}\n");
	free(seen);
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

/* So many that negotiate are shown; the sum speaks for the rest. */
#define TABLE_NEGOTIATING	10U

static void table_stations(struct text *t)
{
	unsigned int n, i, negotiating = 0;
	struct status_seen *seen = look(&n);
	char r[16], w[16], o[16], age[32];

	if (!seen)
		return;
	text_add(t, "\n%-16s %-16s %-22s %-11s %5s %6s %6s %8s %7s %8s %6s %s\n",
		 "STATION", "EXPORT", "ADDRESS", "STATE", "SINCE", "READ", "WRIT.",
		 "REQUESTS", "MEM. us", "DISK us", "OVERL.", "IMAGE");
	for (i = 0; i < n; i++) {
		const struct status_seen *c = &seen[i];

		how_long(age, sizeof(age), c->since);
		if (!c->used) {
			if (negotiating++ < TABLE_NEGOTIATING)
				text_add(t, "%-16s %-16s %-22s %-11s %5s\n", "-",
					 "-", c->peer, c->state, age);
			continue;
		}
		text_add(t, "%-16s ", c->station);
		export_column(t, c->export_name, 16);
		text_add(t, "%-22s %-11s %5s %6s %6s %8" PRIu64 " %7.1f %8" PRIu64 " %6s %s\n",
			 c->peer, c->state, age,
			 short_bytes(r, sizeof(r), (double)get(&c->counts.read_bytes)),
			 short_bytes(w, sizeof(w), (double)get(&c->counts.written_bytes)),
			 all_requests(&c->counts), answer_us(&c->counts),
			 mean_us(&c->counts), c->overlay ?
			 short_bytes(o, sizeof(o), (double)c->overlay_bytes) : "-",
			 c->image);
	}
	if (negotiating > TABLE_NEGOTIATING)
		text_add(t, "... and %u more negotiating\n",
			 negotiating - TABLE_NEGOTIATING);
	free(seen);
}

void status_table(struct text *t, struct exports *x)
{
	struct export *e;
	char r[16];

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
	table_stations(t);
}

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

static double rate(const _Atomic uint64_t *now, const _Atomic uint64_t *before,
		   double span)
{
	return span > 0 ? (double)(get(now) - (before ? get(before) : 0)) / span : 0;
}

/* Most of a terminal; the sum speaks for the rest. */
#define TOP_LINES	20U

void status_top(struct text *t, struct exports *x, struct status_top *top)
{
	double read_rate = 0, write_rate = 0, requests = 0, span, now;
	char r[16], w[16];
	struct status_seen *seen;
	struct timespec ts;
	unsigned int all, n = 0, i;

	(void)x;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	now = (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
	span = top->at > 0 && now > top->at ? now - top->at : 0;
	seen = look(&all);
	if (!seen)
		return;
	for (i = 0; i < all; i++) {
		struct status_seen *s = &seen[n], *old;

		if (!seen[i].used)
			continue;
		if (n++ != i)
			*s = seen[i];
		old = top->n ? bsearch(s, top->seen, top->n, sizeof(*s), by_id) :
		      NULL;
		s->read_rate = rate(&s->counts.read_bytes,
				    old ? &old->counts.read_bytes : NULL, span);
		s->write_rate = rate(&s->counts.written_bytes,
				     old ? &old->counts.written_bytes : NULL, span);
		if (span > 0)
			s->request_rate = (double)(all_requests(&s->counts) -
				(old ? all_requests(&old->counts) : 0)) / span;
		read_rate += s->read_rate;
		write_rate += s->write_rate;
		requests += s->request_rate;
	}
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

static int by_store(const void *pa, const void *pb)
{
	const struct status_seen *a = pa, *b = pb;

	return a->store < b->store ? -1 : a->store > b->store;
}

/* Connections of one station have one overlay. */
static void overlay_metrics(struct text *t, struct status_seen *seen,
			    unsigned int n)
{
	const struct store *told = NULL;
	unsigned int i;

	qsort(seen, n, sizeof(*seen), by_store);
	for (i = 0; i < n; i++) {
		if (!seen[i].overlay || seen[i].store == told)
			continue;
		if (!told)
			text_add(t, "# HELP nbdroot_overlay_bytes What a connected station has written.\n"
				 "# TYPE nbdroot_overlay_bytes gauge\n");
		told = seen[i].store;
		text_add(t, "nbdroot_overlay_bytes{export=");
		text_label(t, seen[i].export_name);
		text_add(t, ",station=");
		text_label(t, seen[i].station);
		text_add(t, "} %" PRIu64 "\n", seen[i].overlay_bytes);
	}
}

void status_metrics(struct text *t, struct exports *x)
{
	struct status_counts sum;
	struct status_seen *seen;
	struct status_conn *c;
	struct export *e;
	uint64_t n, old, all;
	unsigned int n_seen;

	memset(&sum, 0, sizeof(sum));
	pthread_mutex_lock(&lock);
	add_counts(&sum, &ended);
	for (c = first; c; c = c->next)
		add_counts(&sum, &c->counts);
	n = in_use;
	all = listed;
	old = ended_n;
	pthread_mutex_unlock(&lock);

	metric(t, "connections", "gauge", "Connections in use.", n);
	metric(t, "negotiating", "gauge",
	       "Connections that have not chosen an export yet.", all - n);
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
	metric(t, "timed_batches_total", "counter",
	       "Batches of requests answered from memory that were timed, one in 8.",
	       get(&sum.answered));
	metric(t, "timed_batches_nanoseconds_total", "counter",
	       "Time these took.", get(&sum.answered_ns));
	text_add(t, "# HELP nbdroot_export_connections Connections in use, by export.\n"
		 "# TYPE nbdroot_export_connections gauge\n");
	for (e = exports_next(x, NULL); e; e = exports_next(x, e)) {
		text_add(t, "nbdroot_export_connections{export=");
		text_label(t, e->info.name);
		text_add(t, "} %u\n", atomic_load(&e->counts->connections));
	}
	seen = look(&n_seen);
	if (seen)
		overlay_metrics(t, seen, n_seen);
	free(seen);
}
