# SPDX-License-Identifier: GPL-2.0
"""A kernel that the driver is built into boots from its root with no initramfs
at all: it reads nbdroot= itself, and waits for its server as nbd-client would."""
import struct
import subprocess

import pytest
from harness.images import clean_filesystem, copy_image
from harness.kernel import DEFAULT_ROOT, own_kernel
from harness.server import free_port

pytestmark = pytest.mark.long


@pytest.fixture(scope="session")
def builtin():
    return own_kernel("builtin")


@pytest.fixture
def boot(builtin, make_station):
    """boot(nbdroot=...): a station without an initramfs."""
    def make(append="ip=dhcp", **kwargs):
        return make_station(kernel=builtin, initramfs=kwargs.pop("initramfs", False),
                            append=f"{append} panic=-1", **kwargs)
    return make


def test_the_root_is_mounted_without_an_initramfs(boot, server, root_image):
    """And it is a root like any other: it outlives its server, and goes off clean."""
    station = boot(nbdroot=f"10.0.2.2:{server.port}")
    station.wait_for_root()
    assert "initramfs" not in station.console.lower()
    assert station.run("cat /proc/mounts | grep ' / '").split()[:3:2] == ["/dev/root", "ext4"]
    assert station.run("cat /sys/block/nb0/nb/state") == "live"
    server.kill9()
    server.restart()
    station.run("echo still here >/root-was-written && sync && echo 3 >/proc/sys/vm/drop_caches && ls -lR / >/dev/null 2>&1; cat /root-was-written")
    station.poweroff()
    clean_filesystem(root_image)


def test_a_partition_of_the_second_server(boot, make_server, tmp_path):
    """nbdroot= repeats; DHCP's server is named by its role; root= takes a partition."""
    root = copy_image(DEFAULT_ROOT, tmp_path / "root.ext4")
    disk = tmp_path / "disk"
    # a partition table of old: one of Linux (0x83), from the second MiB to the end
    with open(disk, "wb") as f:
        f.truncate(root.stat().st_size + (1 << 20))
        f.seek(446)
        f.write(struct.pack("<4xB3xII", 0x83, 2048, root.stat().st_size >> 9))
        f.seek(510)
        f.write(b"\x55\xaa")
    subprocess.run(["dd", f"if={root}", f"of={disk}", "bs=1M", "seek=1", "conv=notrunc,sparse", "status=none"],
                   check=True)
    server = make_server(disk)
    # QEMU's own DHCP says that it is at 10.0.2.2, and so is the host's loopback
    station = boot(root="/dev/nb0p1", nbdroot=f"10.0.2.2:{free_port()} nbdroot=dhcp:{server.port}")
    station.wait_for_root()
    assert station.run("cat /sys/block/nb0/nb/server") == f"10.0.2.2:{server.port}"
    station.poweroff()


def test_it_waits_for_its_server_and_says_so(boot, make_server, root_image):
    port = free_port()
    station = boot(nbdroot=f"10.0.2.2:{port}")
    for _ in range(2):
        station.expect(rf"nb: waiting for the root \(\d+ s\): .*10\.0\.2\.2:{port}.*refused", 180)
    make_server(root_image, port=port)
    station.wait_for_root()
    station.poweroff()


def test_a_name_is_quoted_back_with_what_would_be_right(boot):
    """It cannot be resolved here; waiting for it would be in vain."""
    station = boot(nbdroot="server1:1234")
    station.expect(r'nb: nbdroot="server1:1234": not an address, and only an initramfs can resolve '
                   r"a name; without an initramfs, write it like nbdroot=192\.0\.2\.1:1234", 180)
    station.expect("Unable to mount root fs", 60)


def test_an_initramfs_comes_first(boot, server, tmp_path):
    """With one, nbdroot= is its nbd-client's business."""
    init = tmp_path / "init"
    init.write_text("#!/no/such/shell\n")
    init.chmod(0o755)
    cpio = subprocess.run(["cpio", "-o", "-H", "newc", "--quiet"], cwd=tmp_path, input=b"init\n",
                          stdout=subprocess.PIPE, check=True).stdout
    (tmp_path / "initrd").write_bytes(cpio)
    station = boot(nbdroot=f"10.0.2.2:{server.port}", initramfs=tmp_path / "initrd")
    station.expect("nb: nbdroot= is for the initramfs", 180)
    station.expect("Failed to execute /init", 60)
