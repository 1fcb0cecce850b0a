# SPDX-License-Identifier: GPL-2.0
"""Overlays: a station's writes over an image that is everybody's."""
import fcntl
import os
import random
import time

import pytest

from harness import wire
from harness.patience import deadline, until
from raw import MIB, Raw, go_data, option
from session import Refused, Station

FUA = wire.NBD_CMD_FLAG_FUA
TRIM, ZEROES = wire.NBD_CMD_TRIM, wire.NBD_CMD_WRITE_ZEROES
BLOCK = 4096
HOLE = wire.NBD_STATE_HOLE | wire.NBD_STATE_ZERO


@pytest.fixture
def lab(make_server, image, tmp_path):
    """lab(keys): a server of one export with overlays; more= more sections."""

    def make(keys="overlay = keep\n", more="", generic=""):
        return make_server(config="[generic]\nport = {port}\nlistenaddr = 127.0.0.1\n"
                           f"statedir = {tmp_path}/state\n{generic}\n[lab]\nexportname = {image}\n{keys}\n{more}")

    yield make


def overlays(tmp_path):
    return sorted(p.name for p in (tmp_path / "state" / "overlays").iterdir())


def used(tmp_path):
    return sum(p.stat().st_blocks * 512 for p in (tmp_path / "state" / "overlays").iterdir())


def test_stations_do_not_see_each_other(lab, image, content, tmp_path):
    """Each writes for itself, and nobody writes the image."""
    server = lab()
    with Station(server, "lab/one") as one, Station(server, "lab/two") as two:
        assert one.write(8192, b"1" * 5000) == 0 and two.write(8192, b"2" * 100) == 0
        assert one.flush() == two.flush() == 0
        assert one.read(8000, 6000) == content[8000:8192] + b"1" * 5000 + content[13192:14000]
        assert two.read(8000, 6000) == content[8000:8192] + b"2" * 100 + content[8292:14000]
    server.stop()
    assert image.read_bytes() == content
    assert overlays(tmp_path) == ["lab@one.overlay", "lab@two.overlay"]


def test_survives_reconnect_restart_and_kill(lab, content):
    """What was answered is there, whether flushed or not."""
    server = lab()
    with Station(server, "lab/a") as c:
        assert c.write(100, b"x" * 10) == 0
        c.disconnect()
    with Station(server, "lab/a") as c:
        assert c.read(90, 30) == content[90:100] + b"x" * 10 + content[110:120]
        assert c.write(MIB, b"y" * MIB) == 0
        server.kill9()
    server.start()
    with Station(server, "lab/a") as c:
        assert c.read(90, 30) == content[90:100] + b"x" * 10 + content[110:120]
        assert c.read(MIB, MIB) == b"y" * MIB
    server.restart()
    with Station(server, "lab/a") as c:
        assert c.read(MIB, MIB) == b"y" * MIB and c.read(2 * MIB, MIB) == content[2 * MIB:3 * MIB]


def test_another_boot_of_the_machine(lab, content, tmp_path):
    """After a crash of the machine only what was flushed counts, and a block
    that was not is the image's again. The boot's name in the file stands for
    the crash."""
    server = lab()
    with Station(server, "lab/a") as c:
        assert c.write(0, b"f" * BLOCK) == 0 and c.simple(ZEROES, BLOCK, BLOCK) == 0
        assert c.flush() == 0
        assert c.write(2 * BLOCK, b"l" * BLOCK) == 0
        assert c.write(3 * BLOCK, b"u" * BLOCK, FUA) == 0
        assert c.write(4 * BLOCK, b"l" * BLOCK) == 0
        server.kill9()
    path = tmp_path / "state" / "overlays" / "lab@a.overlay"
    data = bytearray(path.read_bytes()[:8192])
    state = data[4096:4096 + 512]
    assert state[:7] == b"boot/1\n"
    state[8:8 + 36] = b"00000000-0000-0000-0000-000000000000"
    state[508:] = crc32(state[:508]).to_bytes(4, "big")
    with open(path, "r+b") as f:
        f.seek(4096)
        f.write(state)
    server.start()
    with Station(server, "lab/a") as c:
        assert c.read(0, BLOCK) == b"f" * BLOCK and c.read(BLOCK, BLOCK) == bytes(BLOCK)
        # The flush that FUA needs covers all that came before it.
        assert c.read(2 * BLOCK, 2 * BLOCK) == b"l" * BLOCK + b"u" * BLOCK
        assert c.read(4 * BLOCK, BLOCK) == content[4 * BLOCK:5 * BLOCK]


