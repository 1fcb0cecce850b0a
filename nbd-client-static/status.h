/* SPDX-License-Identifier: GPL-2.0 */
/*
 * status.h - nbd-client status: what the driver shows in /sys/block.
 */
#ifndef CLIENT_STATUS_H
#define CLIENT_STATUS_H

#include <stdbool.h>

/*
 * Print the state of @device, or of every attached one for NULL: for people, or
 * as JSON. Returns an enum status: STATUS_FAILED when @device is not attached.
 */
int status_main(const char *device, bool json);

#endif /* CLIENT_STATUS_H */
