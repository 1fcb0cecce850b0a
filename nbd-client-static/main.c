// SPDX-License-Identifier: GPL-2.0
/*
 * main.c - the arguments of nbd-client. Options may stand before, between and
 * after the others, with one dash or two, as the classic nbd-client has them.
 */
#include "sys.h"
#include "attach.h"
#include "boot.h"
#include "intree.h"
#include "nbd-wire.h"
#include "paths.h"
#include "resolve.h"
#include "server.h"
#include "status.h"
#include "text.h"

#ifndef VERSION
#define VERSION "unknown"
#endif

static const char usage[] =
"nbd-client HOST [PORT] DEVICE [-N EXPORT] [OPTION...]  attach, as in\n"
"    server1 1234 nb0 -N lab conns=4\n"
"nbd-client -u PATH nbd0    the same over a Unix socket\n"
"nbd-client -d DEVICE [-f]  detach (-f: even when in use)\n"
"nbd-client -c DEVICE       is it attached? prints its state\n"
"nbd-client -l HOST [PORT]  list what a server exports\n"
"nbd-client status [DEVICE] [--json]\n"
"nbd-client --boot [--cmdline FILE]  attach what nbdroot= on the kernel command\n"
"    line (or in FILE) says, trying until it works\n"
"nbd-client --parse [--cmdline FILE]  print what it says, for a shell\n"
"nbd-client -h | -V         this help, the version\n"
"HOST: a name, 192.0.2.1, [2001:db8::1], [fe80::1%eth0], nbd://HOST/EXPORT. PORT:\n"
"10809 unless given. DEVICE: nb0, or nbd0 for the kernel's own driver. OPTION: ro\n"
"conns=4 timeout=10 hold=20 lost=wait lost=60 station=NAME. More in nbd-client(8)\n";

/* A letter of packed_find()'s value. */
enum action {
	ATTACH = 'a', DETACH = 'd', CHECK = 'c', LIST = 'l', STATUS = 's',
	BOOT = 'b', PARSE = 'p', HELP = 'h', SHOW_VERSION = 'V',
	/* not an action, but more about one; the first line with a word */
	EXPORT = 'N', CMDLINE = 'L', TIMEOUT = 't', CONNS = 'C', DEAD = 'D', UNIX = 'u',
	FORCE = 'f', JSON = 'j', READ_ONLY = 'R',
	NOTHING = '0',		/* it is always so here */
	POINTLESS = '1',	/* there is nothing to choose here */
	POINTLESS_WORD = '2',	/* the same, with a word behind it */
	REFUSED = 'x',
};

static const char with_word[] = "NLtCDu2";

/* With one dash or two, and as the classic nbd-client names them. */
static const char options[] =
	"d d\0" "disconnect d\0" "c c\0" "check c\0" "l l\0" "list l\0"
	"boot b\0" "parse p\0" "cmdline L\0" "h h\0" "help h\0" "V V\0"
	"version V\0" "f f\0" "force f\0" "json j\0" "N N\0" "name N\0" "t t\0"
	"timeout t\0" "C C\0" "connections C\0" "D D\0" "dead-timeout D\0"
	"R R\0" "readonly R\0" "p 0\0" "persist 0\0" "s 0\0" "swap 0\0" "m 0\0"
	"systemd-mark 0\0" "n 1\0" "nofork 1\0" "L 1\0" "nonetlink 1\0" "S 1\0"
	"sdp 1\0" "g 1\0" "no-optgo 1\0" "P 1\0" "preinit 1\0" "b 2\0"
	"block-size 2\0" "B 2\0" "size 2\0" "i 2\0" "identifier 2\0" "u u\0"
	"unix u\0" "x x\0" "enable-tls x\0" "F x\0" "certfile x\0" "K x\0"
	"keyfile x\0" "A x\0" "cacertfile x\0" "H x\0" "tlshostname x\0";

struct arguments {
	enum action action;
	bool force, json;
	const char *export;
	const char *cmdline;
	char *path;		/* of a Unix socket; it becomes the first word */
	char *words[4];
	unsigned int count;
	struct said said;
};

static bool bad_usage(const char *why, const char *word)
{
	say("%s \"%.100s\"; see nbd-client -h", why, word);
	return false;
}

/* "conns=4", or with the key that an option stands for. */
static bool set_option(struct arguments *a, enum option option, char *value)
{
	static char words[OPTIONS][96];
	char *word = words[option];

	if (option == OPTIONS)
		word = value;
	else
		put(word, sizeof(words[0]), "%s=%s", option_keys[option], value);
	if (!options_parse(word, "", &a->said)) {
		say("%s", a->said.error);
		return false;
	}
	return true;
}

