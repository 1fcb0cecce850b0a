/* SPDX-License-Identifier: GPL-2.0 */
/*
 * store-overlay.h - a station's writes over an image that is never written:
 * one file a station. Its format is told in overlay-file.c.
 */
#ifndef SERVER_STORE_OVERLAY_H
#define SERVER_STORE_OVERLAY_H

#include "overlay-file.h"
#include "store.h"

/*
 * Open the overlay at @path over @base, which must outlive it, and whose
 * identity is @image. Only one process at a time can. @server_boot: of this
 * machine. @max: bytes it may take, 0 for no limit. On failure NULL, with one
 * sentence in @why. Closing it flushes it.
 */
struct store *store_overlay_open(const char *path, struct store *base,
				 const char *image, const char *server_boot,
				 uint64_t max, char *why, size_t why_size);

/* Is it one? */
bool store_is_overlay(const struct store *s);

/* Of its file. */
const char *store_overlay_path(const struct store *s);

/* Bytes that are the station's; callable at any time. */
uint64_t store_overlay_used(const struct store *s);

/* Did anybody write, trim, zero or flush since it was opened? */
bool store_overlay_changed(const struct store *s);

/*
 * Remember in the file which boot of the station uses it (NULL: as before) and
 * whether it is done with it. 0 or a negative errno.
 */
int store_overlay_mark(struct store *s, const char *station_boot, bool done);

#endif
