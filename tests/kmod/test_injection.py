# SPDX-License-Identifier: GPL-2.0
"""Allocations that fail on the driver's way, and nowhere else in the station: an
attach may say so; I/O and recovery must go on as if nothing were. Needs the
debug kernel's failslab and fail_page_alloc (make check-debug)."""
import os
import re
import time

import pytest

from conftest import at
from test_recovery import fill, read_all

pytestmark = [pytest.mark.long, pytest.mark.skipif(
    not os.environ.get("NB_DEBUG_KERNEL"), reason="needs the debug kernel: make check-debug")]

DEBUGFS = "/sys/kernel/debug"


class Injection:
    """with Injection(rig, "failslab", percent): those allocations of the driver,
    or of what it has called, fail that often, sleeping ones too."""

    def __init__(self, rig, kind, percent):
        self.rig, self.kind, self.percent = rig, kind, percent

    def set(self, **values):
        self.rig.run(f"cd {DEBUGFS}/{self.kind} && " + " && ".join(
            f"echo {value} >{name.replace('_', '-')}" for name, value in values.items()) + "; cd /")

    def __enter__(self):
        rig = self.rig
        rig.run(f"[ -d {DEBUGFS}/failslab ] || mount -t debugfs debugfs {DEBUGFS}")
        start = int(rig.run("cat /sys/module/nb/sections/.text"), 16)
        size = int(rig.run("cat /sys/module/nb/coresize"))
        self.set(require_start=hex(start), require_end=hex(start + size), stacktrace_depth=32,
                 ignore_gfp_wait=0, verbose=1, interval=1, times=-1, probability=self.percent)
        if self.kind == "fail_page_alloc":
            self.set(min_order=0, ignore_gfp_highmem=0)
        return self

    def __exit__(self, *what):
        self.set(probability=0)

    def happened(self):
        """How many allocations have failed in this test."""
        return len(re.findall(f"name {self.kind},", self.rig.dmesg()))


@pytest.mark.parametrize("kind, percent", [("failslab", 1), ("failslab", 5), ("failslab", 30),
                                           ("fail_page_alloc", 10), ("fail_page_alloc", 40)])
def test_an_attach_without_memory_fails_and_says_so(rig, server, kind, percent):
    """Whatever it had built is taken apart again: then it works."""
    failed = []
    with Injection(rig, kind, percent) as injection:
        for _ in range(10):
            ok, answer = rig.ctl(f"attach dev=nb0 server={at(server)} lost=5")
            if not ok:
                failed.append(answer)
                assert "nb0" not in rig.run("ls /sys/block").split()
                continue
            rig.ctl("detach dev=nb0 force=1")
    print(*sorted(set(failed)), sep="\n")
    assert injection.happened()
    # nothing, or a bad address: /dev/nb-control could not be opened, or read; no
    # answer: TCP had no memory for what was to be sent
    assert all(re.search("memory|error 12|Bad address|no answer in time|^$", answer) for answer in failed)
    rig.attach(server)
    read_all(rig, server)


# The sender takes few pages, of which each lasts for many requests.
@pytest.mark.parametrize("kind, percent", [("failslab", 2), ("failslab", 20), ("fail_page_alloc", 20),
                                           ("fail_page_alloc", 60)])
def test_io_goes_on_without_memory(rig, server, kind, percent):
    """Each block written is there, each block read is right, and nobody hears of it."""
    fill(server)
    rig.attach(server)
    rig.run("dd if=/dev/urandom of=/tmp/w bs=1M count=6 2>/dev/null")
    with Injection(rig, kind, percent) as injection:
        rig.run("dd if=/tmp/w of=/dev/nb0 bs=64k oflag=direct conv=fsync 2>&1 && "
                "dd if=/tmp/w of=/dev/nb0 bs=4k count=300 seek=2048 oflag=direct 2>&1 && "
                "dd if=/dev/nb0 of=/tmp/r bs=32k count=192 iflag=direct 2>&1", 180)
        assert injection.happened()
    rig.run("cmp /tmp/w /tmp/r")
    read_all(rig, server)
    assert "i/o error" not in rig.dmesg().lower()
    assert rig.sysfs("state") == "live"


# A connection takes some ten allocations, and must get them all in one try.
@pytest.mark.parametrize("kind, percent", [("failslab", 5), ("fail_page_alloc", 30)])
def test_recovery_goes_on_without_memory(rig, server, kind, percent):
    """It tries until there is some, and what waited is carried out."""
    fill(server)
    rig.attach(server)
    rig.run("dd if=/dev/urandom of=/tmp/w bs=1M count=6 2>/dev/null")
    with Injection(rig, kind, percent) as injection:
        rig.send("(dd if=/dev/nb0 of=/tmp/r bs=64k skip=128 iflag=direct && dd if=/tmp/w of=/dev/nb0 bs=4k oflag=direct) "
                 "2>/dev/null && echo ALL-''DONE &\n")
        for _ in range(4):
            server.die()
            time.sleep(0.5)
            server.listen()
            time.sleep(2)
        rig.expect("ALL-DONE", 180)
        assert injection.happened()
    rig.run("wait")
    rig.wait_state("live")
    read_all(rig, server)
    rig.run("dd if=/dev/nb0 bs=64k count=96 iflag=direct 2>/dev/null | cmp - /tmp/w")
    assert "i/o error" not in rig.dmesg().lower()


def test_a_reply_that_the_block_layer_loses(rig, server):
    """Its own injection: the request times out, and is sent again."""
    fill(server)
    rig.attach(server, more="conns=1")
    rig.run(f"[ -d {DEBUGFS}/failslab ] || mount -t debugfs debugfs {DEBUGFS}")
    rig.run(f"cd {DEBUGFS}/fail_io_timeout && echo 100 >probability && echo 2 >times && cd / && "
            "echo 2000 >/sys/block/nb0/queue/io_timeout && echo 1 >/sys/block/nb0/io-timeout-fail")
    read_all(rig, server)
    rig.run(f"echo 0 >{DEBUGFS}/fail_io_timeout/probability")
    assert len(re.findall("name fail_io_timeout,", rig.dmesg())) == 2
    assert int(rig.sysfs("reconnects")) >= 1 and "i/o error" not in rig.dmesg().lower()
