# SPDX-License-Identifier: GPL-2.0
"""Images that are replaced while they are served."""
import json
import os
import struct
import subprocess
import threading
import time

import pytest

from harness import wire
from harness.server import binary
from operate import ask, configure
from raw import MIB, Raw, go_data
from session import Refused, Station


# -- publishing ---------------------------------------------------------------------

def publish(path, byte, size=32 * MIB):
    """A new image in the place of `path`, by rename."""
    new = path.parent / "new.tmp"
    new.write_bytes(byte * size)
    os.rename(new, path)


def test_published_image(lab, image, content):
    """Who runs keeps the image it began with, over a lost connection too; who
    comes gets the new one, of another size too."""
    server = lab(f"[lab]\nexportname = {image}\nreadonly = true\n")
    with Station(server, "lab", "old", "b1") as old:
        publish(image, b"n", 16 * MIB)
        assert old.read(MIB, 4096) == content[MIB:MIB + 4096]
        with Station(server, "lab", "new", "b2") as new:
            assert new.size == 16 * MIB and new.read(0, 4096) == b"n" * 4096
            assert new.image != old.image
        old.reset()
        with Station(server, "lab", "old", "b1", generation=1) as back:
            assert back.image == old.image and back.size == 32 * MIB
            assert back.read(MIB, 4096) == content[MIB:MIB + 4096]
    with Station(server, "lab", "old", "b3") as c:     # started again
        assert c.image == new.image and c.read(0, 10) == b"n" * 10


@pytest.mark.parametrize("again", ["restart", "kill9"])
def test_published_image_across_a_restart(lab, image, content, tmp_path, again):
    """Refused with the reason while the old file is gone; served when it is
    there under whatever name."""
    server = lab(f"[lab]\nexportname = {image}\nreadonly = true\n")
    with Station(server, "lab", "pc", "b1") as c:
        was = c.image
    kept = tmp_path.parent / f"kept-{again}"
    os.link(image, kept)
    publish(image, b"n")
    getattr(server, again)()
    if not server.running():
        server.start()
    with pytest.raises(Refused, match=f"station pc runs from image {was} .*which is not there any more.*start the station again"):
        Station(server, "lab", "pc", "b1", generation=1)
    os.rename(kept, tmp_path / "image.before")
    with Station(server, "lab", "pc", "b1", generation=1) as c:
        assert c.image == was and c.read(MIB, 4096) == content[MIB:MIB + 4096]
    with Station(server, "lab", "pc", "b2") as c:
        assert c.image != was and c.read(0, 10) == b"n" * 10


def test_old_pins_go_at_the_start(lab, image, tmp_path):
    """And only then: a reload does not know who was connected all that time."""
    server = lab(f"[lab]\nexportname = {image}\nreadonly = true\n")
    for station in "old", "young":
        Station(server, "lab", station, "b").disconnect()
    old, young = (tmp_path / "state" / "pins" / f"lab@{station}.pin" for station in ("old", "young"))
    server.stop()
    for path, days in (old, 31), (young, 29):
        os.utime(path, (time.time() - days * 24 * 3600,) * 2)
    server.start()
    assert not old.exists() and young.exists()
    os.utime(young, (time.time() - 31 * 24 * 3600,) * 2)
    ask("reload", server.sock)
    assert young.exists()


def test_versions_behind_a_link(lab, tmp_path):
    """lab.img -> lab-2026-11.img: the link is turned, the old file stays."""
    for month in ("10", "11"):
        (tmp_path / f"lab-{month}.img").write_bytes(month.encode() * MIB)
    link = tmp_path / "lab.img"
    link.symlink_to("lab-10.img")
    server = lab(f"[lab]\nexportname = {link}\noverlay = keep\n")
    with Station(server, "lab", "pc", "b1") as c:
        assert c.write(0, b"own") == 0
    (tmp_path / "l").symlink_to("lab-11.img")
    os.rename(tmp_path / "l", link)
    server.restart()
    with Station(server, "lab", "pc", "b1", generation=1) as c:
        assert c.read(0, 8) == b"own01010"
    with Station(server, "lab", "other", "b9") as c:
        assert c.read(0, 8) == b"11111111"


def test_identity_of_the_operator(lab, image, tmp_path, make_server):
    """The same word on two hosts: a station may fail over between them."""
    text = f"[lab]\nexportname = {image}\nreadonly = true\nidentity = lab-2026-11\n"
    server = lab(text)
    with Station(server, "lab", "pc", "b1") as c:
        assert (c.host, c.image) == ("-", "lab-2026-11")
    configure(server, text.replace("identity", "identty"))
    assert "did you mean" in subprocess.run([binary(), "reload", server.sock], stdout=subprocess.PIPE, text=True).stdout


