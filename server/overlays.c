// SPDX-License-Identifier: GPL-2.0
/*
 * overlays.c - see overlays.h. Works on the files alone: whether a server uses
 * one is told by the file's lock, and what is in use is not dropped.
 */
#define _GNU_SOURCE
#include "overlays.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "config.h"
#include "log.h"
#include "station.h"
#include "store-overlay.h"

static const char usage[] =
	"write: nbd-server overlays list [--dir=DIR], or show|drop [--dir=DIR] EXPORT@STATION...";

/* "EXPORT@STATION" to its file; to be freed. NULL: logged. */
static char *file_of(const char *dir, const char *name)
{
	const char *at = strrchr(name, '@');
	char *export_name, *path;

	if (!at || !nbd_session_word(at + 1)) {
		log_msg(LOG_ERR, "\"%s\": not EXPORT@STATION, as nbd-server overlays list shows them",
			name);
		return NULL;
	}
	export_name = strndup(name, (size_t)(at - name));
	path = export_name ? station_path(dir, export_name, at + 1,
					  STATION_OVERLAY) : NULL;
	free(export_name);
	if (!path)
		log_msg(LOG_ERR, "\"%s\": too long for a file's name", name);
	return path;
}

static bool in_use(const char *path)
{
	int fd = overlay_lock(path, 0);

	if (fd >= 0)
		close(fd);
	return fd == -EWOULDBLOCK;
}

static void date(char *buf, size_t size, uint64_t t)
{
	time_t when = (time_t)t;
	struct tm tm;

	if (!localtime_r(&when, &tm) || !strftime(buf, size, "%F %H:%M", &tm))
		snprintf(buf, size, "?");
}

static int is_overlay(const struct dirent *d)
{
	size_t len = strlen(d->d_name), end = strlen(STATION_OVERLAY);

	return len > end && !strcmp(d->d_name + len - end, STATION_OVERLAY);
}

static int list(const char *dir)
{
	struct dirent **names;
	int n = scandir(dir, &names, is_overlay, alphasort), i, status = 0;
	char name[330], when[32], why[1024], quoted[300];
	struct overlay_info info;

	if (n < 0) {
		log_msg(LOG_ERR, "%s: %s; --dir=DIR names the folder (overlay_dir)",
			dir, strerror(errno));
		return 1;
	}
	printf("%-32s %11s %11s %-7s %-16s %s\n", "EXPORT@STATION", "BYTES",
	       "OF", "STATE", "CREATED", "IMAGE");
	for (i = 0; i < n; i++) {
		char *path;

		if (asprintf(&path, "%s/%s", dir, names[i]->d_name) < 0)
			return 1;
		free(names[i]);
		if (overlay_inspect(path, true, &info, why, sizeof(why))) {
			log_msg(LOG_WARNING, "%s", why);
			status = 1;
		} else {
			snprintf(name, sizeof(name), "%s@%s",
				 log_quote(quoted, 256, info.export_name,
					   strlen(info.export_name)),
				 info.station);
			date(when, sizeof(when), info.created);
			printf("%-32s %11" PRIu64 " %11" PRIu64 " %-7s %-16s %s (%s)\n",
			       name, info.used, info.size,
			       in_use(path) ? "in use" : "idle", when,
			       info.image, log_quote(quoted, sizeof(quoted),
						     info.image_path,
						     strlen(info.image_path)));
		}
		free(path);
	}
	free(names);
	return status;
}

static int show(const char *path)
{
	struct overlay_info info;
	char why[1024], when[32];

	if (overlay_inspect(path, true, &info, why, sizeof(why))) {
		log_msg(LOG_ERR, "%s", why);
		return 1;
	}
	date(when, sizeof(when), info.created);
	printf("file:     %s\nexport:   %s\nstation:  %s\nboot:     %s\nstate:    %s\n"
	       "image:    %s\nwas at:   %s\nsize:     %" PRIu64 "\nwritten:  %" PRIu64 "\ncreated:  %s\n",
	       path, info.export_name, info.station, info.station_boot,
	       in_use(path) ? "in use" : "idle", info.image, info.image_path,
	       info.size, info.used, when);
	return 0;
}

static int drop(const char *path)
{
	int fd = overlay_lock(path, 0);

	if (fd == -EWOULDBLOCK) {
		log_msg(LOG_ERR, "%s: in use; shut its station down first", path);
		return 1;
	}
	/* What is no overlay may be in the way of one: it goes too. */
	if ((fd < 0 && fd != -EBADMSG) || unlink(path)) {
		log_msg(LOG_ERR, "%s: %s", path,
			strerror(fd < 0 && fd != -EBADMSG ? -fd : errno));
		if (fd >= 0)
			close(fd);
		return 1;
	}
	if (fd >= 0)
		close(fd);
	printf("dropped %s\n", path);
	return 0;
}

int overlays_command(int argc, char **argv)
{
	const char *dir = CONFIG_STATE_DIR "/overlays", *verb = NULL;
	int i, status = 0, names = 0;

	for (i = 1; i < argc; i++) {
		if (!strncmp(argv[i], "--dir=", 6))
			dir = argv[i] + 6;
		else if (argv[i][0] == '-' && argv[i][1] == '-') {
			log_msg(LOG_ERR, "overlays: \"%s\" is not an option; %s",
				argv[i], usage);
			return 1;
		} else if (!verb) {
			verb = argv[i];
		} else {
			names++;
		}
	}
	if (!verb || (strcmp(verb, "list") && strcmp(verb, "show") &&
		      strcmp(verb, "drop")) ||
	    (strcmp(verb, "list") ? !names : names)) {
		log_msg(LOG_ERR, "overlays: %s", usage);
		return 1;
	}
	if (!strcmp(verb, "list"))
		return list(dir);
	for (i = 1; i < argc; i++) {
		char *path;

		if (argv[i] == verb || !strncmp(argv[i], "--dir=", 6))
			continue;
		path = file_of(dir, argv[i]);
		if (!path || (!strcmp(verb, "show") ? show(path) : drop(path)))
			status = 1;
		free(path);
	}
	return status;
}
