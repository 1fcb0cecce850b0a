# SPDX-License-Identifier: GPL-2.0
"""Starting, going to the background, being killed, stopping, and what it says."""
import fcntl
import os
import signal
import socket
import struct
import subprocess
import threading
import time

import pytest

from harness import wire
from harness.patience import granted, until
from harness.server import Server, ServerError, binary, free_port
from raw import MIB, Closed, Raw, check_serves, request

READ, WRITE, FLUSH = wire.NBD_CMD_READ, wire.NBD_CMD_WRITE, wire.NBD_CMD_FLUSH


def run(*argv, cwd=None, timeout=30):
    """(status, standard error) of an nbd-server that is to end by itself."""
    done = subprocess.run([binary(), *map(str, argv)], stdin=subprocess.DEVNULL, text=True, cwd=cwd,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=granted(timeout))
    return done.returncode, done.stderr


class Background:
    """What a Server needs to be for check_serves(), of a daemon."""

    address = "127.0.0.1"

    def __init__(self, tmp_path, *argv):
        self.pidfile = tmp_path / "pid"
        self.port = free_port()
        self.status, self.err = run("-p", "pid", f"127.0.0.1@{self.port}", *argv, cwd=tmp_path)

    @property
    def pid(self):
        return int(self.pidfile.read_text())

    def alive(self):
        """Not a zombie either: in a container nobody may care to reap it."""
        try:
            stat = open(f"/proc/{self.pid}/stat").read()
        except FileNotFoundError:
            return False
        return stat.rsplit(")", 1)[1].split()[0] != "Z"

    def end(self):
        os.kill(self.pid, signal.SIGTERM)
        until(lambda: not self.alive())
        assert not self.pidfile.exists()


# -- background ------------------------------------------------------------

def test_background(image, tmp_path):
    """When the command returns, it serves; when it ends, its pidfile goes."""
    server = Background(tmp_path, image)
    try:
        assert server.status == 0, server.err
        check_serves(server)
        stat = open(f"/proc/{server.pid}/stat").read().rsplit(")", 1)[1].split()
        assert int(stat[3]) == server.pid, "not a session of its own"
        assert os.readlink(f"/proc/{server.pid}/cwd") == "/"
        for fd in (0, 1, 2):
            assert os.readlink(f"/proc/{server.pid}/fd/{fd}") == "/dev/null"
    finally:
        server.end()


def test_background_is_not_kept_by_sockets_of_another(image, tmp_path, monkeypatch):
    """What systemd said to the shell that it is started from is not for it."""
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", "1")
    server = Background(tmp_path, image)
    try:
        assert server.status == 0, server.err
        check_serves(server)
    finally:
        server.end()


@pytest.mark.parametrize("name", ["image", "./image", "folder/image"])
def test_background_finds_what_replaces_the_image(image, tmp_path, name):
    """Named from the directory that the server was started in, and has left; a
    folder may be a link that is turned."""
    (tmp_path / "folder").symlink_to(".")
    server = Background(tmp_path, "-r", name)
    try:
        assert server.status == 0, server.err
        (tmp_path / "newer").mkdir()
        (tmp_path / "newer" / "image").write_bytes(b"n" * MIB)
        if name == "folder/image":
            (tmp_path / "turned").symlink_to("newer")
            os.rename(tmp_path / "turned", tmp_path / "folder")
        else:
            os.rename(tmp_path / "newer" / "image", image)
        with Raw(server).go() as c:
            assert c.read(0, 4096) == b"n" * 4096
    finally:
        server.end()


def test_a_signal_as_soon_as_there_is_a_pidfile(image, tmp_path):
    """Whoever finds the process id in it may use it: SIGHUP, then SIGTERM, are no
    sudden death."""
    config, pidfile = tmp_path / "config", tmp_path / "pid"
    user = "user = nobody\n" if os.geteuid() == 0 else ""      # giving up privileges takes a moment, too
    config.write_text(f"[generic]\nport = {free_port()}\nlistenaddr = 127.0.0.1\n{user}"
                      f"[a]\nexportname = {image}\nreadonly = true\n")
    for _ in range(20):
        pidfile.unlink(missing_ok=True)
        server = subprocess.Popen([binary(), "-n", "-p", pidfile, "-C", config], stdin=subprocess.DEVNULL,
                                  stderr=subprocess.PIPE, text=True)
        until(lambda: server.poll() is not None or pidfile.exists() and pidfile.read_text(), every=0)
        server.send_signal(signal.SIGHUP)
        server.send_signal(signal.SIGTERM)
        said = server.communicate(timeout=granted(20))[1]
        assert server.returncode == 0 and "SIGHUP: " in said, said


