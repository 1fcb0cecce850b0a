# SPDX-License-Identifier: GPL-2.0
"""Takeover with our real nbd-server: the station comes back while a worker of the
server still has a write of the lost connection in its hands."""
import os
import re

import pytest

from harness.patience import until
from test_verify import WiredRig
from wired import CALLING, FIRST, TwoWires, attach, disk, guest_image, needs_a_wire, slow_disk, wait_file

pytestmark = [pytest.mark.long, needs_a_wire]

TRACE = "/sys/kernel/tracing"


@pytest.fixture(scope="module")
def the_wire():
    with TwoWires() as wire:
        yield wire


@pytest.fixture(scope="module")
def module_rig(the_wire, rig_kernel, tmp_path_factory):
    image = guest_image(rig_kernel, tmp_path_factory.mktemp("takeover"), "stall.c")
    with WiredRig(the_wire, rig_kernel, initramfs=image, root=None, mem=512, append="quiet") as rig_:
        yield rig_.boot()


def write(what, more=""):
    return f"dd if=/tmp/{what} of=/dev/nb0 bs=4k count=1 oflag=direct 2>/dev/null {more}"


@pytest.mark.parametrize("lost_by", ["the cable", "silence"])
def test_a_write_in_the_hands_of_our_server(request, rig, the_wire, tmp_path, lost_by):
    """Written A, the link lost while the disk has A in hand; back on a new connection:
    the server does not answer before the disk has let go of A, and so B, which is
    written next, is what stays there."""
    gate = tmp_path / "gate"
    image = disk(tmp_path / "disk")
    with the_wire.server(image, env=slow_disk(tmp_path, gate=gate)) as server:
        request.node.watched.append(("nbd-server", server))
        rig.run(f"mount -t tracefs tracefs {TRACE} 2>/dev/null; echo >{TRACE}/trace; "
                f"echo 1 >{TRACE}/events/nb/nb_takeover/enable; "
                "rm -f /tmp/done; for c in A B; do yes $c | tr -d '\\n' | head -c 4096 >/tmp/$c; done")
        attach(rig, FIRST, more="timeout=2 hold=600 station=pc-7 boot=b00t")
        assert rig.sysfs("session").split()[3] == "1"
        gate.touch()
        rig.send(write("A", "&& echo yes >/tmp/done &\n"))
        wait_file(tmp_path / "gate.held")
        if lost_by == "the cable":
            rig.unplug_cable()
        else:
            the_wire.silence(FIRST)
        rig.wait_state("recovering")
        rig.until(CALLING)      # so its farewell to the old connection is lost, too
        rig.plug_cable()
        the_wire.unsilence()
        # The new connection was not answered, until the station gave it up: not live,
        # and B's turn has not come. (The old one was fenced by it, or had been reset
        # when it asked the station whether that is still there.)
        def given_up():
            assert rig.sysfs("state") == "recovering"
            return re.search(r":\d+: connection lost$", server.log(), re.M)
        until(given_up, 60, server.log_tail)
        assert not rig.run("ls /tmp/done 2>/dev/null", check=False)[0]
        assert image.read_bytes()[:1] == b"\0"
        os.unlink(gate)
        rig.run("wait; cat /tmp/done", 90)
        rig.run(write("B"))
        assert rig.run("dd if=/dev/nb0 bs=4k count=1 iflag=direct 2>/dev/null | head -c 1") == "B"
        assert image.read_bytes()[:4096] == b"B" * 4096
        generation = int(rig.sysfs("session").split()[3])
        assert generation >= 2
        said = rig.run(f"cat {TRACE}/trace")
        assert f"nb_takeover: nb0 server={FIRST}:10809 generation={generation}" in said
        assert "held back" not in rig.dmesg()
        rig.run(f"echo 0 >{TRACE}/events/nb/nb_takeover/enable")
        rig.detach()
