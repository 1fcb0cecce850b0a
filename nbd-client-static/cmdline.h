/* SPDX-License-Identifier: GPL-2.0 */
/*
 * cmdline.h - what the kernel command line says of an NBD root. This is the
 * only parser of nbdroot= there is; every initramfs hook goes through it.
 *
 *	nbdroot = "" | dhcp | TARGET, then *("," OPTION)
 *						repeated: tried in this order
 *	TARGET	= [nbd://]HOST[:PORT][/EXPORT] | HOST:/EXPORT | [dhcp]/EXPORT
 *		| nbd:HOST:PORT-or-EXPORT[:fstype[:mountopts[:OPTIONS]]]
 *						(dracut's; netroot= and root= too)
 *		| HOST,EXPORT[,DEVICE] | HOST,PORT[,DEVICE]	(Debian's)
 *	HOST	= name | IPv4 | "[" IPv6[%interface] "]" | dhcp
 *	nbdopts	= OPTION *("," OPTION)
 *	nbdport	= PORT			where a TARGET names none
 *	nbddev	= DEVICE		where root= names none
 *	root	= /dev/nbN[pM] | /dev/nbdN[pM] (the in-tree driver) | anything
 *		  else (LABEL=, UUID=...: then nb0)
 *
 * HOST:/x asks for the export "/x" and so does /x alone; after a port, in
 * HOST/x and in a URI the slash is only a separator. Debian's comma form is
 * taken only when there are two or three fields, the first without ':' and '/',
 * the second without '=' and no option, the third a device.
 */
#ifndef CLIENT_CMDLINE_H
#define CLIENT_CMDLINE_H

#include <stdbool.h>
#include <stdint.h>

#include "address.h"

#define MAX_TARGETS	8
#define MAX_CMDLINE	4096	/* COMMAND_LINE_SIZE is at most that */
#define MAX_HOST	253	/* RFC 1035, as text */
#define MAX_DEVICE	8	/* "nbd1023", with its NUL */
#define MAX_ERROR	512

/* Where one export is. Strings live in the text it was parsed from. */
struct target {
	bool dhcp;		/* all of it comes from DHCP's root path */
	const char *host;	/* as written; "" for DHCP's server */
	bool literal;		/* the host is .address */
	struct address address;
	uint16_t port;		/* 0: none was given */
	const char *export;	/* "": the default export */
};

/*
 * What can be said of a device, beside its servers. The driver is told the
 * first ones; the others are for what happens to the device then.
 */
enum option {
	OPT_RO, OPT_CONNS, OPT_LOST, OPT_HOLD, OPT_TIMEOUT, OPT_STATION,
	DRIVER_OPTIONS,
	OPT_OVERLAY = DRIVER_OPTIONS, OPT_PREFETCH,
	OPTIONS
};

#define OPTION_KEY 9	/* "prefetch", with its NUL */
extern const char option_keys[OPTIONS][OPTION_KEY];

/*
 * What was said beside where the export is. Options are kept as the driver
 * takes them, checked; NULL where nothing was said; OPT_RO is "1" or "0";
 * OPT_OVERLAY is a size as tmpfs takes it, OPT_PREFETCH is in KiB.
 */
struct said {
	const char *option[OPTIONS];
	char device[MAX_DEVICE];	/* "" where none was named */
	char warning[MAX_ERROR];	/* "", or sentences for the person */
	char error[MAX_ERROR];		/* a sentence, where parsing failed */
};

struct boot {
	char device[MAX_DEVICE];	/* "nb0" */
	unsigned int partition;		/* 0: the whole device */
	unsigned int count;
	struct target targets[MAX_TARGETS];
	uint16_t port;			/* where a target has none */
	struct said said;
	char text[MAX_CMDLINE + 1];
};

enum boot_result {
	BOOT_OK,
	BOOT_NONE,		/* no nbdroot=: not our boot */
	BOOT_BAD,		/* ->said.error is a sentence for the person */
};

/* Parse a kernel command line. */
enum boot_result boot_parse(struct boot *b, const char *cmdline);

/*
 * Parse one TARGET with its options, in place. @what names its origin in
 * messages ("nbdroot="). False with a sentence in @said->error when it is not
 * one. What @said holds already stays, unless it is said again.
 */
bool target_parse(struct target *t, char *text, const char *what,
		  struct said *said);

/* Parse OPTION *("," OPTION), in place; else as target_parse(). */
bool options_parse(char *list, const char *what, struct said *said);

/* May @s be a station's name: 1 to 64 of A-Z a-z 0-9 . _ : - */
bool station_is_word(const char *s);

/* Parse a HOST alone; an IPv6 address may come without its brackets. */
bool host_parse(struct target *t, char *text, char *error);

/* "nb0", "/dev/nb0", "nbd0" ... to "nb0", "nbd0"; false if it is neither. */
bool device_parse(const char *text, char device[MAX_DEVICE]);

/* Is it one of the kernel's own driver, "nbd0"? */
bool device_is_intree(const char *device);

/* What is to be said of a word that is none: its length and the word. */
#define NOT_A_PORT "port \"%.*s\" is not a number from 1 to 65535"

/* The @len bytes at @text as a port, 1 to 65535. */
bool port_parse(const char *text, size_t len, uint16_t *port);

#endif /* CLIENT_CMDLINE_H */
