# SPDX-License-Identifier: GPL-2.0
"""Servers that lie before the first request: the attach fails with a sentence,
a device that is there already goes on waiting, and the station lives."""
import struct
import time

import pytest

from conftest import at
from harness import wire

GREETING = struct.pack(">QQH", wire.NBD_MAGIC, wire.NBD_OPTS_MAGIC,
                       wire.NBD_FLAG_FIXED_NEWSTYLE | wire.NBD_FLAG_NO_ZEROES)
STRUCTURED, META, GO = wire.NBD_OPT_STRUCTURED_REPLY, wire.NBD_OPT_SET_META_CONTEXT, wire.NBD_OPT_GO


def option(conn):
    _, number, length = struct.unpack(">QII", conn.recv(wire.NBD_OPTION_SIZE))
    conn.recv(length)
    return number


def says(data):
    """Says that as its first words, and listens for a while."""
    def talk(conn):
        conn.send(data)
        conn.sock.settimeout(2)
        conn.sock.recv(65536)
    return talk


def answers(asked, *replies):
    """Behaves until it is asked for the option, then sends that."""
    def talk(conn):
        conn.send(GREETING)
        conn.recv(wire.NBD_CLIENT_FLAGS_SIZE)
        while True:
            number = option(conn)
            if number == asked:
                break
            conn.option_reply(number, wire.NBD_REP_ACK)
        for reply in replies:
            conn.send(reply)
        conn.sock.settimeout(2)
        conn.sock.recv(65536)
    return talk


def reply(number, kind, data=b"", length=None, magic=wire.NBD_REP_MAGIC):
    return struct.pack(">QIII", magic, number, kind, len(data) if length is None else length) + data


def info(kind, layout, *values):
    return reply(GO, wire.NBD_REP_INFO, struct.pack(">H" + layout, kind, *values))


EXPORT = info(wire.NBD_INFO_EXPORT, "QH", 16 << 20, 1)
ACK = reply(GO, wire.NBD_REP_ACK)


def blocks(*sizes):
    return info(wire.NBD_INFO_BLOCK_SIZE, "III", *sizes)


def context(name):
    return reply(META, wire.NBD_REP_META_CONTEXT, bytes(4) + name)


