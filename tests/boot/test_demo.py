# SPDX-License-Identifier: GPL-2.0
"""make demo, as a person and as a machine would run it."""
import os
import pty
import re
import select
import signal
import subprocess
import termios
import time
from pathlib import Path

import pytest
from harness.kernel import BUILD, TOP
from harness.patience import deadline, granted, until

pytestmark = pytest.mark.skipif(not (TOP / "server/nbd-server").exists(),
                                reason="make demo needs what make builds")


def left_behind(pid):
    """Command lines of processes, and files, of the demo that had this pid."""
    mark = str(BUILD / f"demo-{pid}").encode()
    found = []
    for cmdline in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = cmdline.read_bytes()
        except OSError:
            continue
        if mark in text:
            found.append(text.replace(b"\0", b" ").decode())
    return found


def wait_until_gone(pid):
    until(lambda: not left_behind(pid), what=lambda: left_behind(pid), every=0.1)


def test_without_a_terminal(kernel):
    """Prints the console and one line that sums it up; ends with 0."""
    done = subprocess.run(["make", "demo", f"KVER={kernel.kver}"], cwd=TOP, stdin=subprocess.DEVNULL,
                          env=dict(os.environ, DEMO_SECONDS=str(granted(175))),
                          capture_output=True, text=True, timeout=granted(400))
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr
    assert "iPXE" in done.stdout and "this station has reached its root" in done.stdout
    last = done.stdout.strip().splitlines()[-1]
    assert re.match(rf"demo: OK: {re.escape(kernel.kver)} .*root on /dev/nb0 after \d+ s", last), last
    assert not list(BUILD.glob("demo-*"))


class Person:
    """Someone at a terminal."""

    def __init__(self, *argv):
        self.master, terminal = pty.openpty()
        self.before = termios.tcgetattr(terminal)
        self.terminal = terminal
        self.process = subprocess.Popen(argv, cwd=TOP, stdin=terminal, stdout=terminal,
                                        stderr=terminal, start_new_session=True)
        self.screen = b""
        self.seen = 0

    def looks(self, seconds):
        """At what comes within so many seconds."""
        if select.select([self.master], [], [], seconds)[0]:
            self.screen += os.read(self.master, 65536)

    def sees(self, *patterns, seconds=180):
        """All of them, in whatever order they come; then goes on behind the last."""
        end = deadline(seconds)
        while True:
            found = [re.search(pattern.encode(), self.screen[self.seen:]) for pattern in patterns]
            if all(found):
                self.seen += max(match.end() for match in found)
                return
            assert time.monotonic() < end, f"no {patterns} in: {self.screen[-3000:].decode(errors='replace')}"
            self.looks(1)

    def types(self, text):
        os.write(self.master, text.encode())

    def wait(self):
        """Its status, once it has ended. Looks on: a terminal takes only so much
        that nobody reads."""
        end = deadline(20)
        while self.process.poll() is None and time.monotonic() < end:
            self.looks(0.1)
        return self.process.wait(0)

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.master)
        os.close(self.terminal)


@pytest.fixture
def person(kernel):
    person = Person("tools/demo.py", "--kver", kernel.kver)
    yield person
    person.close()


def test_on_a_terminal(person):
    """The shell is the person's; the server comes back and so does the root;
    Ctrl-C belongs to the station; the terminal is as it was."""
    person.sees("This is a diskless station")
    person.types("findmnt /\r")
    person.sees(r"/ +/dev/nb0 +ext4")
    person.types("echo it sle''eps; sleep 1000\r")
    person.sees("it sleeps")
    time.sleep(1)
    person.types("\x03")
    person.sees(r"station:\S*# ")

    assert subprocess.run(["tools/demo.py", "--restart-server"], cwd=TOP, stdout=subprocess.DEVNULL).returncode == 0
    person.sees("the server is killed")
    person.types("echo written $((6*7)) >/root/x; sync; cat /root/x\r")
    person.sees("the server is back", "written 42")
    person.sees(r"station:\S*# ")

    person.types("poweroff\r")
    person.sees("demo: the station is off")
    assert person.wait() == 0
    assert termios.tcgetattr(person.terminal) == person.before
    wait_until_gone(person.process.pid)


@pytest.mark.parametrize("how", ["ctrl-a x", "SIGTERM", "SIGKILL"])
def test_nothing_stays_behind(person, how):
    person.sees("iPXE")
    assert left_behind(person.process.pid), "the check sees nothing even while the demo runs"
    if how == "ctrl-a x":
        person.types("\x01x")
        person.sees("the plug is pulled")
    else:
        person.process.send_signal(getattr(signal, how))
    person.wait()
    wait_until_gone(person.process.pid)
    if how != "SIGKILL":
        assert termios.tcgetattr(person.terminal) == person.before
        assert not (BUILD / f"demo-{person.process.pid}").exists()
