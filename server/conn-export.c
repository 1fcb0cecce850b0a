// SPDX-License-Identifier: GPL-2.0
/*
 * conn-export.c - a connection and its export: what the negotiation asks of
 * it, and what a worker does to open, identify and close it.
 */
#include "conn.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "log.h"

/* What may take a disk's time, a worker does. */
static bool begin(struct conn *c, struct export *e, u16 type)
{
	const struct nbd_request none = { .type = type };
	struct job *j = job_new(c, e, &none, 0);

	if (!c->open_text)
		c->open_text = malloc(NEGO_TEXT);
	/* Whatever bytes it has, none among them. Who may come is no matter of it. */
	free(c->open_name);
	c->open_len = c->asking ? 0 : c->asked_len;
	c->open_name = malloc(c->open_len + 1);
	if (c->open_name && c->open_len)
		memcpy(c->open_name, c->asked_name, c->open_len);
	if (!j || !c->open_text || !c->open_name) {
		free(j);
		return false;
	}
	j->charge = 0;
	c->open_error = NBD_REP_ERR_UNKNOWN;
	c->open_text[0] = '\0';
	c->jobs++;
	loop_submit(c->loop, j);
	return true;
}

static struct export_client client(const struct conn *c)
{
	return (struct export_client) {
		.peer = (const struct sockaddr *)&c->addr,
		.session = c->session.entered ? &c->session.id : NULL,
		.name = c->open_name,
		.name_len = c->open_len,
	};
}

static void find_visible(struct conn *c)
{
	struct export *e;
	bool read_only;
	size_t n = 1, i = 0;

	for (e = exports_next(c->exports, NULL); e;
	     e = exports_next(c->exports, e))
		n++;
	c->visible = calloc(n, sizeof(struct export *));
	if (!c->visible)
		return;
	/* There may be more of them by now. */
	for (e = exports_next(c->exports, NULL); e && i + 1 < n;
	     e = exports_next(c->exports, e))
		if (export_allows(e, (struct sockaddr *)&c->addr, &read_only))
			c->visible[i++] = e;
}

bool conn_open(struct conn *c)
{
	const struct export_client who = client(c);

	if (c->asking && c->ask_of)
		c->allowed = export_allows(c->ask_of, who.peer, &c->only_reads);
	else if (c->asking)
		find_visible(c);
	else
		c->store = export_open(c->export, &who, &c->info, &c->opened,
				       &c->open_error, c->open_text);
	return c->asking || c->store || c->open_error != EXPORT_AGAIN;
}

void conn_identify(struct conn *c, struct export *e)
{
	const struct export_client who = client(c);

	session_server(&c->identity);
	c->identified = export_identity(e, &who, &c->identity, &c->open_error,
					c->open_text);
}

void conn_close(struct conn *c)
{
	const struct export_client who = client(c);	/* without its name */

	export_close(c->export, &who, &c->opened, c->store, c->done);
}

void conn_unclaim(struct conn *c)
{
	if (c->claimed)
		export_release(c->export);
	c->claimed = false;
}

/* The second time: what has become of it. */
static const struct nego_export *opened(struct conn *c, u32 *error, char *text)
{
	c->opening = false;
	if (c->store)
		return &c->info;
	*error = c->open_error;
	strcpy(text, c->open_text);
	conn_unclaim(c);
	c->export = NULL;
	return NULL;
}

/*
 * Is it known what this client may do with @e, or, for NULL, see? Else *@error:
 * NEGO_LATER, a worker reads it, or there is no memory.
 */
static bool access_known(struct conn *c, struct export *e, u32 *error)
{
	const bool was_asked = c->asking && c->ask_of == e;

	*error = NEGO_LATER;
	if (c->asking && c->jobs)
		return false;
	if (c->asking && c->ask_of)
		c->told_of = c->ask_of;
	c->asking = false;
	if (e ? c->told_of == e : c->visible != NULL)
		return true;
	*error = NBD_REP_ERR_PLATFORM;
	if (was_asked)
		return false;
	c->ask_of = e;
	c->asking = true;
	if (begin(c, e ? e : exports_next(c->exports, NULL), JOB_OPEN))
		*error = NEGO_LATER;
	else
		c->asking = false;
	return false;
}

