#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""seeds.py DIR - write each fuzz target's first inputs into DIR/TARGET/."""
import struct
import sys
from pathlib import Path


def greeting(flags=3):
    return b"NBDMAGICIHAVEOPT" + struct.pack(">H", flags)


def reply(option, kind, data=b""):
    return struct.pack(">QIII", 0x0003E889045565A9, option, kind,
                       len(data)) + data


def nego():
    export = reply(7, 3, struct.pack(">HQH", 0, 1 << 30, 0x6D))
    block = reply(7, 3, struct.pack(">HIII", 3, 512, 4096, 1 << 25))
    unsup = reply(7, 0x80000001, b"what?")
    item = reply(3, 2, struct.pack(">I", 4) + b"root" + b"the root disk")
    go = [
        greeting() + export + block + reply(7, 1),
        greeting() + block + reply(7, 3, b"\0\1root") + export + reply(7, 1),
        greeting() + reply(7, 0x80000006, b"no such export"),
        greeting() + reply(7, 0x80000005, b"TLS first"),
        greeting() + unsup + struct.pack(">QH", 1 << 30, 3),
        greeting(1) + unsup + struct.pack(">QH", 1 << 30, 3) + bytes(124),
        greeting(0) + struct.pack(">QH", 1 << 30, 3) + bytes(124),
        greeting() + reply(7, 0x80000001, b"x" * 9000) + bytes(10),
        b"NBDMAGIC" + struct.pack(">Q", 0x420281861253) + bytes(136),
    ]
    lists = [greeting() + item * 3 + reply(3, 1),
             greeting() + reply(3, 0x80000002, b"not for you")]
    for choice in (2, 10, 0, 4, 6):
        yield from (bytes([choice]) + s for s in go)
    for choice in (1, 9):
        yield from (bytes([choice]) + s for s in lists)
    ack, end = reply(8, 1), export + reply(7, 1)
    context = reply(10, 4, bytes(4) + b"x-nbdroot:server/boot/host/image")
    for session in (ack + context + reply(10, 1) + end, ack + reply(10, 1) + end,
                    ack + reply(10, 0x80000001, b"x" * 9000) + end,
                    reply(8, 0x80000001) + end, ack + context * 2):
        for choice in (18, 26, 16, 20, 34):
            yield bytes([choice]) + greeting() + session


def reply_():
    """To the four requests of reply.c: READs of 700 bytes at 0 and 512, a WRITE, a FLUSH."""
    def simple(error, cookie, data=b""):
        return struct.pack(">IIQ", 0x67446698, error, cookie) + data

    def chunk(kind, cookie, payload=b"", done=1):
        return struct.pack(">IHHQI", 0x668E33EF, done, kind, cookie, len(payload)) + payload

    def content(cookie, start, length, done=0):
        return chunk(1, cookie, struct.pack(">Q", start) + b"d" * length, done)

    def hole(cookie, start, length, done=0):
        return chunk(2, cookie, struct.pack(">QI", start, length), done)

    def error(cookie, number, text, tail=b"", kind=0x8001, done=1):
        return chunk(kind, cookie, struct.pack(">IH", number, len(text)) + text + tail, done)

    at = struct.pack(">Q", 600)
    streams = [
        simple(0, 3) + simple(0, 0, b"x" * 700) + simple(28, 2) + simple(5, 1),
        content(0, 0, 700, 1) + chunk(0, 2) + simple(0, 3),
        content(0, 350, 350) + hole(1, 512, 700, 1) + content(0, 0, 350) + chunk(0, 0),
        b"".join(content(0, i * 100, 50) for i in range(7)) +
        b"".join(hole(0, i * 100 + 50, 50) for i in range(7)) + chunk(0, 0),
        error(2, 28, b"the disk is full") + error(1, 5, b"bad sector", at, 0x8002),
        error(0, 5, b"x" * 300, b"?" * 100, 0x8123, 0) + content(0, 0, 10) + chunk(0, 0),
        content(0, 0, 400) + content(0, 399, 301, 1),
        content(0, 1, 699, 1), hole(0, 0, 701, 1), chunk(5, 0, bytes(12)),
    ]
    for choice in range(4):
        yield from (bytes([choice]) + s for s in streams)


def cmdline():
    for line in (
            "root=/dev/nb0 nbdroot=server1:1234",
            "quiet root=/dev/nb0p1 nbdroot=server1:1234/export nbdport=2",
            "nbdroot=192.0.2.1 nbdroot=[2001:db8::1]:5/x",
            "nbdroot=[fe80::1%eth0]:/x root=LABEL=root",
            'nbdroot=nbd://[fe80::1%25eth0]/a%20b "nbdroot=x/a b" -- x',
            "nbdroot=dhcp nbdroot=/opt/x nbdroot=dhcp:1/y",
            "nbdroot=nbd:a:b nbdroot=a,b root=/dev/nbd0 nbdroot=::1"):
        yield line.encode()


def bootline():
    for line in ("192.0.2.1:1234", "192.0.2.1:1234/lab\n192.0.2.2:1/lab",
                 "[fe80::1%eth0]:9/a b\\", "dhcp:1234/x\ndhcp:2/y", "server1:1"):
        yield b"\1" + line.encode()
        yield b"\0" + line.encode()


def dns_name(name):
    return b"".join(bytes([len(label)]) + label.encode()
                    for label in name.split(".")) + b"\0"


def dns():
    def record(owner, kind, data):
        return owner + struct.pack(">HHIH", kind, 1, 60, len(data)) + data

    def answer(name, kind, records, flags=0x8180):
        return (struct.pack(">HHHHHH", 0x1234, flags, 1, len(records), 0, 0) +
                dns_name(name) + struct.pack(">HH", kind, 1) +
                b"".join(records))

    ipv4, ipv6 = bytes([192, 0, 2, 1]), bytes(15) + b"\1"
    here = b"\xc0\x0c"
    yield b"\0" + answer("a", 1, [record(here, 1, ipv4)] * 3)
    yield b"\2" + answer("server1.lab", 1, [
        record(here, 5, dns_name("x")), record(dns_name("x"), 1, ipv4)])
    yield b"\3" + answer("server1.lab", 28, [record(here, 28, ipv6)])
    yield b"\5" + answer("b.a.b.a", 28, [
        record(b"\1b\1a\xc0\x10", 28, ipv6)])
    yield b"\0" + answer("a", 1, [], 0x8183)


def facts():
    yield (b"\0DEVICE='eth0'\nIPV4DNS0='10.0.2.3'\nDNSDOMAIN=\"a.b\"\n"
           b"DOMAINSEARCH='a b'\nROOTSERVER='10.0.2.2'\n"
           b"ROOTPATH='it'\\''s:1/x'\n")
    yield b"\1search a.b c\nnameserver 10.0.2.3\nnameserver fe80::1%eth0\n"
    yield b"\x02127.0.0.1 localhost\n192.0.2.1 x server1 # y\n::1 server1\n"


TARGETS = {"nego": nego, "reply": reply_, "cmdline": cmdline, "bootline": bootline,
           "dns": dns, "facts": facts}

for target, seeds in TARGETS.items():
    folder = Path(sys.argv[1]) / target
    folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds()):
        (folder / f"seed-{number:03}").write_bytes(seed)
