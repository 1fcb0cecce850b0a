# SPDX-License-Identifier: GPL-2.0
"""Overlays of large images, and many of them."""
import os
import resource
from contextlib import ExitStack

import pytest

from harness.patience import until
from harness.server import TOP
from raw import MIB
from session import Station

GIB = 1 << 30
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
