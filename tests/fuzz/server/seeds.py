#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""seeds.py DIR - write each fuzz target's first inputs into DIR/TARGET/."""
import struct
import sys
from pathlib import Path

READ, WRITE, DISC, FLUSH, TRIM, CACHE, ZEROES, STATUS = range(8)
LIST, INFO, GO, STRUCTURED, LIST_META, SET_META, EXTENDED = 3, 6, 7, 8, 9, 10, 11


def option(number, data=b""):
    return b"IHAVEOPT" + struct.pack(">II", number, len(data)) + data


def go(number=GO, name=b"", infos=(0, 1, 2, 3)):
    return option(number, struct.pack(">I", len(name)) + name + struct.pack(">H", len(infos))
                  + b"".join(struct.pack(">H", i) for i in infos))


def request(command, offset=0, length=0, flags=0, cookie=1, payload=b""):
    return struct.pack(">IHHQQI", 0x25609513, flags, command, cookie, offset, length) + payload


def meta(number, *queries, name=b""):
    return option(number, struct.pack(">I", len(name)) + name + struct.pack(">I", len(queries))
                  + b"".join(struct.pack(">I", len(q)) + q for q in queries))


def extended(command, offset=0, length=0, flags=0, cookie=1, payload=b""):
    return struct.pack(">IHHQQQ", 0x21e41c71, flags, command, cookie, offset, length) + payload


def conversations():
    hello = struct.pack(">I", 3)
    yield hello + option(LIST) + option(2)
    yield hello + go(INFO) + option(8) + option(99, b"data") + go() + request(READ, 0, 512) + request(DISC)
    yield hello + option(1) + request(FLUSH) + request(WRITE, 0, 512, 1, payload=b"w" * 512)
    yield struct.pack(">I", 0) + option(1, b"ro") + request(READ, 0, 4096) + request(WRITE, 0, 16, payload=b"w" * 16)
    yield hello + go(name=b"ro") + b"".join(request(READ, i * 40000, 40000, cookie=i) for i in range(8))
    yield hello + go() + b"".join(
        request(READ, i, 300, cookie=i) + request(WRITE, i * 600, 600, i & 1, i, b"d" * 600)
        + request(FLUSH) + request(ZEROES, i, 70000, i & 2) + request(TRIM, i, 9) + request(CACHE, i, 9)
        for i in range(6)) + request(DISC)
    yield hello + go() + request(WRITE, 0, 3 << 20, payload=b"w" * 9000)
    yield hello + go() + request(WRITE, 1 << 40, 9000, payload=b"w" * 9000) + request(READ, 0, 1)
    yield hello + go() + request(READ, 0, 3 << 20) * 4 + request(99) + bytes(28)

    structured = hello + option(STRUCTURED) + meta(LIST_META) + meta(SET_META, b"base:allocation") + go()
    yield structured + b"".join(request(READ, i * 3000, 70000, (i & 1) * 4, i) for i in range(6)) \
        + request(STATUS, 0, 3 << 20) + request(STATUS, 5, 7, 8) + request(READ, 0, 0) + request(DISC)
    for session in (b"s/b/0/0", b"s/b/1/0", b"s/b/1/5", b"s/c/4294967295/0", b"-/-/1/1"):
        yield hello + option(STRUCTURED) + meta(SET_META, b"x-nbdroot:session/" + session, b"base:allocation") \
            + go() + request(WRITE, 0, 512, 1, payload=b"w" * 512) + request(READ, 0, 40000) + request(DISC)
    yield hello + option(EXTENDED) + meta(SET_META, b"base:allocation", b"base:", b"") + go() \
        + extended(READ, 0, 70000) + extended(WRITE, 0, 512, 0x20, payload=b"w" * 512) \
        + extended(WRITE, 0, 3000, 0x21, payload=b"w" * 3000) + extended(WRITE, 0, 16, payload=b"w" * 16) \
        + extended(STATUS, 0, 3 << 20) + extended(STATUS, 0, 24, 0x20, payload=b"p" * 24) \
        + extended(ZEROES, 0, 1 << 40) + extended(TRIM, 0, 1 << 20) + extended(READ, 0, 1 << 33) + extended(DISC)


def main():
    top = Path(sys.argv[1])
    for name in ("nego", "conn"):
        folder = top / name
        folder.mkdir(parents=True, exist_ok=True)
        for i, text in enumerate(conversations()):
            (folder / str(i)).write_bytes(bytes(8) + text)
            (folder / f"{i}-cut").write_bytes(bytes(range(8)) + text)
    folder = top / "config"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "0").write_text("[generic]\nport = 1\nlistenaddr = ::1\nallowlist = true\nuser=u\ngroup=g\n"
                              "oldstyle=false\n[a]\nexportname = /x\nreadonly = 1\nfilesize = 3m\n"
                              "maxconnections = 2\nauthfile = /y\ndescription = d\ncopyonwrite = false\n"
                              "flush=0\nfua=0\ntrim=0\nrotational=1\n[]\nexportname=/z\n")
    # Two files of a directory; a key that is refused when all have been read.
    (folder / "2").write_text("[generic]\nincludedir = /d\nunixsock = /s\nduallisten = true\n[a]\nexportname = /x\n"
                              "\f[b]\nexportname = /y\noverlay = keep\noverlay_count = 7\n\f# more\n[c]\nexportname = /z\n")
    (folder / "3").write_text("[generic]\n\nduallisten = true\nincludedir = /d\n\f[b]\nexportname = /y\n")
    (folder / "4").write_text("[generic]\nincludedir = /-\n[b]\nexportname = /y\n")
    (folder / "1").write_text("# x\n; y\n\n[a]\r\nexportnam = /x\n")


main()
