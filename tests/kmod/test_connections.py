# SPDX-License-Identifier: GPL-2.0
"""Several connections of one device: as many as the server allows, and a death
among them is nobody's business but the driver's."""
import re
import time

import pytest

from conftest import Rig
from faultserver import FaultServer
from harness import wire
from harness.patience import until

MULTI = FaultServer.FLAGS | wire.NBD_FLAG_CAN_MULTI_CONN


@pytest.fixture(scope="module")
def module_rig(rig_kernel, image):
    """A station of four processors, so that it has four queues."""
    with Rig(rig_kernel, initramfs=image, root=None, mem=1024, smp=4, append="quiet") as rig_:
        yield rig_.boot()


@pytest.fixture
def server():
    with FaultServer(flags=MULTI) as s:
        yield s


def wait_connections(rig, n, timeout=60):
    rig.until(f"[ $(cat /sys/block/nb0/nb/connections) = {n} ]", timeout)


# The word is typed in two halves, so that its echo is not taken for it.
BUSY = ('end=$(($(date +%s)+$2)); while '
        'dd if=/tmp/w of=/dev/nb0 bs=16k seek=$((64*$1)) count=64 oflag=direct conv=notrunc || echo FAI""LED; '
        'dd if=/dev/nb0 bs=16k skip=$((64*$1)) count=64 iflag=direct | cmp - /tmp/w || echo FAI""LED; '
        '[ $(date +%s) -lt $end ]; do :; done')


def put_busy(rig):
    """The script BUSY, and a mebibyte for it to write."""
    rig.run("dd if=/dev/urandom of=/tmp/w bs=1M count=1 2>/dev/null")
    rig.run(f"echo '{BUSY}' >/tmp/busy")


def busy(n, seconds):
    """Something for every queue to do, on processor n: once at least, however slow that is."""
    return f"taskset {1 << n:x} sh /tmp/busy {n} {seconds} 2>/dev/null &"


@pytest.mark.parametrize("flags, more, n", [
    (MULTI, "", 4), (MULTI, "conns=2", 2), (MULTI, "conns=16", 4), (FaultServer.FLAGS, "conns=4", 1),
])
def test_as_many_connections_as_the_server_allows(rig, server, flags, more, n):
    """One for a server that does not promise a common cache to all of them."""
    server.flags = flags
    rig.attach(server, more=more)
    assert rig.sysfs("connections") == str(n)
    until(lambda: server.connections >= n)      # its threads may not have counted yet
    assert server.connections == n
    put_busy(rig)
    rig.run(" ".join(busy(i, 1) for i in range(4)) + " wait")
    assert "FAILED" not in rig.console
    assert len({id(c) for c in server.carried}) == n


def later(server, change):
    """From its second connection on, the server says something else."""
    server.on_option = lambda conn, option, data: bool(server.connections and change()) and False


def test_a_second_connection_that_is_not_allowed(rig, server):
    """The first one was told that several are: a flush would not cover them all."""
    later(server, lambda: setattr(server, "flags", FaultServer.FLAGS))
    rig.attach(server)
    assert rig.sysfs("connections") == "1"
    assert "does not allow a second connection" in rig.sysfs("last_error")


def test_a_second_connection_that_sees_a_larger_export(rig, server):
    """It joins, but the disk grows only when all of them have seen that."""
    server.data.extend(bytes(16 << 20))
    later(server, lambda: setattr(server, "size", 32 << 20))
    rig.attach(server)
    assert int(rig.sysfs("connections")) >= 2
    assert rig.run("cat /sys/block/nb0/size") == "32768"
    server.die()
    server.listen()
    rig.until("[ $(cat /sys/block/nb0/size) = 65536 ]", 20)


def test_a_second_connection_that_does_not_last(rig, server):
    """The server lets each negotiate and keeps only the first: the others are not
    made again as fast as it drops them, and the first has work to do meanwhile."""
    server.drops = lambda conn: len(server.open) > 1
    rig.attach(server)
    before, start = server.accepted, time.monotonic()
    rig.run("dd if=/dev/nb0 of=/dev/null bs=64k iflag=direct 2>/dev/null")
    time.sleep(8)
    assert server.accepted - before < 4 + 2 * (time.monotonic() - start)
    assert rig.sysfs("reconnects") == "0" and rig.sysfs("connections") == "1"
    server.drops = None
    wait_connections(rig, 4)


