// SPDX-License-Identifier: GPL-2.0
/*
 * fake_control.c - stands in for control_command() in the client's test
 * builds (ld --wrap): the command and a newline go to the test over a Unix
 * socket, which answers "ERRNO TEXT". Without that socket the real one is
 * called.
 */
#include "sys.h"
#include <sys/un.h>
#include "control.h"
#include "paths.h"

int __real_control_command(const char *line, char *answer);
int __wrap_control_command(const char *line, char *answer);

int __wrap_control_command(const char *line, char *answer)
{
	struct sockaddr_un sun = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	size_t len = 0;
	ssize_t n;
	char *text;
	int error;

	strcpy(sun.sun_path, NB_ROOT "/driver");
	if (connect(fd, (struct sockaddr *)&sun, sizeof(sun)) < 0) {
		close(fd);
		return __real_control_command(line, answer);
	}
	if (write(fd, line, strlen(line)) < 0 || write(fd, "\n", 1) < 0)
		abort();
	while (len < CONTROL_ANSWER - 1 &&
	       (n = read(fd, answer + len, CONTROL_ANSWER - 1 - len)) > 0)
		len += (size_t)n;
	close(fd);
	answer[len] = '\0';
	error = (int)strtol(answer, &text, 10);
	memmove(answer, text + (*text == ' '), strlen(text) + 1);
	return error;
}
