# SPDX-License-Identifier: GPL-2.0
"""kill -9 at random moments under load, over an image and plain.

What was answered is there, flushed or not, since the page cache survives; of what
was under way each block is as before or as after; all other blocks, and the
image under the overlay, are what they were. (That a flush does more than an
answer only the end of the machine could show: powercut_test.c plays it, and
test_losses.py sees what is synced.)
"""
import random
import struct
import time

import pytest

from harness import wire
from raw import MIB
from session import Station

FUA = wire.NBD_CMD_FLAG_FUA
WRITE, TRIM, ZEROES, FLUSH = wire.NBD_CMD_WRITE, wire.NBD_CMD_TRIM, wire.NBD_CMD_WRITE_ZEROES, wire.NBD_CMD_FLUSH
BLOCK = 4096


@pytest.fixture
def server(make_server, image, content, tmp_path):
    (tmp_path / "plain").write_bytes(content)
    yield make_server(config="[generic]\nport = {port}\nlistenaddr = 127.0.0.1\n"
                      f"statedir = {tmp_path}/state\n[lab]\nexportname = {image}\noverlay = keep\n"
                      f"[plain]\nexportname = {tmp_path}/plain\n")
    (tmp_path / "plain").unlink()


@pytest.mark.parametrize("export", ["lab/a", "plain"])
def test_killed_under_load(server, image, content, export):
    crash_rounds(server, image, content, 3, export)


@pytest.mark.long
@pytest.mark.parametrize("export", ["lab/a", "plain"])
def test_killed_under_load_for_long(server, image, content, export):
    crash_rounds(server, image, content, 100, export)


class Blocks:
    """What each block of the export may be: `sure` says it of all but those in
    `open`, which have several choices."""

    def __init__(self, content, over_image):
        self.sure, self.open = bytearray(content), {}
        self.count = len(content) // BLOCK
        # Of those that are still the image's a trim makes zeroes, not the image.
        self.untouched = set(range(self.count)) if over_image else set()

    def get(self, block):
        return self.open.get(block) or [bytes(self.sure[block * BLOCK:(block + 1) * BLOCK])]

    def set(self, block, choices):
        self.open.pop(block, None)
        if len(set(choices)) > 1:
            self.open[block] = choices
        else:
            self.sure[block * BLOCK:(block + 1) * BLOCK] = choices[0]

    def after(self, kind, block, data):
        """The choices when that was answered."""
        if kind == TRIM and block not in self.untouched:
            return self.get(block) + [data]
        return [data]

    def done(self, kind, block, data):
        self.set(block, self.after(kind, block, data))
        self.untouched.discard(block)

    def cut_off(self, kind, block, data):
        # Done or not, nobody knows: so it may still be untouched.
        self.set(block, self.get(block) + self.after(kind, block, data))

    def check(self, c, when):
        for at in range(0, len(self.sure), MIB):
            now = c.read(at, MIB)
            if now == self.sure[at:at + MIB]:
                continue
            for block in range(at // BLOCK, (at + MIB) // BLOCK):
                off = block * BLOCK - at
                assert now[off:off + BLOCK] in self.get(block), f"{when}: block {block} is none of what it may be"
        # What it is, it stays.
        for block in list(self.open):
            self.set(block, [c.read(block * BLOCK, BLOCK)])


class Load:
    """Requests at one time, none two for one block."""

    def __init__(self, rng, blocks):
        self.rng, self.blocks = rng, blocks
        self.under_way, self.busy = {}, set()

    def choose(self):
        """(kind, flags, first block, offset in it, bytes, what its blocks become); None: in each other's way"""
        rng = self.rng
        # Some blocks often, all sometimes.
        first = rng.randrange(rng.choice([64, self.blocks.count - 8]))
        n = rng.choice([1, 1, 2, 8])
        kind = rng.choice([WRITE] * 6 + [ZEROES, TRIM])
        flags = rng.choice([0, 0, FUA])
        if self.busy & set(range(first, first + n)):
            return None
        if kind != WRITE:
            return kind, flags, first, 0, b"", [bytes(BLOCK)] * n
        data = [rng.randbytes(4) * (BLOCK // 4) for _ in range(n)]
        if n == 1 and len(self.blocks.get(first)) == 1 and rng.random() < 0.5:
            at, length = rng.randrange(BLOCK - 512), rng.randrange(1, 512)
            part, was = data[0][:length], self.blocks.get(first)[0]
            return kind, flags, first, at, part, [was[:at] + part + was[at + length:]]
        return kind, flags, first, 0, b"".join(data), data

    def send(self, c, count):
        for cookie in range(count):
            if self.rng.random() < 0.1:
                c.request(FLUSH, cookie=cookie)
                self.under_way[cookie] = (FLUSH, 0, [])
                continue
            chosen = self.choose()
            if not chosen:
                continue
            kind, flags, first, at, payload, becomes = chosen
            self.busy |= set(range(first, first + len(becomes)))
            self.under_way[cookie] = kind, first, becomes
            c.request(kind, first * BLOCK + at, len(payload) or len(becomes) * BLOCK, flags, cookie, payload=payload)

    def answered(self, c):
        error, cookie = answer(c)
        assert error == 0
        kind, first, becomes = self.under_way.pop(cookie)
        for i, data in enumerate(becomes):
            self.blocks.done(kind, first + i, data)
            self.busy.discard(first + i)

    def cut_off(self):
        for kind, first, becomes in self.under_way.values():
            for i, data in enumerate(becomes):
                self.blocks.cut_off(kind, first + i, data)


def crash_rounds(server, image, content, rounds, export):
    seed = random.randrange(1 << 32)
    rng = random.Random(seed)
    blocks = Blocks(content, over_image=export != "plain")
    for number in range(rounds):
        with Station(server, export) as c:
            end = time.monotonic() + rng.uniform(0.05, 0.5)
            load = Load(rng, blocks)
            # At least some are answered, however slow the machine is.
            first = True
            while first or time.monotonic() < end:
                first = False
                load.send(c, 16)
                while load.under_way:
                    load.answered(c)
            load.send(c, 16)
            for _ in range(rng.choice([0, len(load.under_way) // 2])):
                load.answered(c)
            server.kill9()
        load.cut_off()
        server.start()
        with Station(server, export) as c:
            blocks.check(c, f"seed {seed}, round {number}")
            c.disconnect()
        assert image.read_bytes() == content, f"seed {seed}, round {number}: the image was changed"


def answer(c):
    """(error, cookie) of the next reply, which carries no data."""
    magic = c.sock.recv(4, 2)   # MSG_PEEK
    if magic == struct.pack(">I", wire.NBD_SIMPLE_REPLY_MAGIC):
        return c.reply()
    _, _, kind, cookie, length = struct.unpack(">IHHQI", c.recv(20))
    data = c.recv(length)
    return (struct.unpack(">I", data[:4])[0] if kind & 0x8000 else 0), cookie
