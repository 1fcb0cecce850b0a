# SPDX-License-Identifier: GPL-2.0
"""A second choice: where nb.ko cannot be loaded the kernel's own nbd carries the
root, and the client stays behind to connect it again; where the first server is
down, the second serves."""
from harness.images import clean_filesystem
from harness.server import free_port
from harness.station import HOST


def test_without_our_driver(make_server, root_image, make_station):
    """The console says which driver it is and at what price; the server's
    restart is survived after switch_root, and so is what systemd does to every
    process at shutdown: SIGSTOP, then SIGCONT. All the while the first server is down."""
    server = make_server(root_image)
    station = make_station(nbdroot=f"{HOST}:{free_port()} nbdroot={HOST}:{server.port}",
                           append="module_blacklist=nb")
    station.expect(r"nbd-client: the driver nb for kernel \S+ does not load", 150)
    station.expect(r"nbd-client: /dev/nbd0 is the default export on 10\.0\.2\.2:" + f"{server.port}, 64")
    station.expect(r"nbd-client: warning: the root is on the kernel's own driver nbd, not on nb: "
                   "a process must live on")
    station.wait_for_root()
    assert station.run("readlink /dev/nb0") == "nbd0"
    # argv[0] begins with '@', for systemd; its memory is locked
    pid = station.run("for p in /proc/[0-9]*; do "
                      "case $(cat $p/cmdline 2>/dev/null) in @*) echo ${p#/proc/};; esac; done")
    assert pid.isdigit(), pid
    assert int(station.run(f"sed -n 's/VmLck:[^0-9]*\\([0-9]*\\) kB/\\1/p' /proc/{pid}/status")) > 0

    station.run(f"echo before >/root/file; sync; kill -STOP {pid}")
    server.kill9()
    server.restart()
    station.run(f"kill -CONT {pid}")
    station.run("echo 3 >/proc/sys/vm/drop_caches; echo after >>/root/file; sync", timeout=150)
    assert station.run("cat /root/file").split() == ["before", "after"]
    assert station.run("dmesg | grep -c 'connected again to 10.0.2.2'") == "1"
    assert "I/O error" not in station.console
    station.poweroff()
    clean_filesystem(root_image)


def test_an_overlay_without_our_driver(make_server, root_image, make_station):
    before = root_image.read_bytes()
    server = make_server(root_image)
    station = make_station(nbdroot=f"{HOST}:{server.port},overlay=tmpfs:16m,prefetch=256",
                           append="module_blacklist=nb rw")
    station.wait_for_root()
    assert station.run("findmnt /").split()[2] == "overlay"
    assert station.run("cat /sys/block/nbd0/ro /sys/block/nbd0/queue/read_ahead_kb").split() == ["1", "256"]
    station.run("echo here > /root/file; sync")
    station.poweroff()
    assert root_image.read_bytes() == before


def test_first_server_is_down(make_server, root_image, make_station):
    """The second one is taken, with the options that were said."""
    down = free_port()
    server = make_server(root_image)
    station = make_station(nbdroot=f"{HOST}:{down} nbdroot={HOST}:{server.port},lost=600")
    station.wait_for_root()
    assert station.run("cat /sys/block/nb0/nb/server") == f"{HOST}:{server.port}"
    assert station.run("cat /sys/block/nb0/nb/servers").split() == [f"{HOST}:{down}", f"{HOST}:{server.port}"]
    station.poweroff()
