# SPDX-License-Identifier: GPL-2.0
"""Swap on nb: pages go out and come back right while the server dies and
returns, in a station that has too little memory to do without."""
import struct
import time

import pytest

from conftest import SMALL, TOO_MUCH, Rig
from harness.process import DIE_WITH_PARENT
from harness.server import Server

HOG, SWAP = TOO_MUCH, 512     # MiB


def swap_disk(path):
    """A disk whose only partition, of Linux's swap type, begins at 1 MiB."""
    with open(path, "wb") as f:
        f.truncate((SWAP + 1) << 20)
        f.seek(446)
        f.write(struct.pack("<4xB3xII", 0x82, 2048, SWAP << 11))
        f.seek(510)
        f.write(b"\x55\xaa")
    return path


def keep_memory(rig):
    """What kmod/README.md asks for, and our initramfs does."""
    rig.run("echo 0 >/proc/sys/vm/watermark_boost_factor && "
            "awk '/^MemTotal:/ { print int($2 / 16) }' /proc/meminfo >/proc/sys/vm/min_free_kbytes")


def pages(rig, part):
    """How many went out to that partition, and how many came back."""
    return [int(sectors) // 8 for sectors in rig.run(f"awk '{{ print $7, $3 }}' /sys/class/block/{part}/stat").split()]


@pytest.mark.long
@pytest.mark.parametrize("seconds", [30, 300])
def test_swap_under_pressure_while_the_server_restarts(request, rig_kernel, image, tmp_path, seconds):
    """What lies in a tmpfs is larger than the memory left: each look at it is a look
    at the swap. No byte changes, nobody is killed for want of memory."""
    with Server(swap_disk(tmp_path / "swap.img"), wrap=DIE_WITH_PARENT) as server, \
            Rig(rig_kernel, initramfs=image, root=None, mem=SMALL, append="quiet") as rig:
        request.node.watched = [("station", rig)]
        rig.boot()
        ok, answer = rig.ctl(f"attach dev=nb0 server=10.0.2.2:{server.port}")
        assert ok, answer
        keep_memory(rig)
        rig.run("mkswap /dev/nb0p1 && swapon /dev/nb0p1")
        rig.run(f"mkdir /hog && mount -t tmpfs -o size={HOG + 20}m hog /hog && dmesg -c >/dev/null")
        rig.run(f"cd /hog && for i in 1 2 3 4 5 6 7 8; do "
                f"dd if=/dev/urandom of=f$i bs=1M count={HOG // 8} 2>/dev/null; done && "
                "md5sum f* >/run/sums; cd /", 300)
        # It looks at all of it, and writes a part anew, again and again.
        rig.send("(cd /hog; n=0; while [ ! -e /run/stop ]; do n=$((n+1)); i=$((n % 8 + 1)); "
                 "md5sum -s -c /run/sums || echo SWAP-''BAD; "
                 f"dd if=/dev/urandom of=f$i bs=1M count={HOG // 8} conv=notrunc 2>/dev/null; "
                 "md5sum f* >/run/sums; done; echo HOG-''DONE) &\n")
        end, restarts = time.monotonic() + seconds, 0
        while time.monotonic() < end or restarts < 3:
            time.sleep(4)
            server.kill9()
            time.sleep(restarts % 4)
            server.restart()
            restarts += 1
        rig.send("touch /run/stop\n")
        rig.expect("HOG-DONE", 300)
        rig.run("wait; cd /hog && md5sum -s -c /run/sums", 300)
        assert "SWAP-BAD" not in rig.console
        assert min(pages(rig, "nb0p1")) > HOG << 7
        assert int(rig.sysfs("reconnects")) >= 2
        said = rig.dmesg().lower()
        for trouble in ("out of memory", "oom", "i/o error", "read-error on swap", "write-error on swap"):
            assert trouble not in said
        assert not rig.complaints()
        rig.run("rm /hog/* && swapoff /dev/nb0p1", 120)
        rig.detach()
