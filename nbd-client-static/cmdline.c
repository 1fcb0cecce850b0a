// SPDX-License-Identifier: GPL-2.0
/*
 * cmdline.c - the grammar of nbdroot=: see cmdline.h.
 */
#include "sys.h"
#include "cmdline.h"
#include "nbd-wire.h"
#include "text.h"

#define EXAMPLE "write it like nbdroot=server1:1234 or nbdroot=server1:1234/export"

/* How much of an offending word is quoted. */
#define QUOTE "%.80s"

bool port_parse(const char *text, size_t len, uint16_t *port)
{
	uint64_t v;

	if (!parse_number(text, len, 65535, &v) || !v)
		return false;
	*port = (uint16_t)v;
	return true;
}

/* Append a sentence about what is wrong; always false. */
__attribute__((format(printf, 2, 3)))
static bool wrong(char *error, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	append_args(error, MAX_ERROR, fmt, args);
	va_end(args);
	return false;
}

bool device_is_intree(const char *device)
{
	return device[2] == 'd';
}

/* "nbN" or "nbdN" into @device; what follows it is returned, NULL if it is neither. */
static const char *device_name(const char *s, char device[MAX_DEVICE])
{
	uint64_t number;
	size_t start, digits;

	if (!starts_with(s, "nb"))
		return NULL;
	start = device_is_intree(s) ? 3 : 2;
	digits = strspn(s + start, "0123456789");
	if (!parse_number(s + start, digits, 1023, &number) ||
	    (digits > 1 && s[start] == '0'))
		return NULL;
	put(device, MAX_DEVICE, "%.*s", (int)(start + digits), s);
	return s + start + digits;
}

bool device_parse(const char *text, char device[MAX_DEVICE])
{
	const char *end;

	if (starts_with(text, "/dev/"))
		text += 5;
	end = device_name(text, device);
	return end && !*end;
}

/* Letters, digits, '-', '_' in labels of 1 to 63; a final dot may stand. */
static bool is_name(const char *s)
{
	size_t label = 0, len = strlen(s);
	bool digits = true;
	char last = '.';

	if (!len || len > MAX_HOST)
		return false;
	for (; *s; last = *s++) {
		char c = *s | 0x20;

		if (*s == '.') {
			if (!label || last == '-')
				return false;
			if (s[1])
				digits = true;
			label = 0;
			continue;
		}
		if (*s >= '0' && *s <= '9')
			;
		else if ((c >= 'a' && c <= 'z') || *s == '_' ||
			 (*s == '-' && label))
			digits = false;
		else
			return false;
		if (++label > 63)
			return false;
	}
	/* A name that ends in a number is an IPv4 address gone wrong. */
	return last != '-' && !digits;
}

static bool set_host(struct target *t, char *host, bool bracket, char *error)
{
	size_t len = strlen(host);
	struct address *a = &t->address;
	/* one colon is no IPv6 address but somebody's HOST:PORT */
	bool colons = strchr(host, ':') != strrchr(host, ':');

	if (!bracket && !strcmp(host, "dhcp"))
		return true;	/* ->host is "" */
	t->host = host;
	if (bracket || colons) {
		if (!address_parse(host, len, a) || a->family != AF_INET6) {
			return wrong(error, "\"" QUOTE "\" is not an IPv6 address",
				     host);
		}
		if (address_lacks_zone(a)) {
			return wrong(error, "the link-local address " QUOTE " needs its interface, as in [" QUOTE "%%eth0]",
				     host, host);
		}
		t->literal = true;
		return true;
	}
	if (address_parse(host, len, a)) {
		t->literal = true;
		return true;
	}
	if (is_name(host))
		return true;
	return wrong(error, "\"" QUOTE "\" is neither a host name nor an address",
		     host);
}

bool host_parse(struct target *t, char *text, char *error)
{
	size_t len = strlen(text);
	bool bracket = text[0] == '[' && text[len - 1] == ']';

	memset(t, 0, sizeof(*t));
	t->host = t->export = "";
	error[0] = '\0';
	if (bracket) {
		text[len - 1] = '\0';
		text++;
	}
	return set_host(t, text, bracket, error);
}

/* RFC 3986, 2.1, in place; false for %00 and for a '%' without its number. */
static bool percent_decode(char *s)
{
	char *d = s;

	while (*s) {
		if (*s != '%') {
			*d++ = *s++;
			continue;
		}
		if (hex_digit(s[1]) < 0 || hex_digit(s[2]) < 0)
			return false;
		*d = (char)(hex_digit(s[1]) << 4 | hex_digit(s[2]));
		if (!*d++)
			return false;
		s += 3;
	}
	*d = '\0';
	return true;
}

