# SPDX-License-Identifier: GPL-2.0
"""make install, for packagers and for chroots."""
import subprocess

from harness.kernel import TOP


def test_every_part_for_a_kernel_that_is_not_installed(kernel, tmp_path):
    """Its headers may be unpacked in build/ only; the driver must find them there."""
    done = subprocess.run(["make", "install", f"KVER={kernel.kver}", f"DESTDIR={tmp_path}"], cwd=TOP,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
    for path in (f"lib/modules/{kernel.kver}/updates/nb.ko", "usr/sbin/nbd-client", "usr/bin/nbd-server",
                 "usr/lib/udev/rules.d/60-nb.rules", "usr/lib/nbdroot/keep-link",
                 "usr/share/initramfs-tools/hooks/nbdroot",
                 "usr/lib/dracut/modules.d/50nbdroot/module-setup.sh",
                 "usr/share/doc/nbdroot/pxe/boot.ipxe"):
        assert (tmp_path / path).is_file(), path
