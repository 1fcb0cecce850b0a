# SPDX-License-Identifier: GPL-2.0
"""A server that says it is shutting down (NBD_ESHUTDOWN): it is left in good order,
nothing is done twice, and nobody waits who need not."""
import re
import threading
import time

import pytest

from conftest import Rig, at
from faultserver import FaultServer
from harness import wire
from harness.patience import until

MULTI = FaultServer.FLAGS | wire.NBD_FLAG_CAN_MULTI_CONN
WRITERS = 8


@pytest.fixture(scope="module")
def module_rig(rig_kernel, image):
    """A station of two processors, so that it has two queues."""
    with Rig(rig_kernel, initramfs=image, root=None, mem=1024, smp=2, append="quiet") as rig_:
        yield rig_.boot()


@pytest.fixture
def second(server):
    with FaultServer() as s:
        s.data = server.data
        yield s


class Leaves:
    """A hook: it takes WRITERS writes in, and says to one of them that it is shutting
    down. Later it answers the others, but for those that it forgets."""

    def __init__(self, server, forgets=0):
        self.server, self.forgets = server, forgets
        self.held, self.done, self.lock = [], [], threading.Lock()
        server.hook = self

    def __call__(self, conn, req):
        if req.type != wire.NBD_CMD_WRITE:
            return False
        with self.lock:
            self.held.append((conn, req))
            if len(self.held) == WRITERS:
                self.server.talk = lambda conn: conn.recv(1)    # its port is open yet, but nobody serves
                conn.reply(req.cookie, wire.NBD_ESHUTDOWN)
                threading.Thread(target=self.answer, args=(self.held[:-1],), daemon=True).start()
        return True

    def answer(self, held):
        time.sleep(0.3)
        for conn, req in held[self.forgets:]:
            self.done.append(req.offset)
            try:
                conn.carry_out(req)
            except OSError:
                pass        # done all the same


def write(rig):
    """WRITERS blocks at a time, in the background."""
    rig.run("rm -f /tmp/done /tmp/failed")
    rig.send(f"(for i in $(seq {WRITERS}); do dd if=/dev/urandom of=/dev/nb0 bs=4k count=1 seek=$i oflag=direct "
             f"2>/dev/null || echo >/tmp/failed & done; wait; echo yes >/tmp/done) &\n")


def finished(rig):
    rig.until("[ -e /tmp/done ]", 40)
    rig.run("[ ! -e /tmp/failed ]")
    assert "i/o error" not in rig.dmesg().lower()


def written(server):
    return [req.offset for req in server.seen if req.type == wire.NBD_CMD_WRITE]


@pytest.mark.parametrize("flags, forgets", [(FaultServer.FLAGS, 0), (FaultServer.FLAGS, 1), (MULTI, 2)],
                         ids=["answers all", "forgets one", "several connections"])
def test_it_is_left_in_good_order(rig, server, second, flags, forgets):
    """What it still does is waited for, what it refuses goes to the second server, and
    so does what it has dropped when it closes. Each write is done once."""
    server.flags = second.flags = flags
    rig.attach(server, second, more="hold=600")
    conns = int(rig.sysfs("connections"))
    time.sleep(6)                   # so that its turn would come first
    leaves, tries = Leaves(server, forgets), server.accepted
    write(rig)
    finished(rig)
    assert rig.sysfs("server") == at(second) and server.accepted == tries
    assert server.kinds().count(wire.NBD_CMD_DISC) == conns
    assert sorted(leaves.done + written(second)) == [4096 * (i + 1) for i in range(WRITERS)]
    assert len(written(second)) == 1 + forgets
    log = rig.dmesg()
    assert re.search("connection lost: the server is shutting down; [1-9] requests in flight", log)
    assert "held back" not in log


def test_what_it_has_refused_is_not_held_back(rig, server, second):
    """It does not close, but what it has refused it will not do later."""
    server.farewell = 3600
    rig.attach(server, second, more="hold=600")
    leaves = Leaves(server)
    write(rig)
    finished(rig)
    assert len(leaves.done) == WRITERS - 1 and len(written(second)) == 1


def test_what_it_may_still_do_is_held_back(rig, server, second):
    """It neither answers nor closes."""
    server.farewell = 3600
    rig.attach(server, second, more="hold=600")
    Leaves(server, forgets=1)
    write(rig)
    rig.until("dmesg | grep -q 'are held back'")
    until(lambda: wire.NBD_CMD_DISC in server.kinds())
    assert rig.sysfs("state") == "recovering" and not written(second)


def test_alone_it_is_asked_again(rig, server):
    """There is no other: it is, when it is back."""
    rig.attach(server, more="hold=600")
    Leaves(server)
    write(rig)
    rig.wait_state("recovering")
    server.die()
    server.hook = server.talk = None
    server.listen()
    finished(rig)
