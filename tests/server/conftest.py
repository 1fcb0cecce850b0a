# SPDX-License-Identifier: GPL-2.0
"""Fixtures of the server's suite.

image       32 MiB of known bytes, a file of this test's own
big         big(SIZE) makes a file that is all hole
served      a Server that serves `image`, to be treated badly: after the test a
            good client must be served, and the server must end with status 0,
            which a sanitizer's complaint would spoil
make_gate   make_gate() -> a Gate: a program for prerun or postrun that stands still
            until gate.open()
slow_disk   a SlowDisk: make_server(image, env=slow_disk.env) has syncs, and files of a
            name with "-slow" at its end, that wait for slow_disk.open()
"""
import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from harness.patience import until  # noqa: E402
from preload import SlowDisk  # noqa: E402
from raw import MIB, check_serves  # noqa: E402

CONTENT = random.Random(1).randbytes(32 * MIB)


@pytest.fixture
def content():
    return CONTENT


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "image"
    path.write_bytes(CONTENT)
    yield path
    # pytest keeps the folders of some runs; hundreds of images are too much.
    path.unlink(missing_ok=True)


@pytest.fixture
def big(tmp_path):
    """big(size): a file that is all hole."""
    path = tmp_path / "big"

    def make(size):
        with open(path, "wb") as f:
            f.truncate(size)
        return path

    yield make
    path.unlink(missing_ok=True)


@pytest.fixture
def served(make_server, image):
    server = make_server(image)
    yield server
    check_serves(server)
    server.stop()


@pytest.fixture
def served_readonly(make_server, image):
    server = make_server(image, options=["-r"])
    yield server
    check_serves(server)
    server.stop()
    assert image.read_bytes() == CONTENT, "a read-only image was changed"


class Gate:
    """A program, for prerun and postrun, that ends when it is told to."""

    def __init__(self, program):
        self.program = program
        self.log, self.way = program.with_suffix(".log"), program.with_suffix(".open")
        self.program.write_text(f"#!/bin/sh\necho \"$*\" >>{self.log}\n"
                                f"while [ ! -e {self.way} ]; do sleep 0.05; done\n")
        self.program.chmod(0o755)

    def started(self):
        """How often it has been."""
        return self.log.read_text().count("\n") if self.log.exists() else 0

    def reached(self, times=1):
        """Wait until it has been started so often."""
        until(lambda: self.started() >= times, what=lambda: f"started {self.started()} times")

    def open(self):
        """Who waits may go, and who comes."""
        self.way.touch()


@pytest.fixture
def make_gate(tmp_path):
    gates = []

    def make():
        gates.append(Gate(tmp_path / f"gate{len(gates)}"))
        return gates[-1]

    yield make
    for gate in gates:
        gate.open()


@pytest.fixture
def lab(make_server, image, tmp_path):
    """lab(sections): a server with a control socket, `lab.sock`."""

    def make(sections, generic=""):
        server = make_server(config="[generic]\nport = {port}\nlistenaddr = 127.0.0.1\nallowlist = true\n"
                             f"statedir = {tmp_path}/state\ncontrolsock = {tmp_path}/sock\n{generic}\n{sections}")
        server.sock = f"--socket={tmp_path}/sock"
        return server

    return make


@pytest.fixture
def slow_disk(tmp_path):
    disk = SlowDisk(tmp_path)
    yield disk
    disk.open()
