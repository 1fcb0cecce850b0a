/* SPDX-License-Identifier: GPL-2.0 */
/*
 * unit.h - what cmocka wants included before itself.
 */
#ifndef SERVER_UNIT_H
#define SERVER_UNIT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#endif