static bool parse_arguments(struct arguments *a, int argc, char **argv)
{
	enum action action;
	bool dashes = true;
	int i;

	for (i = 1; i < argc; i++) {
		char *word = argv[i], *value, letter[] = "?";
		const char *o = word, *found;

		if (!dashes || o[0] != '-' || !o[1]) {
			/* not the '=' of a URI, which follows a slash */
			if (strcspn(o, "=") < strcspn(o, "/") ||
			    !strcmp(o, "ro") || !strcmp(o, "rw")) {
				if (!set_option(a, OPTIONS, word))
					return false;
			} else if (a->count == 3) {
				return bad_usage("one word too many:", o);
			} else if (!a->count && a->action == ATTACH &&
				   !strcmp(o, "status")) {
				a->action = STATUS;
			} else {
				a->words[a->count++] = word;
			}
			continue;
		}
		o += o[1] == '-' ? 2 : 1;
		if (!*o) {
			dashes = false;
			continue;
		}
		/* "--name=lab" is "--name lab". */
		value = strchr(word, '=');
		if (value)
			*value++ = '\0';
		found = packed_find(options, o);
		/* "-t30" is "-t 30", and "-Na=b" is "-N a=b". */
		if (!found && o == word + 1) {
			if (value)
				value[-1] = '=';
			letter[0] = *o;
			value = word + 2;
			found = packed_find(options, letter);
			if (found && !strchr(with_word, *found))
				found = NULL;
		}
		if (!found)
			return bad_usage("unknown option", word);
		action = (enum action)*found;
		if (strchr(with_word, action) && !value) {
			value = argv[++i];
			if (!value)
				return bad_usage("a word is missing after", word);
		}
		switch (action) {
		case FORCE:
			a->force = true;
			break;
		case JSON:
			a->json = true;
			break;
		case EXPORT:
			a->export = value;
			break;
		case CMDLINE:
			a->cmdline = value;
			break;
		case UNIX:
			if (*value != '/' || strlen(value) > UNIX_PATH)
				return bad_usage("not an absolute path of 107 bytes at most:",
						 value);
			a->path = value;
			break;
		case TIMEOUT:
		case CONNS:
		case DEAD:
			if (!set_option(a, action == TIMEOUT ? OPT_TIMEOUT :
					action == CONNS ? OPT_CONNS : OPT_LOST,
					value))
				return false;
			break;
		case READ_ONLY:
			a->said.option[OPT_RO] = "1";
			break;
		case NOTHING:
			break;
		case POINTLESS:
		case POINTLESS_WORD:
			say("%s has no effect here: sizes are the server's, and the driver connects by itself",
			    word);
			break;
		case REFUSED:
			return bad_usage("no TLS yet:", word);
		default:
			a->action = action;
		}
	}
	if (a->path) {
		memmove(a->words + 1, a->words, 3 * sizeof(a->words[0]));
		a->words[0] = a->path;
		a->count++;
	}
	return true;
}

static bool want_words(const struct arguments *a, unsigned int min,
		       unsigned int max, const char *what)
{
	if (a->count >= min && a->count <= max)
		return true;
	say("%s; see nbd-client -h", what);
	return false;
}

static bool want_device(const char *word, char device[MAX_DEVICE])
{
	if (device_parse(word, device))
		return true;
	say("\"%.100s\" is not a device of the nb driver; write it like /dev/nb0 or nb0",
	    word);
	return false;
}

static bool want_server(struct target *t, struct arguments *a,
			const char *port)
{
	char *host = a->words[0];
	bool ok;

	if (a->path) {
		memset(t, 0, sizeof(*t));
		t->host = t->address.path = host;
		t->literal = true;
		t->address.family = AF_UNIX;
		t->export = "";
		return true;
	}
	ok = starts_with(host, "nbd://") ?
		target_parse(t, host, "", &a->said) :
		host_parse(t, host, a->said.error);
	if (!ok) {
		say("%s; write a host name, 192.0.2.1 or [2001:db8::1], and the port as a word of its own",
		    a->said.error);
		return false;
	}
	if (!t->port)
		t->port = NBD_DEFAULT_PORT;
	if (port && !port_parse(port, strlen(port), &t->port)) {
		say(NOT_A_PORT, 80, port);
		return false;
	}
	return true;
}

