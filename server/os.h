/* SPDX-License-Identifier: GPL-2.0 */
/*
 * os.h - the system calls that not every system has, one line each. os-linux.c
 * is the Linux implementation; another system adds a file beside it, which
 * may answer -EAGAIN, false or -EOPNOTSUPP wherever it has nothing better.
 */
#ifndef SERVER_OS_H
#define SERVER_OS_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

/* pread() of what is in memory: bytes read, or -EAGAIN, or -errno. */
ssize_t os_pread_now(int fd, void *buf, size_t len, uint64_t off);

/* pwrite() that is durable on return: bytes written or -errno. */
ssize_t os_pwrite_durable(int fd, const void *buf, size_t len, uint64_t off);

/*
 * The file of @fd once more, for writing, as a description of its own: Linux
 * tells each of those of a lost page, and each once. -errno: not to be had.
 */
int os_reopen(int fd);

/* Give the space back; reads as zeroes afterwards. 0 or -errno. */
int os_punch_hole(int fd, uint64_t off, uint64_t len);

/* Zeroes without giving the space back. 0 or -errno. */
int os_zero_range(int fd, uint64_t off, uint64_t len);

/* Block device: what it says of itself. 0 or -errno. */
int os_device_size(int fd, uint64_t *size);
int os_device_block(int fd, uint32_t *logical);
int os_device_discard(int fd, uint64_t off, uint64_t len);

/*
 * Is every page of these bytes of the mapping in memory? False when that
 * cannot be known. Does not block.
 */
bool os_resident(const void *map, uint64_t off, size_t len);

/* May os_resident() be asked about this file, by whom we are now? */
bool os_resident_usable(int fd);

/*
 * Non-blocking socket I/O: bytes, 0 at the end of the stream (recv) or of the
 * file (sendfile), or -errno. @more: another send follows at once.
 */
ssize_t os_recv(int sock, struct iovec *iov, int n);
ssize_t os_send(int sock, struct iovec *iov, int n, bool more);
ssize_t os_sendfile(int sock, int fd, uint64_t off, size_t len);

/* Is anything that was sent not with the peer yet? */
bool os_unsent(int sock);

/* Who is at the other end of a Unix socket; 0: not known. */
pid_t os_peer_process(int sock);

/* Has somebody said how this thread is to be scheduled: chrt, systemd? */
bool os_is_scheduled(pthread_t thread);

/* How many processors this process may use; at least 1. */
unsigned int os_processors(void);

/*
 * Let this thread run before all that is not real-time, whenever it has
 * something to do; what it starts does not. Or no longer. 0 or an errno.
 */
int os_realtime(pthread_t thread, bool on);

/* May threads of this process become so, whoever we are? Best effort. */
void os_allow_realtime(bool on);

/*
 * Keep in memory what this process has now, whole, and of what it gets later
 * whatever it has touched; and let the threads it starts from here on get memory
 * without waiting for dirty pages to be written, which may be theirs to write.
 * 0 or an errno, @what then says what was refused.
 */
int os_lock_memory(const char **what);

/* A mapping that is only asked about takes no part in that. */
void os_unlock_memory(void *map, size_t len);

/* Notice a dead peer within @seconds; answer small messages at once. */
void os_tune_socket(int sock, int seconds);

#endif
