# SPDX-License-Identifier: GPL-2.0
"""What the block layer is told of a disk, and what becomes of a batch of requests and
of large writes on their way to TCP."""
import shutil
import struct
import subprocess

import pytest

from conftest import HERE, Rig
from faultserver import FaultServer
from harness import wire
from harness.guest import make_initramfs
from probes import Calls

MB = 1 << 20
FLAGS = FaultServer.FLAGS
MULTI = FLAGS | wire.NBD_FLAG_CAN_MULTI_CONN


@pytest.fixture(scope="module")
def module_rig(rig_kernel, tmp_path_factory):
    """With "batch" in it."""
    tmp = tmp_path_factory.mktemp("queue")
    extra = tmp / "extra"
    shutil.copytree(HERE / "rig", extra)
    (extra / "bin").mkdir()
    subprocess.run(["gcc", "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-static",
                    "-o", extra / "bin/batch", HERE / "batch.c"], check=True)
    image = make_initramfs(rig_kernel, extra, tmp / "rig.img")
    with Rig(rig_kernel, initramfs=image, root=None, mem=512, append="quiet") as rig_:
        yield rig_.boot()


def queue(rig, *names):
    """Of /sys/block/nb0/queue/, as numbers where they are."""
    said = rig.run("cd /sys/block/nb0/queue && cat " + " ".join(names) + "; cd /").splitlines()
    assert len(said) == len(names)
    return [int(word) if word.isdigit() else word for word in said]


def test_no_scheduler(rig, server):
    """There is no head to move: whatever sorts requests only costs time. (A disk of
    several queues gets none anyway.)"""
    rig.attach(server, more="conns=1")
    assert "[none]" in rig.run("cat /sys/block/nb0/queue/scheduler")


@pytest.mark.parametrize("blocks, logical, physical, payload", [
    ((1, 4096, 32 * MB), 512, 4096, 32 * MB),
    ((1, 4096, 0xffffffff), 512, 4096, 32 * MB),
    ((512, 512, 65536), 512, 512, 65536),
    ((1024, 2048, 256 << 10), 1024, 2048, 256 << 10),
    ((4096, 65536, 2 * MB), 4096, 4096, 2 * MB),
])
def test_the_servers_block_sizes_are_the_queues(rig, server, blocks, logical, physical, payload):
    """No request is smaller, larger or more crooked than the server takes; requests of
    1 MiB, where it takes them, are what readahead goes by."""
    server.blocks = blocks
    rig.attach(server)
    assert queue(rig, "logical_block_size", "physical_block_size", "minimum_io_size") == [logical, physical, physical]
    most, now = queue(rig, "max_hw_sectors_kb", "max_sectors_kb")
    assert most == payload >> 10 and now == min(payload >> 10, now) and now >= min(payload, MB) >> 10
    assert queue(rig, "optimal_io_size", "read_ahead_kb") == [min(payload, MB), 2 * min(payload, MB) >> 10]
    server.seen.clear()
    rig.run(f"dd if=/dev/zero of=/dev/nb0 bs=4M count=1 oflag=direct 2>/dev/null; dd if=/dev/nb0 of=/dev/null bs={logical} count=1 "
            "iflag=direct 2>/dev/null")
    assert sum(r.length for r in server.seen if r.type == wire.NBD_CMD_WRITE) == 4 * MB
    assert max(r.length for r in server.seen) <= payload
    assert not any(r.length % logical or r.offset % logical for r in server.seen)


@pytest.mark.parametrize("flags, cache, fua", [
    (FLAGS, "write back", 1),
    (FLAGS & ~wire.NBD_FLAG_SEND_FUA, "write back", 0),
    (FLAGS & ~wire.NBD_FLAG_SEND_FLUSH & ~wire.NBD_FLAG_SEND_FUA, "write through", 0),
])
def test_flushes_and_fua_go_by_the_servers_flags(rig, server, flags, cache, fua):
    """A filesystem relies on them: neither promised where there is none, nor left out."""
    server.flags = flags
    rig.attach(server)
    assert queue(rig, "write_cache", "fua") == [cache, fua]


@pytest.mark.parametrize("flag", [0, wire.NBD_FLAG_ROTATIONAL])
def test_rotational_is_the_servers_word(rig, server, flag):
    server.flags = FLAGS | flag
    rig.attach(server)
    assert queue(rig, "rotational") == [1 if flag else 0]


