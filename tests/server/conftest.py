# SPDX-License-Identifier: GPL-2.0
"""Fixtures of the server's suite.

image       32 MiB of known bytes, a file of this test's own
big         big(SIZE) makes a file that is all hole
served      a Server that serves `image`, to be treated badly: after the test a
            good client must be served, and the server must end with status 0,
            which a sanitizer's complaint would spoil
"""
import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

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


@pytest.fixture
def lab(make_server, image, tmp_path):
    """lab(sections): a server with a control socket, `lab.sock`."""

    def make(sections, generic=""):
        server = make_server(config="[generic]\nport = {port}\nlistenaddr = 127.0.0.1\nallowlist = true\n"
                             f"statedir = {tmp_path}/state\ncontrolsock = {tmp_path}/sock\n{generic}\n{sections}")
        server.sock = f"--socket={tmp_path}/sock"
        return server

    return make
