# SPDX-License-Identifier: GPL-2.0
"""What a station carries: BusyBox, other programs with their libraries, an initramfs."""
import os
import re
import shutil
import subprocess
from pathlib import Path

from harness.kernel import BUILD, TOP


def busybox():
    """The static BusyBox: installed, or unpacked by the build."""
    return next(p for p in (Path("/bin/busybox"), BUILD / "debs/busybox-static/bin/busybox") if p.exists())


def put_program(root, program, name=None, paths=()):
    """A program into root/bin, and what it is linked with, which is looked for in paths
    first. Libraries from elsewhere than /lib and /lib64 go where the loader looks."""
    said = subprocess.run(["ldd", program], env=dict(os.environ, LD_LIBRARY_PATH=":".join(map(str, paths))),
                          check=True, capture_output=True, text=True).stdout
    assert "not found" not in said, said
    (root / "bin").mkdir(parents=True, exist_ok=True)
    shutil.copy(program, root / "bin" / (name or Path(program).name))
    for lib in re.findall(r"(/\S+) \(0x", said):
        dest = root / lib.lstrip("/") if "ld-linux" in lib else root / "lib/x86_64-linux-gnu" / Path(lib).name
        dest.parent.mkdir(parents=True, exist_ok=True)
        if not dest.exists():
            shutil.copy(lib, dest)


def put_debians_client(root, name):
    """Debian's nbd-client, unpacked and not installed."""
    debs = BUILD / "debs/nbd-client"
    subprocess.run([TOP / "tools/undeb", debs, "nbd-client", "libnl-3-200", "libnl-genl-3-200"],
                   check=True, capture_output=True)
    program = next(p for p in (debs / "sbin/nbd-client", debs / "usr/sbin/nbd-client") if p.exists())
    put_program(root, program, name, [debs / "lib/x86_64-linux-gnu", debs / "usr/lib/x86_64-linux-gnu"])


def make_initramfs(kernel, extra, out):
    """Our initramfs for that kernel, with the directory extra laid over it."""
    subprocess.run([TOP / "initramfs/mkinitramfs", "-k", kernel.kver, "-m", kernel.modroot, "-n", kernel.module,
                    "-c", TOP / "nbd-client-static/nbd-client", "-b", busybox(), "-o", out],
                   env=dict(os.environ, EXTRA=str(extra)), check=True, capture_output=True)
    return out