def test_one_of_four_is_killed(rig, server):
    """Its requests go to the other three; it is made again beside them."""
    rig.attach(server)
    put_busy(rig)
    n = int(rig.sysfs("connections"))
    assert n >= 2
    for i in range(n):
        rig.send(busy(i, 8) + "\n")
    for i in range(n):
        time.sleep(1)
        wait_connections(rig, n)
        server.open[0].reset()
        rig.until(f"[ $(dmesg | grep -c 'connection [0-9]* lost: ') = {i + 1} ]")
    rig.run("wait", 120)
    assert "FAILED" not in rig.console
    wait_connections(rig, n)
    log = rig.dmesg()
    assert len(re.findall(r"connection \d lost: closed by the server", log)) == n
    assert "connection lost" not in log
    assert rig.sysfs("reconnects") == "0"
    assert "i/o error" not in log.lower()


def test_a_reply_on_the_wrong_connection(rig, server):
    """A server that answers one connection's read on another one: the other
    one is given up, and no data comes from there."""
    rig.attach(server)
    server.data[:4096] = b"x" * 4096
    rig.run("dd if=/dev/urandom of=/tmp/w bs=1M count=1 2>/dev/null")

    def stray(conn, req):
        other = next(c for c in server.open if c is not conn)
        server.hook = None
        other.reply(req.cookie, data=b"y" * req.length)
        conn.carry_out(req)
        return True
    server.hook = stray
    n = int(rig.sysfs("connections"))
    assert rig.run("dd if=/dev/nb0 bs=4k count=1 iflag=direct 2>/dev/null | tr -d x | wc -c") == "0"
    wait_connections(rig, n)
    assert "a reply to no request in flight" in rig.dmesg()


@pytest.mark.long
def test_all_die_at_once(rig, server):
    rig.attach(server)
    n = int(rig.sysfs("connections"))
    put_busy(rig)
    for i in range(4):
        rig.send(busy(i, 6) + "\n")
    for _ in range(3):
        time.sleep(1)
        server.die()
        time.sleep(0.5)
        server.listen()
    rig.run("wait", 120)
    assert "FAILED" not in rig.console
    wait_connections(rig, n)
    assert int(rig.sysfs("reconnects")) >= 1
    assert "i/o error" not in rig.dmesg().lower()


@pytest.mark.long
def test_a_server_that_takes_only_one_after_all(rig, server):
    """It promises several, then refuses all but the first: one is enough, and
    it is not hammered."""
    rig.attach(server, more="conns=1")
    rig.detach()
    server.limit = 1
    before = server.connections
    rig.attach(server)
    assert rig.sysfs("connections") == "1" and rig.sysfs("state") == "live"
    rig.run("dd if=/dev/nb0 of=/dev/null bs=1M count=4 iflag=direct 2>/dev/null")
    time.sleep(6)
    assert server.refused < 12 and server.connections == before + 1
    server.limit = None
    wait_connections(rig, 4)


@pytest.mark.parametrize("processors", [(1, 2), (1, 1)])
def test_every_flush_in_flight_at_the_crash_fails(rig, server, processors):
    """Each was to make durable what some program wrote, and all of that may be lost. Of
    one processor the second waits behind the first, and the driver does not know of it."""
    flush = "dd if=/dev/null of=/dev/nb0 count=0 conv=fsync,notrunc 2>/dev/null"
    server.identity = "boot-1/host-1/image-1"
    rig.attach(server)
    rig.run("rm -f /tmp/failed*; dd if=/dev/urandom of=/dev/nb0 bs=64k count=4 oflag=direct 2>/dev/null")
    server.hook = lambda conn, req: req.type == wire.NBD_CMD_FLUSH      # says nothing
    for i, processor in enumerate(processors):
        rig.send(f"taskset {processor} {flush} || echo yes >/tmp/failed{i} &\n")
        until(lambda n=processor: server.kinds().count(wire.NBD_CMD_FLUSH) == n)
    rig.until("[ $(grep -l 'State:.D' /proc/[0-9]*/status | wc -l) = 2 ]")
    server.die()
    rig.wait_state("recovering")
    server.hook, server.identity = None, "boot-2/host-1/image-1"
    server.listen()
    rig.run("wait; cat /tmp/failed0 /tmp/failed1", 90)
    rig.run(f"sleep 1; {flush}")        # and none that begins later
