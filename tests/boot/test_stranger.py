# SPDX-License-Identifier: GPL-2.0
"""Our server and a station that has nothing of ours: Debian's nbd-client and the
kernel's own driver nbd."""
import subprocess

import pytest
from harness.guest import make_initramfs, put_debians_client
from harness.images import clean_filesystem, file_in_image
from harness.station import HOST


@pytest.fixture
def with_debians_client(kernel, tmp_path):
    """The initramfs, with Debian's nbd-client in it as "theirs"."""
    put_debians_client(tmp_path / "extra", "theirs")
    return make_initramfs(kernel, tmp_path / "extra", tmp_path / "initramfs.img")


def test_debians_client_and_driver(server, root_image, nbdroot, make_station, with_debians_client, tmp_path):
    """Four connections write and read a filesystem, and leave in good order."""
    station = make_station(nbdroot=nbdroot, initramfs=with_debians_client, append="break=attach", mem=1024)
    station.expect(r"\(initramfs\) ", 150)
    station.run("modprobe nbd; mkdir /mnt")
    assert "64MB" in station.run(f"theirs {HOST} {server.port} /dev/nbd0 -N '' -C 4 -t 30 2>&1")
    station.run("mount -t ext4 /dev/nbd0 /mnt && dd if=/dev/urandom of=/mnt/root/data bs=1M count=8 && "
                "sync && echo 3 > /proc/sys/vm/drop_caches")
    sums = station.run("md5sum < /mnt/root/data").split()[0]
    station.run("umount /mnt && theirs -d /dev/nbd0")
    assert "I/O error" not in station.console
    station.send("poweroff -f\n")
    station.wait_off()
    clean_filesystem(root_image)
    data = file_in_image(root_image, "/root/data", tmp_path / "data")
    assert subprocess.run(["md5sum", data], capture_output=True, text=True).stdout.split()[0] == sums
    assert server.log_tail().count("in use") == 4, server.log_tail()
