/* SPDX-License-Identifier: GPL-2.0 */
/*
 * boot.h - nbd-client --boot and --parse, which initramfs hooks call.
 */
#ifndef CLIENT_BOOT_H
#define CLIENT_BOOT_H

/*
 * Attach what the kernel command line in the file @path asks for, trying until
 * it works. Returns an enum status.
 */
int boot_main(const char *path);

/*
 * Only say what the command line in the file @path asks for, as variables of a
 * shell: NB_DEVICE, NB_PARTITION ("" for none), NB_SERVERS and for each of
 * these, from 1, NB_HOST_1 ("dhcp" where DHCP knows), NB_PORT_1, NB_EXPORT_1.
 * Returns an enum status.
 */
int parse_main(const char *path);

#endif /* CLIENT_BOOT_H */
