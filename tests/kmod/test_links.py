# SPDX-License-Identifier: GPL-2.0
"""A link that comes up and a machine that resumes: a server that could not be reached
is tried at once, and not at the end of a back-off that has grown to its longest. So
each is made to happen when that has only just begun."""
import time

import pytest

from test_suspend import wait_asleep
from test_verify import WiredRig
from wired import FIRST, Clocks, TwoWires, attach, disk, guest_image, longest_backoff, needs_a_wire

pytestmark = [pytest.mark.long, needs_a_wire]

TRIES = 3
AT_ONCE = 2       # s


@pytest.fixture(scope="module")
def the_wire():
    with TwoWires() as wire:
        yield wire


@pytest.fixture(scope="module")
def module_rig(the_wire, rig_kernel, tmp_path_factory):
    image = guest_image(rig_kernel, tmp_path_factory.mktemp("links"), "stall.c")
    with WiredRig(the_wire, rig_kernel, initramfs=image, root=None, mem=512, append="quiet") as rig_:
        yield rig_.boot()


@pytest.fixture
def server(request, the_wire, tmp_path, rig):
    with the_wire.server(disk(tmp_path / "disk")) as server_:
        request.node.watched.append(("nbd-server", server_))
        yield server_
        the_wire.unsilence()
        rig.ctl("detach dev=nb0 force=1")


def leave_a_request(rig):
    """A READ that nobody waits for, so that the loss of its server is noticed and
    nothing keeps the machine awake. (The device stays open.)"""
    rig.run("exec 5</dev/nb0; dd if=/dev/nb0 of=/dev/null bs=4k count=1 skip=1000 2>/dev/null & sleep 1; kill -9 $!; "
            "! wait $!; echo 3 >/proc/sys/vm/drop_caches")
    rig.wait_state("recovering")


def best_of(what, try_once):
    """The first that is at once will do."""
    tries = []
    for _ in range(TRIES):
        tries.append(try_once())
        if tries[-1] < AT_ONCE:
            break
    print(f"live after {what}: " + ", ".join(f"{t:.2f}" for t in tries) + " s")
    assert min(tries) < AT_ONCE


def test_a_link_that_comes_up_is_used_at_once(rig, server):
    """The cable was out: an attempt has failed just now, and the next one's turn would
    be 7.5 seconds later at the earliest."""
    attach(rig, FIRST, more="timeout=2")
    clocks = Clocks(rig)

    def try_once():
        rig.unplug_cable()
        leave_a_request(rig)
        longest_backoff(rig)
        back = time.monotonic()
        rig.plug_cable()
        live = float(rig.run("until grep -qx live /sys/block/nb0/nb/state; do :; done; stall clock", 60))
        rig.run("exec 5<&-")
        return live - clocks.guest(back)
    best_of("the link", try_once)


def test_a_machine_that_resumes_tries_at_once(rig, server, the_wire):
    """Its server was out of reach, and within reach again while the machine slept. (The
    card's link comes up again, too, a moment later: that alone does it in a second.)"""
    attach(rig, FIRST, more="timeout=2")
    rig.run("echo deep >/sys/power/mem_sleep")

    def try_once():
        the_wire.silence(FIRST)
        leave_a_request(rig)
        longest_backoff(rig)
        rig.send("echo mem >/sys/power/state; a=$(stall clock); until grep -qx live /sys/block/nb0/nb/state; "
                 "do :; done; echo LI''VE $a $(stall clock) END\n")
        wait_asleep(rig)
        the_wire.unsilence()
        rig.qmp("system_wakeup")
        said = rig.expect(r"LIVE (\S+) (\S+) END", 240)
        rig.run("exec 5<&-")
        return float(said[2]) - float(said[1])
    best_of("the resumption", try_once)


def test_a_machine_that_only_froze_tries_at_once(rig, server, the_wire):
    """No device slept, so no link comes up: the end of the sleep itself says so. (The
    kernel's own test of the freezer, which thaws after 5 seconds.)"""
    attach(rig, FIRST, more="timeout=2")
    rig.run("echo freezer >/sys/power/pm_test")

    def try_once():
        the_wire.silence(FIRST)
        leave_a_request(rig)
        longest_backoff(rig)
        rig.send("echo FRO''ZEN; echo mem >/sys/power/state; a=$(stall clock); "
                 "until grep -qx live /sys/block/nb0/nb/state; do :; done; echo LI''VE $a $(stall clock) END\n")
        rig.expect("FROZEN")
        the_wire.unsilence()
        said = rig.expect(r"LIVE (\S+) (\S+) END", 240)
        rig.run("exec 5<&-")
        return float(said[2]) - float(said[1])
    try:
        best_of("the thaw", try_once)
    finally:
        rig.run("echo none >/sys/power/pm_test")