HOSTILE = {
    "nothing, and hangs up": (lambda conn: None, "closed the connection before its greeting"),
    "half a greeting": (lambda conn: conn.send(GREETING[:11]), "before its greeting"),
    "HTTP": (says(b"HTTP/1.1 400 Bad Request\r\n\r\n<html></html>"), "not an NBD server"),
    "SSH": (says(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n"), "not an NBD server"),
    "NBD's magic, then rubbish": (says(GREETING[:8] + b"\xff" * 10), "not an NBD server"),
    "the oldstyle protocol": (says(struct.pack(">QQQI", wire.NBD_MAGIC, wire.NBD_OLDSTYLE_MAGIC, 1 << 20, 0)
                                   + bytes(124)), "oldstyle"),
    "hangs up on the first option": (answers(STRUCTURED), "closed the connection during negotiation"),
    "a reply without magic": (answers(GO, reply(GO, wire.NBD_REP_ACK, magic=1)), "without its magic"),
    "a reply to another option": (answers(GO, reply(3, wire.NBD_REP_ACK)), "an option that was not sent"),
    "a reply of unknown type": (answers(GO, reply(GO, 77)), "unknown type"),
    "a list that nobody asked for": (answers(GO, reply(GO, wire.NBD_REP_SERVER, bytes(4))), "NBD_REP_SERVER"),
    "a reply of 4 GiB": (answers(GO, reply(GO, wire.NBD_REP_INFO, length=0xffffffff)), "too long"),
    "an error text of 4 GiB": (answers(GO, reply(GO, wire.NBD_REP_ERR_UNKNOWN, length=0xffffffff)), "too long"),
    "an agreement without an export": (answers(GO, ACK), "NBD_REP_ACK before NBD_INFO_EXPORT"),
    "information without end": (answers(GO, EXPORT * 100), "replies without end"),
    "information of no type": (answers(GO, reply(GO, wire.NBD_REP_INFO, b"\0")), "without a type"),
    "an export cut short": (answers(GO, reply(GO, wire.NBD_REP_INFO, bytes(11))), "of a wrong length"),
    "a size of 2^63": (answers(GO, info(wire.NBD_INFO_EXPORT, "QH", 1 << 63, 1), ACK), "larger than 2^63"),
    "a size of 2^64-1": (answers(GO, info(wire.NBD_INFO_EXPORT, "QH", (1 << 64) - 1, 1), ACK), "larger than 2^63"),
    "a size of nothing": (answers(GO, info(wire.NBD_INFO_EXPORT, "QH", 0, 1), ACK), "empty"),
    "blocks of nothing": (answers(GO, EXPORT, blocks(0, 4096, 1 << 20)), "power of two"),
    "blocks of 3": (answers(GO, EXPORT, blocks(3, 4096, 1 << 20)), "power of two"),
    "blocks of 2^31": (answers(GO, EXPORT, blocks(1 << 31, 1 << 31, 1 << 31)), "power of two"),
    "preferred less than least": (answers(GO, EXPORT, blocks(4096, 512, 1 << 20)), "preferred block size"),
    "most less than least": (answers(GO, EXPORT, blocks(512, 512, 1)), "maximum payload"),
    "two answers to one question": (answers(STRUCTURED, reply(STRUCTURED, wire.NBD_REP_ACK) * 2),
                                    "an option that was not sent"),
    "an export in answer to structured replies": (answers(STRUCTURED, reply(STRUCTURED, wire.NBD_REP_INFO, bytes(12))),
                                                  "NBD_REP_INFO without NBD_OPT_GO"),
    "a context in answer to structured replies": (
        answers(STRUCTURED, reply(STRUCTURED, wire.NBD_REP_META_CONTEXT, bytes(4) + b"x-nbdroot:server/a/b/c")),
        "NBD_REP_META_CONTEXT without"),
    "a context that nobody asked for": (answers(META, context(b"base:allocation")), "was not asked for"),
    "our own context back": (answers(META, context(b"x-nbdroot:session/-/a/1/1")), "was not asked for"),
    "a context without an id": (answers(META, reply(META, wire.NBD_REP_META_CONTEXT, b"x")), "was not asked for"),
    "two identities": (answers(META, context(b"x-nbdroot:server/a/b/c") * 2), "was not asked for"),
    "an identity of 5000 bytes": (answers(META, context(b"x-nbdroot:server/" + b"a" * 5000)), "was not asked for"),
    "contexts without end": (answers(META, *[context(b"x-nbdroot:server/a/b/%d" % i) for i in range(9)]),
                             "was not asked for"),
}


def test_a_lie_fails_the_attach_with_a_sentence(rig, server):
    """All in one test: each takes a moment, a test's ending takes a second."""
    wrong = {}
    for name, (server.talk, words) in HOSTILE.items():
        ok, answer = rig.ctl(f"attach dev=nb0 server={at(server)}")
        if ok or words not in answer:
            wrong[name] = answer
    assert not wrong
    assert rig.run("ls /dev/nb0 /sys/block/nb0", check=False)[1] != 0


@pytest.mark.parametrize("refusal", [wire.NBD_REP_ERR_UNSUP, wire.NBD_REP_ERR_POLICY, wire.NBD_REP_ERR_INVALID,
                                     0x80001234])
def test_a_stranger_may_refuse_what_is_ours(rig, server, refusal):
    server.on_option = lambda conn, number, data: \
        number in (STRUCTURED, META) and conn.option_reply(number, refusal, b"what?" * 2000) is None
    rig.attach(server)
    assert rig.sysfs("identity") == ""
    rig.run("dd if=/dev/nb0 of=/dev/null bs=1M iflag=direct 2>/dev/null")


def test_a_device_waits_for_one_that_tells_the_truth(rig, server):
    """The same lies while it recovers: each costs a try, none the device."""
    rig.attach(server)
    server.die()
    rig.send("dd if=/dev/nb0 of=/dev/null bs=4k count=1 iflag=direct 2>/dev/null && echo yes >/tmp/done &\n")
    lies = iter([talk for talk, _ in HOSTILE.values()][:12])

    def lie(conn):
        talk = next(lies, None)
        if talk:
            talk(conn)
        else:
            server.talk = None
    server.talk = lie
    server.listen()
    rig.run("wait; cat /tmp/done; rm /tmp/done", 120)
    assert server.talk is None and rig.sysfs("state") == "live"


@pytest.mark.long
def test_a_negotiation_that_never_ends(rig, server):
    """A byte a second: it gets no more time than one that is silent."""
    def trickle(conn):
        for byte in GREETING:
            conn.send(bytes([byte]))
            time.sleep(1)
    server.talk = trickle
    before = time.monotonic()
    ok, answer = rig.ctl(f"attach dev=nb0 server={at(server)}")
    assert not ok and "silent" in answer and time.monotonic() - before < 15
