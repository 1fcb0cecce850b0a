# SPDX-License-Identifier: GPL-2.0
"""fio writes at random places and reads back what it wrote, by checksum, while its
servers are killed and its wire is cut: no error, no mismatch. Each loss counts: the
next one comes only when the station has a server again and has written to it."""
import re
import subprocess
from pathlib import Path

import pytest

from conftest import Rig, at
from harness.patience import until
from harness.process import DIE_WITH_PARENT
from harness.server import Server
from test_verify import WiredRig
from wired import FIRST, PORT, TwoWires, disk, guest_image, needs_a_wire, slow_disk, wait_more

pytestmark = pytest.mark.long

# It reads back the last 64 blocks each time it has written 64, so it writes all the time.
FIO = ("fio --name=v --filename=/dev/nb0 --direct=1 --ioengine=libaio --iodepth=16 --rw=randwrite --bs=4k "
       "--size=4M --fsync=64 --verify=crc32c --verify_fatal=1 --verify_backlog=64 --randrepeat=0")
DEPTH = 16


@pytest.fixture(scope="session")
def verify_image(rig_kernel, tmp_path_factory):
    return guest_image(rig_kernel, tmp_path_factory.mktemp("fio"), "fio")


@pytest.fixture(scope="module")
def module_rig(rig_kernel, verify_image):
    with Rig(rig_kernel, initramfs=verify_image, root=None, mem=1024, append="quiet") as rig_:
        yield rig_.boot()


@pytest.fixture(scope="module")
def the_wire():
    with TwoWires() as wire:
        yield wire


@pytest.fixture
def wired_rig(request, the_wire, rig_kernel, verify_image):
    with WiredRig(the_wire, rig_kernel, initramfs=verify_image, root=None, mem=1024, append="quiet") as rig_:
        request.node.watched = [("station", rig_)]
        yield rig_.boot()
        assert not rig_.complaints()


def start_fio(rig):
    rig.run("rm -f /tmp/stop /tmp/rounds /tmp/fio.bad; fio --version")
    rig.send(f"(while [ ! -e /tmp/stop ]; do {FIO} >/tmp/fio.log 2>&1 && echo round >>/tmp/rounds || "
             "{ cp /tmp/fio.log /tmp/fio.bad; break; }; done) &\n")
    wait_more(rig, "w", DEPTH)


def fio_is_content(rig):
    """It has written and verified at least once, and never complained."""
    out = rig.run("touch /tmp/stop; wait; cat /tmp/fio.bad 2>/dev/null; wc -l </tmp/rounds", 300)
    assert re.fullmatch(r"[1-9]\d*", out.strip()), out
    assert "i/o error" not in rig.dmesg().lower()
    print(f"fio wrote and verified {out.strip()} times")


def reconnects(rig):
    return int(rig.sysfs("reconnects"))


def written_again(rig, losses):
    """The station has found a server so many times, and got on with its work."""
    rig.until(f"[ $(cat /sys/block/nb0/nb/reconnects) -ge {losses} ]")
    wait_more(rig, "w", DEPTH, unless="[ -e /tmp/fio.bad ]")


def test_a_hundred_kills_of_one_server(rig, tmp_path):
    """Whatever was in flight in any of a hundred moments is written once it is
    acknowledged, and nothing old comes after it."""
    with Server(disk(tmp_path / "disk"), wrap=DIE_WITH_PARENT) as server:
        rig.attach(server)
        start_fio(rig)
        for i in range(100):
            server.kill9()
            if i % 3 == 0:
                rig.wait_state("recovering")
            server.start()
            written_again(rig, i + 1)
        fio_is_content(rig)
        assert reconnects(rig) == 100
        rig.detach()


