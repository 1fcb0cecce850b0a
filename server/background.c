// SPDX-License-Identifier: GPL-2.0
/*
 * Into the background.
 */

#define _GNU_SOURCE
#include "background.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "log.h"

int background_fork(void)
{
	int pipes[2], status;
	char word;
	pid_t pid;

	if (pipe2(pipes, O_CLOEXEC) < 0 || (pid = fork()) < 0) {
		log_msg(LOG_ERR, "cannot go to the background: %s; -n stays in the foreground",
			strerror(errno));
		exit(1);
	}
	if (!pid) {
		close(pipes[0]);
		setsid();
		return pipes[1];
	}
	close(pipes[1]);
	if (read(pipes[0], &word, 1) == 1)
		_exit(0);
	/* It ended without a word on the pipe, but with one on stderr. */
	if (waitpid(pid, &status, 0) == pid && WIFEXITED(status) &&
	    WEXITSTATUS(status))
		_exit(WEXITSTATUS(status));
	_exit(1);
}

bool background_detach(int tell)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	if (null < 0 || chdir("/")) {
		log_msg(LOG_ERR, "cannot go to the background: %s",
			strerror(errno));
		return false;
	}
	log_to_syslog();
	dup2(null, STDIN_FILENO);
	dup2(null, STDOUT_FILENO);
	dup2(null, STDERR_FILENO);
	close(null);
	/* A parent that was killed meanwhile is no reason to stop. */
	if (write(tell, "", 1) < 0)
		log_msg(LOG_NOTICE, "the process that started this is gone");
	close(tell);
	return true;
}