def crc32(data):
    import zlib
    return zlib.crc32(bytes(data))


def test_model(lab, content):
    """Random writes, zeroes and trims of odd sizes against bytes in memory."""
    rng = random.Random(7)
    server = lab()
    model, known = bytearray(content), bytearray(b"\1") * len(content)
    c = Station(server, "lab/a")
    for step in range(600):
        off = rng.randrange(len(content) - 1)
        length = min(rng.choice([1, 511, 4096, 4097, 8192, 70000, 300000]), len(content) - off)
        if rng.random() < 0.5:
            off -= off % BLOCK
        what = rng.randrange(4)
        if what == 0:
            data = rng.randbytes(length)
            assert c.write(off, data, rng.choice([0, 0, 0, FUA])) == 0
            model[off:off + length] = data
            known[off:off + length] = b"\1" * length
        elif what == 1:
            assert c.simple(ZEROES, off, length, rng.choice([0, wire.NBD_CMD_FLAG_NO_HOLE])) == 0
            model[off:off + length] = bytes(length)
            known[off:off + length] = b"\1" * length
        elif what == 2:
            assert c.simple(TRIM, off, length) == 0
            was = c.read(off, length)
            # Never the image's bytes again: zeroes, or what the station knew.
            for i in range(0, length):
                assert was[i] in (0, model[off + i])
            model[off:off + length] = was
        else:
            assert c.read(off, length) == model[off:off + length]
        if step % 100 == 99:
            c.close()
            if step % 200 == 199:
                server.kill9()
                server.start()
            c = Station(server, "lab/a")
    for off in range(0, len(content), MIB):
        assert c.read(off, MIB) == model[off:off + MIB]
    c.close()


def test_trim_gives_space_back_and_hides_the_image(lab, tmp_path):
    server = lab()
    with Station(server, "lab/a") as c:
        assert c.write(0, b"w" * 8 * MIB) == 0 and c.flush() == 0
        assert used(tmp_path) >= 8 * MIB
        assert c.simple(TRIM, 0, 16 * MIB) == 0 and c.flush() == 0
        assert used(tmp_path) < MIB
        assert c.read(0, 16 * MIB) == bytes(16 * MIB)
    server.kill9()
    server.start()
    with Station(server, "lab/a") as c:
        assert c.read(0, 16 * MIB) == bytes(16 * MIB)


