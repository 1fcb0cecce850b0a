# SPDX-License-Identifier: GPL-2.0
"""Structured replies, block status and extended headers: what is said, to the byte."""
import os
import random
import socket

import pytest

from harness import wire
from raw import MIB, Raw

KIB = 1 << 10
GIB = 1 << 30
READ, WRITE, FLUSH, TRIM = wire.NBD_CMD_READ, wire.NBD_CMD_WRITE, wire.NBD_CMD_FLUSH, wire.NBD_CMD_TRIM
CACHE, ZEROES, STATUS = wire.NBD_CMD_CACHE, wire.NBD_CMD_WRITE_ZEROES, wire.NBD_CMD_BLOCK_STATUS
DF, REQ_ONE, PAYLOAD = (wire.NBD_CMD_FLAG_DF, wire.NBD_CMD_FLAG_REQ_ONE, wire.NBD_CMD_FLAG_PAYLOAD_LEN)
HOLE = wire.NBD_STATE_HOLE | wire.NBD_STATE_ZERO
ALLOCATION = b"base:allocation"
STRUCTURED, EXTENDED = wire.NBD_OPT_STRUCTURED_REPLY, wire.NBD_OPT_EXTENDED_HEADERS

both = pytest.mark.parametrize("headers", [STRUCTURED, EXTENDED], ids=["structured", "extended"])


@pytest.fixture
def sparse(tmp_path):
    """Data at 0, 1 MiB and 3 MiB, 64 KiB each, in 8 MiB and a bit."""
    path = tmp_path / "sparse"
    with open(path, "wb") as f:
        f.truncate(8 * MIB + 1000)
        for at in (0, MIB, 3 * MIB):
            f.seek(at)
            f.write(random.Random(at).randbytes(64 * KIB))
        f.flush()
        os.fsync(f.fileno())
    yield path
    path.unlink(missing_ok=True)


def put_together(parts, length, start):
    data, at = b"", start
    for offset, part in sorted(parts):
        assert offset == at
        data += part if isinstance(part, bytes) else bytes(part)
        at = start + len(data)
    assert len(data) == length
    return data


@both
@pytest.mark.parametrize("options", [[], ["-r"]], ids=["rw", "ro"])
def test_holes_are_told_as_holes(make_server, sparse, options, headers):
    server = make_server(sparse, options=options)
    with Raw(server) as c:
        c.structured(option=headers)
        assert c.flags & wire.NBD_FLAG_SEND_DF
        want = sparse.read_bytes()
        got = c.parts(0, 4 * MIB)
        assert put_together(got, 4 * MIB, 0) == want[:4 * MIB]
        assert sum(p for _, p in got if isinstance(p, int)) >= 3 * MIB
        # All hole: one chunk, with and without DF.
        assert c.parts(5 * MIB, MIB) == c.parts(5 * MIB, MIB, DF) == [(5 * MIB, MIB)]
        # DF: one chunk, whatever is in it.
        assert c.parts(0, 2 * MIB, DF) == [(0, want[:2 * MIB])]
        for offset, length in ((1, 5), (MIB - 1, 70 * KIB), (8 * MIB, 1000), (3 * MIB + 7, 3 * MIB)):
            assert put_together(c.parts(offset, length), length, offset) == want[offset:offset + length]


@both
def test_data_large_and_small(served_readonly, content, headers):
    """Inline, by a worker, by sendfile."""
    with Raw(served_readonly) as c:
        c.structured(option=headers)
        for _ in range(2):
            for offset, length in ((0, 1), (5, 4096), (9, 40000), (MIB, 128 * KIB), (3, 9 * MIB)):
                assert c.parts(offset, length) == [(offset, content[offset:offset + length])]


# Else its quarantine, which keeps what was freed, is what is measured.
NO_QUARANTINE = {"ASAN_OPTIONS": "detect_leaks=1:abort_on_error=0:exitcode=99:quarantine_size_mb=1"}


def anonymous_memory(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("RssAnon")) << 10


