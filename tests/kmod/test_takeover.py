# SPDX-License-Identifier: GPL-2.0
"""Writes across a lost connection: sent again, but never so that an old one
comes after a newer one; and what a server lost is not passed over in silence."""
import re
import threading
import time

import pytest

from conftest import at
from faultserver import FaultServer
from harness import wire
from harness.patience import granted, until

OURS = "boot-1/host-1/image-1"
A, B = b"A" * 4096, b"B" * 4096


class Stall:
    """A hook: the first write stays in the server's hands until release()."""

    def __init__(self, server):
        self.server, self.conn, self.req = server, None, None
        self.taken = threading.Event()
        server.hook = self

    def __call__(self, conn, req):
        if self.taken.is_set() or req.type != wire.NBD_CMD_WRITE:
            return False
        self.conn, self.req = conn, req
        self.taken.set()
        return True

    def release(self):
        if not self.conn.fenced:
            self.server.data[self.req.offset:self.req.offset + self.req.length] = self.req.payload


def cut_with_a_write_in_hand(rig, server, more):
    """The station loses its link while the server holds its write of A. The
    server does not see that: its end of the connection stays up."""
    rig.attach(server, more=more)
    rig.run("rm -f /tmp/done; for c in A B; do yes $c | tr -d '\\n' | head -c 4096 >/tmp/$c; done")
    stall = Stall(server)
    rig.send("dd if=/tmp/A of=/dev/nb0 bs=4k count=1 oflag=direct 2>/dev/null && echo yes >/tmp/done &\n")
    assert stall.taken.wait(granted(30))
    rig.unplug_cable()
    rig.wait_state("recovering", 60)
    time.sleep(2)           # the station's reset of the old one is lost too
    rig.plug_cable()
    return stall


def finished(rig):
    """What runs in the background has ended well."""
    rig.run("wait; cat /tmp/done && rm /tmp/done", 90)


def write_b(rig):
    rig.run("dd if=/tmp/B of=/dev/nb0 bs=4k count=1 oflag=direct 2>/dev/null")


def read_back(rig):
    return rig.run("dd if=/dev/nb0 bs=4k count=1 iflag=direct 2>/dev/null | head -c 1")


def test_a_stalled_write_is_fenced(rig, server):
    """Our server: the new generation ends the old one, and nobody waits."""
    server.identity = OURS
    stall = cut_with_a_write_in_hand(rig, server, "timeout=2 hold=600 station=pc-7 boot=b00t")
    finished(rig)
    assert stall.conn.fenced
    assert rig.sysfs("session").split()[:2] == ["pc-7", "b00t"] and rig.sysfs("session").split()[3] == "2"
    assert rig.sysfs("identity").split() == OURS.split("/")
    write_b(rig)
    stall.release()
    assert read_back(rig) == "B" and bytes(server.data[:4096]) == B


@pytest.mark.long
def test_a_stalled_write_is_outwaited(rig, server):
    """A stranger: writes wait until what it held is likely to be done."""
    stall = cut_with_a_write_in_hand(rig, server, "timeout=2 hold=20")
    time.sleep(5)
    assert rig.sysfs("state") == "recovering"
    assert len([r for r in server.seen if r.type == wire.NBD_CMD_WRITE]) == 1
    assert "writes that the lost connection may still carry out are held back" in rig.dmesg()
    stall.release()
    finished(rig)
    write_b(rig)
    assert read_back(rig) == "B" and bytes(server.data[:4096]) == B


def test_one_that_dies_while_it_is_held_back(rig, server):
    """It is noticed, and tried again: not gone on with when the time is over."""
    stall = cut_with_a_write_in_hand(rig, server, "timeout=2 hold=600")
    rig.until("dmesg | grep -q 'are held back'")
    before = server.connections
    server.open[-1].reset()
    rig.until("[ $(cat /sys/block/nb0/nb/state) != recovering ] || grep -q 'held back' /sys/block/nb0/nb/last_error")
    until(lambda: server.connections > before)
    assert rig.sysfs("state") == "recovering"       # and still held back
    stall.release()


@pytest.mark.long
def test_what_hold_is_good_for(rig, server):
    """The same without it: the old write comes after the newer one. (So the two
    tests above can fail.)"""
    stall = cut_with_a_write_in_hand(rig, server, "timeout=2 hold=0")
    finished(rig)
    write_b(rig)
    stall.release()
    assert read_back(rig) == "A"


