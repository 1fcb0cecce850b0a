// SPDX-License-Identifier: GPL-2.0
/*
 * text_test.c - names of any bytes in JSON, in labels and in tables: what is
 * UTF-8 stays so, all of it is UTF-8, and no two names become one.
 */
#include "unit.h"

#include "text.h"

static void json(struct text *t, const char *s)
{
	text_quoted(t, s);
}

static void label(struct text *t, const char *s)
{
	text_label(t, s);
}

static void column(struct text *t, const char *s)
{
	text_column(t, s, 0);
}

static void (*const ways[])(struct text *, const char *) = { json, label, column };

static void names(void **state)
{
	static const struct {
		const char *name, *json, *label, *column;
	} t[] = {
		{ "", "\"\"", "\"\"", " " },
		{ "lab", "\"lab\"", "\"lab\"", "lab " },
		{ "a\"b", "\"a\\\"b\"", "\"a\\\"b\"", "a\"b " },
		{ "a\\n", "\"a\\\\n\"", "\"a\\\\n\"", "a\\134n " },
		{ "a\nb", "\"a\\u000ab\"", "\"a\\nb\"", "a\\012b " },
		{ "\t\x7f", "\"\\u0009\\u007f\"", "\"\xef\xbf\xbd" "09\xef\xbf\xbd" "7f\"",
		  "\\011\\177 " },
		{ "caf\xc3\xa9", "\"caf\xc3\xa9\"", "\"caf\xc3\xa9\"", "caf\xc3\xa9 " },
		{ "\xf0\x9f\x90\x98", "\"\xf0\x9f\x90\x98\"", "\"\xf0\x9f\x90\x98\"",
		  "\xf0\x9f\x90\x98 " },
		/* Latin 1; the same with its two digits behind it as text. */
		{ "\xe9", "\"\xef\xbf\xbd" "e9\"", "\"\xef\xbf\xbd" "e9\"", "\\351 " },
		{ "\xef\xbf\xbd" "e9", "\"\xef\xbf\xbd" "ef\xef\xbf\xbd" "bf\xef\xbf\xbd" "bde9\"",
		  "\"\xef\xbf\xbd" "ef\xef\xbf\xbd" "bf\xef\xbf\xbd" "bde9\"",
		  "\\357\\277\\275e9 " },
		/* Cut short; too long for what it is; a surrogate; none at all. */
		{ "\xc3", "\"\xef\xbf\xbd" "c3\"", "\"\xef\xbf\xbd" "c3\"", "\\303 " },
		{ "\xc0\xaf", "\"\xef\xbf\xbd" "c0\xef\xbf\xbd" "af\"",
		  "\"\xef\xbf\xbd" "c0\xef\xbf\xbd" "af\"", "\\300\\257 " },
		{ "\xed\xa0\x80", "\"\xef\xbf\xbd" "ed\xef\xbf\xbd" "a0\xef\xbf\xbd" "80\"",
		  "\"\xef\xbf\xbd" "ed\xef\xbf\xbd" "a0\xef\xbf\xbd" "80\"", "\\355\\240\\200 " },
		/* A control character of two bytes. */
		{ "\xc2\x9b", "\"\xef\xbf\xbd" "c2\xef\xbf\xbd" "9b\"",
		  "\"\xef\xbf\xbd" "c2\xef\xbf\xbd" "9b\"", "\\302\\233 " },
	};
	size_t i, w;

	(void)state;
	for (i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		const char *want[] = { t[i].json, t[i].label, t[i].column };

		for (w = 0; w < 3; w++) {
			struct text x = { 0 };

			ways[w](&x, t[i].name);
			assert_string_equal(x.s, want[w]);
			assert_int_equal(x.len, strlen(want[w]));
			text_free(&x);
		}
	}
}

/* Strict, and by another way than the server's. */
static bool is_utf8(const unsigned char *p)
{
	static const uint32_t least[] = { 0, 0, 0x80, 0x800, 0x10000 };

	while (*p) {
		int n = *p < 0x80 ? 1 : *p >> 5 == 6 ? 2 : *p >> 4 == 14 ? 3 :
			*p >> 3 == 30 ? 4 : 0, i;
		uint32_t c = n == 1 ? *p : *p & (0xffU >> (n + 1));

		if (!n)
			return false;
		for (i = 1; i < n; i++) {
			if (p[i] >> 6 != 2)
				return false;
			c = c << 6 | (p[i] & 0x3fU);
		}
		if (c < least[n] || c > 0x10ffff || (c >= 0xd800 && c < 0xe000))
			return false;
		p += n;
	}
	return true;
}

static int by_text(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/* All names of up to four of these bytes: no two look the same. */
static void no_two_alike(void **state)
{
	static const char set[] = "\n\x7f\x80\x9f\xa0\xbd\xbf\xc2\xe0\xed\xef\xf0\xf4\"\\0a";
	enum { N = sizeof(set) - 1, ALL = N * N * N * N };
	char **seen = malloc(ALL * sizeof(*seen));
	size_t w, i;

	(void)state;
	assert_non_null(seen);
	for (w = 0; w < 3; w++) {
		for (i = 0; i < ALL; i++) {
			const char name[] = { set[i % N], set[i / N % N],
					      set[i / N / N % N], set[i / N / N / N], 0 };
			struct text x = { 0 };

			ways[w](&x, name);
			if (!is_utf8((unsigned char *)x.s))
				fail_msg("not UTF-8: %s", x.s);
			seen[i] = x.s;
		}
		qsort(seen, ALL, sizeof(*seen), by_text);
		for (i = 1; i < ALL; i++)
			if (!strcmp(seen[i - 1], seen[i]))
				fail_msg("two names: %s", seen[i]);
		for (i = 0; i < ALL; i++)
			free(seen[i]);
	}
	free(seen);
}

static void columns(void **state)
{
	struct text x = { 0 };

	(void)state;
	text_column(&x, "\xc3\xa9", 3);
	text_column(&x, "abcd", 3);
	text_column(&x, "\n", 5);
	assert_string_equal(x.s, "\xc3\xa9   abcd \\012  ");
	text_free(&x);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(names),
		cmocka_unit_test(no_two_alike),
		cmocka_unit_test(columns),
	};

	return cmocka_run_group_tests_name("server text", tests, NULL, NULL);
}
