# SPDX-License-Identifier: GPL-2.0
"""When writes in flight may go to a server again, and when not yet; see test_takeover.py
for what happens when that is wrong."""
import re
import time

import pytest

from conftest import at
from faultserver import FaultServer
from harness.patience import granted
from test_replies import trace
from test_takeover import FLUSH, OURS, Stall
from test_timing import other_address


def stop_listening(server):
    """The process that listens is gone; those that serve connections are not."""
    server.open, kept = [], server.open
    server.die()
    server.open = kept


def lose_with_a_write_in_hand(rig, server, meanwhile, hold=600):
    """The link is cut while the server holds a write, and comes back after meanwhile()."""
    rig.run("rm -f /tmp/done")
    stall = Stall(server)
    rig.send("dd if=/dev/zero of=/dev/nb0 bs=4k count=1 oflag=direct 2>/dev/null && echo yes >/tmp/done &\n")
    assert stall.taken.wait(granted(30))
    rig.unplug_cable()
    rig.wait_state("recovering", 60)
    time.sleep(2)
    meanwhile()
    rig.plug_cable()
    return stall


def wait_refused(rig):
    rig.until("grep -q 'connection refused' /sys/block/nb0/nb/last_error")


def test_a_port_that_refuses_says_nothing_of_a_stranger(rig, server):
    """It had a process for the connection, which is still at work."""
    rig.attach(server, more="timeout=2 hold=600")
    stall = lose_with_a_write_in_hand(rig, server, lambda: stop_listening(server))
    wait_refused(rig)
    server.listen()
    rig.until("[ $(cat /sys/block/nb0/nb/state) = live ] || dmesg | grep -q 'are held back'")
    assert rig.sysfs("state") == "recovering"
    stall.release()


def test_a_port_of_ours_that_refuses_is_enough(rig, server):
    """It was one process. What comes in its place does not have to know sessions."""
    server.identity = OURS
    rig.attach(server, more="timeout=2 hold=600")
    lose_with_a_write_in_hand(rig, server, lambda: stop_listening(server))
    wait_refused(rig)
    server.identity = None
    server.listen()
    rig.until("[ -e /tmp/done ]")
    assert "held back" not in rig.dmesg()


def test_one_that_dies_while_held_back_has_lost_nothing(rig, server):
    """Another machine accepts and is held back, then the old server is there again: it
    was never gone on without, and has all that it acknowledged."""
    with FaultServer() as second:
        second.identity = "boot-9/host-2/image-7"
        server.identity = OURS
        rig.attach(server, second, more="timeout=2 hold=600")
        rig.run("dd if=/dev/urandom of=/dev/nb0 bs=64k count=4 oflag=direct 2>/dev/null")
        lose_with_a_write_in_hand(rig, server, lambda: setattr(server, "talk", lambda conn: conn.recv(1)))
        rig.until("dmesg | grep -q 'are held back'")
        server.hook = server.talk = None
        second.die()
        rig.until("[ -e /tmp/done ]", 90)
        assert rig.sysfs("server") == at(server)
    rig.run(FLUSH)
    assert "may be lost" not in rig.dmesg()


@pytest.mark.parametrize("identity, fences", [(OURS, True), ("boot-2/host-1/image-1", True),
                                              ("boot-9/host-2/image-7", False), (None, False)])
def test_a_takeover_is_traced_when_it_was_one(rig, server, identity, fences):
    """Another machine's server knows us, but has fenced nothing."""
    traced = trace(rig)
    server.identity = OURS
    rig.attach(server)
    server.die()
    rig.wait_state("recovering")
    server.identity = identity
    server.listen()
    rig.wait_state("live")
    said = traced()
    assert "nb_reconnect: " in said
    assert bool(re.search("nb_takeover: nb0 .*generation=2", said)) == fences


@pytest.mark.parametrize("boot", ["boot-1", "boot-1.again"])
def test_another_server_of_the_same_machine_has_fenced_nothing(rig, server, boot):
    """It has the same port, on another address, and so may be another process; and one
    that was started again since a disk failed gives its boot another name."""
    address = other_address()
    if not address:
        pytest.skip("this machine has no second address")
    second = FaultServer(host=address)
    second.port, second.identity, server.identity = server.port, f"{boot}/host-1/image-1", OURS
    with second:
        ok, answer = rig.ctl(f"attach dev=nb0 server={at(server)} server={address}:{second.port} timeout=2 hold=600")
        assert ok, answer
        stall = lose_with_a_write_in_hand(rig, server, lambda: setattr(server, "talk", lambda conn: conn.recv(1)))
        rig.until("[ -e /tmp/done ] || dmesg | grep -q 'are held back'")
        assert rig.sysfs("state") == "recovering" and second.connections
        stall.release()
