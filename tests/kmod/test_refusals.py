# SPDX-License-Identifier: GPL-2.0
"""Why a server that answers is not taken is in the kernel log, once."""
import time

import pytest

from conftest import at
from faultserver import FaultServer
from harness import wire
from harness.patience import until

SHRUNK = "the export has shrunk from 16777216 to 8388608 bytes"


def lines(rig, words):
    return [line for line in rig.dmesg().splitlines() if words in line]


def spoil(server, what):
    for name, value in what.items():
        setattr(server, name, value)


BAD = {
    "another size": (dict(size=8 << 20), SHRUNK),
    "fewer flags": (dict(flags=wire.NBD_FLAG_HAS_FLAGS), "the export has lost features"),
    "another image": (dict(identity="b/h/image-2"), "the export is another image (image-2, before image-1)"),
    "no such export": (dict(refuse=(wire.NBD_REP_ERR_UNKNOWN, b"")), ""),
    "no NBD server": (dict(talk=lambda conn: conn.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")), ""),
}


@pytest.mark.parametrize("name", BAD)
def test_why_it_is_not_taken_is_said_once(rig, server, name):
    """It is tried again and again; and the next server is gone on with."""
    what, says = BAD[name]
    server.identity = "b/h/image-1"
    rig.attach(server)
    server.die()
    spoil(server, what)
    server.listen()
    tries = server.accepted
    rig.until(f"dmesg | grep -q '{at(server)}: not taken: {says}'")
    until(lambda: server.accepted > tries + 3)
    assert len(lines(rig, "not taken")) == 1
    rig.detach(more="force=1")
    spoil(server, dict(size=16 << 20, flags=FaultServer.FLAGS, identity="b/h/image-1", refuse=None, talk=None))
    with FaultServer() as second:
        rig.attach(server, second)
        server.die()
        spoil(server, what)
        server.listen()
        rig.wait_state("live")
        assert rig.sysfs("server") == at(second)


def test_another_reason_is_said_again(rig, server):
    rig.attach(server)
    for size, flags in (8 << 20, server.FLAGS), (16 << 20, wire.NBD_FLAG_HAS_FLAGS), (8 << 20, server.FLAGS):
        server.die()
        server.size, server.flags = size, flags
        before = len(lines(rig, "not taken"))
        server.listen()
        until(lambda: len(lines(rig, "not taken")) == before + 1, every=0.5)
        server.die()
    server.size, server.flags = 16 << 20, server.FLAGS
    server.listen()
    rig.wait_state("live")
    server.die()
    server.size = 8 << 20
    server.listen()
    until(lambda: len(lines(rig, SHRUNK)) == 3, every=0.5)
    assert len(lines(rig, "not taken")) == 4


def test_one_that_is_away_is_no_such_line(rig, server):
    """That has lines of its own."""
    rig.attach(server)
    server.die()
    rig.wait_state("recovering")
    time.sleep(2)
    server.listen()
    rig.wait_state("live")
    assert not lines(rig, "not taken")


def test_the_attach_says_it_of_all_but_the_last(rig, server):
    """Of that one it is the answer."""
    server.refuse = wire.NBD_REP_ERR_UNKNOWN, b""
    with FaultServer() as second:
        second.refuse = server.refuse
        ok, answer = rig.ctl(f"attach dev=nb0 server={at(server)} server={at(second)}")
        assert not ok and at(second) in answer
    assert len(lines(rig, f"{at(server)}: not taken")) == 1 == len(lines(rig, "not taken"))


@pytest.mark.long
def test_the_line_of_every_30_s_names_who_it_is_about(rig, server):
    """Two servers, neither of which is there; and each try takes so long that it is
    the other's turn when it is over."""
    ok, answer = rig.ctl(f"attach dev=nb0 server={at(server)} server=10.0.2.99:1234")
    assert ok, answer
    server.talk = lambda conn: conn.recv(1 << 20)
    for conn in list(server.open):
        conn.reset()
    until(lambda: len(lines(rig, "no connection for")) >= 4, 150, every=2)
    for line in lines(rig, "no connection for"):
        assert (f"{at(server)}: " in line) == ("the server is silent" in line), line
