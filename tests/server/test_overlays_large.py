# SPDX-License-Identifier: GPL-2.0
"""Overlays of large images, and many of them."""
import os
import resource
from contextlib import ExitStack

import pytest

from harness import wire
from harness.patience import until
from harness.server import TOP
from raw import MIB
from session import Station

GIB = 1 << 30
BLOCK = 4096
KIB = 1 << 10


@pytest.fixture
def many_files():
    """As many descriptors as the system grants; a login shell has 1024."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def memory(server):
    with open(f"/proc/{server.pid}/status", encoding="ascii") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("RssAnon")) << 10


@pytest.fixture
def lab(make_server, big, tmp_path):
    return make_server(config="[generic]\nport = {port}\nlistenaddr = 127.0.0.1\n"
                       f"statedir = {tmp_path}/state\n[lab]\nexportname = {big(16 * GIB)}\noverlay = keep\n")


@pytest.fixture
def lean(monkeypatch, request):
    """lab, without sanitizers: they take memory of their own."""
    given = os.environ.get("NBD_SERVER", "")
    path = TOP / "build" / ("server-threads" if "threads" in given else "server") / "nbd-server"
    if not path.exists():
        pytest.skip(f"{path} is not built")
    monkeypatch.setenv("NBD_SERVER", str(path))
    return request.getfixturevalue("lab")


def descriptors(server):
    return len(os.listdir(f"/proc/{server.pid}/fd"))


COUNT = 500


def test_memory_of_an_idle_station(many_files, lean):
    """16 KiB at most, whatever the image's size; also when all have left and come
    again. (A written block may add a page of the map.)"""
    with ExitStack() as stack:
        def come(first, count):
            for i in range(first, first + count):
                c = stack.enter_context(Station(lean, f"lab/s{i}", f"s{i}", "b"))
                assert c.read(i * MIB, 512) == bytes(512)

        come(COUNT, 20)
        before = memory(lean)
        come(0, COUNT)
        first = (memory(lean) - before) / COUNT
    with ExitStack() as stack:
        until(lambda: descriptors(lean) < 100, 60, lambda: f"{descriptors(lean)} descriptors")
        come(COUNT, 20)
        come(0, COUNT)
        again = (memory(lean) - before) / COUNT
    # A thread for each connection takes the beginning of a stack.
    most = 64 * KIB if "threads" in os.environ["NBD_SERVER"] else 16 * KIB
    assert max(first, again) <= most, f"{first / KIB:.1f} KiB, {again / KIB:.1f} KiB when they have come again"


# Around where 32 bits end, of bytes, of sectors' bytes, and of the image.
EDGES = [4 * GIB - 1, 4 * GIB + 3 * BLOCK + 511, 8 * GIB - 3 * BLOCK, 12 * GIB + 5 * BLOCK + 1, 16 * GIB - 10 * BLOCK - 1]


def test_beyond_4_gib(lab, big, tmp_path):
    """What is written, zeroed and trimmed there is there, and nowhere else."""
    image = tmp_path / "big"
    with open(image, "r+b") as f:
        for off in EDGES:
            f.seek(off - 1)
            f.write(b"i" * 3 * BLOCK)
        f.seek(16 * GIB - BLOCK)
        f.write(b"i" * BLOCK)
    was = image.stat()
    with Station(lab, "lab/a", "a", "b") as c:
        assert c.size == 16 * GIB
        for n, off in enumerate(EDGES):
            assert c.write(off, b"%d" % n * BLOCK, wire.NBD_CMD_FLAG_FUA if n % 2 else 0) == 0
        assert c.simple(wire.NBD_CMD_WRITE_ZEROES, 16 * GIB - 100, 100) == 0
        assert c.simple(wire.NBD_CMD_TRIM, 5 * GIB, 2 * GIB) == 0
        assert c.write(16 * GIB - 1, b"e") == 0 and c.flush() == 0
        check_edges(c)
        # Beyond the end, by a byte.
        assert c.write(16 * GIB - 1, b"no") == wire.NBD_ENOSPC and c.read(16 * GIB, 1) == wire.NBD_EINVAL
    lab.kill9()
    lab.start()
    with Station(lab, "lab/a", "a", "b") as c:
        check_edges(c)
    forget_boot(tmp_path / "state/overlays/lab@a.overlay", lab)
    with Station(lab, "lab/a", "a", "b") as c:
        check_edges(c)
    assert image.stat().st_mtime_ns == was.st_mtime_ns and image.stat().st_blocks == was.st_blocks


def check_edges(c):
    for n, off in enumerate(EDGES):
        assert c.read(off - 1, BLOCK + 2) == b"i" + b"%d" % n * BLOCK + b"i", f"at {off}"
        # Where a number that has lost its upper half would lead to.
        assert c.read(off % (4 * GIB), BLOCK) == bytes(BLOCK) or off < 4 * GIB
    assert c.read(16 * GIB - BLOCK, BLOCK) == b"i" * (BLOCK - 100) + bytes(99) + b"e"
    assert c.read(6 * GIB, MIB) == bytes(MIB)


def forget_boot(path, server):
    """As after another boot of the machine: what map A says holds."""
    server.stop()
    with open(path, "r+b") as f:
        f.seek(BLOCK)
        f.write(bytes(512))
    server.start()
