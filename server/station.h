/* SPDX-License-Identifier: GPL-2.0 */
/*
 * station.h - who a client is, which image its station runs from, and the
 * station's overlay: what belongs to a station and not to a connection.
 */
#ifndef SERVER_STATION_H
#define SERVER_STATION_H

#include <sys/socket.h>

#include "image.h"
#include "nbd-session.h"
#include "store.h"

enum overlay_kind { OVERLAY_NONE, OVERLAY_KEEP, OVERLAY_FRESH };

/* What of an export's settings concerns its stations. */
struct station_export {
	const char *name;
	enum overlay_kind kind;
	const char *dir;	/* of overlays; NULL without */
	uint64_t max;		/* bytes an overlay may take; 0: any */
	unsigned int count;	/* overlays there may be; 0: any number */
	const char *rules;	/* file of stations, or NULL */
	const char *pins;	/* directory of pins, or NULL */
	struct image_spec image;
	/* Given where the current one cannot be opened; or NULL. */
	struct image *fallback;
	/* What station_image() found to be the current one, held; or NULL. */
	struct image *now;
};

/* A client. */
struct station_client {
	const struct sockaddr *peer;
	const struct nbd_session *session;	/* or NULL */
	const char *said;	/* the name it gave with the export, or NULL */
	size_t said_len;
};

/*
 * Whose connection it is: by a rule, by the name said, by the session, by the
 * address. False: refused, with a sentence in @why.
 */
bool station_name(const struct station_export *x, const struct station_client *c,
		  char station[NBD_SESSION_WORD], char *why, size_t why_size);

/*
 * The image that the client's station runs from: the one that this boot of it
 * began with, if it says which boot it is; the one its overlay was made on; else
 * the current one. From then on the station is pinned to it. NULL with @why.
 * May block. Give it back with image_put().
 */
struct image *station_image(struct station_export *x,
			    const struct station_client *c,
			    const char *station, char *why, size_t why_size);

/*
 * What this boot of the server's machine is called towards the station, from
 * @boot: another word if a former run of the server has lost writes of the file
 * that the station writes (loss.h). May block.
 */
void station_boot_word(const struct station_export *x,
		       const struct station_client *c, const char *station,
		       const struct image *i, char boot[NBD_SESSION_WORD]);

/*
 * False: the station's overlay is being opened or closed by somebody else, and
 * was so all the while that this call waited, which is a moment.
 */
bool station_overlay_settled(const struct station_export *x, const char *station);

/*
 * The station's overlay over @base, made or emptied as the kind asks; the same
 * store for all connections of a station. Holds @base itself. NULL with @why.
 * May block.
 */
struct store *station_overlay_open(const struct station_export *x,
				   const struct station_client *c,
				   const char *station, struct image *base,
				   char *why, size_t why_size);

/* @done: the client said that it needs it no more. May block. */
void station_overlay_close(struct store *s, bool done);

/* Flush all of them; false when a sync failed, now or before (it was logged). */
bool station_overlays_sync(void);

/*
 * The file of a station, "DIR/EXPORT@STATION" and @suffix, odd bytes as %XX.
 * To be freed; NULL without memory or if the name were too long for a file.
 */
char *station_path(const char *dir, const char *export_name,
		   const char *station, const char *suffix);

#define STATION_OVERLAY	".overlay"
#define STATION_PIN	".pin"

/* Address without port, as a word; "unix" for a Unix socket. */
void station_address(const struct sockaddr *peer, char word[NBD_SESSION_WORD]);

/* Is the file of rules understood? Else one sentence in @why. */
bool station_check_rules(const char *path, char *why, size_t why_size);

#endif