/*
 * The interface of "[fe80::1%25eth0]": RFC 6874 writes the '%' as "%25". Outside
 * of a URI too, where it was copied from one: a number there stays as it is.
 */
static void undo_zone(char *host, bool uri)
{
	char *percent = strchr(host, '%');

	if (percent && starts_with(percent, "%25") &&
	    (uri ? percent[3] : percent[3] > '9'))
		memmove(percent + 1, percent + 3, strlen(percent + 3) + 1);
}

/*
 * [nbd://]HOST[:PORT][/EXPORT] and its like; reasons go to @error without the
 * word itself, which target_parse() quotes.
 */
static bool parse_place(struct target *t, char *s, char *error)
{
	bool uri = false, bracket, colon = false;
	size_t len;
	char *rest;
	char end;

	if (starts_with(s, "nbd://")) {
		uri = true;
		s += 6;
	} else if (contains(s, "://")) {
		return wrong(error, "the only kind of URI known is nbd://");
	}
	bracket = *s == '[';
	if (uri && s[strcspn(s, "?#")])
		return wrong(error, "\"" QUOTE "\" is not understood",
			     s + strcspn(s, "?#"));
	if (bracket) {
		s++;
		len = strcspn(s, "]");
		if (!s[len])
			return wrong(error, "a bracket is not closed");
		rest = s + len + 1;
	} else {
		struct address a;

		len = strcspn(s, "/");
		if (address_parse(s, len, &a) && a.family == AF_INET6)
			return wrong(error, "an IPv6 address needs brackets, as in [2001:db8::1]:1234");
		len = strcspn(s, ":/");
		rest = s + len;
	}
	end = *rest;
	s[len] = '\0';
	if (bracket)
		undo_zone(s, uri);
	if ((bracket || len || end != '/' || uri) &&
	    !set_host(t, s, bracket, error))
		return false;

	if (end == ':') {
		colon = true;
		s = ++rest;
		rest += strcspn(rest, "/");
		if (rest == s) {
			if (!*rest && !uri)
				return wrong(error, "no port after the colon");
		} else if (!port_parse(s, (size_t)(rest - s), &t->port)) {
			return wrong(error, NOT_A_PORT,
				     (int)(rest - s > 80 ? 80 : rest - s), s);
		}
	} else if (end && end != '/') {
		return wrong(error, "\"" QUOTE "\" is not understood", rest);
	}

	if (end != '/' && !*rest)
		return true;
	/* Only here does the slash belong to the name of the export. */
	if (!uri && !t->port && (colon || (!len && !bracket))) {
		/* *rest may be a NUL written above, when the host is empty */
		*rest = '/';
		t->export = rest;
	} else {
		t->export = rest + 1;
	}
	if (uri && !percent_decode(rest + 1))
		return wrong(error, "a %% in a URI is followed by two hexadecimal digits, not both 0");
	return true;
}

/*
 * A word that is all digits is a port, else the name of an export: in the old
 * forms one word may be either.
 */
static bool port_or_export(struct target *t, const char *s, char *error)
{
	size_t len = strlen(s);

	if (!len || strspn(s, "0123456789") < len) {
		t->export = s;
		return true;
	}
	return port_parse(s, len, &t->port) ||
	       wrong(error, NOT_A_PORT, 80, s);
}

/* Cut @s at the next colon; what follows, or the empty end. */
static char *cut(char *s)
{
	s += strcspn(s, ":");
	if (*s)
		*s++ = '\0';
	return s;
}

/* dracut's HOST:PORT-or-EXPORT[:fstype[:mountopts[:options]]]; *@options is set. */
static bool parse_dracut(struct target *t, char *s, struct said *said,
			 char **options, char *error)
{
	bool bracket = *s == '[';
	char *host = s, *word, *type, *mount;

	if (bracket) {
		host++;
		s += strcspn(s, "]");
		if (!*s)
			return wrong(error, "a bracket is not closed");
		*s++ = '\0';
	}
	word = cut(s);
	type = cut(word);
	mount = cut(type);
	*options = cut(mount);
	if (*type || *mount)
		append(said->warning, MAX_ERROR, "\"" QUOTE "\" and \"" QUOTE "\" of nbd:HOST:EXPORT:TYPE:FLAGS have no effect; write rootfstype= and rootflags=. ",
		       type, mount);
	return set_host(t, host, bracket, error) &&
	       port_or_export(t, word, error);
}

