/* SPDX-License-Identifier: GPL-2.0 */
/*
 * conn_world.h - what conn.c shares with conn_world.c, beside the server's own
 * headers, whose functions the latter plays.
 */
#ifndef FUZZ_CONN_WORLD_H
#define FUZZ_CONN_WORLD_H

#include <stdbool.h>
#include <stdint.h>

/* Bytes of the disk. */
#define SIZE	(3U << 20)

/* A new life, whose luck follows from @seed. */
void world_begin(uint32_t seed);

/* That must be so. */
void check(bool ok);

/* 0 .. @sides - 1 */
uint32_t roll(uint32_t sides);

#endif
