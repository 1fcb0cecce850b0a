# SPDX-License-Identifier: GPL-2.0
"""The driver's test rig: one station a file, with nb.ko loaded and no root.

rig             a running Rig: .run(), .ctl("attach ..."), .sysfs("state"), .until("[ -e /x ]")
server          a FaultServer, whose address a rig knows as at(server)

$NB_DEBUG_KERNEL=1 boots "mkkernel debug" (KASAN, lockdep, kmemleak) instead of a
distribution's. After every test, and when a rig ends, the kernel log must be free of
complaints; a debug kernel must find nothing lost then.
"""
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
TOP = HERE.parents[1]
sys.path[:0] = [str(HERE), str(HERE.parent)]

from faultserver import FaultServer  # noqa: E402
from harness.guest import make_initramfs, put_program  # noqa: E402
from harness.kernel import kernel, own_kernel  # noqa: E402
from harness.patience import granted  # noqa: E402
from harness.station import Station  # noqa: E402

COMPLAINTS = re.compile(
    r"\b(BUG|WARNING|Oops|KASAN|UBSAN|ODEBUG|hung|stalls?)\b|\bINFO: |possible .* detected|general protection|"
    r"sleeping function|refcount_t|blocked for more than|unreferenced object")
# From here on the driver is there; what is slow before that is the emulator.
LOADED = "nb: loading out-of-tree module"
# MiB of a small station, and of what is too much for it. The debug kernel takes 70 for
# itself, and minutes to move 100.
SMALL, TOO_MUCH = (256, 120) if os.environ.get("NB_DEBUG_KERNEL") else (192, 200)


def at(server):
    """The server's address, as a station on QEMU's own network sees it."""
    return f"10.0.2.2:{server.port}"


def debug_kernel():
    k = own_kernel("debug")
    subprocess.run(["make", "-C", TOP / "kmod", f"KVER={k.kver}", f"KDIR={k.kdir}", "WERROR=1"],
                   check=True, capture_output=True)
    return k


def complaints_in(log):
    return [line for line in log.splitlines() if COMPLAINTS.search(line)]


def rig_image(k, tmp, *programs):
    """The rig's initramfs, with our own programs in it, and more of this machine's."""
    extra = tmp / "extra"
    shutil.copytree(HERE / "rig", extra)
    (extra / "bin").mkdir()
    for name in "newcomer", "keeper":
        subprocess.run(["gcc", "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-static",
                        "-o", extra / "bin" / name, HERE / f"{name}.c"], check=True)
    for program in programs:
        put_program(extra, program)
    return make_initramfs(k, extra, tmp / "rig.img")


