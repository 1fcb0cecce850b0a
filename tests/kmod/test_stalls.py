# SPDX-License-Identifier: GPL-2.0
"""How long a running reader has to wait when its server, or its way there, goes
away: the promises in seconds, each kept by the best of several tries. What was
measured is in docs/bench-driver.md; "pytest -s" prints it anew."""
import time

import pytest

from faultserver import FaultServer
from test_verify import WiredRig
from wired import (FIRST, PORT, SECOND, Clocks, TwoWires, attach, disk, guest_image, kept, longest, longest_backoff,
                   needs_a_wire, slow_disk, start_and_note, start_stall, the_stall, wait_more)

pytestmark = [pytest.mark.long, needs_a_wire]

TRIES = 5
LOOSELY = 40        # s: the worst of them; a machine may stand still


@pytest.fixture(scope="module")
def stall_image(rig_kernel, tmp_path_factory):
    return guest_image(rig_kernel, tmp_path_factory.mktemp("stall"), "stall.c")


@pytest.fixture(scope="module")
def the_wire():
    with TwoWires() as wire:
        yield wire


@pytest.fixture(scope="module")
def module_rig(the_wire, rig_kernel, stall_image):
    with WiredRig(the_wire, rig_kernel, initramfs=stall_image, root=None, mem=512, append="quiet") as rig_:
        yield rig_.boot()


@pytest.fixture
def wire(the_wire):
    yield the_wire
    the_wire.unsilence()


def fault_server(wire, host=FIRST):
    with wire.inside():
        server = FaultServer(host=host)
    server.port = PORT
    return server


class Ours:
    """Our nbd-server; all of them serve one image, without a lock."""
    def __init__(self, wire, tmp_path, host=FIRST):
        self.server = wire.server(disk(tmp_path / "disk"), host, env=slow_disk(tmp_path, nolock=1))

    def start(self):
        return start_and_note(self.server)

    def kill(self):
        self.server.kill9()

    def end(self):
        self.server.__exit__(None, None, None)


class Fault:
    """One in this process: when the station called it first is known, too."""
    def __init__(self, wire, _, host=FIRST):
        self.wire, self.server = wire, fault_server(wire, host)
        self.called_at = None
        self.server.on_option = self.called

    def called(self, *_):
        self.called_at = self.called_at or time.monotonic()

    def start(self):
        self.called_at = None
        with self.wire.inside():
            before = time.monotonic()
            self.server.listen()
        return before

    def kill(self):
        """By RST, which a process that had something unread sends when it is killed."""
        listener, self.server.listener = self.server.listener, None
        listener.shutdown(2)
        self.server.acceptor.join()
        listener.close()
        for conn in list(self.server.open):
            conn.reset()

    def end(self):
        self.server.__exit__(None, None, None)


@pytest.fixture
def make(rig, wire, tmp_path):
    made = []

    def make_one(kind, host=FIRST):
        made.append(kind(wire, tmp_path, host))
        made[-1].start()
        return made[-1]
    yield make_one
    rig.ctl("detach dev=nb0 force=1")       # before the server is asked to end well
    for one in made:
        one.end()


EACH = pytest.mark.parametrize("kind", [Ours, Fault])


@EACH
@pytest.mark.parametrize("away", [0, 6])
def test_killed_and_restarted(rig, make, kind, away):
    """A server that is back serves within a second, be it after a moment, or after so
    long that a back-off would have grown."""
    server = make(kind)
    attach(rig, FIRST)
    clocks, tries, until_called = Clocks(rig), [], []
    for _ in range(TRIES):
        start_stall(rig, "r")
        server.kill()
        time.sleep(away)
        listened = server.start()
        wait_more(rig, "r")
        end = the_stall(rig, clocks.guest(listened))[1]
        tries.append(end - clocks.guest(listened))
        if kind is Fault:
            until_called.append(server.called_at - listened)
    kept(f"{kind.__name__}, away for {away} s, after it listens (clocks +-{clocks.error:.3f})", tries, 1, LOOSELY)
    if until_called:
        kept("of that, until the station called", until_called, 1, LOOSELY)


@EACH
def test_reset_by_the_first(rig, make, kind):
    """The first server's process dies, and the second one serves within a second."""
    one, other = make(kind), make(kind, SECOND)
    attach(rig, FIRST, SECOND)
    tries = []
    for i in range(TRIES):
        start_stall(rig, "r")
        (other if i % 2 else one).kill()
        rig.wait_state("live")
        rig.until(f"grep -q {FIRST if i % 2 else SECOND}: /sys/block/nb0/nb/server")
        wait_more(rig, "r")
        tries.append(longest(rig))
        (other if i % 2 else one).start()
        time.sleep(6)       # the connection counts as a stable one
    kept(f"{kind.__name__}, killed, the other one is up", tries, 1, LOOSELY)


@EACH
@pytest.mark.parametrize("more, promise", [("", 8), ("timeout=2", 2)])
def test_silence_of_the_first(rig, make, wire, kind, more, promise):
    """Not a packet of the first server comes through any more: the second one serves
    within 8 seconds, or 2 if that is wished for."""
    make(kind), make(kind, SECOND)
    tries = []
    for _ in range(TRIES):
        attach(rig, FIRST, SECOND, more=more)
        start_stall(rig, "r")
        wire.silence(FIRST)
        rig.until(f"grep -q {SECOND}: /sys/block/nb0/nb/server && grep -q live /sys/block/nb0/nb/state")
        wait_more(rig, "r")
        tries.append(longest(rig))
        wire.unsilence()
        rig.detach()
    kept(f"{kind.__name__}, silent, {more or 'default'}", tries, promise, LOOSELY)
    assert min(tries) > promise / 3     # it was the silence that was measured


def cable_out(rig, what, clocks, meanwhile):
    """How long it takes from the cable's return until the station reads or writes."""
    rig.unplug_cable()
    meanwhile()
    back = time.monotonic()
    rig.plug_cable()
    wait_more(rig, what)
    return the_stall(rig, clocks.guest(back))[1] - clocks.guest(back)


@pytest.mark.parametrize("what", ["r", "w"])
def test_cable_out(rig, make, what):
    """For so long that the back-off is at its longest, and has only begun: who reads
    goes on within 2 seconds of the link, and so does who writes to our own server."""
    make(Ours)
    attach(rig, FIRST, more="timeout=2")
    clocks, tries = Clocks(rig), []
    for _ in range(3):
        start_stall(rig, what)
        tries.append(cable_out(rig, what, clocks, lambda: longest_backoff(rig)))
    kept(f"Ours, {what}, cable back (clocks +-{clocks.error:.3f})", tries, 2, LOOSELY)


def test_cable_out_for_ten_minutes(rig, make):
    """The same after ten minutes, with our server and its default settings."""
    make(Ours)
    attach(rig, FIRST)
    clocks = Clocks(rig)
    start_stall(rig, "w")

    def meanwhile():
        time.sleep(600)
        longest_backoff(rig, 1)
    kept("cable out for ten minutes", [cable_out(rig, "w", clocks, meanwhile)], 2, LOOSELY)
    assert "i/o error" not in rig.dmesg().lower()
