# SPDX-License-Identifier: GPL-2.0
"""Structured replies: what a server may send arrives, and what it may not send costs the
connection, one line in the log, and nothing else. (Simple ones: test_recovery.py.)"""
import hashlib
import re
import struct
import threading
import time

import pytest

from harness import wire

READ = wire.NBD_CMD_READ
KB64 = 65536


def fill(server):
    for i in range(0, 4 * KB64, 8):
        server.data[i:i + 8] = struct.pack(">Q", i * 0x9e3779b97f4a7c15 % (1 << 64))


def read_64k(rig, server, at=0):
    """Read 64 KiB past the cache, as one request, and compare."""
    said = rig.run(f"dd if=/dev/nb0 bs=64k count=1 skip={at} iflag=direct 2>/dev/null | md5sum")
    want = hashlib.md5(server.data[at * KB64:(at + 1) * KB64]).hexdigest()
    assert said.split()[0] == want


def first_read(what):
    """A hook that answers the first large READ with what(), then no more."""
    done = threading.Event()

    def hook(conn, req):
        if done.is_set() or req.type != READ or req.length != KB64:
            return False
        done.set()
        what(conn, req)
        return True
    hook.done = done
    return hook


@pytest.fixture
def server(server):
    server.structured = True
    fill(server)
    return server


def pieces(conn, req):
    """Last first, a hole amid them, the end announced by itself."""
    conn.content(req, 40960, 24576)
    conn.content(req, 0, 1)
    conn.hole(req, 8192, 32768)
    conn.content(req, 1, 8191)
    conn.chunk(req.cookie, wire.NBD_REPLY_TYPE_NONE)


def small_pieces(conn, req):
    for at in range(0, req.length, 512):
        conn.content(req, at, 512, at + 512 == req.length)


HONEST = {"pieces in any order": pieces, "many small pieces": small_pieces,
          "one hole": lambda conn, req: conn.hole(req, 0, req.length, True)}


@pytest.mark.parametrize("name", HONEST)
def test_a_read_in_pieces_comes_together(rig, server, name):
    server.data[8192:40960] = bytes(32768)
    if name == "one hole":
        server.data[0:KB64] = bytes(KB64)
    rig.attach(server, more="conns=1")
    server.hook = hook = first_read(HONEST[name])
    read_64k(rig, server)
    assert hook.done.is_set() and rig.sysfs("reconnects") == "0"


def test_replies_to_several_reads_interleave(rig, server):
    """The halves of two READs, and the reply to a third, come mixed."""
    held = []

    def hook(conn, req):
        if req.type != READ or req.length != KB64:
            return False
        held.append(req)
        if len(held) == 2:
            a, b = held
            conn.content(a, 0, 1000)
            conn.content(b, 60000, 5536)
            conn.content(a, 1000, 64536, True)
            conn.content(b, 0, 60000)
            conn.chunk(b.cookie, wire.NBD_REPLY_TYPE_NONE)
        return True
    rig.attach(server, more="conns=1")
    server.hook = hook
    said = rig.run("for i in 0 1; do dd if=/dev/nb0 bs=64k count=1 skip=$i iflag=direct of=/tmp/p$i 2>/dev/null & "
                   "done; wait; cat /tmp/p0 /tmp/p1 | md5sum")
    assert said.split()[0] == hashlib.md5(server.data[:2 * KB64]).hexdigest()
    assert rig.sysfs("reconnects") == "0"


def trace(rig):
    """Our trace events, from now on, or skip. Returns how to end it and what was said."""
    events = "/sys/kernel/tracing/events/nb"
    rig.run("mount -t tracefs tracing /sys/kernel/tracing 2>/dev/null", check=False)
    if rig.run(f"[ -d {events} ]", check=False)[1]:
        pytest.skip("this kernel has no trace events")
    rig.run(f"echo >/sys/kernel/tracing/trace; echo 1 >{events}/enable")
    return lambda: rig.run(f"echo 0 >{events}/enable; cat /sys/kernel/tracing/trace")


