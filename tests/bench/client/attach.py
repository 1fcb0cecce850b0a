#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""What an attach takes: from the client's exec to a usable device.

    tests/bench/client/attach.py [--kver 6.12] [--count 25]

One guest holds our server, which serves a file of its memory over loopback, the
driver and the client. Two modes: "wall", the clock of an emulator where there is
no KVM; "icount", where a nanosecond of guest time is one instruction, which no load
of this machine changes. A measurement, not a test.
"""
import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
TOP = HERE.parents[2]
sys.path.insert(0, str(TOP / "tests"))

from harness.guest import make_initramfs, put_program  # noqa: E402
from harness.kernel import BUILD, kernel  # noqa: E402
from harness.station import Station  # noqa: E402

CLIENT = "nbd-client 127.0.0.1 1234"
# name, what is timed, what puts things back
WORK = [
    ("the program alone (-V)", "nbd-client -V", "true"),
    ("nb0 attached", f"{CLIENT} nb0", "nbd-client -d nb0"),
    ("--boot, from /proc/cmdline to nb0", "nbd-client --boot", "nbd-client -d nb0"),
    ("nbd0 attached (the kernel's own driver)", f"{CLIENT} nbd0",
     "nbd-client -d nbd0; while [ -e /sys/block/nbd0/pid ]; do usleep 1000; done"),
]


def make_image(k, tmp):
    """The rig of the driver's tests, with our server and a stopwatch in it."""
    extra = tmp / "extra"
    shutil.copytree(TOP / "tests/kmod/rig", extra)
    (extra / "bin").mkdir()
    put_program(extra, BUILD / "server/nbd-server", "nbd-server")
    subprocess.run(["gcc", "-std=gnu11", "-O2", "-Wall", "-Wextra", "-static", "-o", extra / "bin/stopwatch",
                    HERE / "stopwatch.c"], check=True)
    return make_initramfs(k, extra, tmp / "bench.img")


class Guest(Station):
    parallel = True

    def __init__(self, k, image, icount):
        super().__init__(k, initramfs=image, root=None, nbdroot="127.0.0.1:1234", mem=512, smp=1,
                         append="quiet idle=halt mitigations=off")
        self.icount = icount

    def command(self):
        argv = super().command()
        if self.icount:
            i = argv.index("-accel")
            argv[i:i + 2] = ["-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off"]
        return argv

    def boot(self):
        self.expect("the rig is up", 300)
        self.expect(r"station:\S*# ")
        self.run("echo 1 >/proc/sys/kernel/printk; modprobe nbd max_part=15; "
                 "mkdir -p /root; dd if=/dev/zero of=/root/image bs=1M count=16 2>/dev/null")
        self.run("nbd-server -n 127.0.0.1@1234 /root/image >/run/server.log 2>&1 & "
                 "until grep -q 'listening on' /run/server.log; do sleep 0.1; done")
        return self


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--kver", default=os.environ.get("KVER") or "6.12")
    p.add_argument("--count", type=int, default=25)
    args = p.parse_args()
    k = kernel(args.kver)
    print(f"kernel {k.kver}; client of {(TOP / 'nbd-client-static/nbd-client').stat().st_size} bytes; "
          f"load average {os.getloadavg()[0]:.1f}; milliseconds, quickest and median of {args.count}")
    with tempfile.TemporaryDirectory(prefix="bench-") as tmp:
        image = make_image(k, Path(tmp))
        rows = {name: [name] for name, *_ in WORK}
        for icount in (False, True):
            with Guest(k, image, icount) as guest:
                guest.boot()
                for name, command, between in WORK:
                    said = guest.run(f"stopwatch {args.count} '{between}' {command} 2>/run/said || cat /run/said", 300)
                    times = [int(n) / 1000 for n in re.search(r"([\d ]+)us", said)[1].split()]
                    rows[name] += [f"{times[0]:.2f}", f"{statistics.median(times):.2f}"]
    print("\n| what | by the clock, quickest | median | instructions (millions), least | median |\n|---|---|---|---|---|")
    for row in rows.values():
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
