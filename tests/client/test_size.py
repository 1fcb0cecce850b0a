# SPDX-License-Identifier: GPL-2.0
"""What the program costs to carry and to run: it is in every initramfs."""
import re
import shutil
import subprocess
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("libc,most", [("klibc", 40 << 10), ("musl", 64 << 10)])
def test_file(libc, most, tmp_path):
    subprocess.run(["make", "-s", "-C", TOP / "nbd-client-static", f"OUT={tmp_path}",
                    tmp_path / libc / "nbd-client"], check=True)
    size = (tmp_path / libc / "nbd-client").stat().st_size
    assert size <= most, f"{libc}: {size} bytes, {size - most} too many"
    assert subprocess.run([tmp_path / libc / "nbd-client", "-V"], capture_output=True,
                          text=True).stdout.startswith("nbd-client (nbdroot)")


def test_memory_while_attaching(builds):
    """After a whole round of --boot (parse, resolve, the driver's answer, telling):
    nothing is ever given back, so that what is resident then is the peak."""
    client = builds("klibc")
    client.write("etc/hosts", "127.0.0.1 server1\n")
    client.cmdline("root=/dev/nb0 nbdroot=server1:1234/root")
    (client.root / "dev/nb-control").unlink()
    (client.root / "dev/nb-control").symlink_to("/dev/full")    # "try again"
    boot = client.start("--boot")
    try:
        boot.expect("waiting for /dev/nb0: error 28")
        rollup = Path(f"/proc/{boot.process.pid}/smaps_rollup").read_text()
    finally:
        boot.end()
    assert 0 < int(re.search(r"Rss:\s*(\d+) kB", rollup)[1]) <= 256


@pytest.mark.skipif(not shutil.which("strace"), reason="needs strace")
def test_leaves_no_process_behind(builds, tmp_path):
    """With our driver nothing forks but modprobe, and here not even that."""
    client = builds("klibc")
    client.disk()
    client.cmdline("root=/dev/nb0 nbdroot=127.0.0.1:1234/root")
    log = tmp_path / "strace"
    traced = subprocess.run(["strace", "-f", "-s", "200", "-o", log, "-e", "trace=process,write",
                             client.binary, "--boot"], capture_output=True, text=True)
    if "ptrace" in traced.stderr and "not permitted" in traced.stderr:
        pytest.skip("ptrace is not allowed here")
    calls = log.read_text()
    assert "attach dev=nb0 server=127.0.0.1:1234" in calls     # it is the real thing
    assert not re.search(r"\b(clone3?|v?fork)\(", calls), calls
    assert calls.rstrip().endswith("+++ exited with 0 +++")
