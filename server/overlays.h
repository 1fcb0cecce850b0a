/* SPDX-License-Identifier: GPL-2.0 */
/*
 * overlays.h - nbd-server overlays list|show|drop: the files of stations, with
 * or without a server that runs.
 */
#ifndef SERVER_OVERLAYS_H
#define SERVER_OVERLAYS_H

/* @argv[0] is "overlays". Returns the exit status. */
int overlays_command(int argc, char **argv);

#endif
