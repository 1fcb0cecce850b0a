# SPDX-License-Identifier: GPL-2.0
"""Swap on the second partition and a mounted filesystem on the first one of the same
device: reclaim must not wait for itself by way of the other, while the server dies
and returns."""
import struct
import subprocess
import time

import pytest

from conftest import SMALL, TOO_MUCH
from harness.process import DIE_WITH_PARENT
from harness.server import Server
from test_swap import keep_memory, pages
from test_verify import Wire, WiredRig
from wired import FIRST, PORT, attach, needs_a_wire

MIB = 1 << 20
HOG, FS, SWAP = TOO_MUCH, 128, 512    # MiB


def two_partitions(path):
    """At 1 MiB a filesystem, after it swap."""
    with open(path, "wb") as f:
        f.truncate((1 + FS + SWAP) * MIB)
        f.seek(446)
        f.write(struct.pack("<4xB3xII", 0x83, 2048, FS << 11) +
                struct.pack("<4xB3xII", 0x82, (1 + FS) << 11, SWAP << 11))
        f.seek(510)
        f.write(b"\x55\xaa")
    subprocess.run(["/sbin/mkfs.ext4", "-q", "-E", f"offset={MIB}", path, f"{FS}M"], check=True)
    return path


def clean_partition(path, tmp):
    """e2fsck finds nothing, and nothing to replay."""
    part = tmp / "part"
    with open(path, "rb") as f, open(part, "wb") as out:
        f.seek(MIB)
        out.write(f.read(FS * MIB))
    done = subprocess.run(["/sbin/e2fsck", "-fn", part], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@needs_a_wire
@pytest.mark.long
@pytest.mark.parametrize("seconds", [30, 300])
def test_swap_beside_a_filesystem(request, rig_kernel, image, tmp_path, seconds):
    """What lies in a tmpfs is larger than the memory left, and what is written to the
    filesystem needs memory to be written. No byte of either changes, nobody is killed
    for want of memory, and the filesystem is clean."""
    disk = two_partitions(tmp_path / "disk")
    with Wire() as wire, Server(disk, host=FIRST, port=PORT, wrap=wire.enter + DIE_WITH_PARENT) as server, \
            WiredRig(wire, rig_kernel, initramfs=image, root=None, mem=SMALL, append="quiet") as rig:
        request.node.watched = [("station", rig)]
        rig.boot()
        attach(rig, FIRST)
        keep_memory(rig)
        rig.run("mkdir /fs /hog && mount /dev/nb0p1 /fs && mkswap /dev/nb0p2 && swapon /dev/nb0p2")
        rig.run(f"mount -t tmpfs -o size={HOG + 20}m hog /hog && dmesg -c >/dev/null")
        rig.run("cd /hog && for i in 1 2 3 4 5 6 7 8; do "
                f"dd if=/dev/urandom of=f$i bs=1M count={HOG // 8} 2>/dev/null; done && "
                "md5sum f* >/run/sums; cd /", 300)
        # One looks at all of the memory, and writes a part of it anew; the other one
        # copies from it to the filesystem, and compares what it copied the last time.
        rig.send("(cd /hog; n=0; while [ ! -e /run/stop ]; do n=$((n+1)); i=$((n % 7 + 2)); "
                 "md5sum -s -c /run/sums || echo SWAP-''BAD; "
                 f"dd if=/dev/urandom of=f$i bs=1M count={HOG // 8} conv=notrunc 2>/dev/null; "
                 "md5sum f* >/run/sums; done; echo $n >/run/hogged) &\n")
        rig.send("(n=0; while [ ! -e /run/stop ]; do n=$((n+1)); d=/fs/$((n % 2)); rm -rf $d; mkdir $d; "
                 "cp /hog/f1 $d/copy && dd if=/dev/urandom of=$d/more bs=4k count=500 conv=fsync 2>/dev/null "
                 "&& cmp /hog/f1 $d/copy || echo FS-''BAD; done; sync; echo $n >/run/copied) &\n")
        end, restarts = time.monotonic() + seconds, 0
        while time.monotonic() < end or restarts < 3:
            server.kill9()
            # (The station's shell may be in the swap, and so not answer meanwhile.)
            time.sleep(restarts % 4)
            server.start()
            restarts += 1
            rig.until(f"[ $(cat /sys/block/nb0/nb/reconnects) -ge {restarts} ]", 120)
            _, back = pages(rig, "nb0p2")
            rig.until(f"[ $(awk '{{ print $3 }}' /sys/class/block/nb0p2/stat) -gt {(back + 256) * 8} ]", 120)
        rig.run("touch /run/stop; wait; cd /hog && md5sum -s -c /run/sums && cd /", 600)
        copied = int(rig.run("cat /run/copied"))
        out, back = pages(rig, "nb0p2")
        print(f"{restarts} restarts, {out} pages out, {back} in, "
              f"looked at {rig.run('cat /run/hogged')} times, copied {copied} times")
        assert "SWAP-BAD" not in rig.console and "FS-BAD" not in rig.console
        assert copied and out > HOG << 7 and back > HOG << 7
        said = rig.dmesg().lower()
        for trouble in ("out of memory", "oom", "i/o error", "error on swap", "ext4-fs error"):
            assert trouble not in said
        assert not rig.complaints()
        rig.run("cd /; umount /fs && rm /hog/* && swapoff /dev/nb0p2", 300)
        rig.detach()
    clean_partition(disk, tmp_path)
