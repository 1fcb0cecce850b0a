# SPDX-License-Identifier: GPL-2.0
"""The standalone initramfs: its boot line's options, and its failures."""
import struct
import subprocess

import pytest
from harness.images import clean_filesystem
from harness.kernel import DEFAULT_ROOT
from harness.station import HOST

MIB = 1 << 20


@pytest.fixture
def disk_image(tmp_path):
    """A whole disk: a partition table, and the default root in partition 1."""
    disk = tmp_path / "disk.img"
    root = DEFAULT_ROOT.read_bytes()
    sectors = len(root) // 512
    with open(disk, "wb") as f:
        f.truncate(MIB + len(root) + MIB)
        f.seek(446)
        f.write(struct.pack("<8B2I", 0, 0, 0, 0, 0x83, 0, 0, 0, MIB // 512, sectors))
        f.seek(510)
        f.write(b"\x55\xaa")
        f.seek(MIB)
        f.write(root)
    return disk


def test_fixed_address_and_a_partition(make_server, disk_image, make_station, tmp_path):
    server = make_server(disk_image)
    station = make_station(
        nbdroot=f"{HOST}:{server.port}", root="/dev/nb0p1", nic="e1000", mem=256,
        append="ip=10.0.2.99::10.0.2.2:255.255.255.0:kiosk7:eth0:off:10.0.2.3 "
               "BOOTIF=01-52-54-00-12-34-56")
    station.expect(r"eth0 is a e1000 card", 120)
    station.expect(r"eth0 has 10\.0\.2\.99 mask 255\.255\.255\.0, gateway 10\.0\.2\.2, name server 10\.0\.2\.3")
    station.wait_for_root()
    assert station.run("findmnt /").split()[1] == "/dev/nb0p1"
    assert "HOSTNAME='kiosk7'" in station.run("cat /run/net-eth0.conf")
    memory = int(station.run("head -n 1 /proc/meminfo").split()[1])
    assert int(station.run("cat /proc/sys/vm/min_free_kbytes")) >= min(memory // 16, 16384)
    assert station.run("cat /proc/sys/vm/watermark_boost_factor") == "0"
    station.poweroff()

    part = tmp_path / "part.ext4"
    subprocess.run(["dd", f"if={disk_image}", f"of={part}", "bs=1M", "skip=1", "status=none",
                    f"count={DEFAULT_ROOT.stat().st_size // MIB}"], check=True)
    clean_filesystem(part)


def test_label_and_a_look_before_the_mount(server, nbdroot, make_station):
    station = make_station(nbdroot=nbdroot, root="LABEL=nbdroot", append="break=mount rw")
    station.expect(r"break=mount on the kernel command line", 120)
    station.expect(r"\(initramfs\) ")
    assert station.run("nbd-client -c /dev/nb0; cat /sys/block/nb0/nb/state").endswith("live")
    station.send("exit\n")
    station.expect(r"\[4/5\] mount: /dev/nb0 is mounted: ext4, rw")
    station.wait_for_root()
    station.poweroff()


@pytest.mark.parametrize("words", ["root=nbd:{0}:{1}", "nbddev=nb1 nbdroot={0}:{1}", "nbdroot={0}:{1}"])
def test_no_device_in_root(words, server, make_station):
    """It is what the client takes it to be."""
    device = "/dev/nb1" if "nb1" in words else "/dev/nb0"
    station = make_station(root=None, append=words.format(HOST, server.port))
    station.wait_for_root()
    assert station.run("findmnt /").split()[1] == device
    station.poweroff()


def test_no_such_partition(make_server, disk_image, make_station):
    """The failure names what is there; the person corrects it by hand and goes on."""
    server = make_server(disk_image)
    station = make_station(nbdroot=f"{HOST}:{server.port}", root="/dev/nb0p3")
    station.expect(r"FAILED: root=/dev/nb0p3 does not appear; block devices here: nb0 nb0p1", 150)
    station.expect(r"hint: root= is /dev/nb0, /dev/nb0p1")
    station.expect(r"\(initramfs\) ")
    station.send("ln -s nb0p1 /dev/nb0p3; exit\n")
    station.wait_for_root()
    station.poweroff()


def test_nothing_to_mount(make_server, tmp_path, make_station):
    empty = tmp_path / "empty.img"
    empty.write_bytes(bytes(4 * MIB))
    server = make_server(empty)
    station = make_station(nbdroot=f"{HOST}:{server.port}", append="init=/sbin/nothing")
    station.expect(r"\[4/5\] mount: FAILED: /dev/nb0 does not mount: .*Invalid argument", 150)
    station.expect(r"hint: .*does the export hold a root file system")
    station.expect(r"\(initramfs\) ")
    assert "job control turned off" not in station.console
    station.send("poweroff -f\n")
    station.wait_off()


def test_a_card_nobody_has(make_station):
    station = make_station(nbdroot=f"{HOST}:1", append="BOOTIF=01-00-11-22-33-44-55")
    station.expect(r"\[2/5\] network: FAILED: BOOTIF names the card 00:11:22:33:44:55, "
                   r"which no interface here has: eth0", 120)
    station.expect(r"\(initramfs\) ")


def test_what_is_written_goes_to_memory(make_server, root_image, make_station):
    """Two stations on one image that nobody may write to, each with its own."""
    before = root_image.read_bytes()
    server = make_server(root_image, options=["-r"])
    for size, name in (("", "one"), ("=tmpfs:16m", "two")):
        station = make_station(nbdroot=f"{HOST}:{server.port},overlay{size}", append="rw")
        station.wait_for_root()
        assert station.run("findmnt /").split()[2] == "overlay"
        station.run(f"test ! -e /root/one && echo {name} > /root/{name} && sync")
        assert station.run("cat /run/nbdroot.writes/upper/root/*; ls /run/nbdroot.lower/root") == name
        assert station.run("cat /sys/block/nb0/ro") == "1"
        if size:
            assert "size=16384k" in station.run("grep nbdroot.writes /proc/mounts")
            assert "No space left" in station.run("dd if=/dev/zero of=/root/big bs=1M count=32; true")
        station.poweroff()
    assert root_image.read_bytes() == before


def test_an_overlay_over_an_image_that_is_not_clean(make_server, root_image, make_station):
    """Its journal cannot be replayed on a device that nobody may write to."""
    subprocess.run(["/sbin/debugfs", "-w", "-R", "feature needs_recovery", root_image], check=True)
    server = make_server(root_image, options=["-r"])
    station = make_station(nbdroot=f"{HOST}:{server.port},overlay")
    station.expect(r"FAILED: /dev/nb0 does not mount", 150)
    station.expect(r"hint: with overlay the image must have been unmounted cleanly: boot it once without")
    station.expect(r"\(initramfs\) ")


def test_an_overlay_that_fails(server, nbdroot, make_station):
    """The root is left where it was, so that the step can be tried again, or without."""
    station = make_station(nbdroot=f"{nbdroot},overlay=tmpfs:8m", append="rw break=mount")
    station.expect(r"break=mount on the kernel command line", 150)
    station.expect(r"\(initramfs\) ")
    station.send("echo no-size > /run/nbdroot.overlay; exit\n")
    station.expect(r"FAILED: no overlay over /root: overlay=tmpfs:no-size is not a size that tmpfs takes")
    station.expect(r"hint: rm /run/nbdroot.overlay goes on without")
    station.expect(r"\(initramfs\) ")
    assert station.run("grep -c -e /root -e /run/ /proc/mounts; true") == "0"
    station.send("echo 7m > /run/nbdroot.overlay; exit\n")
    station.wait_for_root()
    assert station.run("findmnt /").split()[2] == "overlay"
    assert station.run("df -m /run/nbdroot.writes | tail -1").split()[1] == "7"
    station.poweroff()


def test_an_overlay_of_no_size(server, make_station):
    station = make_station(nbdroot=f"{HOST}:{server.port},overlay=tmpfs:0k%")
    station.expect("\"overlay=tmpfs:0k%\" is not right; the options are .*overlay=tmpfs:1g", 150)
    station.expect(r"\(initramfs\) ")


def test_ipv6_alone(make_server, root_image, make_station):
    """No IPv4 address at all: the router announces, the server is an IPv6 literal."""
    server = make_server(root_image, host="::1")
    station = make_station(nbdroot=f"[fec0::2]:{server.port}", append="ip=auto6")
    station.expect(r"\[2/5\] network: eth0 has fec0:", 120)
    station.wait_for_root()
    assert station.run("cat /sys/block/nb0/nb/server") == f"[fec0::2]:{server.port}"
    assert "IPV4ADDR" not in station.run("cat /run/net-eth0.conf")
    station.poweroff()