def test_background_releases_the_pipes_of_its_caller(image, tmp_path):
    """`out=$(nbd-server ...)` returns."""
    port = free_port()
    done = subprocess.run(["sh", "-c", f"out=$({binary()} -p {tmp_path}/pid {port} {image} 2>&1); echo \"$out\""],
                          timeout=granted(20), stdout=subprocess.PIPE, text=True)
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGTERM)
    assert "listening on" in done.stdout


def test_port_in_use(image, tmp_path):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        port = s.getsockname()[1]
        for options in ([], ["-n"]):
            status, err = run(*options, "-p", tmp_path / "pid", f"127.0.0.1@{port}", image)
            assert status == 1
            assert f"nbd-server: 127.0.0.1 port {port}: Address already in use; another server has it" in err
            assert not (tmp_path / "pid").exists()
        status, err = run(port, image)
        assert status == 1 and f"nbd-server: port {port}: Address already in use" in err


def test_one_of_two_addresses_taken(image, tmp_path):
    """All or nothing."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        port = s.getsockname()[1]
        config = tmp_path / "config"
        config.write_text(f"[generic]\nport={port}\nlistenaddr=127.0.0.2, 127.0.0.1\n[a]\nexportname={image}\n")
        status, err = run("-C", config)
        assert status == 1 and "Address already in use" in err
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", port), granted(5))


@pytest.mark.parametrize("argv,says", [
    (["{port}"], "no FILE after the port"),
    (["0", "{image}"], "port 0"),
    (["65536", "{image}"], '"65536" is not a port'),
    (["-1", "{image}"], '"-1" is not an option'),
    (["nbd", "{image}"], '"nbd" is not a port'),
    (["{port}", "{image}", "0"], '"0" is not a size'),
    (["{port}", "{image}", "1x"], '"1x" is not a size'),
    (["{port}", "{image}", "9999999999999999999999"], "is not a size"),
    (["{port}", "{image}", "1m", "more"], '"more" is one word too many'),
    (["-z", "{port}", "{image}"], '"-z" is not an option'),
    (["{port}", "{image}", "-C"], "-C needs the name of a file"),
    (["@{port}", "{image}"], "no address before the @"),
    (["[::1@{port}", "{image}"], "write an IPv6 address as"),
    (["192.0.2.77@{port}", "{image}"], "this machine does not have that address"),
    (["no such host@{port}", "{image}"], "listen address"),
    (["{port}", "/nonexistent/image"], "No such file or directory"),
    (["{port}", "/dev/null"], "not a regular file or a block device"),
    (["{port}", "/tmp"], "Is a directory"),
    (["-r", "{port}", "/tmp"], "not a regular file or a block device"),
    (["{port}", "{image}", "1g"], "has 33554432 bytes, fewer than the 1073741824 to be served"),
    (["{port}", "{empty}"], "is empty"),
    (["{port}", "{fifo}"], "not a regular file"),
    (["-p", "/nonexistent/pid", "{port}", "{image}"], "cannot write the process id there"),
    (["-C", "/nonexistent/config"], "/nonexistent/config: No such file"),
])
def test_wrong_command_lines(image, tmp_path, argv, says):
    empty, fifo = tmp_path / "empty", tmp_path / "fifo"
    empty.touch()
    os.mkfifo(fifo)
    port = free_port()
    argv = [a.format(port=port, image=image, empty=empty, fifo=fifo) for a in argv]
    status, err = run(*argv)
    assert status == 1 and says in err and err.startswith("nbd-server: "), err
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), granted(5))


def test_no_arguments_shows_examples():
    status, err = run()
    assert status == 1 and "Usage: nbd-server" in err and "Examples:" in err


def test_help_and_version():
    for option, word in (("-h", "Examples:"), ("-V", "nbd-server (nbdroot)")):
        done = subprocess.run([binary(), option], stdout=subprocess.PIPE, text=True, timeout=granted(10))
        assert done.returncode == 0 and word in done.stdout
        assert option != "-h" or all(verb in done.stdout for verb in ("status", "top", "reload", "drain", "overlays"))


def test_options_after_the_words(image, make_server):
    server = Server(image)
    server.command = lambda: [binary(), f"127.0.0.1@{server.port}", str(image), "-r", "-n"]
    with server, Raw(server) as c:
        c.go()
        assert c.flags & wire.NBD_FLAG_READ_ONLY


def ipv6():
    """Has this machine any?"""
    try:
        with socket.socket(socket.AF_INET6) as s:
            s.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.parametrize("host,connect", [(None, "127.0.0.1"), ("127.0.0.1", "127.0.0.1")]
                         + ([(None, "::1"), ("::1", "::1")] if ipv6() else []))
def test_addresses(make_server, image, host, connect):
    server = make_server(image, host=host)
    server.host = connect
    check_serves(server)
    where = f"[{connect}]:" if ":" in connect else f"{connect}:"
    server.wait_log(f'nbd-server: {where}')


# -- images ----------------------------------------------------------------

def test_image_has_one_writer(make_server, image):
    make_server(image)
    for options in ([], ["-r"]):
        status, err = run("-n", *options, free_port(), image)
        assert status == 1 and f"{image}: in use by another process" in err


def test_image_has_many_readers(make_server, image):
    for _ in range(3):
        check_serves(make_server(image, options=["-r"]))
    status, err = run("-n", free_port(), image)
    assert status == 1 and "in use by another process" in err


def test_restart_waits_for_the_lock_of_the_dead(image, make_server, tmp_path):
    """A lock that goes within seconds is waited for."""
    with open(image) as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        server = Server(image)
        threading.Timer(1.5, lambda: fcntl.flock(f, fcntl.LOCK_UN)).start()
        with server:
            check_serves(server)


def test_image_we_may_only_read(make_server, image):
    image.chmod(0o444)
    argv = ["setpriv", "--reuid=65534", "--clear-groups"] if os.geteuid() == 0 else []
    os.chmod(image.parent, 0o755)
    done = subprocess.run(argv + [binary(), "-n", str(free_port()), str(image)], text=True, timeout=granted(20),
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 1 and "Permission denied" in done.stdout


@pytest.fixture
def loop_device(image):
    """`image` as a block device of this machine."""
    done = subprocess.run(["losetup", "--find", "--show", str(image)], text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        pytest.skip(f"no loop device to be had: {done.stdout.strip()}")
    device = done.stdout.strip()
    yield device
    subprocess.run(["losetup", "--detach", device], check=True)


def test_block_device(make_server, image, content, loop_device):
    server = make_server(loop_device)
    with Raw(server) as c:
        c.go()
        assert c.size == len(content)
        assert c.read(0, 32 * MIB) == content
        assert c.write(5, b"12345", wire.NBD_CMD_FLAG_FUA) == 0
        assert c.simple(wire.NBD_CMD_WRITE_ZEROES, MIB + 5, 3 * MIB) == 0
        assert c.simple(wire.NBD_CMD_WRITE_ZEROES, 100, 7, wire.NBD_CMD_FLAG_NO_HOLE) == 0
        assert c.simple(wire.NBD_CMD_TRIM, 8 * MIB + 3, MIB) == 0
        want = bytearray(content)
        want[5:10] = b"12345"
        want[100:107] = bytes(7)
        want[MIB + 5:4 * MIB + 5] = bytes(3 * MIB)
        assert c.read(0, 8 * MIB) == bytes(want[:8 * MIB])
        assert c.read(9 * MIB + 3, MIB) == content[9 * MIB + 3:10 * MIB + 3]
        assert c.flush() == 0
        c.disconnect()
    status, err = run("-n", free_port(), loop_device)
    assert status == 1 and "in use" in err


# -- death -----------------------------------------------------------------

def test_killed_and_started_again_at_once(make_server, image):
    """The same port is free at once, and what was answered is there."""
    server = make_server(image)
    for i in range(5):
        with Raw(server) as c:
            c.go()
            assert c.write(i * MIB, bytes([i + 65]) * MIB) == 0
            idle = Raw(server).go()
            server.kill9()
            server.restart()
            with pytest.raises((Closed, AssertionError)):
                idle.read(0, 1)
        with Raw(server) as c:
            c.go()
            for k in range(i + 1):
                assert c.read(k * MIB, MIB) == bytes([k + 65]) * MIB


def test_killed_under_load(make_server, image):
    """Every write that was answered before the kill is in the image."""
    server = make_server(image)
    with Raw(server) as c:
        c.go()
        n, answered = 2000, set()
        c.send(b"".join(request(WRITE, i * 4096, 4096, cookie=i, payload=b"%8d" % i * 512)
                        for i in range(n // 2)))
        for _ in range(n // 4):
            error, cookie = c.reply()
            assert error == 0
            answered.add(cookie)
        server.kill9()
        try:
            while True:
                answered.add(c.reply()[1])
        except Closed:
            pass
    server.restart()
    with Raw(server) as c:
        c.go()
        for i in answered:
            assert c.read(i * 4096, 4096) == b"%8d" % i * 512


def test_stop_finishes_what_is_in_flight(make_server, image):
    """Requests that had come are answered after SIGTERM; none is half done."""
    server = make_server(image)
    idle, half, silent = Raw(server).go(), Raw(server).go(), Raw(server)
    half.send(request(WRITE, 0, 8 * MIB, payload=b"h" * 3 * MIB))
    with Raw(server) as c:
        c.go()
        c.send(b"".join(request(WRITE, 16 * MIB + i * 4096, 4096, wire.NBD_CMD_FLAG_FUA, i, payload=b"s" * 4096)
                        for i in range(100)))
        c.reply()
        server.process.send_signal(signal.SIGTERM)
        answered = 1
        try:
            while True:
                assert c.reply()[0] == 0
                answered += 1
        except Closed:
            pass
        assert idle.closed() and half.closed() and silent.closed()
    # Not stop(): a second signal would be taken for impatience.
    assert server.process.wait(granted(20)) == 0
    data = image.read_bytes()[16 * MIB:]
    for i in range(answered):
        assert data[i * 4096:(i + 1) * 4096] == b"s" * 4096
    log = server.log()
    assert "Terminated: stopping" in log and log.rstrip().endswith("stopped")


def test_stop_says_so_to_who_understands(make_server, image, content):
    """While its last answers leave, a client with structured replies is told
    that the server ends; one that the kernel may be is only hung up on."""
    server = make_server(image)
    c = Raw(server, rcvbuf=4096, timeout=60).structured()
    c.asked = 0
    c.request(READ, 0, 12 * MIB, cookie=1)
    c.request(READ, 0, 12 * MIB, cookie=3)
    length, error = len(c.chunk()[3]) - 8, None     # it is at it
    others = [Raw(server).go() for _ in range(2 * os.cpu_count())]
    c.request(READ, 0, 512, cookie=2)
    server.process.send_signal(signal.SIGTERM)
    assert all(other.closed() for other in others)
    hurry(c)
    while length < 24 * MIB or error is None:
        flags, kind, cookie, payload = c.chunk()
        if cookie != 2:
            assert kind == wire.NBD_REPLY_TYPE_OFFSET_DATA
            length += len(payload) - 8
        else:
            assert kind == wire.NBD_REPLY_TYPE_ERROR and flags == wire.NBD_REPLY_FLAG_DONE
            error = payload
    assert error[:4] == struct.pack(">I", wire.NBD_ESHUTDOWN) and b"shutting down" in error
    assert c.closed()
    assert server.process.wait(granted(20)) == 0


def hurry(c):
    """The server waits 5 s for its last answers to be taken, no longer: a client
    that was slow until it had to be takes the rest in large pieces."""
    c.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * MIB)
    return 0


@pytest.mark.parametrize("structured", [False, True])
def test_stop_loses_no_answer_that_is_on_its_way(make_server, image, content, structured):
    """An answer may be all in the server's socket when it stops, and more
    requests after it: they must not cost the client the answer."""
    server = make_server(image)
    c = Raw(server, rcvbuf=4096, timeout=60)
    c = c.structured() if structured else c.go()
    c.request(READ, 0, 12 * MIB, cookie=1)
    got, reset = bytearray(c.recv(8 * MIB)), False  # it is at it
    server.process.send_signal(signal.SIGTERM)
    server.wait_log("stopping")
    time.sleep(0.1)
    c.send(request(READ, 0, 512, cookie=2))
    slow = time.monotonic() + 0.5   # the server is done long before we are
    try:
        while part := c.sock.recv(MIB):
            got += part
            if time.monotonic() < slow:
                time.sleep(0.001)
            elif slow:
                slow = hurry(c)
    except ConnectionResetError:
        reset = True
    assert bytes(got[16:]).find(content[:12 * MIB]) >= 0, (len(got), reset)
    if structured:
        assert b"shutting down" in got[12 * MIB:]
    assert server.process.wait(granted(20)) == 0


def test_stop_does_not_wait_for_ever(make_server, image):
    """A client that takes no answers holds it up for some seconds only."""
    server = make_server(image)
    c = Raw(server, rcvbuf=4096).go()
    c.send(b"".join(request(READ, 0, 30 * MIB, cookie=i) for i in range(3)))
    c.reply()       # it is at it
    start = time.monotonic()
    server.stop()
    assert time.monotonic() - start > 3
    assert "does not take its answers" in server.log()
    c.close()


def test_stop_waits_for_the_disk(make_server, image, slow_disk):
    """However long that takes: 5 s are what a client has, who can do nothing for it."""
    server = make_server(image, env=slow_disk.env)
    with Raw(server) as c, Raw(server) as other:
        c.go()
        other.structured()
        assert c.write(0, b"w" * 4096) == 0
        c.request(FLUSH, cookie=5)
        slow_disk.reached()
        other.asked = 0
        other.request(FLUSH, cookie=6)
        server.process.send_signal(signal.SIGTERM)
        server.wait_log("stopping")
        time.sleep(6.5)
        slow_disk.open()
        assert c.reply() == (0, 5) and c.closed()
        # It may have come too late to be begun.
        (_, kind, cookie, _), end = other.chunk(), other.closed()
        assert cookie == 6 and kind in (wire.NBD_REPLY_TYPE_NONE, wire.NBD_REPLY_TYPE_ERROR) and end
    assert server.process.wait(granted(20)) == 0
    assert "does not take its answers" not in server.log() and server.log().rstrip().endswith("stopped")


def test_it_hangs_up_when_nothing_is_under_way(make_server, image, slow_disk):
    """A driver that sees its connection end may take the write to another one at once:
    whatever the server has in hand must be done by then."""
    server = make_server(image, env=slow_disk.env)
    with Raw(server) as c:
        c.go()
        assert c.write(0, b"w" * 4096) == 0
        c.request(FLUSH)
        slow_disk.reached()
        c.send(b"rubbish" * 100)
        server.wait_log("magic")
        c.sock.settimeout(1)
        with pytest.raises(socket.timeout):
            c.sock.recv(1)
        slow_disk.open()
        assert c.closed()


def test_second_signal_ends_it_at_once(make_server, image):
    server = make_server(image)
    c = Raw(server, rcvbuf=4096).go()
    c.send(b"".join(request(READ, 0, 30 * MIB, cookie=i) for i in range(3)))
    c.reply()       # it is at it
    server.process.send_signal(signal.SIGTERM)
    server.wait_log("stopping")
    time.sleep(0.2)
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(granted(10)) == 1
    c.close()


@pytest.mark.parametrize("name", ["SIGHUP", "SIGUSR1", "SIGUSR2"])
def test_signals_that_end_nothing_while_stopping(make_server, image, slow_disk, name):
    """The flush that is under way is answered, and the last sync done."""
    server = make_server(image, env=slow_disk.env)
    with Raw(server) as c:
        c.go()
        assert c.write(0, b"w" * 4096) == 0
        c.request(FLUSH, cookie=5)
        slow_disk.reached()
        server.process.send_signal(signal.SIGTERM)
        server.wait_log("stopping")
        for _ in range(5):
            server.process.send_signal(getattr(signal, name))
            time.sleep(0.02)
        slow_disk.open()
        assert c.reply() == (0, 5) and c.closed()
    assert server.process.wait(granted(20)) == 0 and server.log().rstrip().endswith("stopped")


@pytest.mark.parametrize("name", ["SIGHUP", "SIGUSR1", "SIGUSR2"])
def test_signals_that_end_nothing_while_starting(image, name):
    """As long as it waits for the image's lock, for example."""
    server = Server(image)
    with open(image) as f:
        fcntl.flock(f, fcntl.LOCK_EX)

        def disturb():
            until(lambda: server.process and waits_for_lock(server))
            server.process.send_signal(getattr(signal, name))
            time.sleep(0.05)
            fcntl.flock(f, fcntl.LOCK_UN)

        thread = threading.Thread(target=disturb)
        thread.start()
        with server:
            thread.join()
            server.wait_log("SIGHUP: " if name == "SIGHUP" else "means nothing here")
            check_serves(server)


