# SPDX-License-Identifier: GPL-2.0
"""A second choice: where nb.ko cannot be loaded the kernel's own nbd carries the
root, and the client stays behind to connect it again; where the first server is
down, the second serves."""
import shutil
import signal

from harness.guest import make_initramfs, put_program
from harness.images import clean_filesystem
from harness.kernel import BUILD, TOP
from harness.server import free_port
from harness.station import HOST


def connected_again(station, server):
    """How often the client says so. The root may go on before it has said it."""
    said = f"dmesg | grep -c 'connected again to {server}'"
    return station.run(f"until {said} >/dev/null; do sleep 0.2; done; {said}")


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
    assert connected_again(station, "10.0.2.2") == "1"
    assert "I/O error" not in station.console
    station.poweroff()
    clean_filesystem(root_image)


def test_server_that_hangs(make_server, root_image, make_station):
    """It still accepts connections and says nothing on them. That may end: the
    client goes on until it does."""
    server = make_server(root_image)
    station = make_station(nbdroot=f"{HOST}:{server.port}", append="module_blacklist=nb")
    station.wait_for_root()
    station.run("echo before >/root/file; sync")
    server.process.send_signal(signal.SIGSTOP)
    try:
        station.send("echo after >>/root/file; sync; echo it is writt''en\n")
        # the driver's timeout, and then the client's own
        station.expect("connection is lost; connecting again", 60)
        station.expect(r"still not connected: connected, but silent", 120)
    finally:
        server.process.send_signal(signal.SIGCONT)
    station.expect("connected again to", 60)
    station.expect("it is written", 150)
    assert station.run("cat /root/file").split() == ["before", "after"]
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


def test_over_a_unix_socket(kernel, make_station, tmp_path):
    """The kernel's own driver is handed one, and the client that stays connects it
    again: a server and its station on one machine."""
    extra = tmp_path / "extra"
    shutil.copytree(TOP / "tests/kmod/rig", extra)
    put_program(extra, BUILD / "server/nbd-server")
    station = make_station(initramfs=make_initramfs(kernel, extra, tmp_path / "unix.img"), root=None)
    station.expect("the rig is up", 150)
    station.expect(r"station:\S*# ")
    station.run("modprobe nbd; dd if=/dev/zero of=/run/image bs=1M count=16 2>/dev/null; cd /run; "
                r"printf '[generic]\nunixsock=/run/nbd.sock\nallowlist=true\n[lab]\nexportname=/run/image\n' >config")
    serve = ("nbd-server -n -C /run/config >/run/log 2>&1 & server=$!; "
             "until grep -q 'listening on' /run/log; do sleep 0.1; done")

    assert station.run("nbd-client -u /run/nbd.sock nbd0 -N lab 2>&1", check=False) == \
        ("nbd-client: unix:/run/nbd.sock: no such file", 5)
    station.run(serve)
    said, status = station.run("nbd-client -N none -unix /run/nbd.sock nbd0 2>&1", check=False)
    assert 'unix:/run/nbd.sock: no export "none" (server offers: lab)' in said and status == 6
    said = station.run("nbd-client /dev/nbd0 -unix /run/nbd.sock -N lab 2>&1")
    assert '/dev/nbd0 is "lab" on unix:/run/nbd.sock, 16.0 MiB' in said
    station.run("echo before | dd of=/dev/nbd0 conv=fsync 2>/dev/null")
    station.run("kill -9 $server; wait $server; " + serve)
    station.run("echo after | dd of=/dev/nbd0 bs=512 seek=1 conv=fsync 2>/dev/null; "
                "echo 3 >/proc/sys/vm/drop_caches", timeout=150)
    assert station.run("dd if=/dev/nbd0 bs=512 count=2 2>/dev/null | tr -d '\\000'").split() == ["before", "after"]
    assert connected_again(station, "unix:/run/nbd.sock") == "1"

    # One that a detach finds asleep brings its server to nothing else afterwards.
    old = station.run("grep -l nbd-client /proc/[0-9]*/comm | cut -d/ -f3")
    station.run(f"kill -STOP {old}; nbd-client -d nbd0; dd if=/dev/zero of=/run/other bs=1M count=16 2>/dev/null; "
                "until ! nbd-client -c nbd0 >/dev/null; do sleep 0.1; done; "
                r"printf '[other]\nexportname=/run/other\n' >>config; kill -HUP $server; "
                "until nbd-client -l -u /run/nbd.sock | grep -q other; do sleep 0.1; done; "
                "nbd-client -u /run/nbd.sock nbd0 -N other 2>/dev/null")
    station.run(f"kill -CONT {old}; while [ -e /proc/{old} ]; do sleep 0.1; done")
    station.run("nbd-client -c nbd0 >/dev/null && nbd-client -d nbd0")
    station.run("while grep -q nbd-client /proc/[0-9]*/comm 2>/dev/null; do sleep 0.1; done")
    assert "I/O error" not in station.console
