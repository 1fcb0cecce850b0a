# SPDX-License-Identifier: GPL-2.0
"""The client for arm64, built crosswise and run under qemu-user: the whole
table of the grammar, and an attach."""
import shutil
import subprocess
from pathlib import Path

import pytest
from test_grammar import as_table, table

TOP = Path(__file__).resolve().parents[2]
QEMU = TOP / "build/arm64/usr/bin/qemu-aarch64-static"


@pytest.fixture
def arm64(make_client, tmp_path):
    if not shutil.which("aarch64-linux-gnu-gcc"):
        pytest.skip("needs gcc-aarch64-linux-gnu")
    if subprocess.run([TOP / "tools/arm64", TOP / "build/arm64"]).returncode:
        pytest.skip("no musl for arm64 to be had; see above")
    subprocess.run(["make", "-s", "-C", TOP / "nbd-client-static", f"OUT={tmp_path}", "WERROR=1",
                    f"NB_ROOT={tmp_path}/r", tmp_path / "arm64/nbd-client"], check=True)
    wrapper = tmp_path / "nbd-client"
    wrapper.write_text(f'#!/bin/sh\nexec {QEMU} {tmp_path}/arm64/nbd-client "$@"\n')
    wrapper.chmod(0o755)
    return make_client(wrapper, tmp_path / "r")


@pytest.mark.long
def test_arm64(arm64):
    for line, (meaning, *_) in table():
        (arm64.root / "proc/cmdline").write_bytes(line + b"\n")
        result = arm64.run("--parse")
        assert result.returncode == {"none": 3, "!": 2}.get(meaning, 0), (line, result.stderr)
        if not result.returncode:
            assert as_table(result.stdout) == meaning.replace(" =", " "), line
    arm64.disk()
    arm64.write("etc/hosts", "127.0.0.1 server1\n")
    arm64.cmdline("root=/dev/nb0 nbdroot=server1:1234/root")
    result = arm64.run("--boot")
    assert result.returncode == 0
    assert '/dev/nb0 is "root" on server1 (127.0.0.1:1234), 2.0 GiB' in result.stderr
    assert arm64.read("dev/nb-control").startswith("attach dev=nb0 server=127.0.0.1:1234 lost=wait")