/* What an option is. */
enum kind {
	NUMBER,		/* from .least */
	LOST,		/* the same, or "wait" */
	WORD,
	FLAG,
	SIZE,		/* nothing, or "tmpfs:" and a size */
	NOTHING,	/* it is always so */
	IGNORED,	/* that cannot be chosen: a warning */
	IMPOSSIBLE,
};

const char option_keys[OPTIONS][OPTION_KEY] = {
	"ro", "conns", "lost", "hold", "timeout", "station", "overlay",
	"prefetch",
};

static const char option_example[] =
	"; the options are ro, rw, swap, overlay=tmpfs:1g, prefetch=4096, conns=4, timeout=10, hold=20, lost=wait, lost=60, station=kiosk7";

static const struct known {
	char key[12];
	unsigned char kind, option, least;
} known_options[] = {
	{ "ro", FLAG, OPT_RO, 1 },
	{ "rw", FLAG, OPT_RO, 0 },
	{ "conns", NUMBER, OPT_CONNS, 1 },
	{ "connections", NUMBER, OPT_CONNS, 1 },
	{ "lost", LOST, OPT_LOST, 1 },
	{ "deadtimeout", NUMBER, OPT_LOST, 1 },
	{ "hold", NUMBER, OPT_HOLD, 0 },
	{ "timeout", NUMBER, OPT_TIMEOUT, 2 },
	{ "station", WORD, OPT_STATION, 0 },
	{ "swap", NOTHING, 0, 0 },
	{ "persist", NOTHING, 0, 0 },
	{ "nopersist", IGNORED, 0, 0 },
	{ "bs", IGNORED, 0, 0 },
	{ "overlay", SIZE, OPT_OVERLAY, 0 },
	{ "prefetch", NUMBER, OPT_PREFETCH, 0 },
	{ "tls", IMPOSSIBLE, 0, 0 },
};

/* The option that @s, up to its '=' or its end, is; NULL if none. */
static const struct known *find_option(const char *s, size_t len)
{
	const struct known *k;

	for (k = known_options; k < known_options + ARRAY_SIZE(known_options);
	     k++)
		if (!strncmp(s, k->key, len) && (len == sizeof(k->key) || !k->key[len]))
			return k;
	return NULL;
}

bool station_is_word(const char *s)
{
	size_t len = 0;

	for (; *s; s++, len++)
		if (!strchr("._:-", *s) && !(*s >= '0' && *s <= '9') &&
		    !((*s | 0x20) >= 'a' && (*s | 0x20) <= 'z'))
			return false;
	return len && len <= 64;
}

/*
 * A size as tmpfs takes it: 512m, 4G, 50%. To tmpfs, 0 is no limit at all, and
 * numbers that are too large become small ones.
 */
static bool is_size(const char *s)
{
	size_t digits = strspn(s, "0123456789");

	if (*s == '0' || !digits || digits > 10)
		return false;
	s += digits;
	return !*s || (strchr("kmgKMG%", *s) && !s[1]);
}

static bool parse_option(const char *s, struct said *said, char *error)
{
	size_t len = strcspn(s, "=");
	const char *value = s[len] ? s + len + 1 : "";
	const struct known *k = find_option(s, len);
	bool good = true;
	uint64_t v;

	if (!k)
		return wrong(error, "there is no option \"" QUOTE "\"%s",
			     s, option_example);
	switch (k->kind) {
	case IMPOSSIBLE:
		return wrong(error, "\"" QUOTE "\" is not possible yet", s);
	case IGNORED:
		append(said->warning, MAX_ERROR, "\"" QUOTE "\" has no effect (lost=60 says how long a lost server is waited for; block sizes are the server's). ",
		       s);
		return true;
	case NOTHING:
		return true;
	case FLAG:
		good = !s[len];
		value = k->least ? "1" : "0";
		break;
	case SIZE:
		if (!s[len])
			value = "50%";
		else if (is_size(value))
			return wrong(error, "\"" QUOTE "\" is not right; write overlay=tmpfs:%s",
				     s, value);
		else if (starts_with(value, "tmpfs:"))
			value += 6;
		good = is_size(value);
		break;
	case WORD:
		good = station_is_word(value);
		break;
	case LOST:
		if (!strcmp(value, "wait"))
			break;
		/* fall through */
	default:
		good = parse_number(value, strlen(value), 86400, &v) &&
		       (v || !k->least) && (value[0] != '0' || !value[1]);
		if (good && v < k->least) {
			value = "2";	/* the only .least but 0 and 1 */
			append(said->warning, MAX_ERROR, "\"" QUOTE "\" becomes timeout=2, the least. ",
			       s);
		}
	}
	if (!good)
		return wrong(error, "\"" QUOTE "\" is not right%s", s,
			     option_example);
	said->option[k->option] = value;
	return true;
}

