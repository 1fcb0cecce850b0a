/* SPDX-License-Identifier: GPL-2.0 */
/*
 * pool.h - the worker threads that wait for disks, so that no loop has to.
 */
#ifndef SERVER_POOL_H
#define SERVER_POOL_H

#include "job.h"

/*
 * Start @threads workers; jobs that are done are handed to @done, as lists of
 * one or some, in the worker's thread. False when not even one thread could be
 * had.
 */
bool pool_start(unsigned int threads, void (*done)(struct job *list));

/* Queue all of a list, from any thread; leaves it empty. Never blocks long. */
void pool_submit(struct job_list *l);

/*
 * Has any worker carried out a READ since *@since was set here, or does one now?
 * *@since is 0 at first. From any thread; costs nothing.
 */
bool pool_disk_busy(unsigned int *since);

/* Finish what is queued, then end the workers. */
void pool_stop(void);

#endif
