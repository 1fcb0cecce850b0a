# SPDX-License-Identifier: GPL-2.0
"""Sessions: a station that comes back is not overtaken by what it left behind,
and nobody else can end its connections."""
import os
import socket
import struct
import threading
import time

import pytest

from harness import wire
from harness.patience import granted
from raw import MIB, Closed, Raw, go_data, meta_data

SET = wire.NBD_OPT_SET_META_CONTEXT
ACK = (wire.NBD_REP_ACK, b"")


def query(station="kiosk7", boot="b00t", attach=1, generation=0):
    return f"x-nbdroot:session/{station}/{boot}/{attach}/{generation}".encode()


class From(Raw):
    """The same from another address of this machine."""

    def __init__(self, server, address, timeout=20):
        self.sock = socket.create_connection((server.address, server.port), granted(timeout), (address, 0))


def attached(server, *args, address=None, name=b"", **kwargs):
    c = From(server, address) if address else Raw(server)
    return c.structured(query(*args, **kwargs), name=name)


def alive(c):
    return isinstance(c.parts(0, 512)[0][1], bytes)


def test_identity(served):
    """Equal as long as it is this boot of this machine and this file."""
    with attached(served) as c:
        name, = c.contexts
        kind, boot, host, image = name.split("/")
        assert kind == "x-nbdroot:server"
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as f:
            assert boot == f.read().strip()
        assert host and image not in ("", "-")
    served.restart()
    with attached(served) as c:
        assert list(c.contexts) == [name]
    other = served.image.with_name("other")
    other.write_bytes(served.image.read_bytes())
    served.stop()
    os.rename(other, served.image)
    served.start()
    with attached(served) as c:
        (again,) = c.contexts
        assert again != name and again.split("/")[:3] == name.split("/")[:3]


def test_both_contexts(served):
    with Raw(served) as c:
        c.structured(query(), b"base:allocation")
        assert len(c.contexts) == 2
        assert c.extents(0, 4096) == [(4096, 0)]


def test_newer_ends_older(served):
    old = attached(served, generation=3)
    new = attached(served, generation=4)
    assert old.closed() and alive(new)
    newest = attached(served, attach=2)
    assert new.closed() and alive(newest)
    served.wait_log("its station (kiosk7) has come back by another connection", count=2)


def test_equal_ones_belong_together(served):
    four = [attached(served, generation=5) for _ in range(4)]
    assert all(alive(c) for c in four)
    new = attached(served, generation=6)
    assert all(c.closed() for c in four) and alive(new)


def test_older_is_refused(served):
    new = attached(served, generation=9)
    with Raw(served) as c:
        c.hello()
        c.option(wire.NBD_OPT_STRUCTURED_REPLY)
        (kind, text), = c.option(SET, meta_data(b"", [query(generation=8)]))
        assert kind == wire.NBD_REP_ERR_POLICY and b"newer session" in text
        # Nor is it let in as somebody without one.
        kind, text = c.option(wire.NBD_OPT_GO, go_data(b""))[-1]
        assert kind == wire.NBD_REP_ERR_POLICY and b"newer session" in text
        assert c.option(SET, meta_data(b"", [query(generation=9)]))[-1][0] == wire.NBD_REP_ACK
        assert c.option(wire.NBD_OPT_GO, go_data(b""))[-1][0] == wire.NBD_REP_ACK
    assert alive(new)


def test_reboot_ends_the_former_boot(served):
    """The station's name, from its address, with another boot."""
    old = attached(served, attach=7, generation=7)
    new = attached(served, boot="other", attach=1)
    assert old.closed() and alive(new)


def test_moved_station_is_known_by_its_boot(served):
    old = attached(served, address="127.0.0.2")
    new = attached(served, generation=1, address="127.0.0.3")
    assert old.closed() and alive(new)


@pytest.mark.parametrize("station,boot,address", [
    ("kiosk7", "guess", "127.0.0.3"),       # its name, but neither boot nor address
    ("kiosk8", "b00t", "127.0.0.2"),        # another name
    ("-", "b00t", "127.0.0.2"),
])
def test_others_cannot_end_it(served, station, boot, address):
    mine = attached(served, address="127.0.0.2")
    other = attached(served, station, boot, attach=99, address=address)
    assert alive(mine) and alive(other)


