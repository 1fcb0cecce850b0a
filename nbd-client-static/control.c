// SPDX-License-Identifier: GPL-2.0
/*
 * control.c - talking to the driver: see control.h.
 */
#include "sys.h"
#include "control.h"
#include "paths.h"
#include "text.h"

/* How long after modprobe the device node may take to appear. */
#define NODE_MS 3000

/* Append a value as the driver reads it: odd bytes as \ooo. */
static bool append_value(char *line, const char *value)
{
	bool fits = true;

	for (; *value && fits; value++) {
		unsigned char c = (unsigned char)*value;

		fits = append(line, CONTROL_LINE + 1,
			      c <= ' ' || c == '\\' || c >= 0x7f ?
			      "\\%03o" : "%c", c);
	}
	return fits;
}

bool control_attach_line(char *line, const char *device,
			 const struct address *servers, unsigned int count,
			 const char *const option[OPTIONS], const char *boot,
			 const char *export)
{
	char server[ADDRESS_TEXT];
	unsigned int i;

	put(line, CONTROL_LINE + 1, "attach dev=%s", device);
	for (i = 0; i < count; i++) {
		address_format(&servers[i], server);
		append(line, CONTROL_LINE + 1, " server=");
		append_value(line, server);
	}
	for (i = 0; i < DRIVER_OPTIONS; i++) {
		const char *value = option[i];

		/* The first attach is retried here; after it the driver
		 * never gives up, unless it is told to.
		 */
		if (i == OPT_LOST && !value)
			value = "wait";
		if (value && (i != OPT_RO || *value == '1'))
			append(line, CONTROL_LINE + 1, " %s=%s",
			       option_keys[i], value);
	}
	if (boot && *boot)
		append(line, CONTROL_LINE + 1, " boot=%s", boot);
	return append(line, CONTROL_LINE + 1, " export=") &&
	       append_value(line, export);
}

bool control_knows(const char *key, bool unsure)
{
	char help[1024], word[16];

	put(word, sizeof(word), "%s=", key);
	return read_file(CONTROL_PATH, help, sizeof(help)) <= 0 ? unsure :
	       contains(help, word);
}

int control_command(const char *line, char *answer)
{
	int fd = open(CONTROL_PATH, O_RDWR | O_CLOEXEC);
	size_t len = 0;
	int error = 0;
	ssize_t n;

	answer[0] = '\0';
	if (fd < 0) {
		append(answer, CONTROL_ANSWER, CONTROL_PATH ": %s%s",
		       errno == ENOENT ? "the driver nb is not loaded, so there is nothing to detach" :
		       error_text(errno),
		       errno == EACCES ? "; only root may use it" : "");
		return -1;
	}
	if (write(fd, line, strlen(line)) < 0)
		error = errno;
	while (len < CONTROL_ANSWER - 1 &&
	       (n = read(fd, answer + len, CONTROL_ANSWER - 1 - len)) > 0)
		len += (size_t)n;
	close(fd);
	answer[len] = '\0';
	answer[strcspn(answer, "\n")] = '\0';
	if (error && !answer[0])
		append(answer, CONTROL_ANSWER, "%s", error_text(error));
	return error;
}

/* Run modprobe; its own words go to our stderr. -1: there is none. */
static int run_modprobe(const char *module)
{
	static const char *const paths[] = {
		"/sbin/modprobe", "/usr/sbin/modprobe", "/bin/modprobe",
	};
	char name[] = "modprobe", word[8];
	char *argv[] = { name, word, NULL };
	size_t i;
	int status;
	pid_t pid;

	for (i = 0; i < ARRAY_SIZE(paths); i++)
		if (!access(paths[i], X_OK))
			break;
	if (i == ARRAY_SIZE(paths))
		return -1;
	put(word, sizeof(word), "%s", module);
	pid = fork();
	if (pid < 0)
		return 1;
	if (!pid) {
		execve(paths[i], argv, environ);
		_exit(127);
	}
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return 1;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

static bool node_exists(void)
{
	return !access(CONTROL_PATH, F_OK);
}

int module_ready(const char *module)
{
	char path[64];

	put(path, sizeof(path), SYSMODULE_PATH "/%s", module);
	return access(path, F_OK) ? run_modprobe(module) : 0;
}

bool control_ready(char *why, size_t size)
{
	unsigned long long end;
	struct utsname u;
	int status;

	why[0] = '\0';
	if (node_exists())
		return true;
	status = module_ready("nb");
	if (!status) {
		end = clock_ms() + NODE_MS;
		do {
			if (node_exists())
				return true;
			sleep_ms(50);
		} while (clock_ms() < end);
		append(why, size, "the driver nb is loaded, but there is no " CONTROL_PATH "; is devtmpfs mounted on /dev?");
		return false;
	}
	uname(&u);
	if (status < 0)
		append(why, size, "the driver nb is not loaded and there is no modprobe here; load nb.ko with insmod");
	else
		append(why, size, "the driver nb for kernel %s does not load (modprobe: status %u): build it for that kernel, install it, run depmod, and make the initramfs anew; or see dmesg (Secure Boot refuses unsigned modules)",
		       u.release, (unsigned int)status);
	return false;
}

bool device_fact(const char *device, const char *name, char *buf, size_t size)
{
	char path[128];

	put(path, sizeof(path), SYSBLOCK_PATH "/%s/%s", device, name);
	return read_line(path, buf, size) >= 0;
}