def test_what_is_where(make_server, big, tmp_path):
    """Block status of an image with holes and a station's blocks over it; and
    reads that tell the same holes."""
    image = big(8 * MIB)
    with open(image, "r+b") as f:
        f.seek(2 * MIB)
        f.write(b"i" * MIB)
        f.flush()
        os.fsync(f.fileno())
    server = make_server(config="[generic]\nport = {port}\nlistenaddr = 127.0.0.1\n"
                         f"[lab]\nexportname = {image}\noverlay = keep\noverlay_dir = {tmp_path}/o\n")
    with Raw(server) as c:
        c.structured(b"base:allocation", name=b"lab/a")
        assert c.extents(0, 8 * MIB) == [(2 * MIB, HOLE), (MIB, 0), (5 * MIB, HOLE)]
        assert c.outcome(wire.NBD_CMD_WRITE, MIB + 100, 10, payload=b"w" * 10) == (0, "")
        assert c.outcome(TRIM, 2 * MIB + BLOCK, 2 * BLOCK) == (0, "")
        assert c.outcome(ZEROES, 7 * MIB, BLOCK) == (0, "")
        assert c.extents(0, 8 * MIB) == [
            (MIB, HOLE), (BLOCK, 0), (MIB - BLOCK, HOLE),
            (BLOCK, 0), (2 * BLOCK, HOLE), (MIB - 3 * BLOCK, 0), (5 * MIB, HOLE)]
        # From the middle of a block to the middle of another.
        assert c.extents(MIB + 10, 2 * BLOCK) == [(BLOCK - 10, 0), (BLOCK + 10, HOLE)]
        assert c.parts(4 * MIB, MIB) == [(4 * MIB, MIB)]
        got = {offset: part for offset, part in c.parts(MIB, 256 << 10)}
        assert got == {MIB: bytes(100) + b"w" * 10 + bytes(BLOCK - 110), MIB + BLOCK: (256 << 10) - BLOCK}


def test_limit_is_the_writers_own(lab, content, tmp_path):
    """ENOSPC for the one who is full; others write, and a trim makes room."""
    server = lab("overlay = keep\noverlay_max = 1m\n")
    with Station(server, "lab/a") as a, Station(server, "lab/b") as b:
        assert a.write(0, b"a" * MIB) == 0
        assert a.write(MIB, b"a") == wire.NBD_ENOSPC
        assert a.read(MIB, 10) == content[MIB:MIB + 10]
        assert a.write(10, b"again") == 0
        assert b.write(0, b"b" * MIB) == 0
        assert a.simple(ZEROES, 5 * MIB, MIB) == 0      # zeroes take no space
        assert a.simple(TRIM, 0, BLOCK) == 0
        assert a.write(MIB, b"a") == 0 and a.write(2 * MIB, b"a") == wire.NBD_ENOSPC
        assert a.flush() == b.flush() == 0
    server.wait_log('station a: its overlay is full (overlay_max = 1 MiB)')
    # Not the image's.
    server.wait_log(f"NBD_CMD_WRITE at {MIB}, 1 bytes: NBD_ENOSPC ({tmp_path}/state/overlays/lab@a.overlay): No space left")


def test_number_of_overlays(lab, tmp_path):
    """Names cost nothing: where there is an end to them a new one is refused, those
    that are there have theirs, and a dropped one makes room."""
    more = f"[lab2]\nexportname = {tmp_path}/image\noverlay = keep\n[lab@a]\nexportname = {tmp_path}/image\noverlay = keep\n"
    server = lab("overlay = fresh\noverlay_count = 2\n", more=more)
    # Of other exports, in the same folder.
    for name in ("lab2/a", "lab2/b", "lab@a/c"):
        Station(server, name).close()
    with Station(server, "lab/a") as a, Station(server, "lab/b"):
        assert a.write(0, b"a" * BLOCK) == 0 and a.flush() == 0
        with pytest.raises(Refused, match=r'has as many overlays as it may have \(overlay_count = 2\).*overlays list, drop'):
            Station(server, "lab/c")
        with Station(server, "lab2/c") as other:
            assert other.write(0, b"c") == 0
    # In use or not; who comes back, for another boot too, takes no other's place.
    with pytest.raises(Refused, match="overlay_count = 2"):
        Station(server, "lab/c")
    with Station(server, "lab/a", boot="another") as a:
        assert a.write(0, b"b") == 0
    assert len([name for name in overlays(tmp_path) if name.startswith("lab@")]) == 2
    server.wait_log('export "lab", station c: the export has as many overlays')
    (tmp_path / "state/overlays/lab@b.overlay").unlink()
    with Station(server, "lab/c") as c, pytest.raises(Refused, match="overlay_count = 2"):
        assert c.write(0, b"c") == 0
        Station(server, "lab/b")


