# SPDX-License-Identifier: GPL-2.0
"""A TFTP directory as a boot host has it, from the examples of pxe/. Stdlib only.

The files are used as they stand. What every site sets, the server and the
console, goes where the examples say: local.ipxe for iPXE, the APPEND line
for pxelinux.
"""
import os
import re
import shutil
from pathlib import Path

from .kernel import TOP

PXE = TOP / "pxe"
SYSLINUX = {"pxelinux.0": "/usr/lib/PXELINUX/pxelinux.0",
            "ldlinux.c32": "/usr/lib/syslinux/modules/bios/ldlinux.c32"}


def _put(source, dest):
    """A hard link where possible: QEMU's TFTP does not follow symbolic ones out."""
    source = Path(source).resolve()
    try:
        os.link(source, dest)
    except OSError:
        shutil.copyfile(source, dest)


def _common(directory, kernel, initramfs):
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    _put(kernel.vmlinuz, directory / "vmlinuz")
    _put(initramfs or kernel.initramfs, directory / "initramfs.img")
    return directory


def ipxe(directory, kernel, nbdroot, options="console=ttyS0 panic=1", initramfs=None):
    """Fill directory for iPXE; returns the boot file's name."""
    directory = _common(directory, kernel, initramfs)
    shutil.copyfile(PXE / "boot.ipxe", directory / "boot.ipxe")
    (directory / "local.ipxe").write_text(
        f"#!ipxe\nset nbdroot {nbdroot}\nset options {options}\n")
    return "boot.ipxe"


def pxelinux(directory, kernel, nbdroot, options="console=ttyS0 panic=1", initramfs=None):
    """Fill directory for pxelinux; returns the boot file's name."""
    directory = _common(directory, kernel, initramfs)
    for name, source in SYSLINUX.items():
        shutil.copyfile(source, directory / name)
    text = (PXE / "pxelinux.cfg/default").read_text()
    text, changed = re.subn(r"nbdroot=192\.0\.2\.1:1234", f"nbdroot={nbdroot} {options}", text)
    assert changed == 1, "pxe/pxelinux.cfg/default no longer has the line to edit"
    (directory / "pxelinux.cfg").mkdir(exist_ok=True)
    (directory / "pxelinux.cfg/default").write_text(text)
    return "pxelinux.0"
