// SPDX-License-Identifier: GPL-2.0
/*
 * export_test.c - what an event loop asks of an export, while others change it.
 */
#define _GNU_SOURCE
#include "unit.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <time.h>
#include <unistd.h>

#include "export.h"
#include "image.h"
#include "session.h"

static char dir[] = "/tmp/export_test.XXXXXX", path[64];
static struct exports exports;

/* The next who holds an image stays in there, but not for ever. */
static atomic_bool stay, nobody_came;
static sem_t inside, go_on;

struct image *__real_image_hold(struct image *i);
struct image *__wrap_image_hold(struct image *i);

struct image *__wrap_image_hold(struct image *i)
{
	struct timespec until;

	if (atomic_exchange(&stay, false)) {
		clock_gettime(CLOCK_REALTIME, &until);
		until.tv_sec += 60;
		sem_post(&inside);
		if (sem_timedwait(&go_on, &until))
			atomic_store(&nobody_came, true);
	}
	return __real_image_hold(i);
}

/* Somebody comes for this export while a reload looks at its image. */
static struct export *comes_for;

bool __real_image_is_at(const struct image *i, const char *at);
bool __wrap_image_is_at(const struct image *i, const char *at);
static void come(struct export *e);

bool __wrap_image_is_at(const struct image *i, const char *at)
{
	struct export *e = comes_for;

	comes_for = NULL;
	if (e)
		come(e);
	return __real_image_is_at(i, at);
}

void session_server(struct nbd_identity *id)
{
	memset(id, 0, sizeof(*id));
}

/* Another file takes the name. */
static void publish(off_t size)
{
	char new[80];
	int fd;

	snprintf(new, sizeof(new), "%s.new", path);
	fd = open(new, O_WRONLY | O_CREAT | O_EXCL, 0600);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, size), 0);
	close(fd);
	assert_int_equal(rename(new, path), 0);
}

static struct export_settings *settings(void)
{
	struct export_settings *s = export_settings_new("lab", path);

	assert_non_null(s);
	s->read_only = true;
	return s;
}

static struct export *serve(off_t size)
{
	char why[800] = "";

	publish(size);
	memset(&exports, 0, sizeof(exports));
	if (!exports_add(&exports, settings(), why, sizeof(why)))
		fail_msg("%s", why);
	return exports_find(&exports, "lab", 3);
}

static void reload(struct export_settings *list)
{
	char did[200], why[800] = "";

	if (!exports_reload(&exports, list, did, sizeof(did), why, sizeof(why)))
		fail_msg("%s", why);
}

static void size_of_the_current_image(void **state)
{
	struct export *e = serve(1 << 20);
	struct export_settings *s;

	(void)state;
	assert_int_equal(export_size(e), 1 << 20);
	publish(2 << 20);
	assert_int_equal(export_size(e), 1 << 20);
	reload(settings());
	assert_ptr_equal(exports_find(&exports, "lab", 3), e);
	assert_int_equal(export_size(e), 2 << 20);
	/* Another export of that name. */
	s = settings();
	s->size = 4096;
	reload(s);
	assert_int_equal(export_size(exports_find(&exports, "lab", 3)), 4096);
	/* A connection may still have it. */
	assert_int_equal(export_size(e), 2 << 20);
	exports_free(&exports);
}

static void come(struct export *e)
{
	struct sockaddr_in peer = { .sin_family = AF_INET };
	const struct export_client who = {
		.peer = (struct sockaddr *)&peer, .name = "lab", .name_len = 3,
	};
	struct export_opened got;
	struct nego_export info;
	char text[NEGO_TEXT];
	struct store *s;
	u32 error;

	publish(2 << 20);
	s = export_open(e, &who, &info, &got, &error, text);
	if (!s)
		fail_msg("%s", text);
	export_close(e, &who, &got, s, true);
}

/* A reload that fails has nothing to say about an image that came meanwhile. */
static void image_that_came_during_a_reload(void **state)
{
	struct export *e = serve(1 << 20);
	struct export_settings *s = settings();
	char did[200], why[800] = "";
	struct image *i;

	(void)state;
	/* Cannot be had: asks for more bytes than there are. */
	s->size = 1ULL << 40;
	comes_for = e;
	assert_false(exports_reload(&exports, s, did, sizeof(did), why,
				    sizeof(why)));
	assert_null(comes_for);
	i = export_image(e);
	assert_non_null(i);
	assert_int_equal(i->store->size, 2 << 20);
	assert_int_equal(export_size(e), 2 << 20);
	image_put(i);
	exports_free(&exports);
}

static void *hold(void *e)
{
	image_put(export_image(e));
	return NULL;
}

static void size_does_not_wait(void **state)
{
	struct export *e = serve(1 << 20);
	pthread_t thread;

	(void)state;
	atomic_store(&stay, true);
	pthread_create(&thread, NULL, hold, e);
	sem_wait(&inside);
	assert_int_equal(export_size(e), 1 << 20);
	sem_post(&go_on);
	pthread_join(thread, NULL);
	assert_false(atomic_load(&nobody_came));
	exports_free(&exports);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(size_of_the_current_image),
		cmocka_unit_test(size_does_not_wait),
		cmocka_unit_test(image_that_came_during_a_reload),
	};
	int r;

	if (!mkdtemp(dir))
		return 1;
	snprintf(path, sizeof(path), "%s/image", dir);
	sem_init(&inside, 0, 0);
	sem_init(&go_on, 0, 0);
	r = cmocka_run_group_tests_name("server export", tests, NULL, NULL);
	unlink(path);
	rmdir(dir);
	return r;
}
