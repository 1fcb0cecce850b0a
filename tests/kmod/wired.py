# SPDX-License-Identifier: GPL-2.0
"""A station on a wire of its own, with two servers' addresses at the other end,
each of which can be made silent; and what a program in the station waits for.

There are no NATs and proxies on that wire, as QEMU's own network is one: a reset is a
reset, and a packet that is dropped is missed by both ends.
"""
import contextlib
import ctypes
import os
import shutil
import subprocess
import threading
import time

import pytest

from conftest import HERE
from harness.guest import make_initramfs, put_program
from harness.patience import until
from harness.process import DIE_WITH_PARENT
from harness.server import Server
from test_verify import Wire

FIRST, SECOND = "10.0.2.2", "10.0.2.3"
PORT = 10809

needs_a_wire = pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("nft"), reason="needs root and nftables")

_libc = ctypes.CDLL(None, use_errno=True)


def _enter(fd):
    if _libc.setns(fd, 0):
        raise OSError(ctypes.get_errno(), "setns")


class TwoWires(Wire):
    def __enter__(self):
        super().__enter__()
        self.sh(f"ip addr add {SECOND}/24 dev tap0")
        return self

    def silence(self, address):
        """Not a packet comes from there, or gets there."""
        self.sh(f"nft 'table inet one {{ chain in {{ type filter hook input priority 0; ip daddr {address} drop; }}; "
                f"chain out {{ type filter hook output priority 0; ip saddr {address} drop; }}; }}'")

    def unsilence(self):
        self.sh("nft delete table inet one 2>/dev/null || :")

    @contextlib.contextmanager
    def inside(self):
        """This thread's new sockets are at the other end of the wire."""
        with open("/proc/thread-self/ns/net", encoding="ascii") as home, \
                open(f"/run/netns/{self.name}", encoding="ascii") as there:
            _enter(there.fileno())
            try:
                yield
            finally:
                _enter(home.fileno())

    def server(self, image, host=FIRST, port=PORT, **kwargs):
        return Server(image, host=host, port=port, wrap=self.enter + DIE_WITH_PARENT, **kwargs)


def attach(rig, *addresses, more=""):
    words = " ".join(f"server={a}:{PORT}" for a in addresses)
    ok, answer = rig.ctl(f"attach dev=nb0 {words} {more}".strip())
    assert ok, answer


def disk(path, size=16 << 20):
    path.touch()
    os.truncate(path, size)
    return path


def compiled(source, out, *options):
    subprocess.run(["gcc", "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", *options, "-o", out, HERE / source],
                   check=True)
    return out


def slow_disk(tmp, **how):
    """Environment of an nbd-server that has slowdisk.c between itself and its disk."""
    library = compiled("slowdisk.c", tmp / "slowdisk.so", "-shared", "-fPIC")
    return dict({f"SLOWDISK_{name.upper()}": str(value) for name, value in how.items()}, LD_PRELOAD=str(library),
                ASAN_OPTIONS="verify_asan_link_order=0:detect_leaks=0:exitcode=99")


def guest_image(kernel, tmp, *programs):
    """The rig's initramfs, with those in it: ours (NAME.c), or this machine's."""
    extra = tmp / "extra"
    shutil.copytree(HERE / "rig", extra)
    for program in programs:
        path = compiled(program, tmp / program[:-2]) if program.endswith(".c") else shutil.which(program)
        assert path, f"{program} is missing"
        put_program(extra, path)
    return make_initramfs(kernel, extra, tmp / "rig.img")


def start_and_note(server):
    """Start a real server; when it listened, by this machine's clock."""
    said, found = server.log().count("listening on "), []

    def watch():
        while not found:
            before = time.monotonic()
            if server.log().count("listening on ") > said:
                found.append(before)
            time.sleep(0.002)
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        server.start()
    except Exception:
        found.append(0)
        raise
    thread.join()
    return found[0]


class Clocks:
    """What the station's clock says at a moment of ours. Both count the same seconds,
    and by the quickest of several looks (how much they are apart is not known more
    exactly than that takes, .error)."""

    def __init__(self, rig):
        self.ahead, self.error = 0, 1e9
        for _ in range(12):
            before = time.monotonic()
            guest = float(rig.run("stall clock"))
            took = time.monotonic() - before
            if took < self.error:
                self.ahead, self.error = guest - (before + took / 2), took / 2

    def guest(self, here):
        return here + self.ahead


def count(rig, what):
    """Reads or writes that nb0 has done."""
    return int(rig.run("cat /sys/block/nb0/stat").split()[{"r": 0, "w": 4}[what]])


def wait_more(rig, what, more=20, unless="false"):
    """Until nb0 has done some more of them; or not, when that is so."""
    aim = count(rig, what) + more
    column = {"r": 1, "w": 5}[what]
    rig.until(f"{{ {unless} || [ $(awk '{{ print ${column} }}' /sys/block/nb0/stat) -ge {aim} ]; }}", 120)


def start_stall(rig, what):
    rig.run("rm -f /tmp/stop /tmp/stalls")
    rig.send(f"stall {what} /dev/nb0 >/tmp/stalls 2>&1 &\n")
    rig.wait_opened()
    wait_more(rig, what)


def stalls(rig):
    """All that it had to wait for long: [(begin, end)], by the station's clock."""
    said = rig.run("touch /tmp/stop; wait; cat /tmp/stalls", 120).splitlines()
    assert said[-1].startswith("all "), said
    return [tuple(map(float, line.split())) for line in said[:-1]]


def the_stall(rig, moment):
    """The one that was going on at that moment of the station's clock, or began at once.
    (A small one may follow. One that ends at once may seem to have ended before, as the
    clocks drift apart by some milliseconds a minute.)"""
    all_of_them = stalls(rig)
    found = [s for s in all_of_them if s[0] - 0.5 <= moment <= s[1] + 0.1]
    assert found, f"{moment}: {all_of_them}"
    return max(found, key=lambda s: s[1] - s[0])


def longest(rig):
    begin, end = max(stalls(rig), key=lambda s: s[1] - s[0], default=(0, 0))
    return end - begin


# Is the station calling a server that does not answer yet?
CALLING = "grep -q ' 02 ' /proc/net/tcp"


def longest_backoff(rig, tries=8):
    """Wait until the station has just given up a server that does not answer for the
    `tries`th time since it lost it: turns.c waits 0.1, 0.2, 0.4 .. 10 s after each. So
    its next try is 7.5 s away, at least."""
    rig.run(f"i=0; while [ $i -lt {tries} ]; do until {CALLING}; do sleep 0.02; done; "
            f"while {CALLING}; do sleep 0.02; done; i=$((i+1)); done", 180)
    assert rig.sysfs("state") == "recovering"


def median(values):
    return sorted(values)[len(values) // 2]


def kept(what, tries, promise, loosely):
    """A promise in seconds is kept by the best of them, and the worst is no scandal.
    A debug kernel gets a second more: it takes that to negotiate."""
    promise += bool(os.environ.get("NB_DEBUG_KERNEL"))
    print(f"{what}: best {min(tries):.2f}, median {median(tries):.2f}, worst {max(tries):.2f} s of {len(tries)}")
    assert min(tries) <= promise, (what, tries)
    assert max(tries) <= loosely, (what, tries)


def wait_file(path):
    until(path.exists, 60, f"no {path}")