def test_four_connections_to_our_server(rig_kernel, verify_image, tmp_path):
    """A flush on one of four covers what the others wrote, and when all die each
    request goes out again on whichever connection its queue has then."""
    with Rig(rig_kernel, initramfs=verify_image, root=None, mem=1024, smp=4, append="quiet") as rig, \
            Server(disk(tmp_path / "disk"), wrap=DIE_WITH_PARENT) as server:
        rig.boot()
        rig.attach(server, more="conns=4")
        four = "[ $(cat /sys/block/nb0/nb/connections) = 4 ]"
        rig.until(four)
        start_fio(rig)
        for i in range(10):
            server.kill9()
            server.start()
            written_again(rig, i + 1)
            rig.until(four)
        fio_is_content(rig)
        rig.detach()


def test_two_servers_of_one_image(rig, tmp_path):
    """Each of two servers, where neither locks the image, takes over from the other
    one, which was killed, and is started again only then."""
    image, env = disk(tmp_path / "disk"), slow_disk(tmp_path, nolock=1)
    with Server(image, wrap=DIE_WITH_PARENT, env=env) as one, Server(image, wrap=DIE_WITH_PARENT, env=env) as other:
        rig.attach(one, other)
        start_fio(rig)
        for i in range(40):
            server, spare = (other, one) if i % 2 else (one, other)
            assert rig.sysfs("server") == at(server)
            server.kill9()
            written_again(rig, i + 1)
            assert rig.sysfs("server") == at(spare)
            server.start()
        fio_is_content(rig)
        assert reconnects(rig) == 40
        rig.detach()


def silent_drops(rig, wire, drops):
    for i in range(drops):
        wire.silence(FIRST)
        rig.wait_state("recovering")
        wire.unsilence()
        written_again(rig, i + 1)
    fio_is_content(rig)
    assert reconnects(rig) == drops


@needs_a_wire
def test_twenty_silent_drops(wired_rig, the_wire, tmp_path):
    """Our server still has the old connection when the station comes back, each time:
    it fences that, and nobody waits for hold=."""
    rig = wired_rig
    with the_wire.server(disk(tmp_path / "disk")) as server:
        ok, answer = rig.ctl(f"attach dev=nb0 server={FIRST}:{PORT} timeout=2 hold=600")
        assert ok, answer
        start_fio(rig)
        silent_drops(rig, the_wire, 20)
        assert server.log().count("has come back by another connection") >= 20
        rig.detach()


class Stranger:
    """qemu-nbd, which knows no sessions."""
    def __init__(self, wire, image):
        self.wire, self.image = wire, image

    def start(self):
        self.process = subprocess.Popen(
            [*self.wire.enter, *DIE_WITH_PARENT, "qemu-nbd", "-t", "-e", "0", "-f", "raw", "-b", FIRST, "-p", str(PORT),
             self.image], stdin=subprocess.DEVNULL)
        tcp = Path(f"/proc/{self.process.pid}/net/tcp")      # of its own network
        until(lambda: f":{PORT:04X} 00000000:0000 0A" in tcp.read_text(), 30)

    def kill(self):
        self.process.kill()
        self.process.wait()


@needs_a_wire
def test_a_stranger_that_is_killed_and_out_of_reach(wired_rig, the_wire, tmp_path):
    """qemu-nbd knows no sessions: what its old connection may still carry out is
    waited for (hold=), but not when it was killed."""
    rig, server = wired_rig, Stranger(the_wire, disk(tmp_path / "disk"))
    server.start()
    try:
        ok, answer = rig.ctl(f"attach dev=nb0 server={FIRST}:{PORT} timeout=2 hold=3")
        assert ok, answer
        start_fio(rig)
        for i in range(20):
            if i % 2:
                server.kill()
                server.start()
            else:
                the_wire.silence(FIRST)
                rig.wait_state("recovering")
                the_wire.unsilence()
            written_again(rig, i + 1)
        fio_is_content(rig)
        assert reconnects(rig) == 20
        held = rig.dmesg().count("are held back")
        print(f"held back {held} times in 10 silent drops")
        assert held >= 1, f"held back {held} times in 10 silent drops"
        rig.detach()
    finally:
        server.kill()
