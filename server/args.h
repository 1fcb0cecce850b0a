/* SPDX-License-Identifier: GPL-2.0 */
/*
 * args.h - the command line, and the small grammars it shares with the
 * configuration file: sizes, ports, addresses.
 */
#ifndef SERVER_ARGS_H
#define SERVER_ARGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Longest error sentence of this part of the program. */
#define ARGS_WHY	512

enum args_verb { ARGS_SERVE, ARGS_HELP, ARGS_VERSION, ARGS_USAGE };

struct args {
	enum args_verb verb;
	const char *address;	/* NULL: every address; points into ->spec */
	const char *port;	/* NULL: not given */
	const char *file;	/* NULL: not given */
	uint64_t size;		/* 0: all of the file */
	const char *config;
	const char *pidfile;
	bool read_only;
	bool foreground;
	bool debug;
	bool check;		/* only look at the configuration */
	char spec[300];		/* a copy of [ADDRESS@]PORT, cut up */
};

/*
 * Understand the command line. False when it is wrong, with a sentence in
 * @why that quotes the word and shows a right one. Strings stay @argv's.
 */
bool args_parse(int argc, char *const *argv, struct args *a, char *why);

/* "10G": digits and one of kKmMgGtT or nothing; 1 to 2^63 - 1. */
bool args_size(const char *s, uint64_t *bytes);

/* A port number from 1 to 65535, in decimal. */
bool args_port(const char *s);

/* The help text: synopsis, options, examples. A constant. */
extern const char args_help[];

#endif
