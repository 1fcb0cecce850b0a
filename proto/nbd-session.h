/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Session and identity: what our driver and our server tell each other beyond
 * plain NBD, as the names of a metadata context of the x-nbdroot namespace
 * (spec, "Metadata contexts": namespaces that begin with x- are free for
 * experiments). Neither is ever used for NBD_CMD_BLOCK_STATUS.
 *
 * The client asks (NBD_OPT_SET_META_CONTEXT, before NBD_OPT_GO) for
 *
 *	x-nbdroot:session/STATION/BOOT/ATTACH/GENERATION
 *
 * and a server that knows what this is answers with a context named
 *
 *	x-nbdroot:server/BOOT/HOST/IMAGE
 *
 * A stranger's server selects no context, which costs nothing.
 *
 * Connections with equal STATION, BOOT, ATTACH and GENERATION belong
 * together. Before it answers, the server has ended those that the same
 * station has to the same export with a lower (ATTACH, GENERATION) or another
 * BOOT, and has finished or dropped all that they asked for: nothing of theirs
 * touches the export from then on. What counts as the same station is the
 * server's to say; one that cannot show the BOOT of a connection at another
 * address must not be able to end it.
 *
 * A word holds 1 to 64 of A-Z a-z 0-9 . _ : -, and "-" alone says that it is
 * not known.
 */
#ifndef NBD_SESSION_H
#define NBD_SESSION_H

#include "nbd-types.h"

#define NBD_SESSION_WORD	65	/* with its NUL */
#define NBD_SESSION_NAME	320	/* room for either name, with its NUL */
#define NBD_SESSION_NAMESPACE	"x-nbdroot:"

struct nbd_session {
	char station[NBD_SESSION_WORD];	/* who: the overlay's owner */
	char boot[NBD_SESSION_WORD];	/* random, of this boot of the station */
	u32 attach;			/* counts attaches within the boot */
	u32 generation;			/* of the attach: see below */
};

/*
 * An attach begins with this generation (or 0), and has a higher one for each
 * time that it recovers: whoever names one has used the export before.
 */
#define NBD_SESSION_FIRST	1U

struct nbd_identity {
	/*
	 * Of this boot of the server's machine: its page cache. Another word, too,
	 * when that has lost writes of the export.
	 */
	char boot[NBD_SESSION_WORD];
	/* Where @image has its meaning; "-": everywhere. */
	char host[NBD_SESSION_WORD];
	/* Which image it is. Equal: the same bytes but for what was written. */
	char image[NBD_SESSION_WORD];
};

/*
 * Write the name, with a NUL, into @buf of NBD_SESSION_NAME bytes. Returns its
 * length, or 0 if a word is not one.
 */
size_t nbd_session_put(char *buf, const struct nbd_session *s);
size_t nbd_identity_put(char *buf, const struct nbd_identity *id);

/* False, and nothing of use in the result, if @name (@len bytes) is not one. */
bool nbd_session_get(const char *name, size_t len, struct nbd_session *s);
bool nbd_identity_get(const char *name, size_t len, struct nbd_identity *id);

/* Is @word (with a NUL) 1 to 64 of the characters that a word may hold? */
bool nbd_session_word(const char *word);

#endif /* NBD_SESSION_H */
