// SPDX-License-Identifier: GPL-2.0
/*
 * args.c - the command line: nbd-server [OPTIONS] [ADDRESS@]PORT FILE [SIZE],
 * as nbd-server has always had it.
 */
#include "args.h"

#include <getopt.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

const char args_help[] =
"Usage: nbd-server [OPTIONS] [ADDRESS@]PORT FILE [SIZE]\n"
"       nbd-server [OPTIONS] -C CONFIG\n"
"       nbd-server status|top|reload|drain [--socket=SOCKET] [--json]\n"
"       nbd-server overlays list|show|drop [-C CONFIG] [EXPORT[@STATION]]...\n"
"\n"
"Serve a disk image or a block device over NBD.\n"
"\n"
"  ADDRESS   listen on this address only: 192.0.2.1 or [2001:db8::1]\n"
"  PORT      TCP port; 10809 is the one IANA gave to NBD; 0: standard input is\n"
"            the connection\n"
"  FILE      what to serve, as the export named \"\" (the default one)\n"
"  SIZE      serve this much of it: bytes, or with k, m, g or t\n"
"\n"
"  -r          read-only\n"
"  -C CONFIG   exports from a configuration file, see nbd-server(5)\n"
"  --check     only say whether -C CONFIG can be served\n"
"  -p PIDFILE  write the process id there\n"
"  -n          stay in the foreground, log to standard error\n"
"  -d          the same, and log each step of each negotiation\n"
"  -V, --version  print the version\n"
"  -h, --help     print this\n"
"\n"
"Examples:\n"
"  nbd-server 1234 root.img              serve an image to everybody\n"
"  nbd-server -r 10.0.0.1@1234 root.img  read-only, on one address\n"
"  nbd-server -n 1234 /dev/vg0/root      a block device, in the foreground\n"
"  nbd-server -C /etc/nbdroot/server     what a file says\n";

bool args_size(const char *s, uint64_t *bytes)
{
	static const char suffix[] = "kmgt";
	const uint64_t max = INT64_MAX;
	const char *p = s, *unit;
	uint64_t n = 0;
	int shift = 0;

	for (; *p >= '0' && *p <= '9'; p++) {
		uint64_t digit = (uint64_t)(*p - '0');

		if (n > (max - digit) / 10)
			return false;
		n = n * 10 + digit;
	}
	if (p == s)
		return false;
	if (*p) {
		/* Both cases: 1g and 1G. */
		unit = strchr(suffix, *p | 0x20);
		if (!unit || p[1])
			return false;
		shift = 10 * (int)(unit - suffix + 1);
	}
	if (!n || n > max >> shift)
		return false;
	*bytes = n << shift;
	return true;
}

bool args_port(const char *s)
{
	unsigned int n = 0;

	if (!*s)
		return false;
	for (; *s; s++) {
		if (*s < '0' || *s > '9')
			return false;
		n = n * 10 + (unsigned int)(*s - '0');
		if (n > 65535)
			return false;
	}
	return n > 0;
}

/* [ADDRESS@]PORT; an IPv6 address may stand in brackets. */
static bool parse_listen(struct args *a, const char *word, char *why)
{
	char *at, *close;

	if (strlen(word) >= sizeof(a->spec)) {
		snprintf(why, ARGS_WHY, "\"%.40s...\": too long for [ADDRESS@]PORT",
			 word);
		return false;
	}
	strcpy(a->spec, word);
	at = strrchr(a->spec, '@');
	a->port = at ? at + 1 : a->spec;
	/* Standard input is the connection: as with inetd. */
	if (!strcmp(word, "0"))
		return true;
	if (!args_port(a->port)) {
		snprintf(why, ARGS_WHY, "\"%s\" is not a port; write a number from 1 to 65535, or ADDRESS@NUMBER: 10809, 10.0.0.1@10809",
			 word);
		return false;
	}
	if (!at)
		return true;
	*at = '\0';
	a->address = a->spec;
	if (*a->spec == '[') {
		close = strchr(a->spec, ']');
		if (!close || close[1]) {
			snprintf(why, ARGS_WHY, "\"%s\": write an IPv6 address as [2001:db8::1]@10809",
				 word);
			return false;
		}
		*close = '\0';
		a->address++;
	}
	if (!*a->address) {
		snprintf(why, ARGS_WHY, "\"%s\": no address before the @; leave the @ out to listen on every address",
			 word);
		return false;
	}
	return true;
}

