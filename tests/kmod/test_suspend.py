# SPDX-License-Identifier: GPL-2.0
"""The station sleeps (suspend to RAM) with requests on their way, and goes on when
it wakes: with its server, without the one it had, with another."""
import time

import pytest

from conftest import Rig, at
from faultserver import FaultServer
from harness.patience import until
from test_recovery import fill, read_all


@pytest.fixture(scope="module")
def module_rig(rig_kernel, image):
    with Rig(rig_kernel, initramfs=image, root=None, mem=512, append="quiet") as rig_:
        yield rig_.boot()


def asleep(rig):
    return rig.qmp("query-status")["status"] == "suspended"


def sleep_until_woken(rig, meanwhile):
    """Suspend with a reader and a writer at work; call meanwhile(); wake."""
    rig.run("rm -f /tmp/stop /tmp/bad; echo deep >/sys/power/mem_sleep")
    rig.send("(while [ ! -e /tmp/stop ]; do dd if=/dev/nb0 of=/dev/null bs=64k count=16 iflag=direct && "
             "dd if=/tmp/w of=/dev/nb0 bs=4k count=16 seek=1024 oflag=direct conv=fsync || echo bad >/tmp/bad; done) "
             "2>/dev/null &\n")
    rig.send("sleep 1; echo mem >/sys/power/state; echo AW''AKE\n")
    until(lambda: asleep(rig), 60, rig.console_tail, every=0.2)
    meanwhile()
    rig.qmp("system_wakeup")
    rig.expect("AWAKE", 240)      # a debug kernel spends two minutes on its ACPI tables
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
        sleep_until_woken(rig, meanwhile)
        if server_is == "replaced by the second":
            assert rig.sysfs("server") == at(second)
        read_all(rig, server)
        assert "i/o error" not in rig.dmesg().lower()