def test_visitors_leave_no_overlay(lab, content, tmp_path):
    """Who only looks, and says goodbye; but for the one of a boot, or of one who has
    lost the connection, they come back to it."""
    server = lab("overlay = keep\noverlay_count = 2\n")
    for n in range(5):
        visit(server, f"lab/visitor{n}")
        until(lambda: overlays(tmp_path) == [], what=lambda: overlays(tmp_path))
    with Station(server, "lab/pc1", "pc1", "b1") as c:
        assert c.read(0, 100) == content[:100]
        c.disconnect()
    with Station(server, "lab/pc2", boot=None) as c:
        assert c.read(0, 100) == content[:100]
        c.reset()
    for name in ("lab@pc1.overlay", "lab@pc2.overlay"):
        wait_idle(tmp_path, name)
    visit(server, "lab/pc1")
    wait_idle(tmp_path, "lab@pc1.overlay")
    assert overlays(tmp_path) == ["lab@pc1.overlay", "lab@pc2.overlay"]
    with Station(server, "lab/pc1", "pc1", "b1", generation=2) as c:
        assert c.read(0, 100) == content[:100]


def test_many_names_at_once(lab, tmp_path):
    """However many come at one time."""
    server = lab("overlay = keep\noverlay_count = 5\n", generic="max_threads = 64\n")
    clients = []
    for n in range(20):
        c = Raw(server)
        c.hello().send(option(wire.NBD_OPT_GO, go_data(b"lab/%d" % n)))
        clients.append(c)
    answers = [c.option_replies(wire.NBD_OPT_GO)[-1][0] for c in clients]
    assert answers.count(wire.NBD_REP_ACK) == 5
    assert answers.count(wire.NBD_REP_ERR_POLICY) == 15
    assert len(overlays(tmp_path)) == 5
    for c in clients:
        c.reset()


def test_who_waits_for_an_overlay_is_in_nobodys_way(make_server, image, tmp_path, slow_disk):
    """It is being closed, which takes the disk its time: its station comes back, again
    and again, and others are served at once."""
    slow_disk.open()
    server = make_server(config="[generic]\nport = {port}\nlistenaddr = 127.0.0.1\n"
                         f"statedir = {tmp_path}/state\n[lab]\nexportname = {image}\noverlay = keep\n"
                         f"[plain]\nexportname = {image}\nreadonly = true\n", env=slow_disk.env)
    with Station(server, "lab/pc", boot=None) as c:
        assert c.write(0, b"w" * BLOCK) == 0
        slow_disk.shut()
        c.reset()
    slow_disk.reached()
    again = [Raw(server).hello().send(option(wire.NBD_OPT_GO, go_data(b"lab/pc"))) for _ in range(20)]
    for _ in range(5):
        with Station(server, "plain", boot=None) as c:
            c.disconnect()
    slow_disk.open()
    for c in again:
        assert c.option_replies(wire.NBD_OPT_GO)[-1][0] == wire.NBD_REP_ACK
        assert c.read(0, BLOCK) == b"w" * BLOCK
        c.close()


def test_limit_counts_what_was_there_before(lab):
    server = lab("overlay = keep\noverlay_max = 1m\n")
    with Station(server, "lab/a") as c:
        assert c.write(0, b"a" * MIB) == 0
    for again in (server.restart, lambda: (server.kill9(), server.start())):
        again()
        with Station(server, "lab/a") as c:
            assert c.write(MIB, b"a") == wire.NBD_ENOSPC and c.write(0, b"c") == 0