static bool parse_options(char *list, struct said *said, char *error)
{
	char *next;

	for (; list; list = next) {
		next = strchr(list, ',');
		if (next)
			*next++ = '\0';
		/* dracut passes them on as the client's own words */
		list += strspn(list, "-");
		if (*list && !parse_option(list, said, error))
			return false;
	}
	return true;
}

/* Debian's HOST,EXPORT[,DEVICE]? @options is what follows the first comma. */
static bool is_debian(const char *text, const char *options, char *device)
{
	size_t len = strcspn(options, ",");

	return *text && len && text + strcspn(text, ":/[,") == options - 1 &&
	       strcspn(options, "=") >= len && !find_option(options, len) &&
	       (!options[len] || device_parse(options + len + 1, device));
}

/* *@options is set to what follows the TARGET, or NULL. */
static bool parse_target(struct target *t, char *text, struct said *said,
			 char **options, char *error)
{
	char device[MAX_DEVICE] = "", *list;

	*options = NULL;
	if (starts_with(text, "nbd:") && !starts_with(text, "nbd://"))
		return parse_dracut(t, text + 4, said, options, error);
	list = strchr(text, ',');
	if (list)
		*list++ = '\0';
	if (list && is_debian(text, list, device)) {
		list[strcspn(list, ",")] = '\0';
		if (device[0])
			strcpy(said->device, device);
		if (!set_host(t, text, false, error) ||
		    !port_or_export(t, list, error))
			return false;
		append(said->warning, MAX_ERROR, "\"" QUOTE "," QUOTE "\" is an old form; write nbdroot=" QUOTE "%c" QUOTE ". ",
		       text, list, text, t->port ? ':' : '/', list);
		return true;
	}
	*options = list;
	if (!*text || !strcmp(text, "dhcp"))
		t->dhcp = true;
	else
		return parse_place(t, text, error);
	return true;
}

/* "nbdroot="WORD": WHY" into @said->error; always false. */
static bool blame(struct said *said, const char *what, const char *word,
		  const char *why)
{
	return wrong(said->error, "%s\"" QUOTE "%s\": %s", what, word,
		     strlen(word) > 80 ? "..." : "", why);
}

bool target_parse(struct target *t, char *text, const char *what,
		  struct said *said)
{
	char word[84], why[MAX_ERROR], *options;

	why[0] = '\0';
	memset(t, 0, sizeof(*t));
	t->host = t->export = "";
	put(word, sizeof(word), "%s", text);
	if (!parse_target(t, text, said, &options, why))
		append(why, sizeof(why), "; " EXAMPLE);
	else if (strlen(t->export) > NBD_MAX_STRING)
		wrong(why, "the export name is longer than 4096 bytes");
	else if (parse_options(options, said, why))
		return true;
	return blame(said, what, word, why);
}

bool options_parse(char *list, const char *what, struct said *said)
{
	char word[84], why[MAX_ERROR];

	why[0] = '\0';
	put(word, sizeof(word), "%s", list);
	return parse_options(list, said, why) || blame(said, what, word, why);
}

static bool root_parse(struct boot *b, const char *root)
{
	uint64_t partition = 0;
	const char *end, *p;

	end = device_name(root + 5, b->device);
	if (end && *end == 'p') {
		p = end + 1;
		end = p + strspn(p, "0123456789");
		if (*p == '0' ||
		    !parse_number(p, (size_t)(end - p), 31, &partition))
			end = NULL;
	}
	b->partition = (unsigned int)partition;
	return (end && !*end) ||
	       wrong(b->said.error, "root=\"" QUOTE "\" is not a device of this driver; write it like root=/dev/nb0, or root=/dev/nb0p1 for its first partition",
		     root);
}

/*
 * Take the next word as the kernel does (lib/cmdline.c, next_arg): blanks
 * separate, except inside double quotes, which are dropped. In place.
 */
static char *kernel_word(char **text)
{
	char *s = *text, *d, *word;
	bool quoted = false;

	s += strspn(s, " \t\r\n");
	if (!*s)
		return NULL;
	for (word = d = s; *s && (quoted || !strchr(" \t\r\n", *s)); s++) {
		if (*s == '"')
			quoted = !quoted;
		else
			*d++ = *s;
	}
	*text = *s ? s + 1 : s;
	*d = '\0';
	return word;
}

