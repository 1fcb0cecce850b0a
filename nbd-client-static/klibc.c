// SPDX-License-Identifier: GPL-2.0
/*
 * klibc.c - with klibc alone: a program's start and end bring its stdio and its
 * malloc along, a twentieth of ours, which uses neither. These two stand in for
 * what calls them.
 */
#ifdef __KLIBC__
#include <stdlib.h>
#include <unistd.h>

void __libc_init_stdio(void);

void __libc_init_stdio(void)
{
}

void exit(int status)
{
	_exit(status);
}
#endif
