# SPDX-License-Identifier: GPL-2.0
"""READs that wait with TCP for company: fewer segments while many are in flight,
and none that is stuck."""
import time

import pytest

from conftest import Rig
from harness import wire
from harness.patience import until

PORT = 10809
FIO = ("fio --name=c --filename=/dev/nb0 --direct=1 --ioengine=libaio --rw=randread --bs=4k --size=8M "
       "--iodepth={} --number_ios={} >/tmp/fio.log 2>&1")


@pytest.fixture(scope="module")
def module_rig(rig_kernel, fio_image):
    with Rig(rig_kernel, initramfs=fio_image, root=None, mem=1024, append="quiet") as rig_:
        yield rig_.boot()


@pytest.fixture
def company(rig):
    """company(n) sets the module parameter, which is afterwards what it was."""
    file = "/sys/module/nb/parameters/company"
    before = rig.run(f"cat {file}")
    yield lambda n: rig.run(f"echo {n} >{file}")
    rig.run(f"echo {before} >{file}")


def read_one_by_one(rig, depth, number, batch, pause=0):
    """fio against a keeper (see there): READs, segments, and what else it measured."""
    rig.run(f"keeper {PORT} {batch} {pause} >/tmp/keeper 2>&1 &")
    rig.until("grep -q listening /tmp/keeper")
    ok, answer = rig.ctl(f"attach dev=nb0 server=127.0.0.1:{PORT}")
    assert ok, answer
    said, status = rig.run(f"{FIO.format(depth, number)} || cat /tmp/fio.log", 300, check=False)
    assert not said and not status, said
    rig.detach()
    rig.until("grep -q '^[0-9]' /tmp/keeper")
    reads, segments, *late = rig.run("tail -n 1 /tmp/keeper").split()
    assert int(reads) >= number
    return int(reads), int(segments), [float(ms) for ms in late]


def test_reads_one_by_one_share_segments(rig, company):
    """What company= is for. The server answers 16 at a time, and fio asks anew for
    each of them by itself; its TCP counts the segments that bring that."""
    company(0)
    reads, alone, _ = read_one_by_one(rig, 32, 2000, 16)
    assert alone > 0.9 * reads      # so it is about one by one
    company(8)
    reads, together, _ = read_one_by_one(rig, 32, 2000, 16)
    print(f"{reads} reads in {together} segments, {alone} alone")
    assert together < 0.8 * alone


def test_few_reads_do_not_wait(rig, company):
    """No more in flight than company= allows by themselves: each goes at once."""
    company(8)
    reads, segments, _ = read_one_by_one(rig, 8, 500, 4)
    assert segments > 0.8 * reads


def test_what_waits_is_sent_after_a_moment(rig, company):
    """Nobody else may come for long: the server answers 4 of 16 and then nothing for
    100 ms. The last of the 4 new ones is there after a jiffy or two; what its TCP
    would acknowledge by itself, and so call for, comes 40 ms later."""
    company(8)
    for _ in range(4):      # a machine may stand still, but not all the time
        reads, segments, late = read_one_by_one(rig, 16, 240, 4, pause=100)
        late = sorted(late)
        print(f"{reads} reads in {segments} segments; after ms:", *late)
        assert len(late) >= 50
        if segments < 0.8 * reads and late[len(late) // 2] < 25:
            return
    pytest.fail(f"{segments} segments for {reads} reads, the last of 4 after {late[len(late) // 2]} ms")


def test_a_server_that_falls_silent_gets_every_read(rig, server):
    """It answers a while, then nothing: all that may be in flight is with it, and
    none of it waits for an answer to something else."""
    answered = []

    def hook(conn, req):
        if req.type != wire.NBD_CMD_READ or len(answered) < 500:
            answered.append(req)
            return False
        return True
    rig.attach(server)
    server.seen.clear()
    server.hook = hook
    rig.send(f"{FIO.format(32, 1000)} && echo RE''AD &\n")
    until(lambda: len(server.seen) - len(answered) >= 32, 60, lambda: (len(server.seen), len(answered)))
    time.sleep(1)
    assert len(server.seen) - len(answered) == 32
    assert rig.sysfs("reconnects") == "0"
    server.hook = None
    for conn in list(server.open):
        conn.reset()
    rig.expect("READ", 60)
    rig.run("wait")