def test_nameless_stations_share_an_address(served):
    one, two = attached(served, "-", "b1"), attached(served, "-", "b2", attach=9)
    three, four = attached(served, "-", "-"), attached(served, "-", "-", attach=9)
    assert alive(one) and alive(two) and alive(three) and alive(four)
    again = attached(served, "-", "b1", generation=1)
    assert one.closed() and alive(two) and alive(again)


def test_another_export_is_another_matter(make_server, image):
    config = "[generic]\nport={port}\nlistenaddr=127.0.0.1\n[a]\nexportname=%s\nreadonly=1\n[b]\nexportname=%s\nreadonly=1\n"
    server = make_server(None, config=config % (image, image))
    a, b = attached(server, name=b"a"), attached(server, generation=1, name=b"b")
    assert alive(a) and alive(b)
    # One that names its session for one export and goes to another has none.
    with Raw(server) as c:
        c.hello()
        c.option(wire.NBD_OPT_STRUCTURED_REPLY)
        c.meta(SET, query(boot="strange", attach=0), name=b"b")
        assert c.option(wire.NBD_OPT_GO, go_data(b"a"))[-1] == ACK
        c.extended = False
        assert b.closed()
        attached(server, attach=9, name=b"b")
        assert alive(c) and alive(a)


@pytest.mark.parametrize("text", [
    b"x-nbdroot:session", b"x-nbdroot:session/a/b/1", b"x-nbdroot:session/a/b/1/2/3",
    b"x-nbdroot:session//b/1/2", b"x-nbdroot:session/a/b/-1/2", b"x-nbdroot:session/a/b/4294967296/2",
    b"x-nbdroot:session/" + b"a" * 65 + b"/b/1/2", b"x-nbdroot:session/a/b\n/1/2", b"x-nbdroot:other/a/b/1/2",
    b"x-nbdroot:session/a/b/1/2\0"])
def test_what_is_no_session_is_no_session(served, text):
    with Raw(served) as c:
        c.structured(text)
        assert not c.contexts and alive(c)


def test_an_old_write_never_comes_after_the_answer(served):
    """Each round leaves writes of one byte behind, takes over, and writes
    another one: what is read afterwards is never the former's."""
    size = 4 * MIB
    for round_number in range(12):
        old = attached(served, generation=2 * round_number)
        stop = threading.Event()

        def flood(c=old, stop=stop):
            try:
                while not stop.is_set():
                    for i in range(16):
                        c.request(wire.NBD_CMD_WRITE, i * (size // 16), size // 16, payload=b"o" * (size // 16))
                    for _ in range(16):
                        c.chunk()
            except (Closed, OSError):
                pass

        thread = threading.Thread(target=flood)
        thread.start()
        time.sleep(0.03)
        new = attached(served, generation=2 * round_number + 1)
        assert new.outcome(wire.NBD_CMD_WRITE, 0, size, payload=b"n" * size)[0] == 0
        assert b"".join(data for _, data in sorted(new.parts(0, size))) == b"n" * size
        stop.set()
        old.close()
        thread.join()
        time.sleep(0.01)
        assert b"".join(data for _, data in sorted(new.parts(0, size))) == b"n" * size
        new.close()
    assert served.image.read_bytes()[:size] == b"n" * size


def test_storm_of_one_station(served):
    """Many at once, each newer than the last: one is left, and all have an answer."""
    results = []

    def come(generation):
        try:
            c = attached(served, generation=generation)
            results.append((generation, c))
        except (Closed, AssertionError, OSError, struct.error):
            results.append((generation, None))

    threads = [threading.Thread(target=come, args=(g,)) for g in range(40)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(results) == 40
    newest = dict(results)[39]
    assert newest is not None and alive(newest)
    for generation, c in results:
        if c is not None and generation != 39:
            assert c.closed()
