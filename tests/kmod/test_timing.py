# SPDX-License-Identifier: GPL-2.0
"""How long a reader has to wait. The bounds are several times what it takes:
they tell a back-off of seconds from none, on the slowest of machines."""
import re
import socket
import time

import pytest

from conftest import at
from faultserver import FaultServer


READ = "if=/dev/nb0 of=/dev/null iflag=direct skip=$i"
WRITE = "if=/dev/zero of=/dev/nb0 oflag=direct seek=$i"


def start_reader(rig, does=READ):
    """Reads 4 KiB at a time, or writes, and notes the longest time that one took, in ms."""
    rig.run("rm -f /tmp/stop /tmp/worst /tmp/began")
    rig.send("(worst=0; i=0; while [ ! -e /tmp/stop ]; do i=$(((i+1)%4000)); read a b </proc/uptime; "
             f"dd {does} bs=4k count=1 2>/dev/null || echo FAI''LED; "
             "read c b </proc/uptime; t=$(((${c%.*}-${a%.*})*1000+(1${c#*.}-1${a#*.})*10)); "
             "[ $t -le $worst ] || worst=$t; : >/tmp/began; done; echo $worst >/tmp/worst) &\n")
    rig.until("[ -e /tmp/began ]")


def worst_wait(rig):
    worst = int(rig.run("touch /tmp/stop; wait; cat /tmp/worst")) / 1000
    assert "FAILED" not in rig.console
    print(f"the reader waited {worst} s at most")
    return worst


def other_address():
    """One of this machine's own that is not the loopback's."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        try:
            s.connect(("192.0.2.1", 9))
            return s.getsockname()[0]
        except OSError:
            return None


@pytest.mark.long
def test_a_restarted_server_is_found_at_once(rig, server):
    """It is away for 6 seconds, and then asked again within one, not after a
    back-off that has grown meanwhile."""
    rig.attach(server)
    start_reader(rig)
    server.die()
    time.sleep(6)
    before = float(rig.run("cut -d' ' -f1 /proc/uptime"))
    server.listen()
    rig.wait_state("live", 30)
    took = float(rig.run("cut -d' ' -f1 /proc/uptime")) - before
    print(f"live {took:.2f} s after it listened")
    assert took < 4
    assert 5 < worst_wait(rig) < 20


@pytest.mark.long
def test_the_second_server_takes_over_at_once(rig, server):
    with FaultServer() as second:
        rig.attach(server, second)
        start_reader(rig)
        server.die()
        rig.wait_state("live", 30)
        time.sleep(1)
        assert rig.sysfs("server") == at(second)
        assert worst_wait(rig) < 4


@pytest.mark.long
@pytest.mark.parametrize("does, more, least, most", [
    (READ, "timeout=2", 0.5, 8), (READ, "", 3, 24),
    (WRITE, "timeout=2 hold=2", 1, 4), (WRITE, "timeout=2", 2, 5), (WRITE, "", 6, 12),
    (WRITE, "timeout=2 hold=12", 11, 16),
])
def test_a_silent_server_is_left_for_the_second(rig, server, does, more, least, most):
    """No packet of the first comes through any more: in 2 s, or 8 by default. A writer
    waits for hold=, from the last sign of life on. (rp_filter: nothing of it comes in, either.)"""
    address = other_address()
    if not address:
        pytest.skip("this machine has no second address")
    with FaultServer(host=address) as second:
        ok, answer = rig.ctl(f"attach dev=nb0 server={at(server)} server={address}:{second.port} {more}".strip())
        assert ok, answer
        start_reader(rig, does)
        try:
            rig.run("echo 1 >/proc/sys/net/ipv4/conf/all/rp_filter; ip route add blackhole 10.0.2.2/32")
            rig.until(f"(grep -q :{second.port} /sys/block/nb0/nb/server && grep -q live /sys/block/nb0/nb/state)")
            time.sleep(1)
            assert least < worst_wait(rig) < most
        finally:
            rig.run("ip route del blackhole 10.0.2.2/32; echo 0 >/proc/sys/net/ipv4/conf/all/rp_filter")


@pytest.mark.long
def test_a_server_that_refuses_is_not_held_up_by_one_that_is_silent(rig, server):
    """The second of two answers nothing: the first is found again all the same."""
    ok, answer = rig.ctl(f"attach dev=nb0 server={at(server)} server=10.0.2.99:1234")
    assert ok, answer
    server.die()
    time.sleep(8)
    server.listen()
    before = time.monotonic()
    rig.wait_state("live", 30)
    assert time.monotonic() - before < 10
    assert rig.sysfs("server") == at(server)


@pytest.mark.long
def test_a_link_that_comes_up_is_used_at_once(rig, server):
    """Out for so long that the back-off is at its longest."""
    rig.attach(server, more="timeout=2")
    rig.unplug_cable()
    rig.send("dd if=/dev/nb0 of=/dev/null bs=64k count=1 iflag=direct 2>/dev/null && echo yes >/tmp/done &\n")
    rig.wait_state("recovering", 30)
    time.sleep(20)
    rig.plug_cable()
    before = time.monotonic()
    rig.run("wait; cat /tmp/done; rm /tmp/done", 30)
    took = time.monotonic() - before
    print(f"read {took:.2f} s after the link")
    assert took < 9


@pytest.mark.long
def test_a_cable_out_for_ten_minutes(rig, server):
    """Requests wait, the log says so every half minute, then all goes on."""
    rig.attach(server)
    rig.unplug_cable()
    rig.send("dd if=/dev/nb0 of=/dev/null bs=64k count=1 iflag=direct 2>/dev/null && echo yes >/tmp/done &\n")
    time.sleep(600)
    assert rig.sysfs("state") == "recovering"
    assert 16 <= len(re.findall("no connection for .*; still trying", rig.dmesg())) <= 21
    rig.plug_cable()
    before = time.monotonic()
    rig.run("wait; cat /tmp/done; rm /tmp/done", 30)
    assert time.monotonic() - before < 10
    assert "i/o error" not in rig.dmesg().lower()


@pytest.mark.long
def test_who_is_lost_and_for_how_long(rig, server):
    """A line every 30 seconds."""
    rig.attach(server)
    server.die()
    rig.wait_state("recovering")
    time.sleep(33)
    assert re.search(rf"nb0: {at(server)}: no connection for 3\d s: connection refused.*; still trying", rig.dmesg())
