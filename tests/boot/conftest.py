# SPDX-License-Identifier: GPL-2.0
"""Fixtures of the boot stories."""
import os
import subprocess
from pathlib import Path

import pytest
from harness.guest import busybox
from harness.images import copy_image
from harness.kernel import TOP

HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="session")
def durable_root(tmp_path_factory):
    """The default root with tests/boot/durable.c in it."""
    extra = tmp_path_factory.mktemp("extra")
    (extra / "bin").mkdir()
    subprocess.run(["gcc", "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-static",
                    "-o", extra / "bin/durable", HERE / "durable.c"], check=True)
    image = tmp_path_factory.mktemp("root") / "durable.ext4"
    subprocess.run([TOP / "initramfs/mkroot", "-b", busybox(), "-o", image], check=True, env=dict(os.environ, EXTRA=str(extra)))
    return image


@pytest.fixture
def durable_image(durable_root, tmp_path):
    return copy_image(durable_root, tmp_path / "durable.ext4")
