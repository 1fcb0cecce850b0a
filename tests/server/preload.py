# SPDX-License-Identifier: GPL-2.0
"""Calls to the system that take as long as a test wants."""
import subprocess

from harness.patience import until

# fdatasync(2), and open(2) of a file whose name ends with "-slow", tell that they
# are called, and then take as long as they are made to. exit(3) lets them go on
# and waits a while: what other threads then do is seen.
SLOW_DISK = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static int touch(const char *name)
{
	return close(syscall(SYS_openat, AT_FDCWD, getenv(name), O_WRONLY | O_CREAT, 0600));
}

static void wait_at_the_gate(void)
{
	touch("DISK_REACHED");
	while (access(getenv("DISK_OPEN"), F_OK))
		usleep(20000);
}

int fdatasync(int fd)
{
	wait_at_the_gate();
	return (int)syscall(SYS_fdatasync, fd);
}

int open(const char *path, int flags, ...)
{
	size_t len = strlen(path);
	va_list ap;
	int mode;

	va_start(ap, flags);
	mode = va_arg(ap, int);
	va_end(ap);
	if (len > 5 && !strcmp(path + len - 5, "-slow"))
		wait_at_the_gate();
	return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

static __attribute__((destructor)) void linger(void)
{
	if (!getenv("DISK_LINGERS"))
		return;
	touch("DISK_OPEN");
	usleep(1000000);
}
"""


def preload(folder, code):
    """The environment of a server some of whose calls to the system are `code`'s."""
    source, library = folder / "preload.c", folder / "preload.so"
    source.write_text(code)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    return {"LD_PRELOAD": str(library),
            "ASAN_OPTIONS": "detect_leaks=1:abort_on_error=0:exitcode=99:verify_asan_link_order=0"}


class SlowDisk:
    """`env` of a server whose disk is done when it is let, by open()."""

    def __init__(self, folder):
        self.way, self.mark = folder / "disk.open", folder / "disk.reached"
        self.env = {**preload(folder, SLOW_DISK), "DISK_REACHED": str(self.mark), "DISK_OPEN": str(self.way)}

    def reached(self):
        until(self.mark.exists)

    def open(self):
        self.way.touch()

    def shut(self):
        self.way.unlink()
        self.mark.unlink(missing_ok=True)
