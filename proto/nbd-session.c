// SPDX-License-Identifier: GPL-2.0
/* The names of the x-nbdroot metadata contexts; see nbd-session.h. */

#include "nbd-session.h"

static bool word_char(char c)
{
	return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
	       (c >= '0' && c <= '9') || c == '.' || c == '_' || c == ':' ||
	       c == '-';
}

bool nbd_session_word(const char *word)
{
	size_t n = 0;

	while (n < NBD_SESSION_WORD - 1 && word_char(word[n]))
		n++;
	return n && !word[n];
}

/* Append "/" and a word. Each name has room for its words at full length. */
static bool put_word(char *buf, size_t *len, const char *word)
{
	if (!nbd_session_word(word))
		return false;
	buf[(*len)++] = '/';
	while (*word)
		buf[(*len)++] = *word++;
	return true;
}

static void put_number(char *buf, size_t *len, u32 number)
{
	char digits[10];
	unsigned int n = 0;

	do {
		digits[n++] = '0' + number % 10;
		number /= 10;
	} while (number);
	buf[(*len)++] = '/';
	while (n)
		buf[(*len)++] = digits[--n];
}

static void put_text(char *buf, size_t *len, const char *text)
{
	while (*text)
		buf[(*len)++] = *text++;
}

static const char session_prefix[] = NBD_SESSION_NAMESPACE "session";
static const char identity_prefix[] = NBD_SESSION_NAMESPACE "server";

size_t nbd_session_put(char *buf, const struct nbd_session *s)
{
	size_t len = 0;

	put_text(buf, &len, session_prefix);
	if (!put_word(buf, &len, s->station) || !put_word(buf, &len, s->boot))
		return 0;
	put_number(buf, &len, s->attach);
	put_number(buf, &len, s->generation);
	buf[len] = '\0';
	return len;
}

size_t nbd_identity_put(char *buf, const struct nbd_identity *id)
{
	size_t len = 0;

	put_text(buf, &len, identity_prefix);
	if (!put_word(buf, &len, id->boot) || !put_word(buf, &len, id->host) ||
	    !put_word(buf, &len, id->image))
		return 0;
	buf[len] = '\0';
	return len;
}

/* What is left of a name that is being read. */
struct rest {
	const char *p;
	size_t len;
};

static bool get_text(struct rest *r, const char *text)
{
	while (*text) {
		if (!r->len || *r->p != *text)
			return false;
		text++;
		r->p++;
		r->len--;
	}
	return true;
}

static bool get_word(struct rest *r, char *word)
{
	size_t n = 0;

	if (!get_text(r, "/"))
		return false;
	while (r->len && *r->p != '/') {
		if (n == NBD_SESSION_WORD - 1 || !word_char(*r->p))
			return false;
		word[n++] = *r->p++;
		r->len--;
	}
	word[n] = '\0';
	return n != 0;
}

static bool get_number(struct rest *r, u32 *number)
{
	u64 value = 0;
	size_t n = 0;

	if (!get_text(r, "/"))
		return false;
	while (r->len && *r->p != '/') {
		if (*r->p < '0' || *r->p > '9' || ++n > 10)
			return false;
		value = value * 10 + (u64)(*r->p++ - '0');
		r->len--;
	}
	*number = value & 0xffffffff;
	return n && *number == value;
}

bool nbd_session_get(const char *name, size_t len, struct nbd_session *s)
{
	struct rest r = { name, len };

	return get_text(&r, session_prefix) && get_word(&r, s->station) &&
	       get_word(&r, s->boot) && get_number(&r, &s->attach) &&
	       get_number(&r, &s->generation) && !r.len;
}

bool nbd_identity_get(const char *name, size_t len, struct nbd_identity *id)
{
	struct rest r = { name, len };

	return get_text(&r, identity_prefix) && get_word(&r, id->boot) &&
	       get_word(&r, id->host) && get_word(&r, id->image) && !r.len;
}