def test_odd_size(make_server, tmp_path):
    """An image that does not end with a block."""
    data = random.Random(3).randbytes(3 * BLOCK + 700)
    (tmp_path / "odd").write_bytes(data)
    server = make_server(config="[generic]\nport = {port}\nlistenaddr = 127.0.0.1\n"
                         f"[lab]\nexportname = {tmp_path}/odd\noverlay = keep\noverlay_dir = {tmp_path}/o\n")
    with Station(server, "lab/a") as c:
        assert c.size == len(data)
        assert c.write(3 * BLOCK + 600, b"z" * 100) == 0
        assert c.read(3 * BLOCK, 700) == data[3 * BLOCK:-100] + b"z" * 100
        assert c.simple(ZEROES, 2 * BLOCK + 1, BLOCK + 699) == 0
        assert c.read(2 * BLOCK, BLOCK + 700) == data[2 * BLOCK:2 * BLOCK + 1] + bytes(BLOCK + 699)
        assert c.read(0, len(data))[:2 * BLOCK] == data[:2 * BLOCK]


# -- fresh --------------------------------------------------------------------

def test_fresh_is_empty_at_each_boot_and_only_then(lab, content):
    server = lab("overlay = fresh\n")
    with Station(server, "lab", "pc1", "boot-1") as c:
        assert c.write(0, b"1" * 100) == 0
        c.disconnect()      # even so: it is the same boot
    with Station(server, "lab", "pc1", "boot-1", generation=1) as c:
        assert c.read(0, 100) == b"1" * 100
    server.kill9()
    server.start()
    with Station(server, "lab", "pc1", "boot-1", generation=2) as c:
        assert c.read(0, 100) == b"1" * 100
    with Station(server, "lab", "pc1", "boot-2") as c:
        assert c.read(0, 100) == content[:100]
        assert c.write(0, b"2" * 100) == 0
    server.restart()
    with Station(server, "lab", "pc1", "boot-2", generation=1) as c:
        assert c.read(0, 100) == b"2" * 100


def test_fresh_for_strangers(lab, content, tmp_path):
    """Who names no boot keeps it over a lost connection, not over a goodbye."""
    server = lab("overlay = fresh\n")
    with Station(server, "lab", boot=None) as c:
        assert c.write(0, b"s" * 100) == 0
        c.reset()
    # Before it is noticed, the lost one counts among those who leave.
    wait_idle(tmp_path, "lab@127.0.0.1.overlay")
    with Station(server, "lab", boot=None) as c:
        assert c.read(0, 100) == b"s" * 100
        assert c.flush() == 0
        c.disconnect()
    end = deadline(10)
    while time.monotonic() < end:
        with Station(server, "lab", boot=None) as c:
            if c.read(0, 100) == content[:100]:
                return
            c.disconnect()
    pytest.fail("it is never empty")


def visit(server, name="lab", read=True):
    """What nbdinfo and its kin do."""
    with Station(server, name, boot=None) as c:
        if read:
            assert len(c.read(0, MIB)) == MIB
        c.disconnect()


def wait_idle(tmp_path, name):
    """Until nobody uses it."""
    with open(tmp_path / "state" / "overlays" / name, "rb") as f:
        def idle():
            try:
                fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
                fcntl.flock(f, fcntl.LOCK_UN)
                return True
            except BlockingIOError:
                return False

        until(idle, what=f"{name} is in use")


def test_fresh_is_not_emptied_by_a_visitor(lab, content, tmp_path):
    """The station, which names no boot, has lost its connection; somebody at
    its address looks at the export, and says goodbye."""
    server = lab("overlay = fresh\n")
    name = "lab@127.0.0.1.overlay"
    with Station(server, "lab", boot=None) as c:
        assert c.write(0, b"s" * 100) == 0
        c.reset()
    for _ in range(2):
        wait_idle(tmp_path, name)
        visit(server)
    wait_idle(tmp_path, name)
    with Station(server, "lab", boot=None) as c:
        assert c.read(0, 100) == b"s" * 100
        assert c.flush() == 0
        c.disconnect()      # its own goodbye
    wait_idle(tmp_path, name)
    visit(server)
    with Station(server, "lab", boot=None) as c:
        assert c.read(0, 100) == content[:100]


