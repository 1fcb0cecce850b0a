# SPDX-License-Identifier: GPL-2.0
"""A real Debian 12 with systemd on /dev/nb0: booted by our initramfs and by its
own two, it comes up whole, keeps hold of its network, and goes off clean."""
import hashlib
import struct
import subprocess
import time

import pytest
from harness.images import clean_filesystem, copy_image, file_in_image
from harness.kernel import BUILD, TOP, kernel as find_kernel
from harness.server import free_port

LABEL = "nbdroot-debian"
STORE = BUILD / "debian"
# Its systemd under TCG on a busy machine.
BOOT = 300


# What make check boots; made in one go.
IMAGES = ("initramfs-tools:6.1", "dracut:6.12")


@pytest.fixture(scope="session")
def mkdebian():
    """mkdebian("dracut:6.1") -> the Debian root, that image too beside it."""
    def make(*more):
        images = dict.fromkeys(IMAGES + more)
        done = subprocess.run(
            [TOP / "tools/mkdebian", "-k", "6.1", "-k", "6.12",
             *(word for image in images for word in ("-i", image)), STORE / "root.ext4"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert done.returncode == 0, done.stdout
        return STORE / "root.ext4"
    return make


@pytest.fixture
def debian(mkdebian, tmp_path):
    """debian("dracut:6.1") -> a private copy of the root."""
    return lambda *images: copy_image(mkdebian(*images), tmp_path / "debian.ext4")


def blkid(image, tag):
    return subprocess.run(["/sbin/blkid", "-p", "-s", tag, "-o", "value", image], check=True,
                          capture_output=True, text=True).stdout.strip()


def root_shell(station):
    """Wait for Debian's autologin, and go to a shell that only answers: no
    line editing, no echo, no kernel messages in between."""
    station.expect(r"root@station:\S*# ", BOOT)
    station.send("dmesg -n 1; stty -echo; PS1= SYSTEMD_PAGER=cat exec sh\n")
    station.run("true")


def is_whole(station, image):
    """What a Debian on /dev/nb0 must be, however it was booted."""
    assert station.run("systemctl is-system-running --wait", BOOT) == "running"
    assert station.run("systemctl is-active multi-user.target") == "active"
    assert station.run("findmnt -n -o SOURCE,FSTYPE /").split() == ["/dev/nb0", "ext4"]
    assert "rw" in station.run("findmnt -n -o OPTIONS /").split(",")
    for link in (f"by-uuid/{blkid(image, 'UUID')}", f"by-label/{LABEL}"):
        assert station.run(f"readlink -f /dev/disk/{link}") == "/dev/nb0"
    # no process stands behind the root
    assert "nbd" not in station.run("ps -eo args | grep -v grep | grep -v '\\[.*\\]'")


def keeps_its_network(station):
    """What manages the network knows the card, and leaves it its address when
    it is restarted and when it stops."""
    card = station.run("ip -o route show default").split()[4]
    before = station.run(f"ip -4 -o address show dev {card}").split()[3]
    station.run(f"until networkctl list {card} --no-legend | grep -qw configured; do sleep 1; done", 120)
    station.run("systemctl restart systemd-networkd && sync && echo 3 > /proc/sys/vm/drop_caches")
    assert station.run("systemctl stop systemd-networkd.socket systemd-networkd && "
                       "echo 3 > /proc/sys/vm/drop_caches && md5sum /bin/bash").endswith("/bin/bash")
    assert station.run(f"ip -4 -o address show dev {card}").split()[3] == before


def goes_off_clean(station, image):
    """Written just now and not synced: it is there after the shutdown."""
    station.run("echo written at the last moment > /root/note")
    station.poweroff(command="systemctl poweroff", timeout=180)
    clean_filesystem(image)
    note = file_in_image(image, "/root/note", image.with_name("note"))
    assert note.read_text() == "written at the last moment\n"
    for trouble in ("I/O error", "EXT4-fs error", "aborting journal"):
        assert trouble not in station.console


def test_our_initramfs(debian, make_server, make_station, tmp_path):
    """Another disk's server dies, too: neither udev nor systemd may take that for
    the end of the device, nor wait for it. (Were it the root's own server, they
    would have every right to wait: their programs lie there.)"""
    image = debian()
    server = make_server(image)
    station = make_station(kernel=find_kernel("6.1"), nbdroot=f"10.0.2.2:{server.port}", mem=1024)
    root_shell(station)
    is_whole(station, image)

    data = tmp_path / "data.ext4"
    subprocess.run(["/sbin/mke2fs", "-q", "-t", "ext4", "-L", "nbdroot-data", data, "16M"], check=True)
    other = make_server(data)
    station.run(f"echo attach dev=nb1 server=10.0.2.2:{other.port} > /dev/nb-control")
    state_is = "until [ $(cat /sys/block/nb1/nb/state) = %s ]; do sleep 1; done"
    look = ("udevadm settle --timeout=300 && systemctl is-active dev-nb1.device && "
            "readlink -f /dev/disk/by-label/nbdroot-data && udevadm info -q property -n /dev/nb1")
    # systemd learns of it from udev.
    station.run("until systemctl is-active --quiet dev-nb1.device; do sleep 1; done", 120)
    assert station.run(look, 120).splitlines()[:2] == ["active", "/dev/nb1"]
    station.run("blockdev --flushbufs /dev/nb1")    # whoever reads it now, waits
    other.kill9()
    station.run(state_is % "recovering")
    station.run("udevadm trigger -c change /sys/block/nb1")
    away = station.run(look, 120)
    assert away.splitlines()[:2] == ["active", "/dev/nb1"]
    assert "ID_FS_LABEL=nbdroot-data" in away and "SYSTEMD_READY=0" not in away
    other.restart()
    station.run(state_is % "live")

    server.kill9()
    server.restart()
    keeps_its_network(station)
    goes_off_clean(station, image)


@pytest.mark.parametrize("kind, series, root", [
    ("initramfs-tools", "6.1", f"LABEL={LABEL}"),
    ("dracut", "6.12", f"LABEL={LABEL}"),
    pytest.param("initramfs-tools", "6.12", "/dev/nb0", marks=pytest.mark.long),
    pytest.param("dracut", "6.1", "/dev/nb0", marks=pytest.mark.long),
])
def test_its_own_initramfs(kind, series, root, debian, make_server, make_station):
    """After a power cut: the station is up before its server is, and waits."""
    image = debian(f"{kind}:{series}")
    kernel = find_kernel(series)
    port = free_port()
    station = make_station(kernel=kernel, initramfs=STORE / f"{kind}-{kernel.kver}.img",
                           root=root, nbdroot=f"10.0.2.2:{port}", mem=1024)
    station.expect(rf"waiting for /dev/nb0: 10\.0\.2\.2:{port}: connection refused", BOOT)
    station.expect(r"still waiting for /dev/nb0", 30)
    make_server(image, port=port)
    root_shell(station)
    is_whole(station, image)
    keeps_its_network(station)
    goes_off_clean(station, image)


@pytest.mark.long
def test_a_device_that_root_does_not_name(debian, make_server, make_station):
    """It is what the client takes it to be."""
    image = debian()
    server = make_server(image)
    kernel = find_kernel("6.1")
    station = make_station(kernel=kernel, initramfs=STORE / f"initramfs-tools-{kernel.kver}.img", root=None,
                           nbdroot=f"10.0.2.2:{server.port}", append="nbddev=nb1", mem=1024)
    root_shell(station)
    assert station.run("findmnt -n -o SOURCE /") == "/dev/nb1"
    goes_off_clean(station, image)


@pytest.mark.long
def test_dracut_without_our_driver(debian, make_server, make_station, tmp_path):
    """systemd waits for dev-nb0.device, which is there if udev knows that name."""
    image = debian()
    server = make_server(image)
    kernel = find_kernel("6.12")
    station = make_station(kernel=kernel, initramfs=STORE / f"dracut-{kernel.kver}.img",
                           nbdroot=f"10.0.2.2:{server.port}", append="module_blacklist=nb", mem=1024)
    root_shell(station)
    assert station.run("findmnt -n -o SOURCE /; readlink /dev/nb0").split() == ["/dev/nbd0", "nbd0"]
    assert station.run("systemctl is-active dev-nb0.device") == "active"

    disk = tmp_path / "disk"    # with a partition from 1 MiB to its end
    disk.write_bytes(struct.pack("<446x8B2I", 0, 0, 0, 0, 0x83, 0, 0, 0, 2048, 2048).ljust(510, b"\0") +
                     b"\x55\xaa" + bytes((2 << 20) - 512))
    station.run(f"ln -s nbd1 /dev/nb1; nbd-client 10.0.2.2 {make_server(disk).port} nbd1; udevadm settle")
    assert station.run("readlink /dev/nb1 /dev/nb1p1").split() == ["nbd1", "nbd1p1"]
    assert station.run("systemctl is-active dev-nb1.device dev-nb1p1.device").split() == 2 * ["active"]
    station.run("nbd-client -d nbd1")
    goes_off_clean(station, image)


@pytest.mark.long
def test_mended_in_the_shell_of_dracut(debian, make_server, make_station):
    """After it the client is run again."""
    image = debian()
    server = make_server(image)
    kernel = find_kernel("6.12")
    right = f"root=/dev/nb0 nbdroot=10.0.2.2:{server.port}"
    station = make_station(kernel=kernel, initramfs=STORE / f"dracut-{kernel.kver}.img",
                           nbdroot=f"10.0.2.2:{server.port},conns=x", mem=1024)
    station.expect("nbd-client --boot ended with status 2; the reason is above", BOOT)
    station.expect("Press Enter for maintenance", 60)
    station.send("\n")
    station.expect(r"# ", 60)
    station.send(f"echo {right} > /run/right; mount --bind /run/right /proc/cmdline; exit\n")
    station.expect("/dev/nb0 is the default export on", 60)
    root_shell(station)
    goes_off_clean(station, image)


@pytest.mark.long
@pytest.mark.parametrize("kind, series, append", [("initramfs-tools", "6.1", "rw"), ("dracut", "6.12", "ro")])
def test_what_is_written_goes_to_memory(kind, series, append, debian, make_server, make_station):
    image = debian()
    before = hashlib.sha256(image.read_bytes()).digest()
    kernel = find_kernel(series)
    server = make_server(image, options=["-r"])
    station = make_station(kernel=kernel, initramfs=STORE / f"{kind}-{kernel.kver}.img", append=append,
                           root="/dev/nb0", nbdroot=f"10.0.2.2:{server.port},overlay=tmpfs:256m", mem=1024)
    root_shell(station)
    assert station.run("systemctl is-system-running --wait", BOOT) == "running", station.run("systemctl --failed")
    assert station.run("findmnt -n -o FSTYPE /") == "overlay"
    station.run("echo here > /root/note && sync && echo 3 > /proc/sys/vm/drop_caches")
    assert station.run("cat /root/note /run/nbdroot.writes/upper/root/note").split() == ["here", "here"]
    assert station.run("findmnt -n -o SOURCE -M /run/nbdroot.lower; ls /run/nbdroot.lower/root/note 2>&1; true"
                       ).startswith("/dev/nb0\nls: cannot access")
    assert station.run("cat /sys/block/nb0/ro; df --output=size -m /").split() == ["1", "1M-blocks", "256"]
    station.poweroff(command="systemctl poweroff", timeout=180)
    assert hashlib.sha256(image.read_bytes()).digest() == before


WRITER = r"""
cd /var/tmp || exit
try() { "$@" || { echo "$*" >> /run/failed; }; }
n=0
while [ ! -e /run/stop ]; do
	n=$((n + 1)) f=f$((n % 16))
	try dd if=/dev/urandom of=$f bs=64k count=24 conv=fsync status=none
	try sh -c "md5sum $f > $f.md5"
	try cp -r /etc etc.$n
	try rm -rf etc.$((n - 3))
	echo $n > /run/rounds
done
"""


@pytest.mark.long
def test_written_to_while_its_server_restarts_ten_times(debian, make_server, make_station):
    """Files are made, written, synced and removed all the while; none of that
    fails, and what there is in the end is what was written."""
    image = debian()
    server = make_server(image)
    station = make_station(kernel=find_kernel("6.1"), nbdroot=f"10.0.2.2:{server.port}", mem=1024)
    root_shell(station)
    station.run(f"cat > /run/writer <<'END'\n{WRITER}END")
    station.send("sh /run/writer & \n")
    for i in range(10):
        time.sleep(3)
        server.kill9()
        time.sleep(i % 4)
        server.restart()
    station.run("touch /run/stop; wait", 180)
    assert station.run("cat /run/failed", check=False)[1] != 0, station.run("cat /run/failed")
    assert int(station.run("cat /run/rounds")) > 5
    assert int(station.run("cat /sys/block/nb0/nb/reconnects")) >= 8
    station.run("echo 3 > /proc/sys/vm/drop_caches && cd /var/tmp && md5sum --quiet -c *.md5 && cd /", 120)
    is_whole(station, image)
    goes_off_clean(station, image)
