// SPDX-License-Identifier: GPL-2.0
/*
 * config_test.c - the configuration's grammar. What the server does with it
 * is tests/server/test_config.py's.
 */
#include "unit.h"

#include <unistd.h>

#include "config.h"

static bool parse(struct config *c, const char *text, char *why)
{
	/* Without a NUL behind it, so that ASan sees one byte too many. */
	size_t len = strlen(text);
	char *copy = malloc(len ? len : 1);
	bool ok;

	memcpy(copy, text, len);
	ok = config_parse(c, "conf", copy, len, why, 512);
	free(copy);
	return ok;
}

static void whole(void **state)
{
	struct export_settings *e;
	struct config c;
	char why[512];

	(void)state;
	assert_true(parse(&c,
		"# of a boot host\n"
		"[generic]\n"
		"\tport = 1234\n"
		"\tlistenaddr = 192.0.2.1, 2001:db8::1\n"
		"\tallowlist = true\n"
		"\tuser=nbd\n"
		"\n"
		"[lab]\n"
		"exportname = /srv/my images/lab = 1.img\n"
		"readonly = 1\n"
		"filesize = 2g\n"
		"maxconnections = 40\n"
		"trim = false\n"
		"[]\n"
		"exportname=/srv/root.img", why));
	assert_string_equal(c.port, "1234");
	assert_string_equal(c.address, "192.0.2.1, 2001:db8::1");
	assert_string_equal(c.user, "nbd");
	assert_null(c.group);
	assert_true(c.allow_list);
	e = c.exports;
	assert_string_equal(e->name, "lab");
	assert_string_equal(e->path, "/srv/my images/lab = 1.img");
	assert_string_equal(e->where, "conf:8");
	assert_true(e->read_only && e->flush && e->fua && !e->trim);
	assert_int_equal(e->size, 2ULL << 30);
	assert_int_equal(e->max_connections, 40);
	e = e->next;
	assert_string_equal(e->name, "");
	assert_false(e->read_only);
	assert_null(e->next);
	config_free(&c);
}

static void defaults(void **state)
{
	struct config c;
	char why[512];

	(void)state;
	assert_true(parse(&c, "", why));
	assert_string_equal(c.port, "10809");
	assert_false(c.allow_list);
	assert_null(c.address);
	assert_null(c.exports);
	config_free(&c);
}

static void said_twice(void **state)
{
	struct config c;
	char why[512];

	(void)state;
	/* Not what any INI file does, where the last one holds. */
	assert_false(parse(&c, "[generic]\nport=1\n\nport=2\n", why));
	assert_string_equal(why, "conf:4: port = \"2\": conf:2 sets port to something else; take one of them out");
	config_free(&c);
	assert_false(parse(&c, "[a]\nexportname=/x\noverlay=keep\ncopyonwrite=1\n", why));
	assert_non_null(strstr(why, "conf:3 sets overlay"));
	config_free(&c);
	/* The same twice is the same; nothing leaks. */
	assert_true(parse(&c, "[generic]\nport=1\n[a]\nexportname=/x\noverlay=fresh\n"
			  "copyonwrite=true\ncopyonwrite=1\ncowdir=/o\noverlay_dir=/o\n"
			  "splice=true\nsplice=false\n[generic]\nport=1\n", why));
	assert_string_equal(c.port, "1");
	assert_int_equal(c.exports->overlay, OVERLAY_FRESH);
	config_free(&c);
	/* A place for overlays that are said not to be: switched off. */
	assert_true(parse(&c, "[a]\nexportname=/x\ncopyonwrite=false\ncowdir=/o\n", why));
	assert_int_equal(c.exports->overlay, OVERLAY_NONE);
	config_free(&c);
	assert_false(parse(&c, "[a]\nexportname=/x\ncowdir=/o\n", why));
	assert_non_null(strstr(why, "has overlay_dir, but no overlay"));
	config_free(&c);
}

/* What is said of the main file after others were read is of the main file. */
static void after_an_include(void **state)
{
	char dir[] = "/tmp/nbdroot-config-XXXXXX", main_file[64], more[64];
	char why[512], want[128];
	struct config c;
	FILE *f;

	(void)state;
	assert_non_null(mkdtemp(dir));
	snprintf(main_file, sizeof(main_file), "%s/main", dir);
	snprintf(more, sizeof(more), "%s/more.conf", dir);
	f = fopen(main_file, "w");
	assert_non_null(f);
	fprintf(f, "[generic]\nduallisten = true\nincludedir = %s\n", dir);
	fclose(f);
	f = fopen(more, "w");
	assert_non_null(f);
	fprintf(f, "\n\n\n[a]\nexportname = /x\n");
	fclose(f);
	assert_false(config_load(&c, main_file, why, sizeof(why)));
	snprintf(want, sizeof(want), "%s:2: duallisten", main_file);
	assert_memory_equal(why, want, strlen(want));
	config_free(&c);
	unlink(more);
	unlink(main_file);
	rmdir(dir);
}

static void every_cut(void **state)
{
	static const char text[] =
		"[generic]\nport = 1\nuser = u\n[a]\nexportname = /x\n"
		"authfile = /y\ndescription = d\n[b]\nexportname=/z\n";
	char cut[sizeof(text)], why[512];
	struct config c;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(text); i++) {
		memcpy(cut, text, i);
		cut[i] = '\0';
		why[0] = '\0';
		if (!parse(&c, cut, why))
			assert_memory_equal(why, "conf:", 5);
		config_free(&c);
	}
}

static void nearest_key(void **state)
{
	static const struct {
		const char *text, *says;
	} t[] = {
		{ "[a]\nexport_name = /x\n", "did you mean \"exportname\"?" },
		{ "[a]\nmaxconnection = 1\n",
		  "did you mean \"maxconnections\"?" },
		{ "[a]\nflsh = true\n", "did you mean \"flush\"?" },
		{ "[generic]\nlistenadr = ::\n",
		  "did you mean \"listenaddr\"?" },
		{ "[generic]\nallow_list = true\n",
		  "did you mean \"allowlist\"?" },
		{ "[a]\ntirm = true\n", "did you mean \"trim\"?" },
		{ "[generic]\nprt = 1\n", "did you mean \"port\"?" },
		/* Three letters that are others are another word. */
		{ "[a]\nfoo = true\n", "unknown key \"foo\"; nbd-server(5) lists" },
		{ "[generic]\nhost = ::\n", "did you mean" },
		{ "[a]\nsomething else entirely = 1\n", "nbd-server(5) lists" },
		{ "[a]\n= 1\n", "unknown key \"\"" },
		{ "[a]\nxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx = 1\n",
		  "nbd-server(5) lists" },
	};
	struct config c;
	char why[512];
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		assert_false(parse(&c, t[i].text, why));
		assert_memory_equal(why, "conf:2: ", 8);
		if (!strstr(why, t[i].says))
			fail_msg("%s: %s", t[i].text, why);
		config_free(&c);
	}
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(whole),
		cmocka_unit_test(defaults),
		cmocka_unit_test(said_twice),
		cmocka_unit_test(after_an_include),
		cmocka_unit_test(every_cut),
		cmocka_unit_test(nearest_key),
	};

	return cmocka_run_group_tests_name("server config", tests, NULL, NULL);
}