/*
 * A word that nobody knows, and that can hardly be meant for anybody else:
 * "nbdrot=", "nbdopt=". The kernel's own driver has "nbd.max_part=".
 */
static bool is_typo(const char *word)
{
	size_t len = strcspn(word, "=");

	return word[len] && (starts_with(word, "nbd") ||
			     starts_with(word, "nbr") ||
			     starts_with(word, "ndb")) &&
	       strcspn(word, ".[") > len;
}

/* Not nbdroot=, but dracut's word for the same. */
static bool is_dracut(const char *s)
{
	return s && starts_with(s, "nbd:");
}

static bool add_target(struct boot *b, char *text, const char *what)
{
	if (b->count == MAX_TARGETS)
		return wrong(b->said.error, "%s\"" QUOTE "\": at most %u servers can be named",
			     what, text, MAX_TARGETS);
	return target_parse(&b->targets[b->count++], text, what, &b->said);
}

enum boot_result boot_parse(struct boot *b, const char *cmdline)
{
	static const char keys[][8] = {
		"root", "netroot", "nbdport", "nbddev", "nbdopts", "nbdroot",
	};
	enum { ROOT, NETROOT, PORT, DEVICE, OPTS, NBDROOT };
	char *value[ARRAY_SIZE(keys)] = { NULL };
	char *text = b->text, *word, *typo = NULL;
	char *error = b->said.error;
	const char *root;
	size_t i;

	memset(b, 0, offsetof(struct boot, text));
	strcpy(b->device, "nb0");
	b->port = NBD_DEFAULT_PORT;
	if (!put(b->text, sizeof(b->text), "%s", cmdline)) {
		wrong(error, "the kernel command line is longer than %u bytes",
		      MAX_CMDLINE);
		return BOOT_BAD;
	}
	/* What follows "--" is for the root's init. */
	while ((word = kernel_word(&text)) && strcmp(word, "--")) {
		for (i = 0; i < ARRAY_SIZE(keys); i++) {
			size_t len = strlen(keys[i]);

			if (strncmp(word, keys[i], len) ||
			    (word[len] && word[len] != '='))
				continue;
			value[i] = word + len + (word[len] == '=');
			break;
		}
		if (i == ARRAY_SIZE(keys) && is_typo(word))
			typo = word;
		if ((i == NBDROOT && !add_target(b, value[i], "nbdroot=")) ||
		    (i == OPTS &&
		     !options_parse(value[i], "nbdopts=", &b->said)))
			return BOOT_BAD;
	}
	root = value[ROOT] ? value[ROOT] : "";
	if (!b->count) {
		i = is_dracut(value[NETROOT]) ? NETROOT : ROOT;
		if (is_dracut(value[i]) &&
		    !add_target(b, value[i], i == ROOT ? "root=" : "netroot="))
			return BOOT_BAD;
	}
	if (!b->count) {
		if (typo)
			wrong(error, "\"" QUOTE "\" is not a word that is known here; write it like nbdroot=server1:1234",
			      typo);
		else if (starts_with(root, "/dev/nb") &&
			 !starts_with(root, "/dev/nbd"))
			wrong(error, "root=\"" QUOTE "\" needs the server that holds it; add nbdroot=server1:1234 to the kernel command line",
			      root);
		else
			return BOOT_NONE;
		return BOOT_BAD;
	}
	if (typo)
		append(b->said.warning, MAX_ERROR, "\"" QUOTE "\" is not a word that is known here; it has no effect. ",
		       typo);
	if (value[PORT] &&
	    !port_parse(value[PORT], strlen(value[PORT]), &b->port)) {
		wrong(error, "nbdport=\"" QUOTE "\" is not a port; write a number from 1 to 65535, as in nbdport=1234",
		      value[PORT]);
		return BOOT_BAD;
	}
	if (starts_with(root, "/dev/nb"))
		return root_parse(b, root) ? BOOT_OK : BOOT_BAD;
	if (b->said.device[0])
		strcpy(b->device, b->said.device);
	if (value[DEVICE] && !device_parse(value[DEVICE], b->device)) {
		wrong(error, "nbddev=\"" QUOTE "\" is not a device; write it like nbddev=nb0",
		      value[DEVICE]);
		return BOOT_BAD;
	}
	return BOOT_OK;
}
