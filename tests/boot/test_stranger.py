# SPDX-License-Identifier: GPL-2.0
"""Our server and a station that has nothing of ours: Debian's nbd-client and the
kernel's own driver nbd."""
import os
import shutil
import subprocess

import pytest
from harness.images import clean_filesystem, file_in_image
from harness.kernel import BUILD, TOP
from harness.station import HOST


@pytest.fixture
def with_debians_client(kernel, tmp_path):
    """The initramfs, with Debian's nbd-client and its libraries in /opt."""
    debs = BUILD / "debs/nbd-client"
    subprocess.run([TOP / "tools/undeb", debs, "nbd-client", "libnl-3-200", "libnl-genl-3-200"], check=True)
    program = next(path for path in (debs / "usr/sbin/nbd-client", debs / "sbin/nbd-client") if path.exists())
    libraries = ":".join(str(debs / where / "x86_64-linux-gnu") for where in ("lib", "usr/lib"))
    needs = subprocess.run(["ldd", program], env=dict(os.environ, LD_LIBRARY_PATH=libraries), check=True,
                           capture_output=True, text=True).stdout
    opt = tmp_path / "extra/opt"
    opt.mkdir(parents=True)
    shutil.copy(program, opt)
    for path in (word for word in needs.split() if word.startswith("/")):
        shutil.copy(path, opt)
    busybox = next(p for p in ("/bin/busybox", BUILD / "debs/busybox-static/bin/busybox") if os.path.exists(p))
    image = tmp_path / "initramfs.img"
    subprocess.run([TOP / "initramfs/mkinitramfs", "-k", kernel.kver, "-m", kernel.modroot, "-n", kernel.module,
                    "-c", TOP / "nbd-client-static/nbd-client", "-b", busybox, "-o", image],
                   env=dict(os.environ, EXTRA=str(tmp_path / "extra")), check=True, capture_output=True)
    return image


def test_debians_client_and_driver(server, root_image, nbdroot, make_station, with_debians_client, tmp_path):
    """Four connections write and read a filesystem, and leave in good order."""
    station = make_station(nbdroot=nbdroot, initramfs=with_debians_client, append="break=attach", mem=1024)
    station.expect(r"\(initramfs\) ", 150)
    station.run("alias theirs='/opt/ld-linux-x86-64.so.2 --library-path /opt /opt/nbd-client'; modprobe nbd; mkdir /mnt")
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
