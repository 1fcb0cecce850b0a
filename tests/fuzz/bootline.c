// SPDX-License-Identifier: GPL-2.0
/*
 * bootline.c - fuzz target: nbdroot= as a driver built into the kernel reads
 * it. What it accepts is a line of as many words as it should be, which
 * nbd-client would have accepted too; else a message says why.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "bootline.h"
#include "cmdline.h"

#define LINE 4096
#define WHY 512

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool ok)
{
	if (!ok)
		abort();
}

/* Values are separated by line feeds; the first byte says if dhcp is known. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text, *line, *why, *s, *word;
	char *values[MAX_TARGETS];
	unsigned int count = 0, words = 1, i;
	bool dhcp;

	if (!size)
		return 0;
	dhcp = *data & 1;
	text = malloc(size);
	line = malloc(LINE);		/* exactly, for the sanitizer */
	why = malloc(WHY);
	memcpy(text, data + 1, size - 1);
	text[size - 1] = '\0';
	for (s = text; s && count < MAX_TARGETS; s = word) {
		word = strchr(s, '\n');
		if (word)
			*word++ = '\0';
		values[count++] = s;
	}
	memset(why, 0, WHY);
	if (!nb_bootline(line, LINE, values, count, dhcp ? "192.0.2.9" : NULL,
			 why, WHY)) {
		check(!strncmp(why, "nbdroot=\"", 9) && strlen(why) < WHY);
		goto out;
	}
	check(strlen(line) < LINE);
	for (s = line; *s; s++) {
		check(*s >= ' ' && *s < 0x7f);
		words += *s == ' ';
	}
	check(!strncmp(line, "attach dev=nb0 server=", 22));
	check(words == 2 + count + (strstr(line, " export=") ? 1 : 0));
	for (i = 0; i < count; i++) {
		struct target t;
		struct said said = { .error = "" };
		/* what stands in brackets, only the driver's parser judges */
		bool loose = values[i][0] == '[';
		char *copy = strdup(values[i]);

		check(target_parse(&t, copy, "nbdroot=", &said) || loose ||
		      strchr(values[i], ',') || strstr(values[i], "://"));
		free(copy);
	}
out:
	free(text);
	free(line);
	free(why);
	return 0;
}