def test_fresh_of_a_boot_is_not_emptied_by_a_visitor(lab, tmp_path):
    server = lab("overlay = fresh\n")
    with Station(server, "lab/pc7", "pc7", "boot-1") as c:
        assert c.write(0, b"s" * 100) == 0
        c.reset()
    wait_idle(tmp_path, "lab@pc7.overlay")
    visit(server, "lab/pc7")
    wait_idle(tmp_path, "lab@pc7.overlay")
    with Station(server, "lab/pc7", "pc7", "boot-1", generation=2) as c:
        assert c.read(0, 100) == b"s" * 100


@pytest.mark.parametrize("kind", ["keep", "fresh"])
def test_recovery_onto_an_overlay_that_is_gone(lab, content, tmp_path, kind):
    """Not with an empty one: the station's file system believes in what it wrote."""
    server = lab(f"overlay = {kind}\n")
    # As our driver: its attach is generation 1.
    with Station(server, "lab", "pc7", "boot-1", generation=1) as c:
        assert c.write(0, b"s" * 100) == 0
        c.reset()
    wait_idle(tmp_path, "lab@pc7.overlay")
    (tmp_path / "state" / "overlays" / "lab@pc7.overlay").unlink()
    says = "the overlay that station pc7 runs from is gone: .*lab@pc7.overlay is not there any more.*start the station again"
    for again in (lambda: None, server.restart):
        again()
        with pytest.raises(Refused, match=says):
            Station(server, "lab", "pc7", "boot-1", generation=2)
        assert overlays(tmp_path) == []
    with Station(server, "lab", "pc7", "boot-2", generation=1) as c:
        assert c.read(0, 100) == content[:100]
        assert c.write(0, b"2" * 100) == 0
        c.reset()
    wait_idle(tmp_path, "lab@pc7.overlay")
    if kind == "fresh":     # nor is the next boot's emptied by one that died late
        with pytest.raises(Refused, match="has begun anew for another boot of it"):
            Station(server, "lab", "pc7", "boot-1", generation=3)
        with Station(server, "lab", "pc7", "boot-2", generation=2) as c:
            assert c.read(0, 100) == b"2" * 100


# -- whose it is ------------------------------------------------------------------

def test_names(lab, content, tmp_path):
    """With the export, by the session, by the address."""
    server = lab()
    with Station(server, "lab/said", "session", "b1"), Station(server, "lab", "session", "b2"), \
            Station(server, "lab", boot=None):
        assert overlays(tmp_path) == ["lab@127.0.0.1.overlay", "lab@said.overlay", "lab@session.overlay"]


@pytest.mark.parametrize("name", ["lab/", "lab/a b", "lab/" + "x" * 65, "lab/a/b", "lab/é", "lab/-"])
def test_bad_names(lab, name, tmp_path):
    server = lab()
    with pytest.raises(Refused, match="is not a station's name|no export"):
        Station(server, name)
    assert overlays(tmp_path) == []


def test_name_on_an_export_without_overlays(lab, image, tmp_path):
    server = lab(more=f"[plain]\nexportname = {image}\nreadonly = true\n")
    with pytest.raises(Refused, match='no export "plain/a"'):
        Station(server, "plain/a")
    Station(server, "plain").close()