def hole(req, start, length, done=False):
    return struct.pack(">IHHQIQI", wire.NBD_STRUCTURED_REPLY_MAGIC, wire.NBD_REPLY_FLAG_DONE if done else 0,
                       wire.NBD_REPLY_TYPE_OFFSET_HOLE, req.cookie, 12, req.offset + start, length)


def content(server, req, start, length):
    return struct.pack(">IHHQIQ", wire.NBD_STRUCTURED_REPLY_MAGIC, 0, wire.NBD_REPLY_TYPE_OFFSET_DATA, req.cookie,
                       8 + length, req.offset + start) + server.data[req.offset + start:req.offset + start + length]


def test_many_holes_at_once(rig, server):
    """A few bytes on the wire stand for sixteen mebibytes of zeroes. They are not
    written where packets arrive, in softirq ("s" in the trace), but for the first."""
    held = []

    def hook(conn, req):
        if req.type != READ or req.length != 1 << 20:
            return False
        held.append(req)
        if len(held) == 16:
            conn.send(b"".join(hole(r, 0, r.length, True) for r in held))
        return True
    rig.attach(server, more="conns=1")
    traced = trace(rig)
    server.hook = hook
    said = rig.run("for i in $(seq 0 15); do dd if=/dev/nb0 bs=1M count=1 skip=$i iflag=direct of=/tmp/h$i 2>/dev/null & "
                   "done; wait; cat /tmp/h* | md5sum; rm /tmp/h*")
    assert said.split()[0] == hashlib.md5(bytes(16 << 20)).hexdigest()
    assert len(held) == 16 and rig.sysfs("reconnects") == "0"
    cookies = {f"{req.cookie:#x}" for req in held}
    contexts = [flags for flags, cookie in
                re.findall(r"\[\d+\] (\S+) +\S+: nb_reply: nb0 conn=0 cookie=(\S+) ", traced()) if cookie in cookies]
    assert len(contexts) == 16 and sum("s" in flags.lower() for flags in contexts) <= 2, contexts


# What comes in the same packet, behind holes that use up what softirq may zero.
BEHIND = {
    "nothing": lambda server, req: b"",
    "data": lambda server, req: content(server, req, 0, 256) + hole(req, 256, 3840, True),
    "one byte more": lambda server, req: hole(req, 0, 1) + content(server, req, 1, 255) + hole(req, 256, 3840, True),
    "a hole": lambda server, req: hole(req, 0, 4096, True),
}


@pytest.mark.parametrize("behind", BEHIND)
def test_holes_of_just_what_softirq_may_zero(rig, server, behind):
    """Sixteen holes, of a mebibyte together, are written in softirq. What is behind them
    in the packet is not forgotten, though nothing comes that would remind us."""
    server.data[KB64:KB64 + 4096] = (bytes(256) if behind == "a hole" else b"\0" + b"x" * 255) + bytes(3840)
    held = {}

    def hook(conn, req):
        if req.type != READ or req.length not in (4096, 1 << 20):
            return False
        held[req.length] = req
        if len(held) == (1 if behind == "nothing" else 2):
            big = held[1 << 20]
            time.sleep(0.5)     # whoever sent the requests is not at it any more
            conn.send(b"".join(hole(big, at, KB64, at + KB64 == 1 << 20) for at in range(0, 1 << 20, KB64)) +
                      BEHIND[behind](server, held.get(4096)))
        return True
    rig.attach(server, more="conns=1")
    traced = trace(rig)
    server.hook = hook
    small = "dd if=/dev/nb0 bs=4k count=1 skip=16 iflag=direct of=/tmp/d 2>/dev/null & " if behind != "nothing" else ""
    said = rig.run(small + "dd if=/dev/nb0 bs=1M count=1 skip=1 iflag=direct of=/tmp/h 2>/dev/null & wait; "
                   "md5sum </tmp/h; [ ! -e /tmp/d ] || md5sum </tmp/d; rm -f /tmp/[hd]")
    want = [bytes(1 << 20)] + ([server.data[KB64:KB64 + 4096]] if small else [])
    assert said.split()[::2] == [hashlib.md5(data).hexdigest() for data in want]
    contexts = {cookie: flags for flags, cookie in
                re.findall(r"\[\d+\] (\S+) +\S+: nb_reply: nb0 conn=0 cookie=(\S+) ", traced())}
    assert "s" in contexts[f"{held[1 << 20].cookie:#x}"].lower(), contexts
    assert rig.sysfs("reconnects") == "0"