@pytest.mark.parametrize("flags, discard, zeroes", [
    (FLAGS, 64 * MB, 64 * MB),
    (FLAGS & ~wire.NBD_FLAG_SEND_TRIM, 0, 64 * MB),
    (FLAGS & ~wire.NBD_FLAG_SEND_WRITE_ZEROES, 64 * MB, 0),
])
def test_discards_and_zeroes_go_by_the_servers_flags(rig, server, flags, discard, zeroes):
    """At most 64 MiB each: a server that has to write them must be done in time."""
    server.flags = flags
    rig.attach(server)
    assert queue(rig, "discard_max_bytes", "write_zeroes_max_bytes") == [discard, zeroes]
    if discard:
        assert queue(rig, "discard_granularity") == [4096]


def test_a_long_discard_goes_in_pieces(rig):
    with FaultServer(size=160 * MB) as server:
        rig.attach(server)
        rig.run("blkdiscard /dev/nb0")
        trims = sorted((r.offset, r.length) for r in server.seen if r.type == wire.NBD_CMD_TRIM)
        assert trims == [(0, 64 * MB), (64 * MB, 64 * MB), (128 * MB, 32 * MB)]
        rig.detach()


def batch_data(n):
    """What "batch" writes, and wants to read, in its first n blocks."""
    return [struct.pack("<1024I", *(2 * i << 16 | j for j in range(1024))) for i in range(n)]


def test_a_batch_of_reads_is_one_call(rig, server):
    """Sixteen that were submitted together: one sendmsg, of their sixteen heads."""
    for i, block in enumerate(batch_data(16)):
        server.data[8192 * i:8192 * i + 4096] = block
    rig.attach(server, more="conns=1")
    with Calls(rig, "tcp_sendmsg_locked", "size=%dx:u64") as sent:
        rig.run("batch r /dev/nb0 16")
        assert [call["size"] for call in sent.list()] == [16 * wire.NBD_REQUEST_SIZE]
    assert server.kinds().count(wire.NBD_CMD_READ) >= 16


def test_a_batch_of_small_writes_is_one_call(rig, server):
    """Their payloads between their heads."""
    rig.attach(server, more="conns=1")
    with Calls(rig, "tcp_sendmsg_locked", "size=%dx:u64") as sent:
        rig.run("batch w /dev/nb0 16")
        # (a socket that is full takes the rest in another one)
        assert sent.list()[0]["size"] == 16 * (wire.NBD_REQUEST_SIZE + 4096)
    for i, block in enumerate(batch_data(16)):
        assert server.data[8192 * i:8192 * i + 4096] == block


def write_and_compare(rig, size):
    rig.run(f"dd if=/dev/urandom of=/tmp/w bs={size} count=1 2>/dev/null")
    rig.run(f"dd if=/tmp/w of=/dev/nb0 bs={size} oflag=direct 2>/dev/null")
    rig.run(f"dd if=/dev/nb0 bs={size} count=1 iflag=direct 2>/dev/null | cmp - /tmp/w")


def test_a_large_write_is_lent_whole(rig, server):
    """From 16 KiB on TCP gets the bio's pages, all in one call, and copies nothing."""
    rig.attach(server, more="conns=1")
    with Calls(rig, "skb_splice_from_iter") as lent:
        write_and_compare(rig, 256 << 10)
        assert lent.count() > 0
    with Calls(rig, "tcp_sendmsg_locked", "size=%dx:u64") as sent:
        write_and_compare(rig, 256 << 10)
        assert [call["size"] for call in sent.list()][:2] == [wire.NBD_REQUEST_SIZE, 256 << 10]


@pytest.mark.parametrize("size, splice_from", [(8192, 16384), (256 << 10, 0), (65536, 65537)])
def test_what_is_copied(rig, server, size, splice_from):
    """Less than splice_from, or all of it: no page is lent."""
    parameter = "/sys/module/nb/parameters/splice_from"
    assert rig.run(f"cat {parameter}") == "16384"
    rig.attach(server, more="conns=1")
    rig.run(f"echo {splice_from} >{parameter}")
    try:
        with Calls(rig, "skb_splice_from_iter") as lent:
            write_and_compare(rig, size)
            assert lent.count() == 0
    finally:
        rig.run(f"echo 16384 >{parameter}")
