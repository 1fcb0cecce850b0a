/* SPDX-License-Identifier: GPL-2.0 */
/*
 * config.h - the configuration file, an INI file with the key names of
 * nbd-server(5) as far as this server has what they name.
 */
#ifndef SERVER_CONFIG_H
#define SERVER_CONFIG_H

#include "export.h"

/* Where overlays and pins are unless the configuration says so. */
#define CONFIG_STATE_DIR "/var/lib/nbdroot"

struct config {
	char *file;		/* it was read from */
	struct setting_lines lines;	/* of what is in it, of [generic] */
	char *address;		/* listenaddr: NULL is every address */
	char *port;		/* never NULL after config_load() */
	char *user, *group;	/* or NULL: stay who we are */
	char *unix_socket;	/* or NULL: TCP only */
	char *control;		/* socket of control.h; NULL: none */
	char *metrics_port;	/* on the loopback; NULL: none */
	char *state_dir;	/* never NULL after config_load() */
	bool allow_list;
	bool lock_memory;	/* nothing of the process is ever paged out */
	bool realtime;		/* loops may run before what else there is */
	bool dual_listen;	/* TCP besides ->unix_socket */
	unsigned int workers;	/* 0: as many as seems good */
	unsigned int max_per_address;	/* connections; 0: any number */
	struct export_settings *exports;	/* in the order of the file */
};

/*
 * Read the file at @path. False when anything in it is not understood: @why
 * is then "FILE:LINE: what, and what to write". @c is valid, and to be given
 * to config_free(), either way.
 */
bool config_load(struct config *c, const char *path, char *why,
		 size_t why_size);

/* The same of @len bytes in memory; @name stands for the path in messages. */
bool config_parse(struct config *c, const char *name, const char *text,
		  size_t len, char *why, size_t why_size);

/*
 * "FILE:LINE: " of a field of @c, for what turns out only later to be wrong; ""
 * if the file does not have it. Returns @buf.
 */
#define CONFIG_PLACE	1024
const char *config_place(const struct config *c, const void *field, char *buf,
			 size_t size);

void config_free(struct config *c);

#endif
