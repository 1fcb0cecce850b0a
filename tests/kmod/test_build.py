# SPDX-License-Identifier: GPL-2.0
"""The driver's source in the places where it is built: by DKMS for each kernel
that gets installed, in a kernel's own tree, for a kernel that is too new."""
import os
import re
import subprocess

import pytest

from harness.kernel import BUILD, TOP, kernel, own_kernel

VERSION = re.search(r'define NB_VERSION\s+"(.*)"', (TOP / "kmod/nb.h").read_text()).group(1)


def make(*argv, **kwargs):
    done = subprocess.run(["make", *argv], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, **kwargs)
    assert done.returncode == 0, done.stdout[-5000:]
    return done.stdout


def modinfo(module, field):
    return subprocess.run(["/sbin/modinfo", "-F", field, module], check=True,
                          capture_output=True, text=True).stdout.strip()


@pytest.fixture
def dkms_source(tmp_path):
    """What "make install" leaves in /usr/src."""
    k = kernel()
    make("-C", TOP / "kmod", "install", f"DESTDIR={tmp_path}", f"KVER={k.kver}", f"KDIR={k.kdir}")
    assert (tmp_path / f"lib/modules/{k.kver}/updates/nb.ko").is_file()
    return tmp_path / f"usr/src/nbdroot-{VERSION}"


def test_the_source_for_dkms_is_whole(dkms_source):
    """It needs nothing but a kernel's headers: no file of the repository."""
    conf = (dkms_source / "dkms.conf").read_text()
    assert f'PACKAGE_VERSION="{VERSION}"' in conf and "@" not in conf
    assert not [p for p in dkms_source.rglob("*") if p.is_symlink()]
    k = kernel()
    make("-C", k.kdir, f"M={dkms_source}", "KCFLAGS=-Werror", "modules")
    assert modinfo(dkms_source / "nb.ko", "version") == VERSION
    assert modinfo(dkms_source / "nb.ko", "vermagic").split()[0] == k.kver


@pytest.mark.long
def test_dkms_builds_and_installs_it(dkms_source, tmp_path):
    """Debian's own dkms, unpacked, in trees of its own."""
    k = kernel()
    dkms = BUILD / "debs/dkms"
    subprocess.run([TOP / "tools/undeb", dkms, "dkms"], check=True)
    trees = {"--dkmstree": tmp_path / "var", "--sourcetree": dkms_source.parent,
             "--installtree": tmp_path / "modules"}
    for name, path in trees.items():
        path.mkdir(exist_ok=True)
    (tmp_path / "modules" / k.kver).mkdir()
    words = [word for pair in trees.items() for word in map(str, pair)]
    env = dict(os.environ, PATH=os.environ["PATH"] + ":/usr/sbin:/sbin")
    for verb in ("add", "build", "install"):
        more = [] if verb == "add" else ["-k", k.kver, "--kernelsourcedir", str(k.kdir)]
        done = subprocess.run([dkms / "usr/sbin/dkms", verb, f"nbdroot/{VERSION}", *words,
                               "--no-depmod", *more], env=env, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert done.returncode == 0, done.stdout
    module, = (tmp_path / "modules" / k.kver).rglob("nb.ko*")
    assert modinfo(module, "version") == VERSION


@pytest.mark.long
def test_in_a_kernel_tree_as_a_module(tmp_path):
    """Kconfig offers it and Kbuild compiles it, without a warning. (Built in:
    that kernel is booted in tests/boot.)"""
    source = (own_kernel("builtin").kdir / "source").resolve()  # the driver is laid into it
    fragment = tmp_path / "fragment"
    fragment.write_text("".join(f"CONFIG_{option}\n" for option in (
        "64BIT=y", "MODULES=y", "PRINTK=y", "PCI=y", "BLOCK=y", "BLK_DEV=y", "NET=y", "INET=y", "BLK_DEV_NB=m")))
    make("-C", source, f"O={tmp_path}/obj", "tinyconfig")
    subprocess.run([source / "scripts/kconfig/merge_config.sh", "-m", "-O", tmp_path / "obj",
                    tmp_path / "obj/.config", fragment], check=True, cwd=tmp_path, capture_output=True)
    make("-C", source, f"O={tmp_path}/obj", "olddefconfig")
    assert "CONFIG_BLK_DEV_NB=m\n" in (tmp_path / "obj/.config").read_text()
    out = make("-C", source, f"O={tmp_path}/obj", f"-j{os.cpu_count()}", "KCFLAGS=-Werror",
               "prepare", "drivers/block/nb/")
    assert (tmp_path / "obj/drivers/block/nb/nb.o").is_file(), out
    assert "drivers/block/nb/nb.o" in (tmp_path / "obj/drivers/block/nb/modules.order").read_text()
    # loaded into a running kernel, it has no command line to read
    assert not (tmp_path / "obj/drivers/block/nb/boot.o").exists()


@pytest.fixture(scope="session")
def sid():
    """A Debian unstable with the headers of its kernel and the compiler they want."""
    if os.geteuid() != 0:
        pytest.skip("makes and enters a chroot: needs root")
    root = BUILD / "sid/root"
    if not list(root.glob("usr/src/linux-headers-*/Makefile")):
        subprocess.run(["rm", "-rf", root], check=True)
        root.parent.mkdir(parents=True, exist_ok=True)
        # A mirror may be a snapshot, whose date has passed; its signature counts.
        done = subprocess.run(
            ["nice", "mmdebstrap", "--mode=root", "--variant=apt",
             "--include=linux-headers-amd64,make,gcc,libc6-dev",
             "--aptopt=Acquire::Check-Valid-Until \"false\"", "sid", root,
             os.environ.get("DEBIAN_MIRROR", "http://deb.debian.org/debian")],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert done.returncode == 0, done.stdout[-3000:]
    return root


@pytest.mark.long
def test_the_newest_kernel(sid):
    """The driver is written for it (and older ones are made to look like it)."""
    headers, = sid.glob("usr/src/linux-headers-*-amd64")
    subprocess.run(["rm", "-rf", sid / "nb"], check=True)
    make("-C", TOP / "kmod", "tree", f"DEST={sid}/nb")
    # objtool asks /proc how large its stack is
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", 'mount -t proc proc "$1/proc" && exec chroot "$1" '
         'make -C "/usr/src/$2" M=/nb KCFLAGS=-Werror modules', "sh", sid, headers.name],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout[-5000:]
    assert modinfo(sid / "nb/nb.ko", "vermagic").split()[0] == headers.name[len("linux-headers-"):]
