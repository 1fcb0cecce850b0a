// SPDX-License-Identifier: GPL-2.0
/*
 * status-table.c - what people see of the connections: the table, and top.
 */
#include "status-seen.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "image.h"

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
	unsigned int n, i, n_away = 0, negotiating = 0;
	struct status_seen *seen = status_look(&n);
	char r[16], w[16], o[16], age[32];
	struct away *away;

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
			 short_bytes(r, sizeof(r), (double)status_get(&c->counts.read_bytes)),
			 short_bytes(w, sizeof(w), (double)status_get(&c->counts.written_bytes)),
			 status_requests(&c->counts), status_answer_us(&c->counts),
			 status_disk_us(&c->counts), c->overlay ?
			 short_bytes(o, sizeof(o), (double)c->overlay_bytes) : "-",
			 c->image);
	}
	away = status_away(seen, n, &n_away);
	for (i = 0; i < n_away; i++) {
		const struct away *a = &away[i];

		text_add(t, "%-16s ", a->station);
		export_column(t, a->export_name, 16);
		text_add(t, "%-22s %-11s %5s %6s %6s %8s %7s %8s %6s %s\n",
			 a->peer, status_away_state(a),
			 how_long(age, sizeof(age), a->since), "-", "-", "-",
			 "-", "-",
			 short_bytes(o, sizeof(o), (double)a->overlay_bytes),
			 a->image);
	}
	free(away);
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
			 status_overlay_name(e->settings->overlay), i ? i->id : "-");
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
	return span > 0 ? (double)(status_get(now) - (before ? status_get(before) : 0)) / span : 0;
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
	seen = status_look(&all);
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
			s->request_rate = (double)(status_requests(&s->counts) -
				(old ? status_requests(&old->counts) : 0)) / span;
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
