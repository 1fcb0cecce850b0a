// SPDX-License-Identifier: GPL-2.0
/*
 * status.c - what the driver shows in /sys/block, for people and as JSON: see
 * status.h. Every file of /sys/block/nbN/nb is taken as it is found, so that
 * this need not know what a newer driver has to tell. The kernel's own has
 * nothing there.
 */
#include "sys.h"
#include "attach.h"
#include "nbd-nego.h"
#include "paths.h"
#include "status.h"
#include "text.h"

#define MAX_VALUE 1024

/* A JSON string; what is not UTF-8 becomes '?'. */
static void print_string(const char *s)
{
	char out[8];
	size_t len;

	print("\"");
	for (; *s; s += len) {
		len = nbd_printable(s, strlen(s));
		if (*s == '"' || *s == '\\')
			put(out, sizeof(out), "\\%c", *s);
		else if (len)
			put(out, sizeof(out), "%.*s", (int)len, s);
		else
			put(out, sizeof(out), *s == '\n' ? "\\n" : "?");
		len += !len;
		print(out);
	}
	print("\"");
}

static void print_member(const char *key, char *value, bool json, bool more)
{
	size_t len = strlen(value);
	uint64_t v;
	char *line;

	if (json) {
		if (more)
			print(",");
		print_string(key);
		print(":");
		if (parse_number(value, len, UINT64_MAX, &v) &&
		    (value[0] != '0' || len == 1))
			print(value);
		else
			print_string(value);
		return;
	}
	print("  ");
	print(key);
	print(":");
	/* A list stands in one line. */
	while ((line = next_line(&value))) {
		print(" ");
		print(line);
	}
	print("\n");
}

static void print_device(const char *device, bool json)
{
	char name[FILE_NAME], path[160], value[MAX_VALUE], word[MAX_DEVICE];
	uint64_t sectors = 0;

	name[0] = '\0';
	device_fact(device, "size", value, sizeof(value));
	parse_number(value, strlen(value), UINT64_MAX / 512, &sectors);
	if (json)
		print("{");
	put(word, sizeof(word), "%s", device);
	print_member("device", word, json, false);
	put(word, sizeof(word), device_is_intree(device) ? "nbd" : "nb");
	print_member("driver", word, json, true);
	value[0] = '\0';
	if (json)
		append(value, sizeof(value), "%llu",
		       (unsigned long long)sectors * 512);
	else
		append_size(value, sizeof(value), sectors);
	print_member("size", value, json, true);
	if (device_fact(device, "ro", value, sizeof(value)))
		print_member("ro", value, json, true);
	put(path, sizeof(path), SYSBLOCK_PATH "/%s/nb", device);
	while (next_file(path, "", "", name)) {
		append(path, sizeof(path), "/%s", name);
		if (read_line(path, value, sizeof(value)) >= 0)
			print_member(name, value, json, true);
		put(path, sizeof(path), SYSBLOCK_PATH "/%s/nb", device);
	}
	print(json ? "}" : "\n");
}

int status_main(const char *device, bool json)
{
	char name[FILE_NAME], state[64];
	unsigned int count = 0;

	name[0] = '\0';
	if (json)
		print("[");
	while (next_file(SYSBLOCK_PATH, "nb", "", name)) {
		if ((device && strcmp(device, name)) ||
		    !attach_state(name, state, sizeof(state)))
			continue;
		if (count++ && json)
			print(",\n");
		print_device(name, json);
	}
	if (json)
		print("]\n");
	if (!device || count)
		return STATUS_OK;
	say("%s: not attached", device);
	return STATUS_FAILED;
}
