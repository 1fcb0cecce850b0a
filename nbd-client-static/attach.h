/* SPDX-License-Identifier: GPL-2.0 */
/*
 * attach.h - one attempt to attach a device: find the servers' addresses, tell
 * the driver, understand what came of it.
 */
#ifndef CLIENT_ATTACH_H
#define CLIENT_ATTACH_H

#include <stdbool.h>

#include "cmdline.h"
#include "control.h"
#include "facts.h"

/* Exit statuses of the program; nbd-client(8) documents them. */
enum status {
	STATUS_OK = 0,
	STATUS_FAILED = 1,	/* anything not below */
	STATUS_USAGE = 2,	/* arguments or kernel command line */
	STATUS_NOTHING = 3,	/* --boot: no nbdroot= */
	STATUS_NO_DRIVER = 4,
	STATUS_UNREACHABLE = 5,	/* name, network, connection, handshake */
	STATUS_REFUSED = 6,	/* no such export, policy, TLS */
	STATUS_BUSY = 7,	/* attached already, or in use */
};

#define MAX_WHY 1024

/* Targets of one export, and where they turned out to be. */
struct attempt {
	enum status status;
	int error;		/* errno of the driver, or 0 */
	bool final;		/* trying again cannot help */
	char why[MAX_WHY];	/* what went wrong, a sentence */
	const char *hint;	/* what to do about it, or NULL */

	/* The last servers that were asked, and for what. */
	const char *export;
	unsigned int count;
	struct address servers[CONTROL_SERVERS];
	const char *hosts[CONTROL_SERVERS];	/* "" where it was an address */
	unsigned int used;	/* of them, by the kernel's own driver */

	/* What the driver is to be told beside them. */
	const char *option[OPTIONS];
	const char *boot;
};

/*
 * Try once to attach @device from @targets, in order; targets of the same
 * export become servers of one device. Ports not given are @port; @option as in
 * struct said. Fills in @at; at->status is STATUS_OK when the device is attached.
 */
void attach_try(struct attempt *at, const char *device,
		const struct target *targets, unsigned int count,
		uint16_t port, const char *const option[OPTIONS],
		const struct facts *facts);

/* Note a failure and why. */
__attribute__((format(printf, 4, 5)))
void attach_failed(struct attempt *at, enum status status, int error,
		   const char *fmt, ...);

/*
 * The whole sentence about a failed attempt into @buf. Where the export does
 * not exist this asks the server what it offers, which may take seconds.
 */
void attach_explain(const struct attempt *at, char *buf, size_t size);

/* "server1 (192.0.2.1:1234)", or only the address where no name was given. */
void append_server(const struct attempt *at, unsigned int i, char *buf,
		   size_t size);

/* "64.0 MiB" */
void append_size(char *buf, size_t size, uint64_t sectors);

/* The program's status for an errno of the driver's. */
enum status attach_status(int error);

/* What to do about an errno of the network or of the driver; may be NULL. */
const char *attach_hint(int error);

/*
 * Is @device attached? Then its state, or what the kernel's own driver has in its
 * place, into @buf.
 */
bool attach_state(const char *device, char *buf, size_t size);

/* Say that the device is attached, to what, and how large it is. */
void attach_report(const struct attempt *at, const char *device);

#endif /* CLIENT_ATTACH_H */