@both
def test_longest_requests_in_little_memory(make_server, tmp_path, headers):
    """64 MiB: written as they arrive, read as they leave, however slowly the
    client takes them."""
    path = tmp_path / "full"
    data = random.Random(9).randbytes(MIB) * 65
    path.write_bytes(data)
    server = make_server(path, env=NO_QUARANTINE)
    with Raw(server, rcvbuf=64 * KIB, timeout=60) as c:
        c.structured(option=headers)
        assert c.parts(0, 4096) == [(0, data[:4096])]
        before = anonymous_memory(server.pid)
        c.asked = MIB
        c.request(READ, MIB, 64 * MIB, cookie=7)
        got, done = [], 0
        while not done:
            done, kind, cookie, payload = c.chunk()
            assert (cookie, kind) == (7, wire.NBD_REPLY_TYPE_OFFSET_DATA)
            got.append((int.from_bytes(payload[:8], "big"), payload[8:]))
            assert anonymous_memory(server.pid) - before < 16 * MIB
        assert put_together(got, 64 * MIB, MIB) == data[MIB:]
        new = random.Random(8).randbytes(MIB) * 64
        flags = wire.NBD_CMD_FLAG_FUA | (PAYLOAD if c.extended else 0)
        assert c.outcome(WRITE, 5, len(new), flags, payload=new) == (0, "")
        assert anonymous_memory(server.pid) - before < 32 * MIB
    assert path.read_bytes() == data[:5] + new + data[5 + len(new):]
    path.unlink()


@both
def test_long_read_is_answered_after_the_client_said_its_last(make_server, tmp_path, headers):
    path = tmp_path / "full"
    path.write_bytes(b"d" * 20 * MIB)
    server = make_server(path)
    with Raw(server) as c:
        c.structured(option=headers)
        c.asked = 0
        c.request(READ, 0, 20 * MIB)
        c.sock.shutdown(socket.SHUT_WR)
        done, n = 0, 0
        while not done:
            done, _, _, payload = c.chunk()
            n += len(payload) - 8
        assert n == 20 * MIB and c.closed()


@both
def test_errors_have_text(served, headers):
    with Raw(served) as c:
        c.structured(option=headers)
        assert c.outcome(READ, 32 * MIB, 1) == (wire.NBD_EINVAL, "beyond the end of the export")
        assert c.outcome(READ, 0, 0) == (wire.NBD_EINVAL, "a length of 0")
        assert c.outcome(99)[0] == wire.NBD_EINVAL
        assert c.outcome(STATUS, 0, 512) == (wire.NBD_EINVAL, "base:allocation was not negotiated for this export")
        assert c.outcome(FLUSH) == (0, "")


@both
def test_writes_to_what_is_read_only(served_readonly, headers):
    with Raw(served_readonly) as c:
        c.structured(option=headers)
        flag = PAYLOAD if c.extended else 0
        assert c.outcome(WRITE, 0, 100, flag, payload=bytes(100)) == (wire.NBD_EPERM, "the export is read-only")


@both
def test_writes(served, headers):
    with Raw(served) as c:
        c.structured(option=headers)
        flag = PAYLOAD if c.extended else 0
        for offset, length in ((0, 1), (100, 70000), (MIB, 5 * MIB)):
            data = random.Random(length).randbytes(length)
            assert c.outcome(WRITE, offset, length, flag, payload=data) == (0, "")
            assert put_together(c.parts(offset, length), length, offset) == data
        assert c.outcome(ZEROES, 4096, 4096) == (0, "")
        assert c.outcome(TRIM, 8192, 4096, wire.NBD_CMD_FLAG_FUA) == (0, "")
        assert c.outcome(CACHE, 0, MIB) == (0, "")
        assert c.parts(4096, 4096) == [(4096, bytes(4096))]


# -- block status ----------------------------------------------------------

@both
def test_block_status(make_server, sparse, headers):
    server = make_server(sparse)
    with Raw(server) as c:
        c.structured(ALLOCATION, option=headers)
        assert c.extents(0, c.size) == [
            (64 * KIB, 0), (960 * KIB, HOLE), (64 * KIB, 0), (MIB + 960 * KIB, HOLE),
            (64 * KIB, 0), (c.size - 3 * MIB - 64 * KIB, HOLE)]
        assert c.extents(5, 10) == [(10, 0)]
        assert c.extents(MIB - 1, 2) == [(1, HOLE), (1, 0)]
        assert c.extents(0, c.size, REQ_ONE) == [(64 * KIB, 0)]
        assert c.extents(MIB - 1, MIB, REQ_ONE) == [(1, HOLE)]
        assert c.extents(c.size - 1, 1) == [(1, HOLE)]
        assert c.outcome(STATUS, c.size, 1)[0] == wire.NBD_EINVAL
        assert c.outcome(STATUS, 0, 0)[0] == wire.NBD_EINVAL
        assert c.outcome(STATUS, 0, 512, DF)[0] == wire.NBD_EINVAL


