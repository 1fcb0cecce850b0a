# SPDX-License-Identifier: GPL-2.0
"""nbd-client -l against real servers, and against what is no server."""
import shutil
import socket
import subprocess
import tempfile
import threading
import time

import pytest
from harness.ports import free_port


@pytest.fixture
def listener():
    """listener(bytes, close=True): a TCP port whose callers get these bytes."""
    sockets = []

    def listen(data, close=True):
        server = socket.create_server(("127.0.0.1", 0))
        sockets.append(server)

        def serve():
            while True:
                try:
                    peer, _ = server.accept()
                except OSError:
                    return
                sockets.append(peer)
                try:
                    peer.sendall(data)
                    if close:
                        peer.shutdown(socket.SHUT_WR)
                except OSError:
                    pass    # the client has seen enough

        threading.Thread(target=serve, daemon=True).start()
        return str(server.getsockname()[1])

    yield listen
    for s in sockets:
        s.close()


def test_our_server(each, make_server, tmp_path):
    config = "[generic]\nport = {port}\nallowlist = true\n"
    for name in ("lab", "kiosk"):
        (tmp_path / name).write_bytes(bytes(1 << 20))
        config += f"[{name}]\nexportname = {tmp_path / name}\n"
    server = make_server(config=config)
    result = each.run("-l", "127.0.0.1", str(server.port))
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.split() == ["lab", "kiosk"]


def test_unix_socket(each, make_server, tmp_path):
    """The longest path there can be, too."""
    (tmp_path / "lab").write_bytes(bytes(1 << 20))
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        path = f"{short}/".ljust(107, "s")
        make_server(config="[generic]\nport = {port}\nallowlist = true\n"
                           f"unixsock = {path}\nduallisten = true\n[lab]\nexportname = {tmp_path / 'lab'}\n")
        for args in (("-l", "-u", path), (f"-unix={path}", "-l"), (f"-u{path}", "-l")):
            result = each.run(*args)
            assert (result.returncode, result.stdout, result.stderr) == (0, "lab\n", "")
        nobody = socket.socket(socket.AF_UNIX)
        nobody.bind(f"{short}/nobody")
        for name, why in (("none", "no such file"), ("nobody", "connection refused")):
            result = each.run("-l", "-u", f"{short}/{name}")
            assert (result.returncode, result.stderr) == (5, f"nbd-client: unix:{short}/{name}: {why}\n")
        nobody.close()


@pytest.mark.skipif(not shutil.which("nbdkit"), reason="nbdkit is not installed")
def test_nbdkit(each, tmp_path):
    port = free_port()
    pidfile = tmp_path / "pid"
    nbdkit = subprocess.Popen(["nbdkit", "-f", "-P", pidfile, "-i", "127.0.0.1", "-p", str(port),
                               "ondemand", f"dir={tmp_path}", "size=1M"])
    try:
        while not pidfile.exists():
            assert nbdkit.poll() is None
            time.sleep(0.02)
        result = each.run("-l", "localhost", str(port))
        # A name that is in no /etc/hosts here, and no nameserver is known.
        assert result.returncode == 5 and "no nameserver" in result.stderr
        each.write("etc/hosts", "127.0.0.1 localhost\n")
        result = each.run("-l", "localhost", str(port))
        assert (result.returncode, result.stdout) == (0, '""\n' "pid\n")
    finally:
        nbdkit.terminate()
        nbdkit.wait()


def test_nothing_listens(each):
    port = str(free_port())
    result = each.run("-l", "127.0.0.1", port)
    assert (result.returncode, result.stdout) == (5, "")
    assert result.stderr == f"nbd-client: 127.0.0.1:{port}: connection refused; " \
        "start the NBD server there, or correct the port\n"


def test_not_nbd(each, listener):
    result = each.run("-l", "127.0.0.1", listener(b"SSH-2.0-OpenSSH_9.2p1 Debian\r\n"))
    assert result.returncode == 5
    assert "not an NBD server" in result.stderr


def test_closes_at_once(each, listener):
    result = each.run("-l", "127.0.0.1", listener(b""))
    assert result.returncode == 5
    assert "closed the connection before its greeting" in result.stderr


def test_silent(client, listener):
    begin = time.monotonic()
    result = client.run("-l", "127.0.0.1", listener(b"NBDMAGIC", close=False))
    assert result.returncode == 5 and "timed out" in result.stderr
    assert 4 < time.monotonic() - begin < 40    # STEP_MS, not TOTAL_MS


def test_attach_to_a_silent_one(each, listener):
    """By the kernel's own driver, for which the client itself negotiates."""
    each.write("sys/module/nbd/initstate", "live\n")
    port = listener(b"NBDMAGIC", close=False)
    result = each.run("127.0.0.1", port, "nbd0")
    assert result.stderr == f"nbd-client: 127.0.0.1:{port}: connected, but silent (timed out); " \
        "is it an NBD server, and is it well?\n"
    assert result.returncode == 5


def test_a_byte_a_second(client):
    """Each byte comes in time, the whole never: there is an end to that too."""
    server = socket.create_server(("127.0.0.1", 0))

    def drip():
        peer, _ = server.accept()
        try:
            for byte in b"NBDMAGICIHAVEOPT" * 3:
                peer.send(bytes([byte]))
                time.sleep(1)
        except OSError:
            pass

    threading.Thread(target=drip, daemon=True).start()
    result = client.run("-l", "127.0.0.1", str(server.getsockname()[1]))
    server.close()
    assert result.returncode == 5 and "timed out" in result.stderr


def test_escapes_in_names(client, listener):
    name = b"a\x1b[2Jb\nc"
    data = (b"NBDMAGICIHAVEOPT\0\3" +
            b"\x00\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\3\0\0\0\2" +
            (len(name) + 7).to_bytes(4, "big") + len(name).to_bytes(4, "big") + name + b"\x1b]0" +
            b"\x00\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\3\0\0\0\1\0\0\0\0")
    result = client.run("-l", "127.0.0.1", listener(data))
    assert (result.returncode, result.stdout) == (0, "a?[2Jb?c\t?]0\n")
