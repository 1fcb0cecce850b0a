// SPDX-License-Identifier: GPL-2.0
/*
 * status.c - the list of connections, and the reports made of it for programs. The
 * list's lock is taken when a connection begins and ends, and by whoever asks
 * for a report; requests never see it.
 */
#define _GNU_SOURCE
#include "status-seen.h"

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

static void add_counts(struct status_counts *to, const struct status_counts *c)
{
	status_count(&to->reads, status_get(&c->reads));
	status_count(&to->writes, status_get(&c->writes));
	status_count(&to->others, status_get(&c->others));
	status_count(&to->read_bytes, status_get(&c->read_bytes));
	status_count(&to->written_bytes, status_get(&c->written_bytes));
	status_count(&to->errors, status_get(&c->errors));
	status_count(&to->waited, status_get(&c->waited));
	status_count(&to->waited_us, status_get(&c->waited_us));
	status_count(&to->answered, status_get(&c->answered));
	status_count(&to->answered_ns, status_get(&c->answered_ns));
	if (status_get(&c->longest_us) > status_get(&to->longest_us))
		atomic_store(&to->longest_us, status_get(&c->longest_us));
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
	away_remove(export_name, opened->station);
}

static void remember(const struct status_conn *c, bool done)
{
	struct away a = {
		.export_name = c->export_name,
		.since = time(NULL),
		.overlay_bytes = store_overlay_used(c->store),
		.done = done,
	};

	strcpy(a.station, c->opened->station);
	strcpy(a.image, c->opened->image);
	snprintf(a.peer, sizeof(a.peer), "%s", c->peer);
	away_add(&a);
}

void status_leave(struct status_conn *c, bool done)
{
	/* Before it is off the list: it is never in neither. */
	if (c->opened && store_is_overlay(c->store))
		remember(c, done);
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

/* A connection that begins or ends waits no longer than it takes to copy them. */
struct status_seen *status_look(unsigned int *n)
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

static int by_station(const void *pa, const void *pb)
{
	const struct status_seen *const *a = pa, *const *b = pb;
	int r = strcmp((*a)->station, (*b)->station);

	return r ? r : strcmp((*a)->export_name, (*b)->export_name);
}

struct away *status_away(const struct status_seen *seen, unsigned int n,
			 unsigned int *n_away)
{
	const struct status_seen **used = malloc((n + 1) * sizeof(*used));
	struct status_seen *key = calloc(1, sizeof(*key));
	const struct status_seen *const wanted = key;
	struct away *all = away_all(n_away);
	unsigned int i, n_used = 0, kept = 0;

	for (i = 0; used && i < n; i++)
		if (seen[i].used)
			used[n_used++] = &seen[i];
	if (!used || !key || !all) {
		free(all);
		all = NULL;
		*n_away = 0;
	} else {
		qsort(used, n_used, sizeof(*used), by_station);
	}
	for (i = 0; i < *n_away; i++) {
		strcpy(key->station, all[i].station);
		key->export_name = all[i].export_name;
		if (!bsearch(&wanted, used, n_used, sizeof(*used), by_station))
			all[kept++] = all[i];
	}
	*n_away = kept;
	free(used);
	free(key);
	return all;
}

const char *status_away_state(const struct away *a)
{
	return a->done ? "left" : "away";
}

const char *status_overlay_name(enum overlay_kind kind)
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
		 status_get(&c->reads), status_get(&c->writes), status_get(&c->others),
		 status_get(&c->read_bytes), status_get(&c->written_bytes), status_get(&c->errors),
		 status_get(&c->waited), status_disk_us(c), status_get(&c->longest_us),
		 status_get(&c->answered), status_answer_us(c));
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
	json_field(t, "overlay", status_overlay_name(s->overlay));
	text_add(t, "\"size\":%llu,\"read_only\":%s,\"connections\":%u}",
		 (unsigned long long)export_size(e),
		 s->read_only ? "true" : "false",
		 atomic_load(&e->counts->connections));
	image_put(i);
}

static void json_away(struct text *t, const struct away *a)
{
	text_add(t, "{");
	json_field(t, "export", a->export_name);
	json_field(t, "station", a->station);
	json_field(t, "address", a->peer);
	json_field(t, "state", status_away_state(a));
	json_field(t, "image", a->image);
	text_add(t, "\"since\":%" PRId64 ",\"overlay_bytes\":%" PRIu64 "}",
		 a->since, a->overlay_bytes);
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
	unsigned int n, n_away, i;
	struct away *away;
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
	seen = status_look(&n);
	away = seen ? status_away(seen, n, &n_away) : NULL;
	if (!away) {
		free(seen);
		text_free(t);
		t->failed = true;
		return;
	}
	text_add(t, "],\"connections\":[");
	json_conns(t, seen, n, true);
	text_add(t, "],\"negotiating\":[");
	json_conns(t, seen, n, false);
	text_add(t, "],\"away\":[");
	for (i = 0; i < n_away; i++) {
		text_add(t, "%s", i ? "," : "");
		json_away(t, &away[i]);
	}
	text_add(t, "]}\n");
	free(away);
	free(seen);
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
	       status_get(&sum.reads));
	metric(t, "write_requests_total", "counter", "Write requests.",
	       status_get(&sum.writes));
	metric(t, "other_requests_total", "counter", "Requests of other kinds.",
	       status_get(&sum.others));
	metric(t, "read_bytes_total", "counter", "Bytes asked for by reads.",
	       status_get(&sum.read_bytes));
	metric(t, "written_bytes_total", "counter", "Bytes of writes.",
	       status_get(&sum.written_bytes));
	metric(t, "request_errors_total", "counter",
	       "Requests answered with an error.", status_get(&sum.errors));
	metric(t, "disk_requests_total", "counter",
	       "Requests that a worker carried out.", status_get(&sum.waited));
	metric(t, "disk_microseconds_total", "counter",
	       "Time these took, queueing included.", status_get(&sum.waited_us));
	metric(t, "timed_batches_total", "counter",
	       "Batches of requests answered from memory that were timed, one in 8.",
	       status_get(&sum.answered));
	metric(t, "timed_batches_nanoseconds_total", "counter",
	       "Time these took.", status_get(&sum.answered_ns));
	text_add(t, "# HELP nbdroot_export_connections Connections in use, by export.\n"
		 "# TYPE nbdroot_export_connections gauge\n");
	for (e = exports_next(x, NULL); e; e = exports_next(x, e)) {
		text_add(t, "nbdroot_export_connections{export=");
		text_label(t, e->info.name);
		text_add(t, "} %u\n", atomic_load(&e->counts->connections));
	}
	seen = status_look(&n_seen);
	if (seen)
		overlay_metrics(t, seen, n_seen);
	free(seen);
}