class Rig(Station):
    parallel = True             # it is about races

    def __init__(self, *args, append="", **kwargs):
        if os.environ.get("NB_DEBUG_KERNEL"):   # which takes a minute to ask ACPI how PCI's interrupts go
            append += " pci=noacpi"
        super().__init__(*args, append=append, **kwargs)

    def boot(self):
        """Also again, when it went off in a test."""
        self.start_anew()
        self.expect("the rig is up", 180)
        self.expect(r"station:\S*# ")
        self.run("echo 1 >/proc/sys/kernel/printk")     # see dmesg()
        assert not complaints_in(self.dmesg().partition(LOADED)[2])
        return self

    def ctl(self, line, timeout=60):
        """A command to /dev/nb-control: (did it work?, its answer)."""
        out, status = self.run(f"ctl '{line}'", timeout, check=False)
        return status == 0, re.sub(r"^(sh|/bin/ctl|printf|ctl): .*\n?", "", out, flags=re.M).strip()

    def attach(self, *servers, dev="nb0", more="", timeout=60):
        words = " ".join(f"server={at(s)}" for s in servers)
        ok, answer = self.ctl(f"attach dev={dev} {words} {more}".strip(), timeout)
        assert ok, answer
        return answer

    def detach(self, dev="nb0", more=""):
        ok, answer = self.ctl(f"detach dev={dev} {more}".strip())
        assert ok, answer

    def sysfs(self, name, dev="nb0"):
        return self.run(f"cat /sys/block/{dev}/nb/{name}")

    def until(self, condition, timeout=60):
        """Wait until that command succeeds."""
        self.run(f"n=0; until {condition}; do n=$((n+1)); [ $n -lt {granted(timeout) * 5} ] || break; sleep 0.2; done; "
                 f"{condition}", timeout + 10)

    def wait_state(self, state, timeout=60, dev="nb0"):
        self.until(f"grep -qx {state} /sys/block/{dev}/nb/state", timeout)

    def wait_opened(self, dev="nb0"):
        """Until a program has it open."""
        self.until(f"ls -l /proc/[0-9]*/fd 2>/dev/null | grep -q /dev/{dev}$")

    def uptime(self):
        """Seconds, by the station's own clock."""
        return float(self.run("cut -d' ' -f1 /proc/uptime"))

    def keep_reading(self, dev="nb0"):
        """4 KiB after 4 KiB, in the background, until stop_reading()."""
        self.run("rm -f /tmp/stop")
        self.send(f"(while [ ! -e /tmp/stop ]; do dd if=/dev/{dev} of=/dev/null bs=4k count=64 iflag=direct; done) "
                  "2>/dev/null &\n")

    def stop_reading(self):
        self.run("touch /tmp/stop; wait; rm /tmp/stop")

    def dmesg(self):
        """The kernel log of this test. Its time stamps lose their brackets: the
        harness takes lines that have them out of what commands print."""
        return self.run(r"dmesg | sed 's/^\[ *\([0-9.]*\)\]/\1/'")

    def complaints(self):
        """Of this test; of a machine that is off, what its console had to say."""
        if not self.has_died():
            return complaints_in(self.dmesg())
        said = [] if self.emulator_failed() else self.console.rpartition("the rig is coming up")[2].splitlines()
        return complaints_in("\n".join(line for line in said if re.match(r"\[ *\d+\.\d+\] ", line)))

    def __exit__(self, kind, value, trace):
        """However a rig ends, its kernel was content."""
        try:
            if kind is None:
                assert not self.complaints()
                if os.environ.get("NB_DEBUG_KERNEL") and not self.has_died():
                    self.leaves_nothing_behind()
        finally:
            self.close()

    def leaves_nothing_behind(self):
        """Nothing of the driver's is lost, and it can be unloaded. (Only objects
        that are 5 seconds old are reported, and only found lost the second time.)"""
        self.run("mount -t debugfs debugfs /sys/kernel/debug 2>/dev/null; sleep 6; "
                 "for i in 1 2; do echo scan >/sys/kernel/debug/kmemleak; done", 180)
        lost = self.run("cat /sys/kernel/debug/kmemleak", 120)
        assert "[nb]" not in lost, lost
        self.run("rmmod nb")
        assert not self.complaints()


@pytest.fixture(scope="session")
def rig_kernel():
    return debug_kernel() if os.environ.get("NB_DEBUG_KERNEL") else kernel()


@pytest.fixture(scope="session")
def image(rig_kernel, tmp_path_factory):
    return rig_image(rig_kernel, tmp_path_factory.mktemp("rig"))


@pytest.fixture(scope="session")
def fio_image(rig_kernel, tmp_path_factory):
    """The same, with fio in it."""
    fio = shutil.which("fio")
    assert fio, "fio is missing: apt install fio"
    return rig_image(rig_kernel, tmp_path_factory.mktemp("fio"), fio)


@pytest.fixture(scope="module")
def module_rig(rig_kernel, image):
    with Rig(rig_kernel, initramfs=image, root=None, mem=1024, append="quiet") as rig_:
        yield rig_.boot()


# with Station() as s: starts; a Rig is started by boot().
Rig.__enter__ = lambda self: self


@pytest.fixture
def rig(request, module_rig):
    request.node.watched = [("station", module_rig)]
    if module_rig.has_died():       # in a former test, or in this one's first try
        module_rig.boot()
    module_rig.run("dmesg -c >/dev/null")
    yield module_rig
    module_rig.plug_cable()
    for dev in module_rig.run("ls -d /sys/block/nb[0-9]* 2>/dev/null", check=False)[0].split():
        module_rig.ctl(f"detach dev={dev.rsplit('/', 1)[-1]} force=1")
    assert not module_rig.complaints()


@pytest.fixture
def server():
    with FaultServer() as s:
        yield s