static bool parse_options(int argc, char *const *argv, struct args *a,
			  char *why)
{
	static const struct option longs[] = {
		{ "check", no_argument, NULL, 'k' },
		{ "config", required_argument, NULL, 'C' },
		{ "help", no_argument, NULL, 'h' },
		{ "read-only", no_argument, NULL, 'r' },
		{ "version", no_argument, NULL, 'V' },
		{ NULL, 0, NULL, 0 },
	};
	int opt, at;

	optind = 0;	/* glibc: start anew, with the setting of "+" */
	opterr = 0;
	while ((opt = getopt_long(argc, argv, "+:rC:p:ndVh", longs,
				  NULL)) != -1) {
		switch (opt) {
		case 'r':
			a->read_only = true;
			break;
		case 'C':
			a->config = optarg;
			break;
		case 'p':
			a->pidfile = optarg;
			break;
		case 'd':
			a->debug = true;
			a->foreground = true;
			break;
		case 'n':
			a->foreground = true;
			break;
		case 'k':
			a->check = true;
			break;
		case 'V':
			a->verb = ARGS_VERSION;
			return true;
		case 'h':
			a->verb = ARGS_HELP;
			return true;
		case ':':
			snprintf(why, ARGS_WHY, "-%c needs the name of a file after it",
				 optopt);
			return false;
		default:
			/* Of a long one optind is behind it, of "-rz" on it. */
			at = optind > 1 && !strncmp(argv[optind - 1], "--", 2) ?
			     optind - 1 : 0;
			if (at)
				snprintf(why, ARGS_WHY, "\"%.100s\" is not an option; nbd-server --help lists them",
					 argv[at]);
			else
				snprintf(why, ARGS_WHY, "\"-%c\" is not an option; nbd-server --help lists them",
					 optopt);
			return false;
		}
	}
	return true;
}

bool args_parse(int argc, char *const *argv, struct args *a, char *why)
{
	char *words[4];
	int n = 0;

	memset(a, 0, sizeof(*a));
	/* Options may stand between and after the words, as they always could. */
	while (argc > 0) {
		if (!parse_options(argc, argv, a, why))
			return false;
		if (a->verb != ARGS_SERVE)
			return true;
		if (optind >= argc)
			break;
		if (n == 3) {
			snprintf(why, ARGS_WHY, "\"%s\" is one word too many after PORT FILE SIZE",
				 argv[optind]);
			return false;
		}
		words[n++] = argv[optind];
		/* Go on behind it: that word is in the place of a program's name. */
		argc -= optind;
		argv += optind;
	}
	if (a->check && (n || !a->config)) {
		snprintf(why, ARGS_WHY, "--check is for a configuration file; write: nbd-server --check -C CONFIG");
		return false;
	}
	if (!n && !a->config) {
		a->verb = ARGS_USAGE;
		return true;
	}
	if (!n)
		return true;
	if (!parse_listen(a, words[0], why))
		return false;
	if (n == 1) {
		snprintf(why, ARGS_WHY, "no FILE after the port \"%s\"; write: nbd-server %s IMAGE",
			 words[0], words[0]);
		return false;
	}
	a->file = words[1];
	if (n == 3 && !args_size(words[2], &a->size)) {
		snprintf(why, ARGS_WHY, "\"%s\" is not a size; write bytes, or a number with k, m, g or t: 512m",
			 words[2]);
		return false;
	}
	return true;
}
