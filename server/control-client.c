// SPDX-License-Identifier: GPL-2.0
/*
 * control-client.c - nbd-server status, top, reload, drain: ask the server that
 * runs, by its control socket, and show the answer.
 */
#define _GNU_SOURCE
#include "control.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "log.h"

static const char *const verbs[] = { "status", "top", "reload", "drain" };

bool control_is_verb(const char *word)
{
	size_t i;

	for (i = 0; i < sizeof(verbs) / sizeof(verbs[0]); i++)
		if (!strcmp(word, verbs[i]))
			return true;
	return false;
}

static int connect_to(const char *path)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int fd, err;

	if (strlen(path) >= sizeof(a.sun_path)) {
		log_msg(LOG_ERR, "%s: too long for a socket's name", path);
		return -1;
	}
	strcpy(a.sun_path, path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd >= 0 && !connect(fd, (struct sockaddr *)&a, sizeof(a)))
		return fd;
	err = errno;
	log_msg(LOG_ERR, "%s: %s%s", path, strerror(err),
		err == EACCES ? "; it answers root and the server's user only" :
		err == ENOENT || err == ECONNREFUSED ?
		"; no server answers there: is it running, with controlsock = in its configuration? --socket=PATH names another" : "");
	if (fd >= 0)
		close(fd);
	return -1;
}

/* Copy the answer to standard output. @begins: its first bytes. */
static bool copy_answer(int fd, bool pages, char *begins, size_t size)
{
	const bool terminal = isatty(STDOUT_FILENO);
	char buf[4096];
	size_t have = 0;
	ssize_t n, i;

	while ((n = read(fd, buf, sizeof(buf))) > 0 ||
	       (n < 0 && errno == EINTR)) {
		for (i = 0; i < n; i++) {
			if (have + 1 < size)
				begins[have++] = buf[i];
			if (pages && buf[i] == '\f')
				/* A page is whole: show it, and begin above. */
				fputs(terminal ? "\033[J\033[H" : "\n", stdout);
			else if (pages && terminal && buf[i] == '\n')
				fputs("\033[K\n", stdout);
			else
				putchar(buf[i]);
		}
		if (fflush(stdout))
			return false;
	}
	begins[have] = '\0';
	/* Reset after an answer that is whole: turned away. */
	return n == 0 || !strncmp(begins, "{\"ok\":false", 11);
}

int control_client(int argc, char **argv)
{
	const char *path = CONTROL_SOCKET, *verb = argv[0], *command = verb;
	char begins[32], line[32];
	bool json = false, top;
	int fd, i, len;

	for (i = 1; i < argc; i++) {
		if (!strncmp(argv[i], "--socket=", 9) && argv[i][9]) {
			path = argv[i] + 9;
		} else if (!strcmp(argv[i], "--json") && !strcmp(verb, "status")) {
			json = true;
		} else {
			log_msg(LOG_ERR, "%s: \"%s\" is not an option of it; write: nbd-server %s [--socket=PATH]%s",
				verb, argv[i], verb,
				!strcmp(verb, "status") ? " [--json]" : "");
			return 1;
		}
	}
	top = !strcmp(verb, "top");
	if (!strcmp(verb, "status") && !json)
		command = "table";
	fd = connect_to(path);
	if (fd < 0)
		return 1;
	len = snprintf(line, sizeof(line), "%s\n", command);
	/* Who is turned away at once is told so. */
	if (send(fd, line, (size_t)len, MSG_NOSIGNAL) != len && errno != EPIPE) {
		log_msg(LOG_ERR, "%s: %s", path, strerror(errno));
		close(fd);
		return 1;
	}
	if (top && isatty(STDOUT_FILENO))
		fputs("\033[2J\033[H", stdout);
	if (!copy_answer(fd, top, begins, sizeof(begins))) {
		log_msg(LOG_ERR, "%s: the answer ends too early", path);
		close(fd);
		return 1;
	}
	close(fd);
	if (!*begins) {
		log_msg(LOG_ERR, "%s: the server did not answer; it may be stopping", path);
		return 1;
	}
	return !strncmp(begins, "{\"ok\":false", 11);
}