def test_an_error_says_why(rig, server):
    """The text of an error chunk is in the log; the connection goes on."""
    rig.attach(server, more="conns=1")

    def sorry(conn, req):
        conn.content(req, 0, 4096)
        conn.fault(req, wire.NBD_EIO, b"disk 3 is\x1b[2J on fire", struct.pack(">Q", req.offset + 4096),
                   kind=wire.NBD_REPLY_TYPE_ERROR_OFFSET)
    server.hook = hook = first_read(sorry)
    assert rig.run("dd if=/dev/nb0 of=/dev/null bs=64k count=1 iflag=direct", check=False)[1]
    assert hook.done.is_set()
    assert "NBD_EIO (5) to NBD_CMD_READ at byte 0, length 65536: disk 3 is?[2J on fire" in rig.dmesg()
    read_64k(rig, server)
    assert rig.sysfs("reconnects") == "0"


def twice(conn, req):
    conn.content(req, 0, 32768)
    conn.content(req, 0, 32768)
    conn.chunk(req.cookie, wire.NBD_REPLY_TYPE_NONE)


def after_the_end(conn, req):
    conn.content(req, 0, req.length, True)
    conn.content(req, 0, 4096, True)


def endless_errors(conn, req):
    for _ in range(100):
        conn.fault(req, wire.NBD_EIO, done=False)


def scattered(conn, req):
    for at in range(0, req.length, 4096):
        conn.content(req, at, 512)


def in_the_middle(conn, req):
    conn.content(req, 0, 4096)
    conn.send(b"\0" * 64)


