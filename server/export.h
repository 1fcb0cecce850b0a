/* SPDX-License-Identifier: GPL-2.0 */
/*
 * export.h - the exports of this server: a name, what a client is told of it,
 * who may use it, and the image its bytes live in.
 */
#ifndef SERVER_EXPORT_H
#define SERVER_EXPORT_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>

#include "nbd-session.h"
#include "nego.h"
#include "station.h"
#include "store.h"
#include "translog.h"

/* In which line of its file each setting is, by the offset of its field. */
#define SETTING_LINES	40
struct setting_lines {
	unsigned int n;
	struct {
		unsigned short offset;
		int line;
	} at[SETTING_LINES];
};

void setting_line_add(struct setting_lines *l, size_t offset, int line);
/* 0: in none. */
int setting_line(const struct setting_lines *l, size_t offset);

/* What the command line or a section of the configuration asks for. */
struct export_settings {
	char *name;		/* at most 256 bytes: what the spec promises */
	char *path;
	char *description;	/* or NULL */
	char *authfile;		/* or NULL: everybody */
	char *identity;		/* of the image, on every host; or NULL */
	char *overlay_dir;	/* never NULL if ->overlay */
	char *stations;		/* file of rules, or NULL */
	char *pins;		/* directory, or NULL: forget at the end */
	char *prerun, *postrun;	/* programs, or NULL */
	char *transaction_log;	/* or NULL: none */
	enum overlay_kind overlay;
	uint64_t overlay_max;	/* bytes; 0: any */
	unsigned int overlay_count;	/* files; 0: any number */
	uint64_t size;		/* bytes to serve; 0: all of it */
	bool read_only;
	bool flush, fua, trim, rotational;
	unsigned int max_connections;	/* 0: any number */
	const char *where;	/* "FILE:LINE" of it, for messages; or NULL */
	struct setting_lines lines;	/* in that file */
	struct export_settings *next;
};

/* Counts that outlive a change of the settings. */
struct export_counts {
	atomic_uint connections;
};

/*
 * Everything but the counters, ->image and ->size is set before it is found, and
 * never changes.
 */
struct export {
	struct nego_export info;
	struct export_settings *settings;
	struct image *image;	/* the one that was current last; held */
	_Atomic uint64_t size;	/* of that one, or of the last one there was */
	struct translog *translog;	/* or NULL */
	struct export_counts *counts;
	atomic_bool retired;	/* is not to be found any more */
	_Atomic(struct export *) next;
};

/*
 * All exports, in the order they were given. Looked up from any thread without
 * a lock: one that was removed or changed stays in the list, retired, for those
 * who use it.
 */
struct exports {
	_Atomic(struct export *) first;
	atomic_bool may_list;
	atomic_uint max_per_address;	/* connections; 0: any number */
};

/* Settings with every feature on; NULL without memory. Takes copies. */
struct export_settings *export_settings_new(const char *name, const char *path);
void export_settings_free(struct export_settings *s);

/*
 * Put "FILE:LINE: " before @why: of the key of this field of @s, or, where the
 * file does not have it or it is NULL, of the section.
 */
void export_settings_place(const struct export_settings *s, const void *field,
			   char *why, size_t why_size);

/* Do they ask for the same, wherever it is written? */
bool export_settings_same(const struct export_settings *a,
			  const struct export_settings *b);

/*
 * Open what @s names and append it. Takes @s over, also on failure: then
 * returns false with one sentence in @why, behind the place of what is wrong.
 */
bool exports_add(struct exports *x, struct export_settings *s,
		 char *why, size_t why_size);

/*
 * Could it be opened, and its programs be run? Looks at the files without
 * opening them for service, so a server that runs is not in the way. @why as
 * above.
 */
bool export_check(const struct export_settings *s, char *why, size_t why_size);

/*
 * Become what @list (taken over) says: add, change, remove. What is connected
 * stays as it is. All or nothing: false with one sentence in @why. @did: a
 * summary for the log.
 */
bool exports_reload(struct exports *x, struct export_settings *list,
		    char *did, size_t did_size, char *why, size_t why_size);

/* Sync every writable store. False when one failed, now or before (it was logged). */
bool exports_sync(struct exports *x);

void exports_free(struct exports *x);

/* The one after @e that is not retired, or the first one for NULL; or NULL. */
struct export *exports_next(struct exports *x, const struct export *e);

/*
 * The export of this name, or, where stations have overlays, of this name and
 * "/STATION". NULL: none.
 */
struct export *exports_find(struct exports *x, const char *name, size_t len);

/* What an export that is read-only does not offer. */
#define EXPORT_WRITE_FLAGS	(NBD_FLAG_SEND_TRIM | \
				 NBD_FLAG_SEND_WRITE_ZEROES | \
				 NBD_FLAG_SEND_FAST_ZERO)

/*
 * May a client at this address see and use the export; and in *@read_only, does
 * its rule let it only read? Reads the authfile: may block.
 */
bool export_allows(const struct export *e, const struct sockaddr *peer,
		   bool *read_only);

/* Who wants an export. */
struct export_client {
	const struct sockaddr *peer;
	const struct nbd_session *session;	/* NULL: names none */
	const char *name;	/* of the export, as the client wrote it */
	size_t name_len;
};

/* What a client was given, besides the store. */
struct export_opened {
	char station[NBD_SESSION_WORD];
	char boot[NBD_SESSION_WORD];	/* of the station; "-": not known */
	char image[NBD_SESSION_WORD];
};

#define EXPORT_AGAIN	0U	/* no error: call it once more, later */

/*
 * The store that this client reads and writes: the export's own, or one of the
 * station's. @info is a copy of the export's, to be changed where something
 * else holds for this client. May block: a worker calls it. NULL: *@error is an
 * NBD_REP_ERR_* and @text (NEGO_TEXT bytes) a sentence for the client, or
 * EXPORT_AGAIN: others are not to wait for what this one waits for. Give it
 * back with export_close(), which may block too; @done: the client said that
 * it was done with it.
 */
struct store *export_open(struct export *e, const struct export_client *who,
			  struct nego_export *info, struct export_opened *got,
			  u32 *error, char *text);
void export_close(struct export *e, const struct export_client *who,
		  const struct export_opened *got, struct store *s, bool done);

/*
 * Which image this client would be given now: ->image and, if that has its
 * meaning on every host, ->host; ->boot, which is the machine's, becomes another
 * one if writes of it were lost (station_boot_word()). False as export_open(). May block. From then
 * on the client's station is given that one.
 */
bool export_identity(struct export *e, const struct export_client *who,
		     struct nbd_identity *id, u32 *error, char *text);

/*
 * The image that was its current one when somebody last asked for that, held:
 * for image_put(). NULL: retired.
 */
struct image *export_image(const struct export *e);

/* How long that one is. Does not block. */
uint64_t export_size(const struct export *e);

/* Count one connection; false when that were one too many. */
bool export_claim(struct export *e);
void export_release(struct export *e);

#endif
