// SPDX-License-Identifier: GPL-2.0
/*
 * status_test.c - what is told of connections: their states, each once, and no
 * connection has to wait while it is written.
 */
#include "unit.h"

#include <time.h>
#include <unistd.h>

#include "away.h"
#include "image.h"
#include "status.h"
#include "store-overlay.h"

/* -- a world with one export --------------------------------------------------- */

static struct export_settings settings = { .name = (char *)"lab", .path = (char *)"/lab.img" };
static struct export_counts counts;
static struct export lab = { .settings = &settings, .info.name = "lab", .counts = &counts };
static struct store plain, overlay[2];

struct export *exports_next(struct exports *x, const struct export *e)
{
	(void)x;
	return e ? NULL : &lab;
}

struct image *export_image(const struct export *e)
{
	(void)e;
	return NULL;
}

uint64_t export_size(const struct export *e)
{
	(void)e;
	return 1 << 20;
}

void image_put(struct image *i)
{
	(void)i;
}

bool store_is_overlay(const struct store *s)
{
	return s != &plain;
}

uint64_t store_overlay_used(const struct store *s)
{
	return s == &overlay[0] ? 4096 : 8192;
}

static time_t now = 5000000;	/* more milliseconds than 32 bits have */

int __wrap_clock_gettime(clockid_t id, struct timespec *t);
int __wrap_clock_gettime(clockid_t id, struct timespec *t)
{
	(void)id;
	*t = (struct timespec){ .tv_sec = now };
	return 0;
}

/* While a report is written connections come and go: a lock would be for ever. */
static bool busy;

static void somebody(void)
{
	struct status_conn c = { 0 };

	if (busy)
		return;
	busy = true;
	status_enter(&c, "visitor");
	status_leave(&c, true);
	busy = false;
}

void __real_text_quoted(struct text *t, const char *s);
void __wrap_text_quoted(struct text *t, const char *s);
void __wrap_text_quoted(struct text *t, const char *s)
{
	somebody();
	__real_text_quoted(t, s);
}

void __real_text_label(struct text *t, const char *s);
void __wrap_text_label(struct text *t, const char *s);
void __wrap_text_label(struct text *t, const char *s)
{
	somebody();
	__real_text_label(t, s);
}

void __real_text_column(struct text *t, const char *s, size_t width);
void __wrap_text_column(struct text *t, const char *s, size_t width);
void __wrap_text_column(struct text *t, const char *s, size_t width)
{
	somebody();
	__real_text_column(t, s, width);
}

/* -- tests ------------------------------------------------------------------------ */

static const struct export_opened pc7 = { "pc7", "b1", "image-1" }, pc8 = { "pc8", "-", "image-2" };

static struct text told(void (*how)(struct text *, struct exports *))
{
	struct text t = { 0 };

	alarm(20);
	how(&t, NULL);
	alarm(0);
	assert_false(t.failed);
	return t;
}

static void tells(void (*how)(struct text *, struct exports *), const char *what, bool want)
{
	struct text t = told(how);

	if (!strstr(t.s, what) == want)
		fail_msg("%s \"%s\":\n%s", want ? "no" : "there is", what, t.s);
	text_free(&t);
}

static void states(void **state)
{
	struct status_conn c = { 0 };

	(void)state;
	tells(status_json, "\"connections\":[],\"negotiating\":[],\"away\":[]}", true);
	status_enter(&c, "192.0.2.1:1");
	tells(status_json, "\"connections\":[],\"negotiating\":[{\"id\":", true);
	tells(status_json, "\"address\":\"192.0.2.1:1\",\"state\":\"negotiating\"", true);
	tells(status_table, "192.0.2.1:1            negotiating", true);
	tells(status_metrics, "\nnbdroot_connections 0\n", true);
	tells(status_metrics, "\nnbdroot_negotiating 1\n", true);
	status_use(&c, "lab", &pc7, &plain, true);
	tells(status_json, "\"state\":\"in use\"", true);
	tells(status_json, "\"negotiating\":[]", true);
	tells(status_metrics, "\nnbdroot_negotiating 0\n", true);
	tells(status_metrics, "\nnbdroot_connections 1\n", true);
	tells(status_table, " image-1\n", true);
	/* For a moment it is nothing. */
	status_is(&c, STATUS_STALLED);
	tells(status_json, "\"state\":\"in use\"", true);
	now++;
	tells(status_json, "\"state\":\"stalled\"", true);
	/* It lasts, however often it is said. */
	status_is(&c, STATUS_STALLED);
	tells(status_table, " stalled ", true);
	status_is(&c, STATUS_BUSY);
	tells(status_json, "\"state\":\"in use\"", true);
	now++;
	tells(status_json, "\"state\":\"in use\"", true);
	status_is(&c, STATUS_MEMORY);
	now += 1000000;
	tells(status_json, "\"state\":\"no memory\"", true);
	status_leave(&c, true);
	status_leave(&c, true);
	tells(status_json, "\"connections\":[]", true);
	tells(status_metrics, "\nnbdroot_connections_total 1\n", true);
}

static void times(void **state)
{
	struct status_conn c = { 0 };

	(void)state;
	status_enter(&c, "peer");
	status_use(&c, "lab", &pc7, &plain, true);
	tells(status_json, "\"answers_timed\":0,\"answer_latency_us\":0.0}", true);
	status_count(&c.counts.answered, 4);
	status_count(&c.counts.answered_ns, 4 * 2345);
	tells(status_json, "\"answers_timed\":4,\"answer_latency_us\":2.3}", true);
	tells(status_table, "     2.3        0 ", true);
	status_leave(&c, true);
	tells(status_metrics, "\nnbdroot_timed_batches_nanoseconds_total 9380\n", true);
}