def test_rules(lab, tmp_path):
    """An address that has a name cannot take another, nor another that one."""
    rules = tmp_path / "stations"
    rules.write_text("127.0.0.1 pc7   # the one by the door\n192.0.2.0/24 far\n")
    server = lab(f"overlay = keep\nstations = {rules}\n")
    with Station(server, "lab", boot=None):
        assert overlays(tmp_path) == ["lab@pc7.overlay"]
    with pytest.raises(Refused, match='this address is station "pc7", not "other"'):
        Station(server, "lab/other", boot=None)
    rules.write_text("192.0.2.7 far\n")
    with pytest.raises(Refused, match='station "far" has another address'):
        Station(server, "lab/far", boot=None)
    rules.write_text("192.0.2.7 far # " + 239 * "x" + "127.0.0.1 near\n")
    with Station(server, "lab", boot=None):
        assert "lab@near.overlay" not in overlays(tmp_path), "a long comment's end counts as a rule"
    rules.write_text("here pc7\n")
    with pytest.raises(Refused, match=f'{rules}:1: "here pc7" is not ADDRESS NAME'):
        Station(server, "lab", boot=None)
    rules.unlink()
    with pytest.raises(Refused, match="closed to everybody"):
        Station(server, "lab", boot=None)


def test_two_stations_of_one_name(lab):
    """The second is refused as long as the first is there."""
    server = lab()
    first = Station(server, "lab/pc", "pc", "boot-1")
    with pytest.raises(Refused, match='station "pc" is in use by another client, at 127.0.0.1'):
        Station(server, "lab/pc", "-", "boot-2")
    with pytest.raises(Refused, match="in use by another client"):
        Station(server, "lab/pc", boot=None)
    # Another connection of the same client is welcome.
    with Station(server, "lab/pc", "pc", "boot-1") as second:
        assert second.write(0, b"2") == 0 and first.read(0, 1) == b"2"
    first.disconnect()
    with Station(server, "lab/pc", "pc", "boot-2") as c:
        assert c.read(0, 1) == b"2"


def test_a_second_server_is_refused(lab, image, tmp_path, make_server):
    server = lab()
    with Station(server, "lab/a"):
        other = lab()
        with pytest.raises(Refused, match="in use by another process"):
            Station(other, "lab/a", timeout=30)
        Station(other, "lab/b").close()


# -- what it is over -----------------------------------------------------------------

def test_overlay_of_another_image(lab, image, content, tmp_path):
    """Refused by name while the old image is away; served when it is back."""
    server = lab()
    with Station(server, "lab/a", "a", "b1") as c:
        assert c.write(0, b"old") == 0
        old = c.image
    server.stop()
    new = tmp_path / "new"
    new.write_bytes(bytes(len(content)))
    os.rename(image, tmp_path.parent / "away.img")
    os.rename(new, image)
    server.start()
    with pytest.raises(Refused, match=f"station a has an overlay on image {old} .*image.*which is not there") as e:
        Station(server, "lab/a", "a", "b2")
    assert "nbd-server overlays drop" in str(e.value)
    with Station(server, "lab/b", "b", "b3") as c:
        assert c.read(0, 10) == bytes(10) and c.image != old
    os.rename(tmp_path.parent / "away.img", tmp_path / "image-2026-10")
    with Station(server, "lab/a", "a", "b2") as c:
        assert c.image == old
        assert c.read(0, 10) == b"old" + content[3:10]


@pytest.mark.parametrize("spoil,says", [
    (lambda f: f.truncate(5000), "its length is not what its header says|damaged"),
    (lambda f: f.truncate(0), "not an overlay"),
    (lambda f: (f.seek(100), f.write(b"x")), "its header is damaged"),
    (lambda f: (f.seek(8192 + 4096 - 4000), f.write(b"\xff" * 4000)), "its map is damaged"),
])
def test_damaged_overlays(lab, tmp_path, spoil, says):
    server = lab()
    with Station(server, "lab/a") as c:
        assert c.write(0, b"x") == 0 and c.flush() == 0
        c.disconnect()
    server.stop()
    path = tmp_path / "state" / "overlays" / "lab@a.overlay"
    with open(path, "r+b") as f:
        spoil(f)
        if "map" in says:       # both of them
            f.seek(8192)
            f.write(b"\xff" * 8192)
    server.start()
    with pytest.raises(Refused, match=says):
        Station(server, "lab/a")
    Station(server, "lab/b").close()
