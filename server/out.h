/* SPDX-License-Identifier: GPL-2.0 */
/*
 * out.h - what waits to be sent on a connection: pieces of memory, and pieces
 * of files for sendfile(2).
 */
#ifndef SERVER_OUT_H
#define SERVER_OUT_H

#include <stddef.h>
#include <stdint.h>

/*
 * Bytes sent on one connection before the others have their turn. What is begun
 * may end: a turn is less than two of these.
 */
#define OUT_TURN	(512U << 10)

struct job;

enum out_kind {
	OUT_CHUNK,	/* a chunk of the loop's, filled with small replies */
	OUT_JOB,	/* a job's header and data; freed with the job */
	OUT_PART,	/* a part of the data of a job that comes later */
	OUT_FILE,	/* a range of a file */
};

struct out {
	struct out *next;
	enum out_kind kind;
	size_t pos, len;	/* sent so far, and in all, in bytes */
	size_t cap;		/* OUT_CHUNK: room */
	uint8_t *mem;		/* all but OUT_FILE */
	int fd;			/* OUT_FILE */
	uint64_t off;		/* OUT_FILE: where in the file byte 0 is */
	struct job *job;	/* OUT_JOB */
};

#endif
