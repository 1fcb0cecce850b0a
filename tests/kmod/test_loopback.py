# SPDX-License-Identifier: GPL-2.0
"""Server and disk on one machine: our nbd-server and nb.ko in one small guest, over
127.0.0.1. All that is written to the disk is written once more by the server, which
has to be able to do that when there is no memory left but for it."""
import shutil

import pytest

from conftest import HERE, SMALL, Rig
from harness.guest import make_initramfs, put_program
from harness.kernel import BUILD
from harness.memory import assert_in_memory, flushers
from harness.process import DIE_WITH_PARENT
from harness.server import Server
from probes import Calls

DISK = 768     # MiB
CONFIG = r"[generic]\nport = 10809\nlistenaddr = 127.0.0.1\nlockmemory = {}\n[]\nexportname = {}\n"


@pytest.fixture(scope="module")
def module_rig(rig_kernel, tmp_path_factory):
    """With our server in it. (What has sanitizers would not fit.)"""
    tmp = tmp_path_factory.mktemp("loopback")
    extra = tmp / "extra"
    shutil.copytree(HERE / "rig", extra)
    put_program(extra, BUILD / "server/nbd-server")
    image = make_initramfs(rig_kernel, extra, tmp / "rig.img")
    with Rig(rig_kernel, initramfs=image, root=None, mem=SMALL, append="quiet") as rig_:
        yield rig_.boot()


@pytest.fixture
def lower(rig, tmp_path):
    """A disk for the image that has nothing to do with the one under test: as /dev/nb1."""
    disk = tmp_path / "lower"
    with open(disk, "wb") as f:
        f.truncate(2 * DISK << 20)
    with Server(disk, wrap=DIE_WITH_PARENT) as server:
        rig.attach(server, dev="nb1")
        rig.run("mke2fs /dev/nb1 >/dev/null && mkdir -p /low && mount -t ext4 /dev/nb1 /low")
        yield "/low/disk.img"
        rig.run("umount /low", 120)
        rig.detach(dev="nb1")


def serve(rig, image, lock="true", mib=DISK):
    """nbd-server in the guest, and its export as /dev/nb0: the server's process."""
    rig.run(f"truncate -s {mib}M {image} && printf '{CONFIG.format(lock, image)}' >/run/server.conf && "
            "nbd-server -p /run/server.pid -C /run/server.conf")
    ok, answer = rig.ctl("attach dev=nb0 server=127.0.0.1:10809")
    assert ok, answer
    return rig.run("cat /run/server.pid")


def stop(rig, pid):
    rig.detach()
    rig.run(f"kill {pid}")
    rig.until(f"[ ! -e /proc/{pid} ]")


def test_pages_are_not_lent_to_a_socket_of_this_machine(rig, server):
    """There they would wait in a receive queue, where the driver cannot get them back.
    A server elsewhere gets them."""
    rig.run("dd if=/dev/urandom of=/tmp/w bs=1M count=4 2>/dev/null")
    write = "dd if=/tmp/w of=/dev/nb0 bs=1M oflag=direct 2>/dev/null"
    with Calls(rig, "skb_splice_from_iter") as lent:
        pid = serve(rig, "/tmp/disk.img", mib=16)
        rig.run(write)
        assert lent.count() == 0
        rig.run("dd if=/dev/nb0 bs=1M count=4 iflag=direct 2>/dev/null | cmp - /tmp/w")
        stop(rig, pid)
        rig.attach(server)
        rig.run(write)
        assert lent.count() > 0


def test_the_server_stays_in_memory(rig):
    """And none of its threads waits for dirty pages; nor does its image take memory."""
    pid = serve(rig, "/tmp/disk.img", mib=64)
    rig.run("dd if=/dev/nb0 of=/dev/null bs=1M iflag=direct 2>/dev/null; dd if=/dev/zero of=/dev/nb0 bs=1M count=8 conv=fsync 2>/dev/null")
    assert_in_memory(rig.run(f"cat /proc/{pid}/smaps"), "/tmp/disk.img", 24 << 10)
    threads = flushers(rig.run(f"cat /proc/{pid}/task/*/stat"))
    assert len(threads) > 1 and all(threads)
    stop(rig, pid)
    rig.run("rm /tmp/disk.img")


@pytest.mark.long
def test_more_is_written_than_memory_has(rig, lower):
    """Twice as much as there is, without a pause, and read again: it goes on to the
    end, every byte is right, and nobody is killed for want of memory."""
    pid = serve(rig, lower)
    rig.run("mke2fs /dev/nb0 >/dev/null && mkdir -p /mnt && mount -t ext4 /dev/nb0 /mnt && "
            "dd if=/dev/urandom of=/tmp/w bs=1M count=4 2>/dev/null")
    files = 2 * SMALL // 4
    rig.run(f"for i in $(seq {files}); do (echo $i; cat /tmp/w) >/mnt/f$i || echo FAILED; done; sync; "
            "dd if=/dev/null of=/mnt/f1 count=0 conv=notrunc,fsync 2>&1 | grep -v records", 400, check=False)
    rig.run("umount /mnt && echo 3 >/proc/sys/vm/drop_caches && mount -t ext4 /dev/nb0 /mnt", 300)
    said = rig.run(f"for i in $(seq {files}); do (echo $i; cat /tmp/w) | cmp - /mnt/f$i || echo FAILED; done; umount /mnt", 400)
    assert said == ""
    for trouble in ("out of memory", "oom", "i/o error", "no answer", "lost"):
        assert trouble not in rig.dmesg().lower()
    assert rig.sysfs("reconnects") == "0"
    stop(rig, pid)
    rig.run("rm /low/disk.img")
