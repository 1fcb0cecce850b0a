# SPDX-License-Identifier: GPL-2.0
"""Reading and writing: what arrives at the server is what was asked for."""
import os
import struct
import subprocess

import pytest

from harness import wire
from harness.patience import until
from harness.ports import free_port, listening

MB = 1 << 20


class Stranger:
    """Somebody else's NBD server, on a port of its own."""

    def __init__(self, argv):
        self.port = free_port()
        self.process = subprocess.Popen([a.format(port=self.port) for a in argv],
                                        stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def __enter__(self):
        until(lambda: listening(self.port) or self.process.poll() is not None)
        return self

    def __exit__(self, *what):
        self.process.kill()
        self.process.wait()


STRANGERS = {
    "nbdkit": ["nbdkit", "-f", "-i", "127.0.0.1", "-p", "{port}", "file", "IMAGE"],
    "qemu-nbd": ["qemu-nbd", "-t", "-f", "raw", "-b", "127.0.0.1", "-p", "{port}", "-x", "", "IMAGE"],
    # An export name, and no NBD_OPT_GO: what nbd-server before 3.15 spoke.
    "nbdkit, no GO": ["nbdkit", "-f", "-i", "127.0.0.1", "-p", "{port}", "--mask-handshake=0",
                      "file", "IMAGE"],
}


@pytest.mark.parametrize("name", STRANGERS)
def test_a_filesystem_on_a_strangers_export(rig, name, tmp_path):
    image = tmp_path / "disk"
    subprocess.run(["mke2fs", "-q", "-t", "ext4", image, "64M"], check=True)
    with Stranger([str(image) if a == "IMAGE" else a for a in STRANGERS[name]]) as stranger:
        rig.attach(stranger)
        rig.run("mkdir -p /mnt && mount -t ext4 /dev/nb0 /mnt")
        rig.run("dd if=/dev/urandom of=/mnt/a bs=64k count=100 && cp /mnt/a /mnt/b && sync")
        rig.run("umount /mnt; echo 3 >/proc/sys/vm/drop_caches; mount -t ext4 /dev/nb0 /mnt")
        rig.run("cmp /mnt/a /mnt/b")
        digest = rig.run("md5sum </mnt/b").split()[0]
        rig.run("fstrim /mnt; umount /mnt")
        rig.detach()
    assert subprocess.run(["e2fsck", "-fn", image], capture_output=True).returncode == 0
    there = subprocess.run(["debugfs", "-R", "cat /b", image], capture_output=True, check=True).stdout
    assert subprocess.run(["md5sum"], input=there, capture_output=True).stdout.split()[0].decode() == digest


def test_every_command_is_the_right_one(rig, server):
    rig.attach(server)
    rig.run("yes | tr -d '\\n' | dd of=/dev/nb0 bs=64k count=16 iflag=fullblock oflag=direct")
    assert server.data[:MB] == b"y" * MB
    server.seen.clear()
    rig.run("dd if=/dev/zero of=/dev/nb0 bs=4k count=1 seek=1 oflag=direct conv=fsync")
    assert server.kinds() == [wire.NBD_CMD_WRITE, wire.NBD_CMD_FLUSH]
    assert (server.seen[1].offset, server.seen[1].length) == (0, 0)
    server.seen.clear()
    rig.run("blkdiscard -o 65536 -l 65536 /dev/nb0")
    assert [(r.type, r.offset, r.length) for r in server.seen] == [(wire.NBD_CMD_TRIM, 65536, 65536)]
    server.seen.clear()
    rig.run("fallocate -o 131072 -l 65536 -p /dev/nb0 || blkdiscard -z -o 131072 -l 65536 /dev/nb0", check=False)
    assert all(r.type in (wire.NBD_CMD_WRITE_ZEROES, wire.NBD_CMD_FLUSH) for r in server.seen)


def test_a_journal_commit_is_written_through(rig, server, tmp_path):
    """ext4 commits with REQ_PREFLUSH and REQ_FUA."""
    disk = tmp_path / "disk"
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-O", "has_journal", disk, "16M"], check=True)
    server.data[:] = disk.read_bytes()
    rig.attach(server)
    rig.run("mkdir -p /mnt && mount -t ext4 /dev/nb0 /mnt")
    server.seen.clear()
    rig.run("echo here >/mnt/file; sync; umount /mnt")
    fua = [r for r in server.seen if r.flags & wire.NBD_CMD_FLAG_FUA]
    assert fua and {r.type for r in fua} == {wire.NBD_CMD_WRITE}


def test_a_flush_that_is_not_supported_is_no_success(rig, server):
    """fsync() of a block device takes "not supported" for done."""
    rig.attach(server)
    server.hook = lambda conn, req: req.type == wire.NBD_CMD_FLUSH and conn.reply(req.cookie, wire.NBD_ENOTSUP) is None
    assert rig.run("dd if=/dev/zero of=/dev/nb0 bs=4k count=1 conv=fsync 2>/dev/null", check=False)[1]


def test_a_server_without_the_extras_gets_none_of_them(rig, server):
    server.flags = wire.NBD_FLAG_HAS_FLAGS
    rig.attach(server)
    rig.run("dd if=/dev/urandom of=/dev/nb0 bs=64k count=4 conv=fsync")
    assert rig.run("blkdiscard /dev/nb0", check=False)[1] != 0
    assert set(server.kinds()) <= {wire.NBD_CMD_READ, wire.NBD_CMD_WRITE}
    assert rig.run("cat /sys/block/nb0/queue/write_cache") == "write through"


def test_a_read_only_export_is_read_only(rig, server):
    server.flags |= wire.NBD_FLAG_READ_ONLY
    assert "read-only" in rig.attach(server)
    assert rig.run("cat /sys/block/nb0/ro") == "1"
    said, status = rig.run("dd if=/dev/zero of=/dev/nb0 bs=4k count=1", check=False)
    assert status and "Read-only file system" in said
    assert rig.run("blockdev --setrw /dev/nb0", check=False)[1]
    rig.run("dd if=/dev/nb0 of=/dev/null bs=64k")
    assert set(server.kinds()) == {wire.NBD_CMD_READ}


def test_what_has_no_payload_comes_in_pieces_all_the_same(rig, server):
    """A server may have to write the zeroes, and has as many at a time as there are tags."""
    rig.attach(server)
    for limit in "write_zeroes_max_bytes", "discard_max_bytes":
        assert rig.run(f"cat /sys/block/nb0/queue/{limit}") == str(64 << 20)


def test_a_writable_disk_is_made_read_only_and_writable_again(rig, server):
    rig.attach(server)
    rig.run("blockdev --setro /dev/nb0")
    assert rig.run("dd if=/dev/zero of=/dev/nb0 bs=4k count=1 2>/dev/null", check=False)[1]
    rig.run("blockdev --setrw /dev/nb0; dd if=/dev/zero of=/dev/nb0 bs=4k count=1 conv=fsync 2>/dev/null")


def test_a_device_that_was_asked_to_be_read_only(rig, server):
    rig.attach(server, more="ro=1")
    assert rig.run("cat /sys/block/nb0/ro") == "1"
    assert rig.run("dd if=/dev/zero of=/dev/nb0 bs=4k count=1", check=False)[1]
    assert rig.run("blockdev --setrw /dev/nb0", check=False)[1]


def test_partitions_appear_before_attach_returns(rig, server):
    for i, (start, sectors) in enumerate([(2048, 8192), (10240, 22528)]):
        struct.pack_into("<B3sB3sII", server.data, 446 + 16 * i, 0, b"", 0x83, b"", start, sectors)
    server.data[510:512] = b"\x55\xaa"
    rig.attach(server)
    assert rig.run("cat /sys/block/nb0/nb0p1/size /sys/block/nb0/nb0p2/size").split() == ["8192", "22528"]
    rig.run("dd if=/dev/urandom of=/dev/nb0p2 bs=4k count=1 conv=fsync")
    assert server.data[10240 * 512:10240 * 512 + 4096] != bytes(4096)


def test_the_servers_block_sizes_are_kept(rig, server):
    server.blocks = (4096, 4096, 64 << 10)
    rig.attach(server)
    rig.run("dd if=/dev/nb0 of=/dev/null bs=1M count=4")
    rig.run("dd if=/dev/zero of=/dev/nb0 bs=1M count=4 conv=fsync")
    for r in server.seen:
        if r.type in (wire.NBD_CMD_READ, wire.NBD_CMD_WRITE):
            assert r.length <= 64 << 10 and r.length % 4096 == 0 and r.offset % 4096 == 0
    assert rig.run("blockdev --getss /dev/nb0") == "4096"


def test_many_at_once_all_come_right(rig, server):
    """More requests than tags, from many processes, each with its own pattern."""
    rig.attach(server)
    rig.run("for i in 1 2 3 4 5 6 7 8; do ( dd if=/dev/urandom of=/tmp/p$i bs=1M count=1; "
            "dd if=/tmp/p$i of=/dev/nb0 bs=4k seek=$((i*256)) oflag=direct ) & done 2>/dev/null; wait")
    rig.run("for i in 1 2 3 4 5 6 7 8; do ( dd if=/dev/nb0 bs=16k skip=$((i*64)) count=64 iflag=direct "
            "| cmp - /tmp/p$i || echo DIFFERS ) & done 2>/dev/null; wait")
    said = rig.run("for i in 1 2 3 4 5 6 7 8; do dd if=/dev/nb0 bs=1M skip=$i count=1 iflag=direct 2>/dev/null "
                   "| cmp - /tmp/p$i || echo DIFFERS; done")
    assert "DIFFERS" not in said


def test_tags_run_out_amid_a_batch(rig, server):
    """A scheduler's requests come one by one, and the driver is told which is the last
    one of a batch; unless there is no tag for that: then it is told so by commit_rqs.
    Write-back makes batches of 32, the first ten writes put them out of step, and
    nothing is answered: all for which there are tags must arrive nevertheless."""
    held = []
    server.hook = lambda conn, req: req.type == wire.NBD_CMD_WRITE and held.append((conn, req)) is None
    rig.attach(server, more="conns=1")
    rig.run("dd if=/dev/urandom of=/tmp/p bs=4k count=200 2>/dev/null; exec 5</dev/nb0; cd /sys/block/nb0/queue; "
            "echo mq-deadline >scheduler; echo 0 >wbt_lat_usec; cd /", check=False)
    for first, last, arrive in (0, 9, 10), (10, 199, 128):
        rig.run(f"for i in $(seq {first} {last}); do dd if=/tmp/p of=/dev/nb0 bs=4k count=1 skip=$i "
                "seek=$((2*i)) conv=notrunc || break; done 2>/dev/null")
        rig.send("dd if=/dev/null of=/dev/nb0 count=0 conv=notrunc,fsync 2>/dev/null &\n")
        until(lambda: len(held) >= arrive, what=lambda: f"{len(held)} have arrived, of {arrive}")
        assert len(held) == arrive
    server.hook = None
    for conn, req in held:
        conn.carry_out(req)
    rig.run("wait; exec 5<&-")
    rig.run("for i in $(seq 0 199); do dd if=/dev/nb0 bs=4k count=1 skip=$((2*i)) 2>/dev/null; done | cmp - /tmp/p")
    assert rig.sysfs("reconnects") == "0" and "mq-deadline" in rig.run("cat /sys/block/nb0/queue/scheduler")


@pytest.mark.parametrize("error, says", [
    (wire.NBD_EIO, "NBD_EIO"), (wire.NBD_EPERM, "NBD_EPERM"), (wire.NBD_ENOSPC, "NBD_ENOSPC"),
    (0xdeadbeef, "unknown"),
])
def test_an_error_reply_is_that_requests_error_only(rig, server, error, says):
    rig.attach(server)
    server.hook = lambda conn, req: req.type == wire.NBD_CMD_WRITE and conn.reply(req.cookie, error) is None
    assert rig.run("dd if=/dev/zero of=/dev/nb0 bs=4k count=1 oflag=direct", check=False)[1]
    server.hook = None
    rig.run("dd if=/dev/zero of=/dev/nb0 bs=4k count=1 oflag=direct")
    assert f"answers {says}" in rig.dmesg()
    assert rig.sysfs("reconnects") == "0"


def test_offsets_beyond_32_bits(rig, tmp_path):
    image = tmp_path / "big"
    image.touch()
    os.truncate(image, 6 << 30)
    with Stranger(["nbdkit", "-f", "-i", "127.0.0.1", "-p", "{port}", "file", str(image)]) as stranger:
        rig.attach(stranger)
        rig.run("echo here | dd of=/dev/nb0 bs=4k seek=$((5<<18)) conv=sync,fsync")
        rig.run("blkdiscard /dev/nb0", timeout=120)
        rig.run("echo there | dd of=/dev/nb0 bs=4k seek=$((5<<18)) conv=sync,fsync")
        rig.detach()
    with open(image, "rb") as f:
        f.seek(5 << 30)
        assert f.read(6) == b"there\n"
