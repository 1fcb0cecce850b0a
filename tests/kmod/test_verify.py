# SPDX-License-Identifier: GPL-2.0
"""fio writes at random places and reads back what it wrote, by checksum, while
the server is killed again and again: no error, no mismatch."""
import os
import re
import shutil
import subprocess
import time

import pytest

from conftest import Rig
from harness.process import DIE_WITH_PARENT
from harness.server import Server

FIO = ("fio --name=v --filename=/dev/nb0 --direct=1 --ioengine=libaio --iodepth=16 --rw=randwrite --bs=4k "
       "--size=4M --fsync=64 --verify=crc32c --verify_fatal=1 --randrepeat=0")


def start_fio(rig):
    rig.run("rm -f /tmp/stop /tmp/rounds; fio --version")
    rig.send(f"(while [ ! -e /tmp/stop ]; do {FIO} >/tmp/fio.log 2>&1 && echo round >>/tmp/rounds || "
             "{ cp /tmp/fio.log /tmp/fio.bad; break; }; done) &\n")


def fio_is_content(rig):
    """It has written and verified at least once, and never complained."""
    out = rig.run("touch /tmp/stop; wait; cat /tmp/fio.bad 2>/dev/null; wc -l </tmp/rounds", 300)
    assert re.fullmatch(r"[1-9]\d*", out.strip()), out


@pytest.fixture(scope="module")
def module_rig(rig_kernel, fio_image):
    with Rig(rig_kernel, initramfs=fio_image, root=None, mem=1024, append="quiet") as rig_:
        yield rig_.boot()


@pytest.mark.long
@pytest.mark.parametrize("kills", [20, 100])
def test_every_byte_across_many_kills(rig, tmp_path, kills):
    image = tmp_path / "disk"
    image.touch()
    os.truncate(image, 16 << 20)
    with Server(image) as server:
        rig.attach(server)
        start_fio(rig)
        for i in range(kills):
            time.sleep(0.4 + 0.1 * (i % 4))
            server.kill9()
            if i % 3 == 0:
                time.sleep(0.5)
            server.start()
            if i % 3 == 1:      # the others may come before it is back
                rig.wait_state("live")
        fio_is_content(rig)
        assert int(rig.sysfs("reconnects")) >= kills // 3
        assert "i/o error" not in rig.dmesg().lower()
        rig.detach()


class Wire:
    """A station's network in a namespace of its own, where packets can be dropped
    without a word, both ways: its end is 10.0.2.2, as QEMU's own network has it."""
    SILENCE = """table inet silence {
        chain in { type filter hook input priority 0; iifname "tap0" drop; }
        chain out { type filter hook output priority 0; oifname "tap0" drop; }
    }"""

    def __init__(self):
        self.name = f"nb-{os.getpid()}"
        self.enter = ["ip", "netns", "exec", self.name]

    def sh(self, script):
        subprocess.run([*self.enter, "sh", "-ec", script], check=True)

    def cut(self):
        self.sh(f"nft '{self.SILENCE}'")

    def mend(self):
        self.sh("nft delete table inet silence")

    def __enter__(self):
        subprocess.run(["ip", "netns", "add", self.name], check=True)
        self.sh("ip link set lo up; ip tuntap add tap0 mode tap; ip addr add 10.0.2.2/24 dev tap0; ip link set tap0 up")
        return self

    def __exit__(self, *what):
        subprocess.run(["ip", "netns", "del", self.name], check=True)


class WiredRig(Rig):
    def __init__(self, wire, *args, **kwargs):
        super().__init__(*args, net="tap,id=n0,ifname=tap0,script=no,downscript=no", **kwargs)
        self.wire = wire

    def command(self):
        return self.wire.enter + super().command()


@pytest.mark.long
@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("nft"), reason="needs root and nftables")
def test_every_byte_across_silent_links(request, rig_kernel, fio_image, tmp_path):
    """Twenty times nothing comes through for longer than timeout=."""
    image = tmp_path / "disk"
    image.touch()
    os.truncate(image, 16 << 20)
    with Wire() as wire, \
            WiredRig(wire, rig_kernel, initramfs=fio_image, root=None, mem=1024, append="quiet") as rig, \
            Server(image, host="10.0.2.2", port=10809, wrap=wire.enter + DIE_WITH_PARENT) as server:
        request.node.watched = [("station", rig)]
        rig.boot()
        rig.attach(server, more="timeout=2")
        start_fio(rig)
        for i in range(20):
            time.sleep(1)
            wire.cut()
            if i % 2:
                rig.wait_state("recovering", 60)
            else:
                time.sleep(3)
            wire.mend()
            rig.wait_state("live", 60)
        fio_is_content(rig)
        assert int(rig.sysfs("reconnects")) >= 10
        assert "i/o error" not in rig.dmesg().lower() and not rig.complaints()
        rig.detach()
