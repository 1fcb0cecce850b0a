# SPDX-License-Identifier: GPL-2.0
"""Root images: private copies, what is in them, whether they are clean."""
import subprocess
from pathlib import Path


def copy_image(source, dest):
    """A private copy; holes stay holes."""
    subprocess.run(["cp", "--sparse=always", "--reflink=auto", str(source), str(dest)], check=True)
    return Path(dest)


def clean_filesystem(image):
    """Assert that e2fsck finds nothing to mend and no journal to replay."""
    fsck = subprocess.run(["/sbin/e2fsck", "-fn", str(image)], capture_output=True, text=True)
    assert fsck.returncode == 0, fsck.stdout + fsck.stderr
    header = subprocess.run(["/sbin/dumpe2fs", "-h", str(image)],
                            capture_output=True, text=True, check=True).stdout
    assert "needs_recovery" not in header, header
    assert "Filesystem state:         clean" in header, header


def file_in_image(image, path, dest):
    """Copy a file out of an ext4 image, without mounting it."""
    subprocess.run(["/sbin/debugfs", "-R", f"dump {path} {dest}", str(image)],
                   check=True, capture_output=True)
    return Path(dest)
