# SPDX-License-Identifier: GPL-2.0
"""Requests of the transmission phase: at the edges, beyond them, and absurd.

What is refused is answered with the error the specification names, the stream
stays in step, and nothing else suffers."""
import os
import struct

import pytest

from harness import wire
from raw import MIB, Closed, Raw, request

READ, WRITE, DISC, FLUSH = (wire.NBD_CMD_READ, wire.NBD_CMD_WRITE, wire.NBD_CMD_DISC,
                            wire.NBD_CMD_FLUSH)
TRIM, CACHE, ZEROES, STATUS = (wire.NBD_CMD_TRIM, wire.NBD_CMD_CACHE, wire.NBD_CMD_WRITE_ZEROES,
                               wire.NBD_CMD_BLOCK_STATUS)
FUA, NO_HOLE, FAST_ZERO = (wire.NBD_CMD_FLAG_FUA, wire.NBD_CMD_FLAG_NO_HOLE,
                           wire.NBD_CMD_FLAG_FAST_ZERO)
SIZE = 32 * MIB
MAX64 = (1 << 64) - 1
GIB = 1 << 30


# -- at the edges ----------------------------------------------------------

@pytest.mark.parametrize("offset,length", [(0, 1), (0, SIZE), (SIZE - 1, 1), (1, SIZE - 1),
                                           (4095, 2), (MIB - 1, MIB + 2), (SIZE - 4096, 4096)])
@pytest.mark.parametrize("kind", ["served", "served_readonly"])
def test_read_edges(request, kind, content, offset, length):
    with Raw(request.getfixturevalue(kind)) as c:
        c.go()
        assert c.read(offset, length) == content[offset:offset + length]


@pytest.mark.parametrize("flags", [0, FUA])
@pytest.mark.parametrize("offset,length", [(0, 1), (0, SIZE), (SIZE - 1, 1), (7, MIB), (7, MIB + 1),
                                           (1, SIZE - 1), (3, 3 * MIB)])
def test_write_edges(served, content, offset, length, flags):
    data = bytes(b ^ 0xff for b in content[offset:offset + length])
    with Raw(served) as c:
        c.go()
        assert c.write(offset, data, flags) == 0
        assert c.read(offset, length) == data
    assert served.image.read_bytes() == content[:offset] + data + content[offset + length:]


def test_beyond_four_gib(make_server, big):
    """Offsets have 64 bits: what is written high up does not land low down."""
    image = big(5 * GIB + 512)
    server = make_server(image)
    with Raw(server) as c:
        c.go()
        assert c.size == 5 * GIB + 512
        for offset in (0, 4 * GIB - 1, 4 * GIB, 5 * GIB):
            assert c.write(offset, b"%16d" % offset) == 0 or offset == 0
        assert c.read(4 * GIB, 16) == b"%16d" % (4 * GIB)
        assert c.read(5 * GIB, 512)[:16] == b"%16d" % (5 * GIB)
        assert c.read(0, 16) == b"%16d" % 0
        assert c.read(5 * GIB + 511, 2) == wire.NBD_EINVAL


def test_size_argument_is_what_is_served(make_server, image, content):
    server = make_server(image, "3m")
    with Raw(server) as c:
        c.go()
        assert c.size == 3 * MIB
        assert c.read(3 * MIB - 1, 1) == content[3 * MIB - 1:3 * MIB]
        assert c.read(3 * MIB, 1) == wire.NBD_EINVAL
        assert c.write(3 * MIB - 1, b"xx") == wire.NBD_ENOSPC


# -- zeroes and holes ------------------------------------------------------

@pytest.mark.parametrize("flags", [0, NO_HOLE, FUA, FAST_ZERO, NO_HOLE | FUA])
@pytest.mark.parametrize("offset,length", [(0, SIZE), (4096, 65536), (5, 9), (1, 3 * MIB + 1)])
def test_zeroes(served, content, offset, length, flags):
    with Raw(served) as c:
        c.go()
        error = c.simple(ZEROES, offset, length, flags)
        if flags & FAST_ZERO and error == wire.NBD_ENOTSUP:
            assert c.read(offset, length) == content[offset:offset + length]
            return
        assert error == 0
    assert served.image.read_bytes() == content[:offset] + bytes(length) + content[offset + length:]