def waits_for_lock(server):
    """Has it opened the image, and is not at work yet?"""
    folder = f"/proc/{server.pid}/fd"
    try:
        return any(os.readlink(f"{folder}/{fd}") == str(server.image) for fd in os.listdir(folder))
    except OSError:
        return False


def test_hangup_signal_changes_nothing(make_server, image):
    server = make_server(image)
    with Raw(server) as c:
        c.go()
        for _ in range(50):
            server.process.send_signal(signal.SIGHUP)
        assert c.flush() == 0
    server.wait_log("SIGHUP")


# -- what it says ----------------------------------------------------------

def test_log_of_a_visit(make_server, image):
    """Two lines a station: peer, export, its name, what it is, how it ended."""
    server = make_server(image)
    with Raw(server) as c:
        port = c.sock.getsockname()[1]
        c.go()
        c.disconnect()
    server.stop()
    lines = [line for line in server.log().splitlines() if f"127.0.0.1:{port}" in line]
    assert lines == [
        f'nbd-server: 127.0.0.1:{port}: export "", station 127.0.0.1: in use, 32 MiB, read-write',
        f'nbd-server: 127.0.0.1:{port}: export "", station 127.0.0.1: disconnected',
    ]


def test_strangers_do_not_silence_the_stations(make_server, image):
    """However many lines they make in a second: those of stations are all there."""
    server = make_server(config=f"[generic]\nport = {{port}}\nlistenaddr = 127.0.0.1\n"
                                f"[lab]\nexportname = {image}\nreadonly = true\noverlay = none\n")
    held = []
    for i in range(100):
        for _ in range(10):
            with Raw(server) as bad:
                bad.send(b"x" * 100)
                assert bad.closed()
        held.append(Raw(server).go(b"lab"))
    # More than the limit for strangers within one second, if need be by and by.
    until(lambda: "lines about clients were not written" in server.log() or flood(server), what=server.log_tail)
    for c in held:
        c.disconnect()
    for _ in range(400):
        c = Raw(server).go(b"lab")
        c.disconnect()
    server.stop()
    lines = server.log().splitlines()
    assert sum(": in use, " in line for line in lines) == 500
    assert sum(line.endswith('export "lab", station 127.0.0.1: disconnected') for line in lines) == 500
    assert "about stations were not written" not in server.log()


