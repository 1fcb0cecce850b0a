# SPDX-License-Identifier: GPL-2.0
"""initramfs/shared/overlay by itself, with the tools of each kind of initramfs."""
import shutil
import subprocess
from pathlib import Path

import pytest
from harness.guest import busybox, put_program
from harness.kernel import TOP

KLIBC = Path("/usr/lib/klibc/bin")

# A machine of its own, with a root that is mounted read-only and a /run.
MACHINE = """
set -e
mount --make-rprivate /
cd "$1"
mkdir -p root run dev
touch dev/null
mount -t tmpfs run run
[ "$2" = private ] || mount --make-shared run
mkdir run/root
mount -t tmpfs image run/root
echo image > run/root/file
mount -o remount,ro run/root
mount --bind /dev/null dev/null
printf %s "$3" > run/nbdroot.overlay
set +e
PATH=/bin:/usr/bin:/usr/sbin chroot . /bin/sh /overlay /run/root
echo "status $?"
echo station > run/root/written 2> /dev/null
echo root: $(ls run/root)
echo lower: $(ls run/nbdroot.lower)
echo upper: $(ls run/nbdroot.writes/upper 2> /dev/null)
echo mounts: $(grep -c " $PWD/run/" /proc/mounts)
"""


@pytest.fixture(params=["util-linux", "busybox", "klibc"])
def machine(request, tmp_path):
    """What stands in for an initramfs that has these tools."""
    shutil.copy(TOP / "initramfs/shared/overlay", tmp_path)
    (tmp_path / "bin").mkdir()
    if request.param == "util-linux":
        for name in ("sh", "mkdir", "mount", "umount"):
            put_program(tmp_path, f"/bin/{name}")
    elif request.param == "busybox":
        shutil.copy(busybox(), tmp_path / "bin/busybox")
        for name in ("sh", "mkdir", "mount", "umount"):
            (tmp_path / "bin" / name).symlink_to("busybox")
    else:
        if not KLIBC.exists():
            pytest.skip("needs klibc-utils")
        shutil.copytree(KLIBC, tmp_path / "bin", dirs_exist_ok=True)
        (tmp_path / "lib").mkdir()
        for library in Path("/lib").glob("klibc-*.so"):
            shutil.copy(library, tmp_path / "lib")

    def run(size, mounts="private"):
        result = subprocess.run(["unshare", "-rm", "sh", "-c", MACHINE, "sh", tmp_path, mounts, size],
                                capture_output=True, text=True, check=False)
        if "unshare:" in result.stderr:
            pytest.skip(result.stderr)
        return result.stdout, result.stderr
    run.kind = request.param
    return run


def test_both_halves_are_in_sight(machine):
    said, complaint = machine("9m")
    assert "goes to memory (tmpfs, 9m)" in said, complaint
    assert said.splitlines()[1:] == [
        "status 0", "root: file written", "lower: file", "upper: written", "mounts: 4"]


def test_where_mounts_are_shared(machine):
    """As systemd has them: the overlay must not show in both places."""
    if machine.kind == "klibc":
        pytest.skip("no systemd in such an initramfs")
    said, complaint = machine("9m", "shared")
    assert said.splitlines()[1:] == [
        "status 0", "root: file written", "lower: file", "upper: written", "mounts: 4"], complaint


@pytest.mark.parametrize("mounts", ["private", "shared"])
def test_a_failure_leaves_the_root_where_it_was(machine, mounts):
    said, complaint = machine("0x", mounts)
    assert "no overlay over /run/root: overlay=tmpfs:0x is not a size" in complaint
    assert said.splitlines() == ["status 1", "root: file", "lower:", "upper:", "mounts: 1"]


def test_no_room_for_the_overlay(machine):
    """The overlay itself is refused, when all else is mounted: no upper directory."""
    said, complaint = machine("9m,nr_inodes=1")
    assert "overlay file system refuses" in complaint
    assert said.splitlines() == ["status 1", "root: file", "lower:", "upper:", "mounts: 1"]


def test_none_asked_for(machine):
    said, _ = machine("")
    assert said.splitlines() == ["status 0", "root: file", "lower:", "upper:", "mounts: 1"]