static int attach(struct arguments *a)
{
	static struct facts facts;
	static struct attempt at;
	char device[MAX_DEVICE], why[2 * MAX_WHY];
	struct target t;

	if (a->count == 1 && device_parse(a->words[0], device)) {
		say("/etc/nbdtab is not read; write it like nbd-client server1 1234 %s -N lab",
		    a->words[0]);
		return STATUS_USAGE;
	}
	if (!want_words(a, 2, 3, "a host and a device are needed") ||
	    !want_server(&t, a, a->count == 3 ? a->words[1] : NULL) ||
	    !want_device(a->words[a->count - 1], device))
		return STATUS_USAGE;
	if (a->path && !device_is_intree(device)) {
		say("the driver nb speaks TCP only; for a Unix socket write nbd%s, the kernel's own driver",
		    device + 2);
		return STATUS_USAGE;
	}
	if (a->said.option[OPT_OVERLAY])
		return bad_usage("for --boot only:", "overlay"),
		       STATUS_USAGE;
	if (a->said.warning[0])
		say("warning: %s", a->said.warning);
	if (a->export)
		t.export = a->export;
	if (!device_is_intree(device) && !control_ready(why, sizeof(why))) {
		say("%s", why);
		return STATUS_NO_DRIVER;
	}
	facts_load(&facts);
	attach_try(&at, device, &t, 1, t.port, a->said.option, &facts);
	if (at.status != STATUS_OK) {
		attach_explain(&at, why, sizeof(why));
		say("%s", why);
		return at.status;
	}
	attach_report(&at, device);
	if (device_is_intree(device))
		say("the kernel's own driver nbd: %s", intree_price);
	return STATUS_OK;
}

static int detach(const struct arguments *a, const char *device)
{
	char line[64], answer[CONTROL_ANSWER];
	int error;

	if (device_is_intree(device)) {
		error = attach_state(device, line, sizeof(line)) ?
			intree_detach(device) : ENODEV;
		put(answer, sizeof(answer), "%s: %s", device,
		    error == ENODEV ? "not attached" : error_text(error));
	} else {
		put(line, sizeof(line), "detach dev=%s%s", device,
		    a->force ? " force=1" : "");
		error = control_command(line, answer);
	}
	if (!error)
		return STATUS_OK;
	say("%s", answer);
	return error == EBUSY ? STATUS_BUSY :
	       error < 0 ? STATUS_NO_DRIVER : STATUS_FAILED;
}

static int check(const char *device)
{
	char state[64];

	if (!attach_state(device, state, sizeof(state) - 1))
		return STATUS_FAILED;
	append(state, sizeof(state), "\n");
	print(state);
	return STATUS_OK;
}

/* What is done with one device, or with none named for status. */
static int with_device(const struct arguments *a)
{
	char device[MAX_DEVICE];

	if (!want_words(a, a->action != STATUS, 1, "one device is needed") ||
	    (a->count && !want_device(a->words[0], device)))
		return STATUS_USAGE;
	if (a->action == DETACH)
		return detach(a, device);
	if (a->action == CHECK)
		return check(device);
	return status_main(a->count ? device : NULL, a->json);
}

/* One line an export: its name, then behind a tab what the server says of it. */
static void print_export(void *context, const char *name,
			 const char *description)
{
	(void)context;
	print(name[0] ? name : "\"\"");
	if (description[0]) {
		print("\t");
		print(description);
	}
	print("\n");
}

static int list(struct arguments *a)
{
	static struct facts facts;
	struct address addresses[CONTROL_SERVERS];
	char why[512], server[ADDRESS_TEXT];
	unsigned int count = 1, i;
	struct target t;
	const char *hint;
	int error = 0;

	if (!want_words(a, 1, 2, "-l wants a host, and perhaps a port") ||
	    !want_server(&t, a, a->count == 2 ? a->words[1] : NULL))
		return STATUS_USAGE;
	addresses[0] = t.address;
	if (!t.literal) {
		facts_load(&facts);
		count = resolve(t.host, &facts, addresses, CONTROL_SERVERS,
				why, sizeof(why));
		if (!count) {
			say("%s: %s", t.host, why);
			return STATUS_UNREACHABLE;
		}
	}
	for (i = 0; i < count; i++) {
		addresses[i].port = t.port;
		error = server_list(&addresses[i], print_export, NULL,
				     why, sizeof(why));
		if (!error)
			return STATUS_OK;
	}
	hint = attach_hint(error);
	address_format(&addresses[count - 1], server);
	say("%s: %s%s%s", server, why, hint ? "; " : "", hint ? hint : "");
	return STATUS_UNREACHABLE;
}

static int run(int argc, char **argv)
{
	static struct arguments a;

	a.action = ATTACH;
	a.cmdline = CMDLINE_PATH;
	intree_mark = argv[0];
	if (!parse_arguments(&a, argc, argv))
		return STATUS_USAGE;
	switch (a.action) {
	case DETACH:
	case CHECK:
	case STATUS:
		return with_device(&a);
	case LIST:
		return list(&a);
	case BOOT:
	case PARSE:
		if (!want_words(&a, 0, 0, "--boot and --parse take no words"))
			return STATUS_USAGE;
		return a.action == BOOT ? boot_main(a.cmdline) :
					  parse_main(a.cmdline);
	case HELP:
		print(usage);
		return STATUS_OK;
	case SHOW_VERSION:
		print("nbd-client (nbdroot) " VERSION "\n");
		return STATUS_OK;
	default:
		return attach(&a);
	}
}

int main(int argc, char **argv)
{
	int status = run(argc, argv);

	return status == STATUS_OK && !printed() ? STATUS_FAILED : status;
}
