/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The integer types and the three memory functions that proto/
 * is written with, the same in the kernel and in a userland program.
 */
#ifndef NBD_TYPES_H
#define NBD_TYPES_H

#ifdef __KERNEL__
#include <linux/types.h>
#include <linux/string.h>
#else
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
#endif

#endif /* NBD_TYPES_H */
