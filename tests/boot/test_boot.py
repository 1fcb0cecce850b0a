# SPDX-License-Identifier: GPL-2.0
"""A station boots its root from our server, by every road, and goes off clean."""
import os
import signal

import pytest
from harness import bootdir
from harness.images import clean_filesystem
from harness.kernel import kernel as find_kernel

SERIES = os.environ.get("TEST_KERNELS", "6.1 6.12").split()


@pytest.mark.parametrize("loader", ["ipxe", "pxelinux"])
def test_pxe(loader, kernel, server, root_image, nbdroot, make_station, tmp_path):
    bootfile = getattr(bootdir, loader)(tmp_path / "tftp", kernel, nbdroot)
    station = make_station(tftp=tmp_path / "tftp", bootfile=bootfile)
    station.wait_for_root()

    assert station.run("findmnt /").split()[:3] == ["/", "/dev/nb0", "ext4"]
    assert "BOOTIF=01-52-54-00-12-34-56" in station.run("cat /proc/cmdline")
    assert station.run("cat /sys/block/nb0/nb/state") == "live"
    station.run("echo I was here >/root/visit")

    station.poweroff()
    clean_filesystem(root_image)


@pytest.mark.parametrize("series", SERIES)
def test_every_kernel(series, server, root_image, nbdroot, make_station):
    station = make_station(kernel=find_kernel(series), nbdroot=nbdroot)
    station.wait_for_root()

    assert station.run("uname -r").startswith(series + ".")
    assert station.run("cat /sys/block/nb0/nb/server") == nbdroot
    station.run("dd if=/dev/urandom of=/root/a bs=64k count=64 conv=fsync")
    before = station.run("md5sum </root/a")
    station.run("echo 3 >/proc/sys/vm/drop_caches")
    assert station.run("md5sum </root/a") == before

    station.poweroff()
    clean_filesystem(root_image)
    assert "I/O error" not in station.console


def test_an_emulator_that_crashes(nbdroot, make_station, tmp_path):
    """Of the harness: QEMU that dies under a kernel that is still starting is
    started again, once, and what it died of is told."""
    wrap = tmp_path / "stopped"     # the first time it does not run until it is told to
    wrap.write_text('#!/bin/sh\n[ -e $0.once ] && exec "$@"\ntouch $0.once\nexec "$@" -S\n')
    wrap.chmod(0o755)
    station = make_station(nbdroot=nbdroot, wrap=[wrap])
    station.process.send_signal(signal.SIGSEGV)
    station.wait_for_root()
    assert "Powered on again" in station.console
    station.poweroff()


def test_the_person_at_the_console_can_follow(station):
    """Each step says what it does; nobody has to guess where it stopped."""
    for line in ("[1/5] drivers: eth0 is a virtio_net card", "[2/5] network: eth0 has 10.0.2.15",
                 "[4/5] mount: /dev/nb0 is mounted: ext4", "[5/5] start: starting /sbin/init"):
        assert f"nbdroot: {line}" in station.console
    assert "This is a diskless station" in station.console
    station.poweroff()


def test_no_process_stands_behind_the_root(station, root_image):
    """What killed other diskless roots: a signal to every process, as at shutdown."""
    assert "nbd-client" not in station.run("ps")
    station.send("kill -9 -1\n")
    station.expect(r"station:\S*# ")
    station.run("echo still here >/root/alive && sync && cat /root/alive")
    station.poweroff()
    clean_filesystem(root_image)