@pytest.mark.parametrize("length", [65 * MIB, 2 * GIB + 1, 0xffffffff])
@pytest.mark.parametrize("flags", [0, NO_HOLE])
def test_zeroes_longer_than_any_payload(make_server, big, length, flags):
    """All of it: another server stopped after 64 MiB and said that all was well."""
    image = big(5 * GIB)
    marks = [0, 64 * MIB, length // 2, length - 1]
    with open(image, "r+b") as f:
        for offset in marks + [length]:
            f.seek(offset)
            f.write(b"x")
    server = make_server(image)
    with Raw(server, timeout=60) as c:
        c.go()
        assert c.simple(ZEROES, 0, length, flags) == 0
        assert [c.read(offset, 1) for offset in marks] == [b"\0"] * 4
        assert c.read(length, 1) == b"x"


def test_trim(served, content):
    with Raw(served) as c:
        c.go()
        assert c.simple(TRIM, MIB, MIB) == 0
        assert c.simple(TRIM, 5, 3, FUA) == 0
        assert c.read(0, 5) == content[:5]
        assert c.read(2 * MIB, MIB) == content[2 * MIB:3 * MIB]
        assert c.flush() == 0
    blocks = os.stat(served.image).st_blocks * 512
    assert blocks <= SIZE - MIB + 65536, "the space was not given back"


@pytest.mark.parametrize("kind", ["served", "served_readonly"])
def test_cache(request, kind):
    with Raw(request.getfixturevalue(kind)) as c:
        c.go()
        assert c.simple(CACHE, 0, SIZE) == 0
        assert c.simple(CACHE, 0, SIZE + 1) == wire.NBD_EINVAL


# -- beyond ----------------------------------------------------------------

BEYOND = [(SIZE, 1), (SIZE - 1, 2), (0, SIZE + 1), (MAX64, 1), (MAX64 - 4095, 4096),
          (1 << 63, 512), ((1 << 64) - SIZE, 4096), (SIZE, 4096), (SIZE + 1, 1), (1 << 32, 512),
          (SIZE - 1, 0xffffffff), (MAX64, 0xffffffff)]


@pytest.mark.parametrize("offset,length", BEYOND)
def test_beyond_the_end(served, content, offset, length):
    payload = bytes(length) if length <= SIZE else None
    with Raw(served) as c:
        c.go()
        assert c.read(offset, length) == wire.NBD_EINVAL
        assert c.simple(TRIM, offset, length) == wire.NBD_EINVAL
        assert c.simple(ZEROES, offset, length) == wire.NBD_ENOSPC
        assert c.simple(CACHE, offset, length) == wire.NBD_EINVAL
        if payload:
            assert c.write(offset, payload) == wire.NBD_ENOSPC
        assert c.read(0, 4096) == content[:4096]
    served.wait_log("beyond the end of the export")
    assert served.image.read_bytes() == content


@pytest.mark.parametrize("command", [READ, WRITE, TRIM, CACHE, ZEROES])
def test_length_zero(served, command):
    with Raw(served) as c:
        c.go()
        assert c.simple(command, 0, 0) == wire.NBD_EINVAL
        assert c.simple(command, SIZE, 0) == wire.NBD_EINVAL


def test_read_of_more_than_the_maximum(make_server, big):
    server = make_server(big(8 * GIB))
    with Raw(server) as c:
        c.go()
        for length in (64 * MIB + 1, 0x7fffffff, 0xffffffff):
            assert c.read(0, length) == wire.NBD_EINVAL
        assert c.read(0, 64 * MIB) == bytes(64 * MIB)


def test_write_of_more_than_the_maximum(make_server, big):
    """Refused, but the payload is taken off the stream, in little memory."""
    server = make_server(big(8 * GIB))
    with Raw(server, timeout=60) as c:
        c.go()
        before = memory(server.pid)
        c.send(request(WRITE, 0, 500 * MIB, cookie=5))
        for _ in range(500):
            c.send(b"x" * MIB)
        assert c.reply() == (wire.NBD_EINVAL, 5)
        assert memory(server.pid) - before < 64 * MIB
        assert c.read(0, 512) == bytes(512)


def memory(pid):
    """Resident, in bytes."""
    with open(f"/proc/{pid}/statm") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def test_readonly(served_readonly, content):
    with Raw(served_readonly) as c:
        c.go()
        assert c.flags & wire.NBD_FLAG_READ_ONLY
        assert not c.flags & (wire.NBD_FLAG_SEND_TRIM | wire.NBD_FLAG_SEND_WRITE_ZEROES)
        for length in (1, 4096, MIB, 20 * MIB):
            assert c.write(0, bytes(length)) == wire.NBD_EPERM
        assert c.write(SIZE, b"beyond") == wire.NBD_EPERM
        assert c.simple(TRIM, 0, 4096) == wire.NBD_EPERM
        assert c.simple(ZEROES, 0, 4096) == wire.NBD_EPERM
        assert c.flush() == 0
        assert c.read(0, 65536) == content[:65536]
    served_readonly.wait_log("the export is read-only")


# -- absurd ----------------------------------------------------------------

@pytest.mark.parametrize("command", [STATUS, 8, 9, 255, 0x1234, 0xffff])
def test_unknown_command(served, command):
    with Raw(served) as c:
        c.go()
        assert c.simple(command, 0, 512) == wire.NBD_EINVAL
        assert c.simple(command, MAX64, 0xffffffff, 0xffff) == wire.NBD_EINVAL


@pytest.mark.parametrize("command,flags", [
    (READ, NO_HOLE), (READ, wire.NBD_CMD_FLAG_DF), (READ, 0x8000), (WRITE, NO_HOLE), (WRITE, FAST_ZERO),
    (WRITE, 0x20), (TRIM, NO_HOLE), (ZEROES, wire.NBD_CMD_FLAG_REQ_ONE), (ZEROES, 0xffff), (FLUSH, 2),
    (CACHE, 0x10)])
def test_flag_that_does_not_belong(served, content, command, flags):
    with Raw(served) as c:
        c.go()
        payload = bytes(512) if command == WRITE else b""
        length = 0 if command == FLUSH else 512
        assert c.simple(command, 0, length, flags, payload) == wire.NBD_EINVAL
        assert c.read(0, 512) == content[:512]


@pytest.mark.parametrize("command", [READ, WRITE, TRIM, CACHE, ZEROES, FLUSH])
def test_fua_on_everything(served, command):
    with Raw(served) as c:
        c.go()
        length = 0 if command == FLUSH else 512
        c.request(command, 0, length, FUA, payload=bytes(512) if command == WRITE else b"")
        assert c.reply()[0] == 0
        if command == READ:
            c.recv(512)
        assert c.flush() == 0


def test_flush_takes_no_range(served):
    with Raw(served) as c:
        c.go()
        assert c.simple(FLUSH, 0, 512) == wire.NBD_EINVAL
        assert c.simple(FLUSH, 512, 0) == wire.NBD_EINVAL


@pytest.mark.parametrize("magic", [0, wire.NBD_SIMPLE_REPLY_MAGIC, 0x12560953,
                                   wire.NBD_REQUEST_MAGIC + 1, 0xffffffff])
def test_bad_magic_ends_only_that_connection(served, content, magic):
    with Raw(served) as good, Raw(served) as bad:
        good.go()
        bad.go()
        bad.request(READ, 0, 512, magic=magic)
        assert bad.closed()
        assert good.read(0, 512) == content[:512]
    served.wait_log(f"a request without its magic (0x{magic:08x})")


def test_replies_in_flight_before_bad_magic_arrive_or_not_but_nothing_breaks(served):
    with Raw(served) as c:
        c.go()
        c.send(request(READ, 0, MIB) * 10 + b"garbage" * 10)
        assert c.closed()


# -- many ------------------------------------------------------------------

def test_thousands_queued(served, content):
    """More than it works on at once wait in the socket; each is answered once."""
    n = 4000
    with Raw(served, timeout=60) as c:
        c.go()
        c.send(b"".join(request(READ, i * 512, 512, cookie=i) for i in range(n)))
        seen = set()
        for _ in range(n):
            error, cookie = c.reply()
            assert error == 0 and cookie not in seen
            seen.add(cookie)
            assert c.recv(512) == content[cookie * 512:cookie * 512 + 512]


def test_mixed_and_out_of_order(served, content):
    """Reads, writes and flushes on their way together; cookies tell them apart."""
    with Raw(served, timeout=60) as c:
        c.go()
        stream, want = [], {}
        for i in range(300):
            offset = i * 65536
            stream.append(request(READ, offset, 4096, cookie=i << 8))
            want[i << 8] = content[offset:offset + 4096]
            stream.append(request(WRITE, offset + 8192, 4096, cookie=i << 8 | 1,
                                  payload=struct.pack(">I", i) * 1024))
            want[i << 8 | 1] = b""
            if i % 50 == 0:
                stream.append(request(FLUSH, cookie=i << 8 | 2))
                want[i << 8 | 2] = b""
        c.send(b"".join(stream))
        while want:
            error, cookie = c.reply()
            data = want.pop(cookie)
            assert error == 0 and c.recv(len(data)) == data
        c.disconnect()
    data = served.image.read_bytes()
    for i in range(300):
        assert data[i * 65536 + 8192:i * 65536 + 12288] == struct.pack(">I", i) * 1024


def test_cookies_are_opaque(served):
    """Any 64 bits, twice the same if the client likes that."""
    with Raw(served) as c:
        c.go()
        for cookie in (0, 1, MAX64, 0x25609513, 1 << 63):
            c.send(request(FLUSH, cookie=cookie) * 2)
            assert [c.reply() for _ in range(2)] == [(0, cookie)] * 2


def test_disconnect_waits_for_what_is_in_flight(served, content):
    """The answers to everything before DISC come, in any order, then the end."""
    with Raw(served) as c:
        c.go()
        c.send(request(WRITE, 0, 8 * MIB, FUA, 1, payload=b"z" * 8 * MIB) + request(FLUSH, cookie=2)
               + request(READ, 16 * MIB, MIB, cookie=3) + request(DISC))
        left = {1, 2, 3}
        while left:
            error, cookie = c.reply()
            assert error == 0
            left.remove(cookie)
            if cookie == 3:
                assert c.recv(MIB) == content[16 * MIB:17 * MIB]
        assert c.closed()
    assert served.image.read_bytes()[:8 * MIB] == b"z" * 8 * MIB
    served.wait_log("disconnected")


def test_written_on_one_connection_is_seen_on_the_other(served):
    """As soon as it is answered. (That a flush covers it: test_losses.py.)"""
    with Raw(served) as a, Raw(served) as b:
        a.go()
        b.go()
        assert a.flags & wire.NBD_FLAG_CAN_MULTI_CONN
        for i in range(50):
            data = struct.pack(">Q", i) * 512
            assert a.write(i * 4096, data) == 0
            assert b.read(i * 4096, 4096) == data
            assert b.flush() == 0


def test_many_flushes_at_once(served):
    """Committed in groups; each is answered."""
    with Raw(served, timeout=60) as c:
        c.go()
        c.send(b"".join(request(WRITE, i * 4096, 4096, cookie=i, payload=bytes(4096))
                        + request(FLUSH, cookie=1000 + i) for i in range(200)))
        cookies = {c.reply() for _ in range(400)}
        assert cookies == {(0, i) for i in range(200)} | {(0, 1000 + i) for i in range(200)}


# -- the image changes under us --------------------------------------------

@pytest.mark.parametrize("length", [4096, 65536, 4 * MIB])
@pytest.mark.parametrize("options", [[], ["-r"]])
def test_image_made_shorter(make_server, image, content, options, length):
    """No short data, no zeroes made up, no crash: an error, or the end of that
    connection, and a line that says why."""
    server = make_server(image, options=options)
    with Raw(server) as c:
        c.go()
        os.truncate(image, MIB)
        try:
            got = c.read(8 * MIB, length)
        except Closed:
            got = wire.NBD_EIO
        assert got == wire.NBD_EIO
    server.wait_log("made shorter while it is served")
    with Raw(server) as c:
        c.go()
        assert c.read(0, 4096) == content[:4096]
