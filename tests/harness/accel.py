# SPDX-License-Identifier: GPL-2.0
"""Is KVM usable? Found by booting, since /dev/kvm may exist and yet not work.

The probe boots the real kernel without an initramfs: a guest that runs says
so by panicking for want of a root, within a second or two under KVM. The
answer is kept in build/ for as long as this host stays up.
"""
import os
import subprocess
import tempfile
import time
from pathlib import Path

from .kernel import BUILD, qemu_binary
from .process import die_with_parent

PROBE_SECONDS = 10
# With a thread a processor TCG, before QEMU 8.1, may run code that another processor
# has changed already: one boot in a hundred dies of an "int3: 0000", or is reset
# without a word, when the kernel changes its own. One thread for all is hardly
# slower to boot, and does not.
TCG = ["-accel", "tcg,thread=single", "-cpu", "max"]
MTTCG = ["-accel", "tcg,thread=multi", "-cpu", "max"]
KVM = ["-accel", "kvm", "-cpu", "host"]


def accel_args(vmlinuz, parallel=False):
    """QEMU's options for the fastest way to run a station here; parallel: one whose
    processors run at the same time, whatever it costs. ACCEL=tcg or ACCEL=kvm in
    the environment decides without a probe."""
    tcg = MTTCG if parallel else TCG
    forced = os.environ.get("ACCEL")
    if forced:
        return {"kvm": KVM, "tcg": tcg}[forced]
    return KVM if kvm_usable(vmlinuz) else tcg


def kvm_usable(vmlinuz):
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    note = BUILD / "kvm-probe"
    if note.exists() and note.read_text().split()[:1] == [boot_id]:
        return note.read_text().split()[1] == "usable"
    usable = probe(vmlinuz)
    BUILD.mkdir(exist_ok=True)
    # Whole or not at all: two suites may ask at once.
    mine = note.with_name(f"kvm-probe.{os.getpid()}")
    mine.write_text(f"{boot_id} {'usable' if usable else 'unusable'}\n")
    mine.rename(note)
    return usable


def probe(vmlinuz):
    with tempfile.NamedTemporaryFile(prefix="kvm-probe-") as console:
        qemu = subprocess.Popen(
            [qemu_binary(), *KVM, "-m", "256", "-nodefaults", "-display", "none",
             "-serial", f"file:{console.name}", "-no-reboot",
             "-kernel", str(vmlinuz), "-append", "console=ttyS0 panic=-1"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            preexec_fn=die_with_parent)
        try:
            deadline = time.monotonic() + PROBE_SECONDS
            while time.monotonic() < deadline and qemu.poll() is None:
                time.sleep(0.1)
            return b"Kernel panic" in Path(console.name).read_bytes()
        finally:
            qemu.kill()
            qemu.wait()
