/* SPDX-License-Identifier: GPL-2.0 */
/*
 * translog.h - what was asked and what was answered, in a file: the
 * `transactionlog` of nbd-server(5), as nbd-trdump of the nbd project reads it.
 *
 * The headers follow each other as they are on the wire, without any data: a
 * request when it is taken up, a reply when it is about to be sent. Extended
 * headers, which that program does not know, are written as the ones they
 * extend. Each is whole, and those of one connection are in order; which
 * connection they are of the file does not say.
 *
 * Nobody waits for the file: a thread writes it, and what comes faster than its
 * disk takes is left out and counted.
 */
#ifndef SERVER_TRANSLOG_H
#define SERVER_TRANSLOG_H

#include <stdbool.h>
#include <stddef.h>

#include "nbd-wire.h"

struct translog;

/* Could it be opened? Makes no file. False with one sentence in @why. */
bool translog_check(const char *path, char *why, size_t why_size);

/*
 * The log of that path, for translog_put(): those who name the same one share
 * it. A file that is there is appended to, if it is such a log. NULL with one
 * sentence in @why. Not from several threads at once, nor translog_put().
 */
struct translog *translog_open(const char *path, char *why, size_t why_size);

/* The last one writes what is left, and waits for that. NULL does nothing. */
void translog_put(struct translog *t);

/*
 * Logs whose file was renamed or removed go on in a new one of their name. What
 * is on its way to the file may still go to the old one. As translog_open(),
 * not from several threads at once.
 */
void translog_reopen(void);

/* From any thread, at once. */
void translog_request(struct translog *t, const struct nbd_request *r);
void translog_reply(struct translog *t, const struct nbd_simple_reply *r);
void translog_chunk(struct translog *t, const struct nbd_chunk *k);

#endif
