# SPDX-License-Identifier: GPL-2.0
"""A disk that loses what was written, and who is told of it."""
from pathlib import Path

import pytest

from harness import wire
from harness.patience import until
from harness.server import ServerError
from preload import preload
from raw import Raw
from session import Station

BLOCK = 4096
FUA = wire.NBD_CMD_FLAG_FUA


class Disk:
    """Syncs of a server that runs on it (see faulty.c)."""

    def __init__(self, folder):
        self.log, self.trap = folder / "faulty.log", folder / "faulty.fail"
        self.env = {**preload(folder, Path(__file__).with_name("faulty.c").read_text()), "FAULTY": str(folder / "faulty")}

    def syncs(self, name=""):
        """How many there were, of files that are called so."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return sum(name in line for line in lines)

    def fail_next(self):
        self.trap.touch()

    def failed(self):
        return not self.trap.exists()


@pytest.fixture
def disk(tmp_path):
    return Disk(tmp_path)


@pytest.fixture
def lab(make_server, disk, image, content, tmp_path):
    """Exports lab (overlays), plain, and other, on that disk."""
    for name in ("plain", "other"):
        (tmp_path / name).write_bytes(content)

    def make():
        return make_server(config="[generic]\nport = {port}\nlistenaddr = 127.0.0.1\n"
                           f"statedir = {tmp_path}/state\n[lab]\nexportname = {image}\noverlay = keep\n"
                           f"[plain]\nexportname = {tmp_path}/plain\n[other]\nexportname = {tmp_path}/other\n",
                           env=disk.env)

    yield make
    for name in ("plain", "other"):
        (tmp_path / name).unlink()


def boot_of(server, export, station="a"):
    with Station(server, export, station, "b", generation=1) as c:
        return c.server_boot


def stop(server):
    """The status says that a sync failed, the last one or one before."""
    with pytest.raises(ServerError, match="ended with 1:"):
        server.stop()


@pytest.mark.parametrize("lost_by", ["flush", "fua", "close"])
def test_loss_of_an_overlay_outlives_its_store(lab, disk, lost_by):
    """Whoever comes back is not told that all is well, as long as the server runs;
    another's overlay is another matter."""
    server = lab()
    with Station(server, "lab/a", "a", "b") as c:
        assert c.write(0, b"w" * BLOCK) == 0
        disk.fail_next()
        if lost_by == "flush":
            assert c.flush() == wire.NBD_EIO
        elif lost_by == "fua":
            assert c.write(BLOCK, b"f", FUA) == wire.NBD_EIO
        c.reset()
    until(disk.failed, what="nothing was synced")
    server.wait_log("lab@a.overlay: sync failed: Input/output error: writes of station a may be lost")
    for boot in ("b", "another"):
        with Station(server, "lab/a", "a", boot, generation=1) as c:
            assert c.flush() == wire.NBD_EIO
            assert c.write(0, b"x", FUA) == wire.NBD_EIO
            assert c.write(0, b"x") == 0 and c.read(0, 2) == b"xw"
            c.disconnect()
    with Station(server, "lab/b", "b", "b") as c:
        assert c.write(0, b"w", FUA) == 0 and c.flush() == 0
    stop(server)


@pytest.mark.parametrize("export", ["lab/a", "plain"])
def test_loss_is_told_after_a_restart(lab, disk, export):
    """By a boot that has another name: who has writes that were not flushed does
    not take them for safe. Once, and only those of that file."""
    server = lab()
    with Station(server, export, "a", "b") as c:
        before = c.server_boot
        assert c.write(0, b"w" * BLOCK) == 0 and c.flush() == 0
    other = boot_of(server, "other")
    assert boot_of(server, export) == before == other
    for _ in range(2):
        with Station(server, export, "a", "b", generation=1) as c:
            assert c.write(0, b"w" * BLOCK) == 0
            disk.fail_next()
            assert c.flush() == wire.NBD_EIO
            # Not while it runs: its connections belong together.
            assert boot_of(server, export) == before
        stop(server)
        server.start()
        after = boot_of(server, export)
        assert after != before and after.startswith(other + ".")
        assert boot_of(server, export) == after and boot_of(server, "other") == other
        with Station(server, export, "a", "b", generation=2) as c:
            assert c.write(0, b"w" * BLOCK) == 0 and c.flush() == 0
        # Another restart has nothing to tell.
        server.restart()
        assert boot_of(server, export) == after
        before = after


def test_loss_in_the_last_sync(lab, disk):
    """Nobody is left who could be told by a flush."""
    server = lab()
    with Station(server, "plain", "a", "b") as c:
        assert c.write(0, b"w" * BLOCK) == 0
        before = c.server_boot
        disk.fail_next()
        stop(server)
    server.start()
    assert boot_of(server, "plain").startswith(before + ".")
    server.kill9()
    server.start()
    assert boot_of(server, "plain") != before


def test_loss_ends_with_the_boot_of_the_machine(lab, disk, tmp_path):
    """Which has another name by itself; the note of the former one goes."""
    server = lab()
    with Station(server, "plain", "a", "b") as c:
        before = c.server_boot
        disk.fail_next()
        assert c.flush() == wire.NBD_EIO
    stop(server)
    note, = (tmp_path / "state" / "pins").glob("*.lost")
    said = note.read_text()
    assert said.split()[0] == before
    # One that is damaged, too.
    (tmp_path / "state" / "pins" / "1-2-3-4.5.lost").write_bytes(b"\0" * 300)
    note.write_text(said.replace(before, "another-boot"))
    server.start()
    assert boot_of(server, "plain") == before
    assert not list((tmp_path / "state" / "pins").glob("*.lost*"))


def test_no_place_to_note_it(make_server, image, disk):
    """Without a configuration there is no folder for it: the log says what follows."""
    server = make_server(image, env=disk.env)
    with Station(server, "", "a", "b") as c:
        disk.fail_next()
        assert c.flush() == wire.NBD_EIO
    server.wait_log("after a restart stations will not be told that a sync failed: there is no folder")
    stop(server)


@pytest.mark.parametrize("export", ["lab/a", "plain"])
def test_flush_syncs_what_another_connection_wrote(lab, disk, export):
    """Multi-conn: the one that flushes is not the one that wrote."""
    server, name = lab(), "lab@a.overlay" if export == "lab/a" else "/plain"
    with Station(server, export, "a", "b") as a, Station(server, export, "a", "b") as b:
        assert a.flags & wire.NBD_FLAG_CAN_MULTI_CONN
        for i in range(3):
            assert a.write(i * BLOCK, b"w" * BLOCK) == 0
            before = disk.syncs(name)
            assert b.flush() == 0
            assert disk.syncs(name) > before
            assert disk.syncs("/other") == 0
        # And is told what became of it.
        disk.fail_next()
        assert a.write(0, b"w") == 0 and b.flush() == wire.NBD_EIO and a.flush() == wire.NBD_EIO
    server.kill9()


def test_fua_syncs(lab, disk):
    """What the kernel does not do by itself: of an overlay's new block, of zeroes."""
    server = lab()
    with Station(server, "lab/a", "a", "b") as c, Raw(server) as plain:
        before = disk.syncs("lab@a.overlay")
        assert c.write(0, b"w", FUA) == 0
        assert disk.syncs("lab@a.overlay") >= before + 2     # the data, then its map
        plain.go(b"plain")
        for command in (wire.NBD_CMD_WRITE_ZEROES, wire.NBD_CMD_TRIM):
            before = disk.syncs("/plain")
            assert plain.simple(command, 0, BLOCK, FUA) == 0
            assert disk.syncs("/plain") > before
