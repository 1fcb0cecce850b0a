/* SPDX-License-Identifier: GPL-2.0 */
/*
 * control.h - talking to the driver through /dev/nb-control.
 */
#ifndef CLIENT_CONTROL_H
#define CLIENT_CONTROL_H

#include <stdbool.h>
#include <stddef.h>

#include "address.h"
#include "cmdline.h"

#define CONTROL_LINE	4096	/* longest command the driver takes */
#define CONTROL_ANSWER	512	/* its answer, with room for a NUL */
#define CONTROL_SERVERS	8	/* most servers in one attach */

/*
 * Write the attach command into @line (CONTROL_LINE + 1 bytes). @option as in
 * struct said; @boot is this boot's id, NULL or "" to leave it out. False when
 * it does not fit, which only an enormous export name can cause.
 */
bool control_attach_line(char *line, const char *device,
			 const struct address *servers, unsigned int count,
			 const char *const option[OPTIONS], const char *boot,
			 const char *export);

/*
 * Does the driver name @key among the words that it takes? @unsure is the
 * answer when it cannot be asked.
 */
bool control_knows(const char *key, bool unsure);

/*
 * Give one command to the driver, wait until it is carried out, and put its
 * answer (one line, without the newline) into @answer of CONTROL_ANSWER bytes.
 * Returns 0, an errno of the driver's, or -1 when it could not be spoken to;
 * @answer then says why.
 */
int control_command(const char *line, char *answer);

/*
 * Make sure that the driver is there, loading it with modprobe if need be.
 * False with a sentence in @why of @size bytes.
 */
bool control_ready(char *why, size_t size);

/* Is @module in the kernel, or does modprobe load it? 0, or modprobe's status. */
int module_ready(const char *module);

/* Read /sys/block/DEVICE/NAME, without its newline; false if there is none. */
bool device_fact(const char *device, const char *name, char *buf, size_t size);

#endif /* CLIENT_CONTROL_H */
