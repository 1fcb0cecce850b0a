/* SPDX-License-Identifier: GPL-2.0 */
/*
 * bootline.h - the few forms of nbdroot= that a driver built into the kernel
 * reads by itself, when there is no initramfs whose nbd-client would:
 *
 *	nbdroot = HOST:PORT[/EXPORT]		repeated: tried in this order
 *	HOST	= IPv4 | "[" IPv6[%interface] "]" | dhcp
 *
 * What it reads means the same to nbd-client, which reads more: names, URIs,
 * DHCP's root path. C without a kernel or a libc, for the tests' sake.
 */
#ifndef NB_BOOTLINE_H
#define NB_BOOTLINE_H

#include "nbd-types.h"

/*
 * Write into @line (@size bytes) the command for /dev/nb-control that the
 * @count values of nbdroot= ask for, @count at least 1. @boot_server is the
 * address that dhcp stands for, as text, or NULL if there is none. False, with
 * a sentence in @why (@why_size bytes) and no use in @line, when a value is
 * not of the form above. Neither sleeps nor allocates.
 */
bool nb_bootline(char *line, size_t size, char *const values[],
		 unsigned int count, const char *boot_server,
		 char *why, size_t why_size);

#endif /* NB_BOOTLINE_H */