/* Two connections of a station have one overlay, and one series. */
static void overlays(void **state)
{
	struct status_conn c[3] = { 0 };
	unsigned int i;
	struct text t;

	(void)state;
	for (i = 0; i < 3; i++) {
		status_enter(&c[i], "peer");
		status_use(&c[i], "lab", i ? &pc8 : &pc7, &overlay[i != 0], false);
	}
	t = told(status_metrics);
	assert_non_null(strstr(t.s, "{export=\"lab\",station=\"pc7\"} 4096\n"));
	assert_non_null(strstr(t.s, "{export=\"lab\",station=\"pc8\"} 8192\n"));
	assert_null(strstr(strstr(t.s, "station=\"pc8\"") + 1, "station=\"pc8\""));
	text_free(&t);
	for (i = 0; i < 3; i++)
		status_leave(&c[i], true);
	tells(status_metrics, "overlay_bytes", false);
}

static void leave(struct status_conn *c, bool done)
{
	status_leave(c, done);
	memset(c, 0, sizeof(*c));
}

/* With an overlay, while none of its connections is there. */
static void away(void **state)
{
	struct status_conn c[2] = { 0 };

	(void)state;
	status_enter(&c[0], "192.0.2.7:1");
	status_use(&c[0], "lab", &pc7, &overlay[0], false);
	status_enter(&c[1], "192.0.2.7:2");
	status_use(&c[1], "lab", &pc7, &overlay[0], false);
	leave(&c[0], false);
	tells(status_json, "\"station\":\"pc7\",\"address\":\"192.0.2.7:1\"", false);
	leave(&c[1], false);
	tells(status_json, "\"connections\":[]", true);
	tells(status_json, "{\"export\":\"lab\",\"station\":\"pc7\",\"address\":\"192.0.2.7:2\",\"state\":\"away\",\"image\":\"image-1\"", true);
	tells(status_json, "\"overlay_bytes\":4096}", true);
	tells(status_table, "192.0.2.7:2            away ", true);
	/* Another export's station of that name is another station. */
	status_enter(&c[0], "peer");
	status_use(&c[0], "root", &pc7, &overlay[1], false);
	tells(status_json, "\"state\":\"away\"", true);
	leave(&c[0], true);
	tells(status_json, "\"state\":\"left\"", true);
	status_enter(&c[0], "peer");
	status_use(&c[0], "lab", &pc7, &overlay[0], false);
	tells(status_json, "\"state\":\"away\"", false);
	leave(&c[0], true);
	tells(status_json, "\"state\":\"away\"", false);
	/* Without an overlay there is nothing that waits for it. */
	status_enter(&c[0], "peer");
	status_use(&c[0], "lab", &pc8, &plain, false);
	leave(&c[0], false);
	tells(status_json, "pc8\",\"address\":\"peer\",\"state\":\"away", false);
}

/* Whatever names are given: the table has its end. */
static void away_of_any_name(void **state)
{
	struct export_opened o = { "", "-", "image" };
	struct status_conn c = { 0 };
	unsigned int i, n;

	(void)state;
	for (i = 0; i < AWAY_MAX + 100; i++) {
		snprintf(o.station, sizeof(o.station), "s%u", i);
		status_enter(&c, "peer");
		status_use(&c, "lab", &o, &overlay[0], false);
		leave(&c, false);
	}
	free(away_all(&n));
	assert_int_equal(n, AWAY_MAX);
	tells(status_json, "\"station\":\"s4195\"", true);
	/* None stays, for those who look for leaks. */
	for (i = 0; i < AWAY_MAX + 100; i++) {
		snprintf(o.station, sizeof(o.station), "s%u", i);
		away_remove("lab", o.station);
	}
	away_remove("lab", "pc7");
	away_remove("lab", "pc8");
	away_remove("root", "pc7");
	free(away_all(&n));
	assert_int_equal(n, 0);
}

static void many_strangers(void **state)
{
	enum { N = 3000 };
	struct status_conn *c = calloc(N, sizeof(*c));
	struct status_top top = { 0 };
	struct text t = { 0 };
	unsigned int i;

	(void)state;
	for (i = 0; i < N; i++)
		status_enter(&c[i], "stranger");
	status_use(&c[N - 1], "lab", &pc7, &plain, true);
	tells(status_table, "... and 2989 more negotiating\n", true);
	status_top(&t, NULL, &top);
	now++;
	status_count(&c[N - 1].counts.reads, 50);
	status_count(&c[N - 1].counts.read_bytes, 1 << 20);
	status_top(&t, NULL, &top);
	assert_non_null(strstr(t.s, "1 connections: reading 1.0M/s, writing 0B/s, 50 requests/s"));
	text_free(&t);
	status_top_free(&top);
	for (i = 0; i < N; i++)
		status_leave(&c[i], true);
	free(c);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(states),
		cmocka_unit_test(times),
		cmocka_unit_test(overlays),
		cmocka_unit_test(away),
		cmocka_unit_test(many_strangers),
		cmocka_unit_test(away_of_any_name),
	};

	return cmocka_run_group_tests_name("server status", tests, NULL, NULL);
}