HOSTILE = {
    "an end without data": lambda c, r: c.chunk(r.cookie, wire.NBD_REPLY_TYPE_NONE),
    "an end before all data": lambda c, r: c.content(r, 0, 32768, True),
    "an end with a gap": lambda c, r: (c.content(r, 0, 4096), c.content(r, 8192, 57344, True)),
    "the same half twice": twice,
    "pieces that overlap": lambda c, r: (c.content(r, 0, 4096), c.hole(r, 4095, 61441, True)),
    "data before the request": lambda c, r: c.content(r, -512, 512, True, b"x" * 512),
    "data behind the request": lambda c, r: c.content(r, r.length - 256, 512, True, b"x" * 512),
    "a hole longer than the request": lambda c, r: c.hole(r, 0, r.length + 1, True),
    "a hole at 2^64 - 1": lambda c, r: c.chunk(r.cookie, wire.NBD_REPLY_TYPE_OFFSET_HOLE,
                                               struct.pack(">QI", (1 << 64) - 1, 2)),
    "a hole of nothing": lambda c, r: c.hole(r, 0, 0, True),
    "a hole of the wrong length": lambda c, r: c.chunk(r.cookie, wire.NBD_REPLY_TYPE_OFFSET_HOLE, bytes(13)),
    "data without data": lambda c, r: c.chunk(r.cookie, wire.NBD_REPLY_TYPE_OFFSET_DATA, bytes(8)),
    "data of 4 GiB": lambda c, r: c.chunk(r.cookie, wire.NBD_REPLY_TYPE_OFFSET_DATA, struct.pack(">Q", r.offset),
                                          length=0xffffffff),
    "an error of no error": lambda c, r: c.fault(r, 0, b"all is well"),
    "a text longer than its chunk": lambda c, r: c.chunk(r.cookie, wire.NBD_REPLY_TYPE_ERROR,
                                                         struct.pack(">IH", 5, 100) + b"short"),
    "a text of 5000 bytes": lambda c, r: c.fault(r, 5, b"t" * 5000),
    "an error chunk of 1 GiB": lambda c, r: c.chunk(r.cookie, wire.NBD_REPLY_TYPE_ERROR, length=1 << 30),
    "an error elsewhere": lambda c, r: c.fault(r, 5, b"", struct.pack(">Q", r.offset + r.length),
                                               kind=wire.NBD_REPLY_TYPE_ERROR_OFFSET),
    "errors without end": endless_errors,
    "a simple reply to a read": lambda c, r: c.reply(r.cookie, data=b"x" * r.length),
    "an unknown chunk": lambda c, r: c.chunk(r.cookie, 0x1234, bytes(16)),
    "block status, unasked": lambda c, r: c.chunk(r.cookie, wire.NBD_REPLY_TYPE_BLOCK_STATUS, bytes(12)),
    "more after the end": after_the_end,
    "a chunk to nobody": lambda c, r: c.chunk(r.cookie ^ (1 << 40), wire.NBD_REPLY_TYPE_NONE),
    "an extended header": lambda c, r: c.send(struct.pack(">IHHQQQ", wire.NBD_EXTENDED_REPLY_MAGIC, 1, 0,
                                                          r.cookie, r.offset, 0)),
    "rubbish amid chunks": in_the_middle,
    "dust": scattered,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_chunk_costs_the_connection_only(rig, server, name):
    rig.attach(server, more="conns=1")
    server.hook = hook = first_read(HOSTILE[name])
    read_64k(rig, server)
    read_64k(rig, server, 2)
    assert hook.done.is_set()
    lines = re.findall("connection lost: (.*); 1? *[0-9]+ requests in flight", rig.dmesg())
    assert len(lines) == 1, lines
    assert rig.sysfs("reconnects") == "1"


def test_a_write_is_not_answered_with_data(rig, server):
    rig.attach(server, more="conns=1")
    done = threading.Event()

    def hook(conn, req):
        if req.type != wire.NBD_CMD_WRITE or done.is_set():
            return False
        done.set()
        conn.content(req, 0, 4096, True)
        return True
    server.hook = hook
    rig.run("yes | dd of=/dev/nb0 bs=4k count=1 iflag=fullblock oflag=direct 2>/dev/null")
    assert server.data[:4096] == b"y\n" * 2048
    assert "data in reply to what is no read" in rig.sysfs("last_error")


def test_latency_and_traffic_are_counted(rig, server):
    """What an operator reads in nb/latency and nb/traffic adds up."""
    rig.attach(server, more="conns=1")

    def counts():
        columns = [[int(n) for n in line.split()[1:]] for line in rig.sysfs("latency").splitlines()[1:]]
        return [sum(c) for c in zip(*columns)] or [0] * 4

    def traffic():
        return [int(n) for n in rig.sysfs("traffic").splitlines()[1].split()]
    before, sent = counts(), traffic()
    rig.run("dd if=/dev/zero of=/dev/nb0 bs=4k count=10 oflag=direct conv=fsync 2>/dev/null")
    rig.run("dd if=/dev/nb0 of=/dev/null bs=4k count=7 iflag=direct 2>/dev/null")
    after, now = counts(), traffic()
    assert rig.sysfs("latency").splitlines()[0] == "us_below read write flush other"
    assert [b - a for a, b in zip(before, after)][1] == 10
    assert after[0] - before[0] >= 7 and after[2] - before[2] >= 1
    assert now[1] - sent[1] >= 18 and now[3] - sent[3] >= 18
    assert now[2] - sent[2] >= 10 * (4096 + 28) and now[4] - sent[4] >= 7 * 4096


def test_trace_events_tell_the_story(rig, server):
    """Request and reply with one cookie; a lost connection and its return."""
    rig.attach(server, more="conns=1")
    traced = trace(rig)
    read_64k(rig, server, 1)
    server.die()
    server.listen()
    rig.until("[ $(cat /sys/block/nb0/nb/reconnects) = 1 ]")
    said = traced()
    sent = re.search(r"nb_request: nb0 conn=0 cookie=(\S+) op=0 flags=0x0 offset=65536 length=65536", said)
    assert sent, said
    assert re.search(rf"nb_reply: nb0 conn=0 cookie={sent[1]} op=0 error=0 ns=[1-9]", said), said
    assert re.search(r'nb_lost: nb0 conn=0 cause="', said), said
    assert re.search(rf"nb_reconnect: nb0 server=10.0.2.2:{server.port} seconds=", said), said
