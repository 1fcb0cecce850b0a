// SPDX-License-Identifier: GPL-2.0
/*
 * check.c - nbd-server --check: all that the server would do at its start and
 * that can be tried without harm, beside a server that runs.
 */
#include "check.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "become.h"
#include "config.h"
#include "export.h"
#include "listen.h"
#include "log.h"

#define WHY	1024

/* @field of @c: which one it is of; NULL: none. @key: its name, if not in @why. */
static unsigned int wrong(const struct config *c, const void *field,
			  const char *key, const char *why)
{
	char at[CONFIG_PLACE] = "";

	if (field)
		config_place(c, field, at, sizeof(at));
	log_msg(LOG_ERR, "%s%s%s%s", at, key, *key ? ": " : "", why);
	return 1;
}

/* @e, beside those before it. */
static bool check_export(const struct config *c,
			 const struct export_settings *e, char *why)
{
	const struct export_settings *other;
	struct stat a, b;

	if (!export_check(e, why, WHY))
		return false;
	for (other = c->exports; other != e; other = other->next) {
		bool shared = (e->read_only || e->overlay) &&
			      (other->read_only || other->overlay);

		if (!strcmp(other->name, e->name)) {
			snprintf(why, WHY, "export \"%s\": defined twice; give one of them another name",
				 e->name);
			export_settings_place(e, NULL, why, WHY);
			return false;
		}
		if (!shared && !stat(e->path, &a) && !stat(other->path, &b) &&
		    a.st_dev == b.st_dev && a.st_ino == b.st_ino) {
			snprintf(why, WHY, "%s: is export \"%s\" (%s) too; two exports can share a file if both are read-only or have an overlay",
				 e->path, other->name, other->where);
			export_settings_place(e, NULL, why, WHY);
			return false;
		}
	}
	return true;
}

/* The unit's RuntimeDirectory=, which is there while the service runs. */
#define RUNTIME_DIR	"/run/nbdroot"

static unsigned int check_socket(const struct config *c, const char *key,
				 char *const *field)
{
	const char *path = *field;
	struct listeners l = { .trial = true };
	const size_t len = strlen(RUNTIME_DIR);
	struct stat st;
	char why[WHY];

	if (listen_unix(&l, path, why, sizeof(why)))
		return 0;
	if (strncmp(path, RUNTIME_DIR "/", len + 1) ||
	    strchr(path + len + 1, '/') || !stat(RUNTIME_DIR, &st))
		return wrong(c, field, key, why);
	log_msg(LOG_WARNING, "%s: " RUNTIME_DIR " is not there; the service makes it, otherwise make it first",
		key);
	return 0;
}

/* As start_listening() and control_open(). Sockets that systemd has are as well. */
static unsigned int check_sockets(const struct config *c)
{
	const bool tcp = !c->unix_socket || c->dual_listen;
	const bool loopback = !c->address || !*c->address ||
			      strstr(c->address, "127.0.0.1") ||
			      strstr(c->address, "localhost");
	struct listeners l = { .trial = true };
	unsigned int n = 0;
	char why[WHY];

	if (c->unix_socket)
		n += check_socket(c, "unixsock", &c->unix_socket);
	if (tcp && !listen_all(&l, c->address, c->port, why, sizeof(why)))
		n += wrong(c, c->address ? (void *)&c->address : &c->port, "",
			   why);
	listen_close(&l);
	if (c->control)
		n += check_socket(c, "controlsock", &c->control);
	if (c->control && c->unix_socket && !strcmp(c->control, c->unix_socket))
		n += wrong(c, &c->control, "", "unixsock and controlsock are the same; give one of them another name");
	if (c->metrics_port && tcp && loopback &&
	    !strcmp(c->metrics_port, c->port))
		n += wrong(c, &c->metrics_port, "", "port and metricsport are the same, on the same address; give one of them another number");
	if (c->metrics_port &&
	    !listen_all(&l, "127.0.0.1", c->metrics_port, why, sizeof(why)))
		n += wrong(c, &c->metrics_port, "metricsport", why);
	listen_close(&l);
	return n;
}

bool check(const char *config)
{
	const struct export_settings *e;
	unsigned int n = 0, bad = 0;
	struct config c;
	char why[WHY];

	if (!config_load(&c, config, why, sizeof(why))) {
		wrong(&c, NULL, "", why);
		config_free(&c);
		return false;
	}
	for (e = c.exports; e; e = e->next, n++)
		if (!check_export(&c, e, why))
			bad += wrong(&c, NULL, "", why);
	if (!n)
		log_msg(LOG_ERR, "%s: no export in it; add a section: [root] and exportname = /srv/root.img",
			config);
	bad += become_check(&c) + check_sockets(&c);
	config_free(&c);
	if (!n || bad)
		return false;
	printf("%s: %u export%s, nothing wrong\n", config, n,
	       n == 1 ? "" : "s");
	return true;
}
