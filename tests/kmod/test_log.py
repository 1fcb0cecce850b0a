# SPDX-License-Identifier: GPL-2.0
"""What the kernel log says of servers that go away: all that an operator needs, and
not more than he can read."""
import re
import time

import pytest

from conftest import at
from faultserver import crashes
from harness.patience import until

TOLD = 5        # NB_TOLD


def said(rig):
    """What the driver said of the disk since the log was last emptied."""
    return re.findall(r"^[0-9.]+ nb: (nb0: .*)$", rig.dmesg(), re.M)


def losses(lines):
    """How many they tell of, one by one or in sum."""
    return sum("connection lost: " in line for line in lines) + \
        sum(int(n) for line in lines for n in re.findall(r"lost (\d+) times more", line))


def attach(rig, server):
    rig.attach(server)
    rig.run("dmesg -c >/dev/null")


def lost(server):
    return rf"nb0: {at(server)}: connection lost: closed by the server; \d+ requests in flight"


def found(server):
    return rf"nb0: {at(server)}: connected again after \d+ s"


def test_a_restart_is_two_lines(rig, server):
    """It is lost, and why; it is back. Each time, if that is not all the time."""
    attach(rig, server)
    for i in range(3):
        server.die()
        server.listen()
        rig.until(f"[ $(cat /sys/block/nb0/nb/reconnects) -gt {i} ]")
        time.sleep(1)
    lines = said(rig)
    assert len(lines) == 6
    for i in range(0, 6, 2):
        assert re.fullmatch(lost(server), lines[i]) and re.fullmatch(found(server), lines[i + 1])


def crash_for(rig, server, seconds):
    """So many of the station's seconds it crashes, and then no more: how long that
    really was, and what the log says when that has been told."""
    rig.keep_reading()
    start = rig.uptime()
    server.hook = crashes
    rig.until(f"[ $(cut -d. -f1 /proc/uptime) -ge {int(start + seconds)} ]", 2 * seconds)
    server.hook = None
    took = rig.uptime() - start
    until(lambda: losses(said(rig)) == int(rig.sysfs("reconnects")), 20, lambda: said(rig), every=1)
    rig.stop_reading()
    return took, said(rig)


@pytest.mark.parametrize("seconds", [12, pytest.param(70, marks=pytest.mark.long)])
def test_a_server_that_crashes_all_the_time(rig, server, seconds):
    """The first losses are told, then one line every 30 s; no loss is passed over,
    and the last word is that it is back."""
    attach(rig, server)
    took, lines = crash_for(rig, server, seconds)
    crashed = int(rig.sysfs("reconnects"))
    print(f"{crashed} crashes in {took:.0f} s, {len(lines)} lines:", *lines, sep="\n")
    assert crashed > seconds                    # else it is no such server
    for i in range(0, 2 * TOLD, 2):
        assert re.fullmatch(lost(server), lines[i]) and re.fullmatch(found(server), lines[i + 1])
    rest = lines[2 * TOLD:]
    assert len(rest) <= 2 * ((took + 10) / 30 + 1)      # each may be of a loss, whose end is told
    assert 1 <= sum("times more" in line for line in rest) <= (took + 10) / 30 + 1
    assert sum("times more" in line for line in rest) >= (took - 10) // 30
    assert all(at(server) in line for line in rest)
    assert all("closed by the server" in line for line in rest if "times more" in line)
    assert ": connected" in lines[-1]


@pytest.mark.long
def test_a_server_that_crashes_and_then_is_gone(rig, server):
    """Who is lost, for how long and why is told every 30 s, and that it is back at once,
    also when the loss itself was one of too many."""
    attach(rig, server)
    crash_for(rig, server, 12)
    server.die()
    rig.until("dmesg | tail -n 1 | grep -q 'no connection for [0-9]* s: connection refused.*still trying'", 60)
    reconnects = int(rig.sysfs("reconnects"))
    assert losses(said(rig)) == reconnects + 1
    server.listen()
    rig.wait_state("live")
    rig.until("dmesg | tail -n 1 | grep -q 'connected again after [0-9]* s'", 10)
