# SPDX-License-Identifier: GPL-2.0
"""The station sleeps (suspend to RAM) with requests on their way, and goes on when
it wakes: with its server, without the one it had, with another."""
import contextlib
import time

import pytest

from conftest import Rig, at
from faultserver import FaultServer
from harness.patience import until
from harness.station import StationError
from test_recovery import fill, read_all


class Sleeper(Rig):
    # Each sleep takes a processor away and patches the kernel's code, which is what the
    # emulator gets wrong now and then when each processor has a thread.
    parallel = False


@pytest.fixture(scope="module")
def module_rig(rig_kernel, image):
    with Sleeper(rig_kernel, initramfs=image, root=None, mem=512, append="quiet") as rig_:
        yield rig_.boot()


def asleep(rig):
    return rig.qmp("query-status")["status"] == "suspended"


def wait_asleep(rig):
    until(lambda: asleep(rig), 60, rig.console_tail, every=0.2)


def expect_awake(rig):
    """A debug kernel spends two minutes on its ACPI tables. The serial port may have
    slept through what it was to say, until it has something to hear."""
    for _ in range(12):
        try:
            return rig.expect("AWAKE", 20)
        except StationError:
            rig.send("\n")
    return rig.expect("AWAKE", 20)


def sleep_until_woken(rig, meanwhile):
    """Suspend with a reader and a writer at work; call meanwhile(), which says whether
    the connection is lost by it; wake."""
    rig.run("rm -f /tmp/stop /tmp/bad; echo deep >/sys/power/mem_sleep")
    rig.send("(while [ ! -e /tmp/stop ]; do dd if=/dev/nb0 of=/dev/null bs=64k count=16 iflag=direct && "
             "dd if=/tmp/w of=/dev/nb0 bs=4k count=16 seek=1024 oflag=direct conv=fsync || echo bad >/tmp/bad; done) "
             "2>/dev/null &\n")
    rig.send("sleep 1; echo mem >/sys/power/state; echo AW''AKE\n")
    wait_asleep(rig)
    lost = meanwhile()
    rig.qmp("system_wakeup")
    expect_awake(rig)
    if lost:
        rig.until("[ $(cat /sys/block/nb0/nb/reconnects) -gt 0 ]")     # noticed, and over
    rig.wait_state("live")
    assert rig.run("touch /tmp/stop; wait; ls /tmp/bad", check=False)[1] != 0
    rig.run("dd if=/dev/nb0 bs=4k count=16 skip=1024 iflag=direct 2>/dev/null | cmp - /tmp/w")


@pytest.mark.parametrize("server_is", ["there all the time", "restarted", "replaced by the second"])
def test_it_goes_on_when_it_wakes(rig, server, server_is):
    with FaultServer() as second:
        second.data = server.data
        fill(server)
        rig.attach(server, second, more="hold=0")
        rig.run("dd if=/dev/urandom of=/tmp/w bs=64k count=1 2>/dev/null")

        def meanwhile():
            if server_is != "there all the time":
                server.die()
            if server_is == "restarted":
                server.listen()
            time.sleep(2)
            return server_is != "there all the time"
        sleep_until_woken(rig, meanwhile)
        if server_is == "replaced by the second":
            assert rig.sysfs("server") == at(second)
        read_all(rig, server)
        assert "i/o error" not in rig.dmesg().lower()


def leave_a_request(rig):
    """A READ from processor 1 that waits, while nobody waits for it: who asked is gone.
    (The device stays open, or its last close would wait.)"""
    rig.run("exec 5</dev/nb0; taskset 2 dd if=/dev/nb0 of=/dev/null bs=4k count=1 skip=1000 2>/dev/null & sleep 1; "
            "grep -q 'State:.D' /proc/$!/status && kill -9 $! && ! wait $!")


def silence(server, how):
    """No READ is answered any more."""
    server.held = []
    if how == "gone":
        server.die()
    else:
        server.hook = lambda conn, req: server.held.append((conn, req)) is None


def speak_again(server, how):
    server.hook = None
    if how == "gone":
        server.listen()
    for conn, req in server.held:
        with contextlib.suppress(OSError):      # given up by a kernel that took minutes to wake
            conn.carry_out(req)


def all_answered(rig, server):
    rig.wait_state("live")
    rig.run("exec 5<&-")        # waits for the page that was to be read
    read_all(rig, server)
    assert "i/o error" not in rig.dmesg().lower()


@pytest.mark.parametrize("server_is", ["gone", "slow"])
def test_a_processor_goes_while_requests_wait(rig, server, server_is):
    """Those that came from it do not keep it, nor does it take them along."""
    fill(server)
    rig.attach(server)
    silence(server, server_is)
    leave_a_request(rig)
    rig.run("echo 0 >/sys/devices/system/cpu/cpu1/online")
    speak_again(server, server_is)
    all_answered(rig, server)
    rig.run("echo 1 >/sys/devices/system/cpu/cpu1/online")


@pytest.mark.parametrize("server_is", ["gone", "slow"])
def test_it_sleeps_while_requests_wait(rig, server, server_is):
    """With nobody there to answer them: it does not hang where nothing can be done."""
    fill(server)
    rig.attach(server)
    silence(server, server_is)
    leave_a_request(rig)
    rig.send("echo deep >/sys/power/mem_sleep; echo mem >/sys/power/state; echo AW''AKE\n")
    wait_asleep(rig)
    rig.qmp("system_wakeup")
    expect_awake(rig)
    speak_again(server, server_is)
    all_answered(rig, server)


@pytest.mark.long
def test_who_waits_for_the_server_keeps_it_awake(rig, server):
    """The kernel gives up after 20 seconds, and all goes on when the server is back."""
    fill(server)
    rig.attach(server)
    server.die()
    rig.send("dd if=/dev/nb0 bs=64k of=/tmp/r count=1 iflag=direct 2>/dev/null &\n")
    said, status = rig.run("echo mem >/sys/power/state", check=False)
    assert status and "busy" in said
    server.listen()
    rig.run("wait")
    read_all(rig, server)
    rig.run("dmesg -c | grep -q 'refusing to freeze'")