def test_identity_that_has_changed(lab, image, content, tmp_path):
    """Who runs keeps the old one until the server ends; what is said then helps."""
    text = f"[lab]\nexportname = {image}\nreadonly = true\nidentity = lab-10\n"
    server = lab(text)
    with Station(server, "lab", "pc", "b1", generation=1) as c:
        assert c.image == "lab-10"
        os.link(image, tmp_path / "before")
        publish(image, b"n")
        configure(server, text.replace("lab-10", "lab-11"))
        ask("reload", server.sock)
        c.reset()
    with Station(server, "lab", "pc", "b1", generation=2) as c:
        assert c.image == "lab-10" and c.read(0, 100) == content[:100]
        with Station(server, "lab", "pc8", "b8", generation=1) as other:
            assert other.image == "lab-11" and other.read(0, 100) == b"n" * 100
    server.restart()
    with pytest.raises(Refused, match="station pc runs from image lab-10, and this export is image lab-11 now .*"
                       "serve the old file with identity = lab-10 again until the station has ended, or start the station again"):
        Station(server, "lab", "pc", "b1", generation=3)
    # As it is told.
    os.rename(tmp_path / "before", image)
    configure(server, text)
    ask("reload", server.sock)
    with Station(server, "lab", "pc", "b1", generation=3) as c:
        assert c.image == "lab-10" and c.read(0, 100) == content[:100]


def test_file_is_gone_for_a_moment(lab, image, content):
    """While the name leads nowhere the open image is given."""
    server = lab(f"[lab]\nexportname = {image}\nreadonly = true\n")
    os.rename(image, str(image) + ".away")
    with Station(server, "lab", "pc", "b1") as c:
        assert c.read(0, 100) == content[:100]
    os.rename(str(image) + ".away", image)


def deleted_files(server):
    found = []
    for fd in os.listdir(f"/proc/{server.pid}/fd"):
        try:
            found.append(os.readlink(f"/proc/{server.pid}/fd/{fd}"))
        except FileNotFoundError:
            pass        # closed this moment
    return [path for path in found if path.endswith(" (deleted)")]


@pytest.mark.parametrize("keys", ["readonly = true", "overlay = keep", ""])
def test_newest_image_while_the_name_is_missing(lab, image, tmp_path, keys):
    """Not the one that the server was started with: that one may go, and its
    space with it."""
    server = lab(f"[lab]\nexportname = {image}\n{keys}\n")
    publish(image, b"n", 16 * MIB)
    with Station(server, "lab", boot=None) as c:
        assert c.size == 16 * MIB
        status, = json.loads(ask("status", server.sock, "--json"))["exports"]
        assert status["size"] == 16 * MIB and status["image"].startswith(f"{os.stat(image).st_ino:x}-")
        assert deleted_files(server) == []
        c.disconnect()
    with Raw(server) as c:
        c.hello()
        replies = c.option(wire.NBD_OPT_INFO, go_data(b"lab"))
        size, = [struct.unpack(">Q", d[2:10])[0] for k, d in replies if k == wire.NBD_REP_INFO and d[:2] == b"\0\0"]
        assert size == 16 * MIB
    os.rename(image, tmp_path / "away")
    with Station(server, "lab/other" if "overlay" in keys else "lab", boot=None) as c:
        assert c.size == 16 * MIB and c.read(0, 4096) == b"n" * 4096
    server.wait_log('export "lab": ' + f"{image}: No such file")
    os.rename(tmp_path / "away", image)


def test_nobody_waits_for_another_image(make_server, image, tmp_path, slow_disk):
    """Which takes as long to be opened as its disk likes: stations of one that is open
    come in meanwhile."""
    slow = tmp_path / "image-slow"
    slow.write_bytes(b"o" * 4096)
    server = make_server(config="[generic]\nport = {port}\nlistenaddr = 127.0.0.1\n"
                         f"statedir = {tmp_path}/state\ncontrolsock = {tmp_path}/sock\n"
                         f"[lab]\nexportname = {image}\nreadonly = true\n", env=slow_disk.env)
    with open(server.config_path, "a") as config:
        config.write(f"[other]\nexportname = {slow}\nreadonly = true\n")
    reload = threading.Thread(target=ask, args=("reload", f"--socket={tmp_path}/sock"))
    reload.start()
    slow_disk.reached()
    with Station(server, "lab", boot=None) as c:
        assert len(c.read(0, 4096)) == 4096
    slow_disk.open()
    reload.join()
    with Station(server, "other", boot=None) as c:
        assert c.read(0, 4096) == b"o" * 4096


def test_reload_looks_at_published_images(lab, image):
    """Without a client that comes: what is told is true, the old file may go."""
    server = lab(f"[lab]\nexportname = {image}\nreadonly = true\n")
    publish(image, b"n", 16 * MIB)
    assert len(deleted_files(server)) == 1
    ask("reload", server.sock)
    status, = json.loads(ask("status", server.sock, "--json"))["exports"]
    assert status["size"] == 16 * MIB and deleted_files(server) == []
    image.rename(f"{image}.away")
    ask("reload", server.sock)
    server.wait_log("the image that was there last is kept")
    with Station(server, "lab", boot=None) as c:
        assert c.read(0, 4096) == b"n" * 4096