def flood(server):
    """300 refused at once, in one second or two."""
    strangers = [Raw(server) for _ in range(300)]
    for c in strangers:
        c.send(b"x" * 100)
    for c in strangers:
        assert c.closed()
        c.close()


def test_log_for_the_journal(make_server, image, tmp_path):
    """Under systemd each line carries its priority, sd-daemon(3)."""
    log = tmp_path / "journal"
    log.touch()
    stat = os.stat(log)
    server = make_server(image, log=log, env={"JOURNAL_STREAM": f"{stat.st_dev}:{stat.st_ino}"})
    assert server.log().startswith("<5>listening on")
    with Raw(server) as c:
        c.hello()
        c.send(b"x" * 100)
        assert c.closed()
    server.wait_log("<4>127.0.0.1:")
    server.stop()


def test_refusals_do_not_flood_the_log(make_server, image):
    server = make_server(image)
    with Raw(server, timeout=60) as c:
        c.go()
        c.send(b"".join(request(READ, 1 << 40, 512, cookie=i) for i in range(5000)))
        for _ in range(5000):
            assert c.reply()[0] == wire.NBD_EINVAL
    for _ in range(400):
        with Raw(server) as c:
            c.hello(flags=0xff)
    server.stop()
    log = server.log()
    assert log.count("beyond the end") == 16
    assert log.count("unknown client flags") <= 400


def test_debug_names_every_step(make_server, image):
    server = make_server(image, options=["-d"])
    with Raw(server) as c:
        c.go()
    server.wait_log("NBD_OPT_GO answered with NBD_REP_ACK")


def test_start_fails_with_its_words(image):
    with pytest.raises(ServerError, match="No such file"):
        Server(str(image) + "x").start()


def test_odd_size_is_told(make_server, image):
    server = make_server(image, "1000")
    server.wait_log('export "": 1000 bytes are no multiple of 512; a disk of a Linux station ends before the last 488')
    with Raw(server) as c:
        c.go()
        assert c.size == 1000 and len(c.read(999, 1)) == 1
