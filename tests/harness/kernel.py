# SPDX-License-Identifier: GPL-2.0
"""Which kernel a station boots, and what was built for it. Stdlib only.

    k = kernel("6.1")       # as tools/kernel resolves it: installed, or unpacked
    k.kver, k.vmlinuz, k.initramfs, k.module
"""
import os
import shlex
import subprocess
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
BUILD = TOP / "build"
DEFAULT_ROOT = BUILD / "rootfs-busybox.ext4"


class KernelError(Exception):
    """No such kernel here, and the reason."""


@dataclass(frozen=True)
class Kernel:
    kver: str       # as in uname -r
    vmlinuz: Path
    modroot: Path   # modroot/lib/modules/kver
    kdir: Path      # headers

    @property
    def initramfs(self):
        """The standalone initramfs (make initramfs KVER=...)."""
        return BUILD / f"initramfs-{self.kver}.img"

    @property
    def module(self):
        return BUILD / "kmod" / self.kver / "nb.ko"

    @property
    def series(self):
        return ".".join(self.kver.split(".")[:2])


@lru_cache(maxsize=None)
def kernel(which=None):
    """The kernel of a release, a series ("6.1") or, for None, $KVER or the default."""
    argv = [str(TOP / "tools/kernel")] + ([which] if which else [])
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        raise KernelError(done.stderr.strip())
    said = dict(line.split("=", 1) for line in done.stdout.splitlines())
    kver, vmlinuz, modroot, kdir = (
        "".join(shlex.split(said[key])) for key in ("KVER", "VMLINUZ", "MODROOT", "KDIR"))
    return Kernel(kver, Path(vmlinuz), Path(modroot), Path(kdir))


@lru_cache(maxsize=None)
def own_kernel(name):
    """"debug" or "builtin": built by tests/kmod/mkkernel, which says how long
    that takes, unless it is there."""
    done = subprocess.run([TOP / "tests/kmod/mkkernel", name], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise KernelError(f"mkkernel {name} failed")
    top = Path(os.environ.get("MKKERNEL_DIR", BUILD)) / f"{name}kernel"
    return Kernel(done.stdout.split()[-1], top / "obj/arch/x86/boot/bzImage", top / "root",
                  top / "obj")


def qemu_binary():
    return os.environ.get("QEMU", "qemu-system-x86_64")
