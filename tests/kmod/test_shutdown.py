# SPDX-License-Identifier: GPL-2.0
"""The station goes down with its devices attached: what was written is flushed,
the server hears goodbye, and a dead server does not keep the machine on."""
import subprocess
import time

import pytest

from conftest import Rig
from harness import wire
from harness.patience import until


def power_on(rig, server):
    rig.boot()
    # Nobody can ask for its log afterwards: see Rig.complaints().
    rig.run("echo 5 >/proc/sys/kernel/printk")
    rig.attach(server)
    rig.run("dd if=/dev/urandom of=/dev/nb0 bs=64k count=4 oflag=direct 2>/dev/null")


@pytest.fixture
def station(request, rig_kernel, image, server):
    with Rig(rig_kernel, initramfs=image, root=None, mem=512, append="quiet") as rig:
        request.node.watched = [("station", rig)]
        power_on(rig, server)
        yield rig


def test_going_down_flushes_and_says_goodbye(station, server):
    assert wire.NBD_CMD_FLUSH not in server.kinds()
    station.send("reboot -f\n")
    station.wait_off(60)
    until(lambda: not server.open)
    assert server.kinds()[-2:] == [wire.NBD_CMD_FLUSH, wire.NBD_CMD_DISC]


def test_the_network_stays_until_the_server_has_closed(station, server):
    """Of a farewell that is lost there would be no other; and a packet that comes
    when the card is shut down already has hung a machine."""
    server.farewell = 0.6
    for _ in range(3):      # it waits for a second: a machine may be slower than that, but not each time
        server.closed_at = None
        station.send("reboot -f\n")
        station.wait_off(60)
        off = time.monotonic()
        if server.closed_at and server.closed_at < off:
            return
        assert not station.complaints()
        power_on(station, server)
    pytest.fail("it went off first")


def test_a_server_that_does_not_close_is_not_waited_for(station, server):
    server.farewell = 3600
    station.send("reboot -f\n")
    station.wait_off(60)
    assert server.closed_at is None


@pytest.mark.long
@pytest.mark.parametrize("dead", [True, False])
def test_a_dead_server_does_not_keep_the_machine_on(station, server, dead):
    """Gone, or deaf to the flush: after some seconds the machine goes all the same."""
    if dead:
        server.die()
        station.wait_state("recovering")
    else:
        server.hook = lambda conn, req: True
    before = time.monotonic()
    station.send("reboot -f\n")
    station.wait_off(90)
    assert time.monotonic() - before < 60


def test_who_writes_to_the_end_gets_no_error(station, server, tmp_path):
    """A root that is still mounted and written to would panic at the first one,
    and the machine would not go down at all."""
    disk = tmp_path / "disk"
    subprocess.run(["mke2fs", "-q", "-t", "ext4", disk, "16M"], check=True)
    server.data[:] = disk.read_bytes()
    station.run("mkdir -p /mnt && mount -t ext4 -o errors=panic /dev/nb0 /mnt && echo 7 >/proc/sys/kernel/printk")
    station.send("for i in 1 2 3 4; do while :; do dd if=/dev/zero of=/mnt/f$i bs=4k count=9 conv=fsync; done "
                 "2>/dev/null & done; sleep 1; reboot -f\n")
    station.wait_off(60)
    for trouble in ("I/O error", "EXT4-fs error", "Aborting journal"):
        assert trouble not in station.console
