# SPDX-License-Identifier: GPL-2.0
"""The end of a device: in peace, in use, with a dead server, in the middle of
everything; and that the module can always go afterwards."""
import subprocess
import threading
import time

import faultserver
from conftest import at
from harness import wire
from harness.patience import until


def gone(rig, dev="nb0"):
    return rig.run(f"ls /dev/{dev} /sys/block/{dev}", check=False)[1] != 0


def test_detach_says_goodbye(rig, server):
    rig.attach(server)
    rig.run("dd if=/dev/zero of=/dev/nb0 bs=4k count=1 2>/dev/null")
    rig.detach()
    assert gone(rig)
    until(lambda: server.kinds()[-1] == wire.NBD_CMD_DISC, what=server.kinds)
    assert wire.NBD_CMD_WRITE in server.kinds()


def test_a_device_in_use_stays(rig, server):
    rig.attach(server)
    rig.run("exec 9</dev/nb0")
    ok, answer = rig.ctl("detach dev=nb0")
    assert not ok and "in use" in answer and rig.sysfs("state") == "live"
    assert rig.run("rmmod nb", check=False)[1]
    rig.detach(more="force=1")
    assert gone(rig)
    said = rig.run("dd bs=4k count=1 <&9 >/dev/null; exec 9<&-", check=False)[0]
    assert "0+0 records in" in said


def test_detach_while_the_server_is_dead(rig, server):
    rig.attach(server)
    server.die()
    rig.wait_state("recovering")
    rig.detach()
    assert gone(rig)


def test_force_ends_those_who_wait_for_a_dead_server(rig, server):
    rig.attach(server)
    server.die()
    rig.wait_state("recovering")
    rig.send("dd if=/dev/nb0 of=/dev/null bs=4k count=1 iflag=direct || echo READ''-FAILED &\n")
    rig.wait_opened()
    ok, answer = rig.ctl("detach dev=nb0")
    assert not ok and "in use" in answer
    rig.detach(more="force=1")
    assert gone(rig)
    rig.run("wait")
    assert "READ-FAILED" in rig.console


def test_force_while_the_last_close_waits(rig, server):
    """The last close writes back under the disk's own lock, and waits for a dead
    server: force must not wait for that lock, nor anyone else's attach."""
    rig.attach(server)
    server.hook = lambda conn, req: req.type == wire.NBD_CMD_WRITE      # never answers
    rig.send("dd if=/dev/zero of=/dev/nb0 bs=64k count=64 2>/dev/null &\n")
    server.wait_seen(wire.NBD_CMD_WRITE)
    server.die()
    rig.wait_state("recovering")
    with faultserver.FaultServer() as other:
        rig.attach(other, dev="nb1")
        ok, answer = rig.ctl("detach dev=nb0")
        assert not ok and "in use" in answer
        rig.detach(more="force=1")
        assert gone(rig)
        rig.detach(dev="nb1")
    rig.run("wait")


def test_a_mounted_filesystem(rig, server, tmp_path):
    """It keeps the device; force takes that away from under it, and then it can
    still be unmounted, and the device attached anew."""
    disk = tmp_path / "disk"
    subprocess.run(["mke2fs", "-q", "-t", "ext4", disk, "16M"], check=True)
    server.data[:] = disk.read_bytes()
    rig.attach(server)
    rig.run("mkdir -p /mnt && mount -t ext4 /dev/nb0 /mnt && echo kept >/mnt/file && sync")
    ok, answer = rig.ctl("detach dev=nb0")
    assert not ok and "in use (mounted" in answer
    rig.send("(while [ ! -e /tmp/stop ]; do dd if=/dev/zero of=/mnt/f bs=64k count=8 conv=fsync || sleep 1; done) "
             "2>/dev/null &\n")
    server.seen.clear()
    server.wait_seen(wire.NBD_CMD_WRITE)    # it is at work
    rig.detach(more="force=1")
    assert gone(rig)
    rig.run("touch /tmp/stop; wait; rm /tmp/stop; umount /mnt")
    rig.attach(server)
    rig.run("mount -t ext4 /dev/nb0 /mnt && grep -qx kept /mnt/file && umount /mnt")


def test_setrw_after_the_end(rig, server):
    """A forgotten file descriptor outlives the device; its ioctls must be harmless."""
    rig.attach(server)
    rig.run("exec 9</dev/nb0")
    rig.detach(more="force=1")
    rig.run("blockdev --setrw /proc/self/fd/9; blockdev --getro /proc/self/fd/9; exec 9<&-", check=False)


def test_force_in_the_middle_of_writing(rig, server):
    rig.attach(server)
    rig.send("dd if=/dev/zero of=/dev/nb0 bs=64k count=20000 2>/dev/null &\n")
    server.wait_seen(wire.NBD_CMD_WRITE)
    rig.detach(more="force=1")
    assert gone(rig)
    rig.run("wait", check=False)


def test_an_attach_can_be_interrupted(rig, server):
    """The server accepts and says nothing; the person presses Ctrl-C."""
    asked, silence = threading.Event(), threading.Event()
    honest = faultserver.Connection.negotiate
    faultserver.Connection.negotiate = lambda self: (asked.set(), silence.wait())
    try:
        rig.send(f"ctl attach dev=nb0 server={at(server)}\n")
        until(asked.is_set)
        before = len(rig.console)
        rig.send("\x03")
        rig.run("true")
        assert "silent" not in rig.console[before:], "it went on to its own end"
    finally:
        faultserver.Connection.negotiate = honest
        silence.set()
    assert gone(rig)
    rig.attach(server)


def test_a_silent_server_is_named(rig, server):
    honest = faultserver.Connection.negotiate
    faultserver.Connection.negotiate = lambda self: time.sleep(8)
    try:
        ok, answer = rig.ctl(f"attach dev=nb0 server={at(server)}")
    finally:
        faultserver.Connection.negotiate = honest
    assert not ok and "silent" in answer and gone(rig)


def test_attach_and_detach_many_times(rig, server):
    rig.run(f"for i in $(seq 30); do ctl attach dev=nb0 server={at(server)} >/dev/null && "
            "ctl detach dev=nb0 >/dev/null || echo FAILED $i; done", timeout=120)
    until(lambda: server.connections >= 30)
    assert server.connections == 30
    rig.run("rmmod nb && modprobe nb")


def test_several_at_once_each_with_its_own(rig, server):
    rig.run(f"for i in 0 1 2 3 4 5; do ctl attach dev=nb$i server={at(server)} & done; wait")
    assert len(rig.run("ls -d /dev/nb[0-5]").split()) == 6
    rig.run("for i in 0 1 2 3 4 5; do ctl detach dev=nb$i & done; wait")
    assert gone(rig)
    rig.run("rmmod nb && modprobe nb")
