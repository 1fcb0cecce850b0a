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
	"write: nbd-server overlays list [-C CONFIG], or show|drop [-C CONFIG] EXPORT@STATION... (or --dir=DIR for -C)";

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
		log_msg(LOG_ERR, "%s: %s; -C CONFIG says where they are, or --dir=DIR",
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

/* Where the configuration says that this export's are. */
static const char *dir_of(const struct config *c, const char *name,
			  const char *otherwise)
{
	const char *at = strrchr(name, '@');
	const struct export_settings *e;

	for (e = c->exports; e && at; e = e->next)
		if (e->overlay_dir && strlen(e->name) == (size_t)(at - name) &&
		    !strncmp(e->name, name, (size_t)(at - name)))
			return e->overlay_dir;
	return otherwise;
}

/* All folders that a configuration names, each once. */
static int list_all(const struct config *c, const char *path)
{
	const struct export_settings *e, *before;
	int status = 0, n = 0;

	for (e = c->exports; e; e = e->next) {
		for (before = c->exports; before != e; before = before->next)
			if (before->overlay_dir && e->overlay_dir &&
			    !strcmp(before->overlay_dir, e->overlay_dir))
				break;
		if (e->overlay_dir && before == e) {
			status |= list(e->overlay_dir);
			n++;
		}
	}
	if (!n)
		log_msg(LOG_ERR, "%s: no export in it has overlays", path);
	return n ? status : 1;
}

struct request {
	const char *dir, *config, *verb;
	char **names;
	int n;
};

static bool parse(int argc, char **argv, struct request *r)
{
	bool is_list;
	int i;

	memset(r, 0, sizeof(*r));
	/* The names come to the front. */
	r->names = argv;
	for (i = 1; i < argc; i++) {
		if (!strncmp(argv[i], "--dir=", 6)) {
			r->dir = argv[i] + 6;
		} else if (!strcmp(argv[i], "-C") && argv[i + 1]) {
			r->config = argv[++i];
		} else if (argv[i][0] == '-') {
			log_msg(LOG_ERR, "overlays: \"%s\" is not an option; %s",
				argv[i], usage);
			return false;
		} else if (!r->verb) {
			r->verb = argv[i];
		} else {
			r->names[r->n++] = argv[i];
		}
	}
	is_list = r->verb && !strcmp(r->verb, "list");
	if (!r->verb || is_list == (r->n > 0) ||
	    (!is_list && strcmp(r->verb, "show") && strcmp(r->verb, "drop"))) {
		log_msg(LOG_ERR, "overlays: %s", usage);
		return false;
	}
	return true;
}

/* @dir: where no configuration says otherwise. */
static int carry_out(const struct request *r, const struct config *c,
		     const char *dir)
{
	int i, status = 0;

	if (!strcmp(r->verb, "list"))
		return r->config && !r->dir ? list_all(c, r->config) : list(dir);
	for (i = 0; i < r->n; i++) {
		char *path = file_of(r->dir ? dir : dir_of(c, r->names[i], dir),
				     r->names[i]);

		if (!path ||
		    (!strcmp(r->verb, "show") ? show(path) : drop(path)))
			status = 1;
		free(path);
	}
	return status;
}

int overlays_command(int argc, char **argv)
{
	char *dir = NULL, why[1024];
	struct config c = { 0 };
	struct request r;
	int status = 1;

	if (!parse(argc, argv, &r))
		return 1;
	if (r.config && !config_load(&c, r.config, why, sizeof(why)))
		log_msg(LOG_ERR, "%s", why);
	else if (r.dir)
		status = carry_out(&r, &c, r.dir);
	else if (asprintf(&dir, "%s/overlays",
			  c.state_dir ? c.state_dir : CONFIG_STATE_DIR) >= 0)
		status = carry_out(&r, &c, dir);
	free(dir);
	config_free(&c);
	return status;
}
