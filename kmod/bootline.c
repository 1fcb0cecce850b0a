// SPDX-License-Identifier: GPL-2.0
/*
 * nbdroot= without an initramfs: see bootline.h. It only takes values apart
 * and quotes what it does not know; addresses are read, once more and for
 * good, by the parser of /dev/nb-control, to which the line goes.
 */
#ifdef __KERNEL__
#include <linux/kernel.h>
#else
#include <stdio.h>
#endif
#include "bootline.h"

#define EXAMPLE \
	"without an initramfs, write it like nbdroot=192.0.2.1:1234 or nbdroot=[2001:db8::1]:1234/export"

/* A bounded text that is being written. */
struct out {
	char *text;
	size_t size, len;
	bool full;
};

static void put(struct out *o, char c)
{
	if (o->len + 1 >= o->size) {
		o->full = true;
		return;
	}
	o->text[o->len++] = c;
	o->text[o->len] = '\0';
}

static void put_text(struct out *o, const char *s, size_t len)
{
	while (len--)
		put(o, *s++);
}

/* As the words of /dev/nb-control want them: \ooo for what a word cannot hold. */
static void put_escaped(struct out *o, const char *s)
{
	for (; *s; s++) {
		unsigned char c = *s;

		if (c > ' ' && c < 0x7f && c != '\\') {
			put(o, c);
			continue;
		}
		put(o, '\\');
		put(o, '0' + (c >> 6));
		put(o, '0' + (c >> 3 & 7));
		put(o, '0' + (c & 7));
	}
}

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

/* The digits at @s as a number up to @max, no zero in front; -1 if not. */
static int number(const char *s, size_t len, int max)
{
	int v = 0;
	size_t i;

	if (!len || (*s == '0' && len > 1))
		return -1;
	for (i = 0; i < len; i++) {
		if (!is_digit(s[i]))
			return -1;
		v = v * 10 + (s[i] - '0');
		if (v > max)
			return -1;
	}
	return v;
}

static bool is_ipv4(const char *s, size_t len)
{
	unsigned int parts = 0;
	size_t n;

	for (;;) {
		for (n = 0; n < len && s[n] != '.'; n++)
			;
		if (number(s, n, 255) < 0)
			return false;
		parts++;
		if (n == len)
			return parts == 4;
		s += n + 1;
		len -= n + 1;
	}
}

/* What may stand in brackets; whether it is an address, the driver will see. */
static bool looks_like_ipv6(const char *s, size_t len)
{
	bool colon = false, zone = false;
	size_t i;

	for (i = 0; i < len; i++) {
		char c = s[i] | 0x20;

		if (s[i] == '%' && !zone && i + 1 < len)
			zone = true;
		else if (zone && (is_digit(s[i]) || (c >= 'a' && c <= 'z') ||
				  s[i] == '.' || s[i] == '-' || s[i] == '_'))
			;
		else if (!zone && (is_digit(s[i]) || (c >= 'a' && c <= 'f') ||
				   s[i] == ':' || s[i] == '.'))
			colon |= s[i] == ':';
		else
			return false;
	}
	return colon;
}

/* One value to "HOST:PORT" in @o; the export, or NULL with *@wrong said. */
static const char *target(struct out *o, const char *value,
			  const char *boot_server, const char **wrong)
{
	const char *host = value, *rest = value, *port;
	bool bracket = *value == '[';
	size_t len, port_len;

	while (*rest && *rest != '/' && *rest != (bracket ? ']' : ':'))
		rest++;
	len = rest - host;
	if (bracket) {
		if (*rest != ']') {
			*wrong = "a bracket is not closed";
			return NULL;
		}
		if (!looks_like_ipv6(host + 1, len - 1)) {
			*wrong = "no IPv6 address in the brackets";
			return NULL;
		}
		len++;
		rest++;
	} else if (len == 4 && !memcmp(host, "dhcp", 4)) {
		if (!boot_server) {
			*wrong = "no boot server is known; does ip= name one, or DHCP?";
			return NULL;
		}
		host = boot_server;
		len = strlen(boot_server);
	} else if (!is_ipv4(host, len)) {
		*wrong = "not an address, and only an initramfs can resolve a name";
		return NULL;
	}
	if (*rest != ':') {
		*wrong = "the port is missing";
		return NULL;
	}
	port = ++rest;
	while (*rest && *rest != '/')
		rest++;
	port_len = rest - port;
	if (number(port, port_len, 65535) < 1) {
		*wrong = "the port is not a number from 1 to 65535";
		return NULL;
	}
	put_text(o, host, len);
	put(o, ':');
	put_text(o, port, port_len);
	return *rest ? rest + 1 : rest;
}

bool nb_bootline(char *line, size_t size, char *const values[],
		 unsigned int count, const char *boot_server,
		 char *why, size_t why_size)
{
	static const char verb[] = "attach dev=nb0", server[] = " server=";
	struct out o = { .text = line, .size = size };
	const char *export = "", *value = "", *before, *wrong = NULL;
	unsigned int i;

	line[0] = '\0';
	put_text(&o, verb, sizeof(verb) - 1);
	for (i = 0; i < count; i++) {
		value = values[i];
		before = export;
		put_text(&o, server, sizeof(server) - 1);
		export = target(&o, value, boot_server, &wrong);
		if (!export)
			goto bad;
		wrong = "every server must have the same export";
		if (i && strcmp(before, export))
			goto bad;
	}
	if (*export) {
		put_text(&o, " export=", 8);
		put_escaped(&o, export);
	}
	wrong = "too long";
	if (!o.full)
		return true;
bad:
	snprintf(why, why_size, "nbdroot=\"%.80s\": %s; " EXAMPLE, value, wrong);
	return false;
}