@both
def test_block_status_follows_writes(make_server, big, headers):
    server = make_server(big(64 * MIB))
    with Raw(server) as c:
        c.structured(ALLOCATION, option=headers)
        flag = PAYLOAD if c.extended else 0
        assert c.extents(0, c.size) == [(64 * MIB, HOLE)]
        assert c.outcome(WRITE, MIB, MIB, flag, payload=b"x" * MIB)[0] == 0
        assert c.extents(0, c.size) == [(MIB, HOLE), (MIB, 0), (62 * MIB, HOLE)]
        assert c.outcome(TRIM, MIB, MIB)[0] == 0
        assert c.extents(0, c.size) == [(64 * MIB, HOLE)]


def test_no_end_of_extents(make_server, big):
    """As many extents as blocks: an answer has a bound, and its reader goes on after it."""
    path = big(32 * MIB)
    with open(path, "r+b") as f:
        for at in range(0, 32 * MIB, 8 * KIB):
            f.seek(at)
            f.write(b"x" * 4096)
        f.flush()
        os.fsync(f.fileno())
    server = make_server(path)
    with Raw(server) as c:
        c.structured(ALLOCATION)
        at, found = 0, []
        while at < c.size:
            some = c.extents(at, c.size - at)
            assert 0 < len(some) <= 1024
            found += some
            at += sum(length for length, _ in some)
        assert at == c.size and len(found) == 8192
        # And a READ of so many holes is still the file.
        assert put_together(c.parts(0, 4 * MIB), 4 * MIB, 0) == path.read_bytes()[:4 * MIB]


def test_status_needs_its_context_for_this_export(make_server, image):
    config = "[generic]\nport={port}\nlistenaddr=127.0.0.1\n[a]\nexportname=%s\nreadonly=1\n[b]\nexportname=%s\nreadonly=1\n"
    server = make_server(None, config=config % (image, image))
    with Raw(server) as c:
        c.hello()
        c.option(STRUCTURED)
        c.meta(wire.NBD_OPT_SET_META_CONTEXT, ALLOCATION, name=b"a")
        from raw import go_data
        assert c.option(wire.NBD_OPT_GO, go_data(b"b"))[-1][0] == wire.NBD_REP_ACK
        c.extended = False
        assert c.outcome(STATUS, 0, 512)[0] == wire.NBD_EINVAL


# -- extended headers ------------------------------------------------------

def test_lengths_of_64_bits(make_server, big):
    server = make_server(big(10 * GIB))
    with open(server.image, "r+b") as f:
        f.seek(9 * GIB)
        f.write(b"x" * 4096)
    with Raw(server) as c:
        c.structured(ALLOCATION, option=EXTENDED)
        assert c.extents(0, 10 * GIB)[0] == (9 * GIB, HOLE)
        assert c.outcome(ZEROES, 1, 10 * GIB - 1) == (0, "")
        assert c.parts(9 * GIB, 4096) == [(9 * GIB, bytes(4096))]
        assert c.outcome(TRIM, 0, 10 * GIB) == (0, "")
        assert c.outcome(CACHE, 0, 5 * GIB) == (0, "")
        assert c.outcome(READ, 0, 5 * GIB)[0] == wire.NBD_EINVAL
        for length in (1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1):
            for command in (READ, TRIM, CACHE, STATUS):
                assert c.outcome(command, 4096, length)[0] == wire.NBD_EINVAL
            assert c.outcome(ZEROES, (1 << 64) - 512, length)[0] == wire.NBD_ENOSPC


def test_payload_rules(served):
    """Whatever carries the flag carries a payload; only a write may."""
    with Raw(served) as c:
        c.structured(ALLOCATION, option=EXTENDED)
        for command in (READ, TRIM, CACHE, ZEROES, STATUS, FLUSH, 99):
            assert c.outcome(command, 0, 5000, PAYLOAD, payload=b"?" * 5000)[0] == wire.NBD_EINVAL
        assert c.outcome(WRITE, 0, 512, payload=b"w" * 512)[0] == wire.NBD_EINVAL
        assert c.outcome(FLUSH) == (0, "")
    for command in (WRITE, STATUS):
        with Raw(served) as c:
            c.structured(option=EXTENDED)
            c.request(command, 0, 65 * MIB, PAYLOAD)
            assert c.closed()
    served.wait_log("a payload of 68157440 bytes was announced")


def test_the_other_header_is_no_header(served):
    from raw import request
    with Raw(served) as c:
        c.structured(option=EXTENDED)
        c.send(request(FLUSH) + bytes(4))
        assert c.closed()
