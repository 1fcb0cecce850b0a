# SPDX-License-Identifier: GPL-2.0
"""Many bad clients at once, beside a good one; and what they leave behind: nothing."""
import os
import resource
import socket
from contextlib import ExitStack

import pytest

from harness import wire
from harness.patience import granted, until
from raw import MIB, Closed, Raw, request


def descriptors(server):
    return len(os.listdir(f"/proc/{server.pid}/fd"))


def anonymous_memory(server):
    with open(f"/proc/{server.pid}/status", encoding="ascii") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("RssAnon")) << 10


def comes_back_to(count, server, slack=2):
    until(lambda: descriptors(server) <= count + slack, 30,
          lambda: f"{descriptors(server)} descriptors, {count} before", every=0.1)


@pytest.fixture
def many_files():
    """As many descriptors as the system grants; a login shell has 1024."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def plain(server):
    sock = socket.create_connection((server.address, server.port), granted(20))
    sock.settimeout(granted(20))
    return sock


def test_thousand_half_open_beside_a_station(many_files, served, content):
    """Slowloris: they connect and say nothing, or a byte now and then. A station
    that is connected works on, and all of theirs is gone after the deadline."""
    with Raw(served) as station, ExitStack() as stack:
        station.go()
        before = descriptors(served)
        idle = []
        for i in range(1000):
            try:
                sock = stack.enter_context(plain(served))
                sock.send((b"", b"\0", b"\0\0\0\3", b"\0\0\0\3IHAVEOPT\0\0\0\7")[i % 4])
                idle.append(sock)
            except OSError:
                pass    # refused: as good
        for i in range(200):
            assert station.read(i * 4096, 4096) == content[i * 4096:(i + 1) * 4096]
        # Those who drip do not live longer for it.

        def gone():
            for sock in idle[1::4]:
                try:
                    sock.send(b"\0")
                except OSError:
                    pass
            return descriptors(served) <= before + 2

        until(gone, 40, lambda: f"{descriptors(served) - before} of them are left", every=1)
        assert station.read(0, 4096) == content[:4096]


def test_answers_that_nobody_takes(make_server, tmp_path, content):
    """Forty clients ask for 32 MiB each, over and over, and read none of it: what
    that costs is bounded, and a good client is served meanwhile. In one piece,
    with a hole at the end: plain data would need no memory of the server's own."""
    image = tmp_path / "with-a-hole"
    image.write_bytes(content)
    os.truncate(image, len(content) + MIB)
    served = make_server(image)
    with ExitStack() as stack:
        for _ in range(40):
            c = stack.enter_context(Raw(served, rcvbuf=4096))
            c.structured()
            c.sock.settimeout(0.2)
            try:
                for _ in range(50):
                    c.request(wire.NBD_CMD_READ, MIB, 32 * MIB, wire.NBD_CMD_FLAG_DF)
            except (OSError, Closed):
                pass
        with Raw(served) as good:
            good.structured()
            for i in range(100):
                assert good.parts(i * 7, 70000) == [(i * 7, content[i * 7:i * 7 + 70000])]
            # More than everybody's share: those who stand still make room for it.
            good.sock.settimeout(granted(60))
            at = len(content) - 15 * MIB
            assert good.parts(at, 16 * MIB, wire.NBD_CMD_FLAG_DF) == [(at, content[at:] + bytes(MIB))]
        served.wait_log("takes no answers, and their memory is wanted")
        assert anonymous_memory(served) < 3 << 30


def test_writes_that_never_come(many_files, served):
    """Each says that it writes a mebibyte, and stops there: the memory that waits
    for it is all there is, until it is wanted by one who does write."""
    with ExitStack() as stack:
        for _ in range(1050):
            c = stack.enter_context(Raw(served)).go()
            c.send(request(wire.NBD_CMD_WRITE, 8 * MIB, MIB, payload=b"x"))
        good = stack.enter_context(Raw(served, timeout=60)).go()
        assert good.write(24 * MIB, b"q" * MIB) == 0
        assert good.read(24 * MIB, MIB) == b"q" * MIB
        served.wait_log("sends no more of its write, and the memory for it is wanted")


@pytest.mark.long
@pytest.mark.parametrize("manner", ["connect", "negotiate", "read", "reset"])
def test_ten_thousand_connections_leave_nothing(served, manner):
    """Descriptors return to where they began, and memory does not grow."""
    def one():
        with Raw(served) as c:
            if manner == "connect":
                return
            if manner == "negotiate":
                c.hello()
                c.option(wire.NBD_OPT_LIST)
                return
            c.go()
            c.request(wire.NBD_CMD_READ, 0, 4096)
            if manner == "read":
                c.reply()
                c.recv(4096)
                c.disconnect()
            else:
                c.reset()

    for _ in range(500):
        one()
    comes_back_to(0, served, slack=60)
    count, memory = descriptors(served), anonymous_memory(served)
    for _ in range(10000):
        one()
    comes_back_to(count, served)
    # ASan keeps what was freed in quarantine for a while.
    assert anonymous_memory(served) < memory + (300 << 20)


def test_two_thousand_idle_stations(many_files, make_server, image, content):
    """They fit, and one of them is served as if it were alone."""
    server = make_server(image, options=["-r"])
    with ExitStack() as stack:
        stations = []
        for _ in range(2000):
            c = stack.enter_context(Raw(server))
            c.go()
            stations.append(c)
        for c in stations[::100]:
            assert c.read(4096, 4096) == content[4096:8192]
