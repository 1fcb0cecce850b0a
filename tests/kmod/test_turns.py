# SPDX-License-Identifier: GPL-2.0
"""Which server is asked, and how often: a spare of no use must not stand between
the station and the server that it lost."""
import math
import time

import pytest

from conftest import at
from faultserver import FaultServer, crashes
from harness import wire
from harness.patience import until


def refuses(spare):
    spare.refuse = wire.NBD_REP_ERR_UNKNOWN, b"no such export here"


def is_another_image(spare):
    spare.identity = "boot-1/host-1/image-2"


USELESS = pytest.mark.parametrize("useless", [refuses, is_another_image])


@pytest.fixture
def server():
    with FaultServer() as s:
        s.identity = "boot-1/host-1/image-1"
        yield s


@pytest.fixture
def spare():
    with FaultServer() as s:
        yield s


def most_tries(seconds):
    """Of a back-off of 0.1, 0.2, 0.4 .. s, each up to a quarter less."""
    return math.log2(seconds / 0.075 + 1) + 2


def test_a_spare_of_no_use_is_not_asked_first(rig, server, spare):
    """It is silent, which takes 5 s to find out, each time. The server that was
    restarted refuses once, and is back before the spare would be asked again."""
    spare.talk = lambda conn: conn.recv(1)
    rig.attach(server, spare)
    server.die()
    until(lambda: spare.accepted)       # found out, once
    server.listen()
    for i in range(8):                  # a machine may stand still, but not each time
        rig.until(f"[ $(cat /sys/block/nb0/nb/reconnects) -gt {i} ]")
        time.sleep(6)                   # so the connection was a stable one
        asked = spare.accepted
        server.die()
        time.sleep(0.1)
        server.listen()
        rig.until(f"[ $(cat /sys/block/nb0/nb/reconnects) -gt {i + 1} ]")
        if "refused" in rig.sysfs("last_error") and spare.accepted == asked:
            return
    pytest.fail(f"it was asked {spare.accepted} times")


@USELESS
def test_a_spare_of_no_use_is_not_asked_at_each_loss(rig, server, spare, useless):
    """The server crashes again and again: the spare's back-off goes on all the while."""
    useless(spare)
    rig.attach(server, spare)
    rig.keep_reading()
    start = time.monotonic()
    server.hook = crashes
    rig.until("[ $(cat /sys/block/nb0/nb/reconnects) -gt 25 ]")
    asked, took = spare.accepted, time.monotonic() - start
    server.hook = None
    rig.stop_reading()
    assert rig.sysfs("server") == at(server)
    print(f"asked {asked} times in {took:.1f} s")
    assert 2 <= asked <= most_tries(took)


@USELESS
def test_a_spare_of_no_use_is_asked_less_and_less(rig, server, spare, useless):
    """While the server is away, which is found at once when it is back."""
    useless(spare)
    rig.attach(server, spare)
    for _ in range(4):      # a machine may stand still for seconds, but not each time
        rig.wait_state("live")
        server.die()
        start, before = time.monotonic(), spare.accepted
        time.sleep(8)
        asked, took = spare.accepted - before, time.monotonic() - start
        start = rig.uptime()
        server.listen()
        rig.wait_state("live")
        back = rig.uptime() - start
        print(f"asked {asked} times in {took:.1f} s; live {back:.2f} s after the server listened")
        assert asked <= most_tries(took)
        if back < 2 and asked >= 1:
            return
    pytest.fail(f"live {back:.2f} s after the server listened")
