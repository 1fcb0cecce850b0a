/* SPDX-License-Identifier: GPL-2.0 */
/*
 * pins.h - which image a boot of a station began with. Any thread.
 */
#ifndef SERVER_PINS_H
#define SERVER_PINS_H

#include <string.h>

#include "station.h"

/* Does this word of a session say something? */
static inline bool pins_known(const char *word)
{
	return strcmp(word, "-") != 0;
}

/* The image that this boot of the station is pinned to, held; or NULL. */
struct image *pins_find(const struct station_export *x, const char *station,
			const char *boot);

/*
 * What a former run of the server wrote: true if it is of this boot. @id is the
 * image's, @last its path then; both empty if nothing was found. May block.
 */
bool pins_load(const struct station_export *x, const char *station,
	       const char *boot, char id[NBD_SESSION_WORD], char last[1024]);

/* From now on this boot of the station runs from @i, which is held. May block. */
void pins_add(const struct station_export *x, const struct station_client *c,
	      const char *station, const char *boot, struct image *i);

/*
 * A connection begins, and ends, to use what station_image() has given to this
 * boot ("-": not known) of the station: meanwhile its pin stays. May block.
 */
void pins_enter(const struct station_export *x, const char *station,
		const char *boot);
void pins_leave(const struct station_export *x, const char *station,
		const char *boot);

/* Forget who runs from this image, but for those that are connected. */
void pins_drop(const struct image *i);

/* Forget what no connection has used for a day, or all of it. */
void pins_forget(bool all);

/*
 * Remove the pins in this directory that nobody has used for a month. They are
 * their clients' to make, so there must be an end to them.
 */
void pins_sweep(const char *pins_dir);

#endif
