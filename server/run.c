// SPDX-License-Identifier: GPL-2.0
/*
 * run.c - running a program that the configuration names, without a shell: an
 * image's name or a client's cannot become a command.
 */
#define _GNU_SOURCE
#include "run.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "log.h"

#define WORDS		32
#define PATIENCE_MS	60000

/* @word with @path for each "%s"; to be freed. */
static char *fill_in(const char *word, const char *path)
{
	size_t size = strlen(word) + 1, plen = strlen(path);
	const char *p;
	char *out, *o;

	for (p = word; (p = strstr(p, "%s")); p += 2)
		size += plen;
	out = o = malloc(size);
	if (!out)
		return NULL;
	for (p = word; *p; ) {
		if (!strncmp(p, "%s", 2)) {
			memcpy(o, path, plen);
			o += plen;
			p += 2;
		} else {
			*o++ = *p++;
		}
	}
	*o = '\0';
	return out;
}

static bool wait_for(pid_t pid, const char *program)
{
	const struct timespec step = { .tv_nsec = 10 * 1000000L };
	int status = 0, ms;

	for (ms = 0; ms < PATIENCE_MS; ms += 10) {
		pid_t got = waitpid(pid, &status, WNOHANG);

		if (got == pid)
			break;
		if (got < 0 && errno != EINTR) {
			log_peer(LOG_ERR, "%s: how it ended is not to be learned: %s",
				 program, strerror(errno));
			return false;
		}
		nanosleep(&step, NULL);
	}
	if (ms >= PATIENCE_MS) {
		kill(pid, SIGKILL);
		waitpid(pid, &status, 0);
		log_peer(LOG_ERR, "%s: not done within %d s: killed", program,
			 PATIENCE_MS / 1000);
		return false;
	}
	if (WIFEXITED(status) && !WEXITSTATUS(status))
		return true;
	log_peer(LOG_WARNING, "%s: ended with %s %d", program,
		 WIFEXITED(status) ? "status" : "signal",
		 WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status));
	return false;
}

bool run_check(const char *line, char *why, size_t why_size)
{
	char *program = strndup(line, strcspn(line, " \t"));
	struct stat st;
	bool ok = program && !stat(program, &st) && !access(program, X_OK);

	if (ok && !S_ISREG(st.st_mode)) {
		errno = EACCES;
		ok = false;
	}
	if (!ok)
		snprintf(why, why_size, "%s: cannot be run: %s",
			 program ? program : line, strerror(errno));
	free(program);
	return ok;
}

bool run_command(const char *line, const char *path, const char *export_name,
		 const char *address)
{
	char *copy = strdup(line), *save = NULL, *word, *argv[WORDS + 1];
	char export_var[300], address_var[100];
	char path_var[] = "PATH=/usr/sbin:/usr/bin:/sbin:/bin";
	char *env[] = { path_var, export_var,
			address_var, NULL };
	posix_spawn_file_actions_t files;
	posix_spawnattr_t attr;
	sigset_t none, all;
	int n = 0, err = 0;
	bool ok = false;
	pid_t pid;

	for (word = copy ? strtok_r(copy, " \t", &save) : NULL;
	     word && n < WORDS && !err; word = strtok_r(NULL, " \t", &save)) {
		argv[n] = fill_in(word, path);
		if (argv[n])
			n++;
		else
			err = ENOMEM;
	}
	argv[n] = NULL;
	snprintf(export_var, sizeof(export_var), "NBD_EXPORT=%s", export_name);
	snprintf(address_var, sizeof(address_var), "NBD_ADDRESS=%s", address);
	if (n && !err) {
		/* Our threads block all signals, and ignore SIGPIPE. */
		posix_spawnattr_init(&attr);
		sigemptyset(&none);
		sigfillset(&all);
		posix_spawnattr_setsigmask(&attr, &none);
		posix_spawnattr_setsigdefault(&attr, &all);
		posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK |
					 POSIX_SPAWN_SETSIGDEF);
		/* Ours may be a client's connection. */
		posix_spawn_file_actions_init(&files);
		err = posix_spawn_file_actions_addopen(&files, STDIN_FILENO,
						       "/dev/null", O_RDONLY, 0);
		if (!err)
			err = posix_spawn_file_actions_addopen(&files,
					STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
		if (!err)
			err = posix_spawn(&pid, argv[0], &files, &attr, argv,
					  env);
		posix_spawn_file_actions_destroy(&files);
		posix_spawnattr_destroy(&attr);
		if (!err)
			ok = wait_for(pid, argv[0]);
	}
	if (err)
		log_peer(LOG_ERR, "%s: cannot be run: %s", n ? argv[0] : line,
			 strerror(err));
	while (n)
		free(argv[--n]);
	free(copy);
	return ok;
}