def test_nothing_is_held_when_the_server_said_goodbye(rig, server):
    """It reset the connection, with a write in hand: it has let go of it."""
    rig.attach(server, more="hold=600")
    server.hook = lambda conn, req: req.type == wire.NBD_CMD_WRITE and conn.reset() is None
    rig.send("dd if=/dev/zero of=/dev/nb0 bs=4k count=1 oflag=direct 2>/dev/null && echo yes >/tmp/done &\n")
    # Not its state: it is back at once, and lost again.
    rig.until("dmesg | grep -q 'connection lost'")
    server.hook = None
    finished(rig)


@pytest.mark.long
def test_reads_are_never_held(rig, server):
    rig.attach(server, more="timeout=2 hold=600")
    rig.unplug_cable()
    rig.send("dd if=/dev/nb0 of=/dev/null bs=4k count=1 iflag=direct 2>/dev/null && echo yes >/tmp/done &\n")
    rig.wait_state("recovering", 60)
    rig.plug_cable()
    finished(rig)


def write_unflushed(rig, server):
    server.identity = OURS
    rig.attach(server)
    rig.run("dd if=/dev/urandom of=/dev/nb0 bs=64k count=4 oflag=direct 2>/dev/null")


def restart(rig, server, identity):
    server.die()
    rig.wait_state("recovering")
    server.identity = identity
    server.listen()
    rig.wait_state("live")


FLUSH = "dd if=/dev/zero of=/dev/nb0 bs=4k count=1 seek=1000 oflag=direct conv=fsync 2>/dev/null"


def test_a_crash_that_loses_writes_fails_the_next_flush(rig, server):
    """The server's machine went down with 256 KiB acknowledged and not flushed."""
    write_unflushed(rig, server)
    restart(rig, server, "boot-2/host-1/image-1")
    assert re.search(r"started again \(boot boot-2, before boot-1\) while 262144 bytes were acknowledged "
                     r"but not flushed", rig.dmesg())
    assert rig.run(FLUSH, check=False)[1]
    assert "this flush fails" in rig.dmesg()
    rig.run(f"sleep 1; {FLUSH}")
    restart(rig, server, "boot-3/host-1/image-1")
    rig.run(FLUSH)
    assert len(re.findall("this flush fails", rig.dmesg())) == 1


def test_who_does_not_tell_makes_nobody_forget(rig, server):
    """In between it did not tell who it is: what was lost is lost all the same."""
    write_unflushed(rig, server)
    restart(rig, server, None)
    restart(rig, server, "boot-2/host-1/image-1")
    assert rig.run(FLUSH, check=False)[1]
    assert "this flush fails" in rig.dmesg()


@pytest.mark.long
def test_a_flush_in_flight_at_the_crash_fails(rig, server):
    write_unflushed(rig, server)
    server.hook = lambda conn, req: req.type == wire.NBD_CMD_FLUSH      # says nothing
    rig.send(f"{FLUSH} || echo yes >/tmp/done &\n")
    server.wait_seen(wire.NBD_CMD_FLUSH)
    server.hook = None
    restart(rig, server, "boot-2/host-1/image-1")
    finished(rig)


@pytest.mark.parametrize("flushed, identity", [
    (False, OURS),                              # the process only: the page cache is still there
    (True, "boot-2/host-1/image-1"),
    (False, None),                              # nothing is known: nothing is said
])
def test_no_flush_fails_for_nothing(rig, server, flushed, identity):
    write_unflushed(rig, server)
    if flushed:
        rig.run(FLUSH)
    restart(rig, server, identity)
    rig.run(FLUSH)
    assert "lost" not in rig.dmesg().replace("connection lost", "")


@pytest.mark.long
def test_another_image_of_the_same_host_is_not_taken(rig, server):
    server.identity = OURS
    rig.attach(server)
    server.die()
    server.identity = "boot-1/host-1/image-2"
    server.listen()
    rig.until("grep -q 'another image (image-2, before image-1)' /sys/block/nb0/nb/last_error")
    assert rig.sysfs("state") == "recovering"
    with FaultServer() as second:
        rig.detach(more="force=1")
        server.identity = OURS
        second.identity = "boot-9/host-2/image-7"       # another host's words say nothing of ours
        rig.attach(server, second)
        server.die()
        rig.wait_state("live")
        assert rig.sysfs("server") == at(second)


def test_a_strange_answer_to_our_session_is_refused(rig, server):
    server.identity = "a b/c"
    ok, answer = rig.ctl(f"attach dev=nb0 server={at(server)}")
    assert not ok and "a metadata context that was not asked for" in answer


def test_the_same_export_twice_for_one_station_is_refused(rig, server):
    """They would end each other's connections at a server that knows sessions."""
    rig.attach(server, more="station=pc-7 boot=b00t")
    ok, answer = rig.ctl(f"attach dev=nb1 server={at(server)} station=pc-7 boot=b00t")
    assert not ok and "nb0 has that export already" in answer