static const struct nego_export *find(void *ctx, const char *name, size_t len,
				      bool claim, u32 *error, char *text)
{
	struct conn *c = ctx;
	struct export *e;
	char quoted[300];

	if (claim && c->opening) {
		*error = NEGO_LATER;
		return c->jobs ? NULL : opened(c, error, text);
	}
	c->asked_name = name;
	c->asked_len = len;
	e = exports_find(c->exports, name, len);
	log_quote(quoted, sizeof(quoted), name, len);
	if (!e) {
		struct export *f = exports_next(c->exports, NULL);

		*error = NBD_REP_ERR_UNKNOWN;
		/* One export and a list that is open: say what to write. */
		if (f && !exports_next(c->exports, f) && c->exports->may_list)
			snprintf(text, NEGO_TEXT, "no export \"%s\"; the only one here is \"%.150s\"",
				 quoted, f->info.name);
		else
			snprintf(text, NEGO_TEXT, "no export \"%s\"", quoted);
		return NULL;
	}
	if (e->settings->authfile) {
		if (!access_known(c, e, error)) {
			strcpy(text, *error ? "the server is out of memory" : "");
			return NULL;
		}
	} else {
		c->told_of = e;
		c->allowed = true;
		c->only_reads = false;
	}
	if (!c->allowed) {
		*error = NBD_REP_ERR_POLICY;
		snprintf(text, NEGO_TEXT, "export \"%s\" is not open to this address",
			 quoted);
		return NULL;
	}
	c->found = e;
	c->info = e->info;
	c->info.size = export_size(e);
	if (c->only_reads) {
		c->info.flags &= (u16)~EXPORT_WRITE_FLAGS;
		c->info.flags |= NBD_FLAG_READ_ONLY;
	}
	if (!claim)
		return &c->info;
	/* It would write beside the newer one, as a stranger. */
	if (c->outdated == e) {
		*error = NBD_REP_ERR_POLICY;
		snprintf(text, NEGO_TEXT, "station \"%s\" has a newer session with this export",
			 c->session.id.station);
		return NULL;
	}
	if (!export_claim(e)) {
		*error = NBD_REP_ERR_POLICY;
		snprintf(text, NEGO_TEXT, "export \"%s\" is in use by as many clients as it may have (maxconnections = %u)",
			 quoted, e->settings->max_connections);
		return NULL;
	}
	c->export = e;
	c->claimed = true;
	/* A session is one with the export it was named for. */
	if (c->session.entered &&
	    strcmp(c->session.export_name, e->info.name))
		session_leave(&c->session);
	c->opening = true;
	if (!begin(c, e, JOB_OPEN)) {
		c->opening = false;
		conn_unclaim(c);
		c->export = NULL;
		*error = NBD_REP_ERR_PLATFORM;
		strcpy(text, "the server is out of memory");
		return NULL;
	}
	*error = NEGO_LATER;
	return NULL;
}

static bool session(void *ctx, const struct nego_export *info,
		    const struct nbd_session *id, struct nbd_identity *server,
		    u32 *error, char *text)
{
	struct conn *c = ctx;
	struct export *e = c->found;
	struct session *s = &c->session;

	if (s->entered && (strcmp(s->export_name, info->name) ||
			   memcmp(&s->id, id, sizeof(*id))))
		session_leave(s);
	if (!s->entered) {
		s->id = *id;
		atomic_store(&s->superseded, false);
	}
	switch (session_enter(s, info->name, &c->addr, c, c->loop)) {
	case SESSION_READY:
		c->outdated = NULL;
		break;
	case SESSION_WAIT:
		*error = NEGO_LATER;
		return false;
	case SESSION_OLD:
		c->outdated = e;
		*error = NBD_REP_ERR_POLICY;
		snprintf(text, NEGO_TEXT, "station \"%s\" has a newer session with this export",
			 id->station);
		return false;
	case SESSION_MEMORY:
		*error = NBD_REP_ERR_PLATFORM;
		strcpy(text, "the server is out of memory");
		return false;
	}
	if (!c->identifying) {
		c->identifying = begin(c, e, JOB_IDENTIFY);
		*error = c->identifying ? NEGO_LATER : NBD_REP_ERR_PLATFORM;
		strcpy(text, "the server is out of memory");
		return false;
	}
	if (c->jobs) {
		*error = NEGO_LATER;
		return false;
	}
	c->identifying = false;
	if (!c->identified) {
		*error = c->open_error;
		strcpy(text, c->open_text);
		return false;
	}
	*server = c->identity;
	/* A server without a name cannot say which images are the same. */
	if (!strcmp(server->host, "-") && !e->settings->identity)
		strcpy(server->image, "-");
	return true;
}

static const struct nego_export *list(void *ctx, size_t *index)
{
	struct conn *c = ctx;
	u32 error;

	if (!access_known(c, NULL, &error)) {
		if (!error)
			*index = NEGO_LIST_LATER;
		return NULL;
	}
	return c->visible[*index] ? &c->visible[*index]->info : NULL;
}

static void note(void *ctx, u32 option, u32 reply, const char *text)
{
	struct conn *c = ctx;
	int priority = LOG_DEBUG;

	/* Clients probe for options they can do without: no event. */
	if (reply & NBD_REP_FLAG_ERROR && reply != NBD_REP_ERR_UNSUP)
		priority = LOG_WARNING;
	log_peer(priority, "%s: %s answered with %s%s%s", c->peer,
		 nbd_option_name(option), nbd_reply_name(reply),
		 *text ? ": " : "", text);
}

const struct nego_ops conn_nego_ops = {
	.find = find,
	.list = list,
	.session = session,
	.note = note,
};
