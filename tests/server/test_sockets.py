# SPDX-License-Identifier: GPL-2.0
"""Ways to reach a server other than TCP: a connection on standard input, and
sockets that somebody else has opened."""
import os
import signal
import socket
import subprocess

import nbd
import pytest

from harness.patience import granted
from harness.server import binary
from raw import Raw


class On(Raw):
    """On a socket that is connected."""

    def __init__(self, sock):
        self.sock = sock
        sock.settimeout(granted(20))


def wait(process, status=0):
    try:
        _, err = process.communicate(timeout=granted(30))
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    assert process.returncode == status, err
    return err


def test_standard_input(image, content):
    """One connection, then the end, with status 0 and nothing on the socket but the protocol."""
    ours, theirs = socket.socketpair()
    process = subprocess.Popen([binary(), "0", str(image)], stdin=theirs, stdout=theirs,
                               stderr=subprocess.PIPE, text=True)
    theirs.close()
    with On(ours) as c:
        c.go()
        assert c.read(5, 70000) == content[5:70005]
        assert c.write(0, b"abc") == 0 and c.flush() == 0
        c.disconnect()
    err = wait(process)
    assert "disconnected" in err
    assert image.read_bytes()[:3] == b"abc"


def test_inetd_has_one_socket_for_all(image, content):
    """Standard error is the connection too: not a word of the log may go there."""
    ours, theirs = socket.socketpair()
    process = subprocess.Popen([binary(), "-d", "0", str(image)], stdin=theirs, stdout=theirs, stderr=theirs)
    theirs.close()
    with On(ours) as c:
        c.go()
        assert c.read(0, 4096) == content[:4096]
        c.disconnect()
    assert process.wait(granted(30)) == 0


def test_prerun_that_prints(image, content, tmp_path):
    """Standard output, and for inetd standard error, is the connection: nothing
    of a program's gets there, and it has no input."""
    tool = tmp_path / "tool"
    tool.write_text("#!/bin/sh\necho hello\necho hello >&2\n! read line\n")
    tool.chmod(0o755)
    other = tmp_path / "other"
    other.write_bytes(b"o" * 512)
    config = tmp_path / "config"
    config.write_text(f"[a]\nexportname = {image}\nprerun = {tool}\n")
    ours, theirs = socket.socketpair()
    process = subprocess.Popen([binary(), "-C", config, "0", other], stdin=theirs, stdout=theirs, stderr=theirs)
    theirs.close()
    with On(ours) as c:
        c.go(b"a")
        assert c.read(0, 4096) == content[:4096]
        c.disconnect()
    assert process.wait(granted(30)) == 0


def test_standard_input_hangs_up(image):
    for say in (b"", b"\0\0\0\3", b"\0\0\0\3IHAVEOPT", b"junk" * 100):
        ours, theirs = socket.socketpair()
        process = subprocess.Popen([binary(), "0", str(image)], stdin=theirs, stdout=theirs,
                                   stderr=subprocess.PIPE, text=True)
        theirs.close()
        ours.sendall(say)
        ours.close()
        wait(process)


def test_standard_input_that_is_no_connection(image):
    done = subprocess.run([binary(), "0", str(image)], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE,
                          text=True, timeout=granted(30), check=False)
    assert done.returncode == 1
    assert "standard input is not a connection" in done.stderr


def test_libnbd_starts_it(image, content):
    for connect in ("connect_command", "connect_systemd_socket_activation"):
        h = nbd.NBD()
        getattr(h, connect)([binary(), "0" if connect == "connect_command" else "10809", str(image)])
        assert h.pread(4096, 4096) == content[4096:8192]
        h.shutdown()
        del h


@pytest.mark.parametrize("family", [socket.AF_UNIX, socket.AF_INET])
def test_inherited_socket(image, content, tmp_path, family):
    """What systemd does: descriptor 3 listens, LISTEN_PID is this process."""
    listener = socket.socket(family)
    listener.bind(str(tmp_path / "socket") if family == socket.AF_UNIX else ("127.0.0.1", 0))
    listener.listen()

    def inherit():
        os.dup2(listener.fileno(), 3)
        os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
        os.execv(binary(), [binary(), "10809", str(image)])

    pid = os.fork()
    if not pid:
        try:
            inherit()
        finally:
            os._exit(70)
    try:
        for _ in range(2):
            sock = socket.socket(family)
            sock.connect(listener.getsockname())
            with On(sock) as c:
                c.go()
                assert c.read(0, 4096) == content[:4096]
                c.disconnect()
    finally:
        os.kill(pid, signal.SIGTERM)
        _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    if family == socket.AF_UNIX:
        assert (tmp_path / "socket").exists(), "it is not ours to remove"


def test_inherited_nonsense_is_refused(image):
    script = 'exec 3</dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" 10809 "$1"'
    done = subprocess.run(["sh", "-c", script, binary(), str(image)], stderr=subprocess.PIPE,
                          text=True, timeout=granted(30), check=False)
    assert done.returncode == 1 and "inherited descriptor 3" in done.stderr


def test_unix_socket_of_the_configuration(make_server, image, content, tmp_path):
    """Beside TCP; a dead server's name is taken over, a living one's is not."""
    path = tmp_path / "nbd.sock"
    config = (f"[generic]\nport={{port}}\nlistenaddr=127.0.0.1\nunixsock={path}\nduallisten=true\n"
              f"[lab]\nexportname={image}\nreadonly=true\n")
    server = make_server(None, config=config)
    server.kill9()
    assert path.exists()
    server.start()
    for _ in range(2):
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(path))
        with On(sock) as c:
            c.go(b"lab")
            assert c.read(0, 4096) == content[:4096]
            c.disconnect()
    with Raw(server) as c:
        c.go(b"lab")
    other = subprocess.run([binary(), "-n", "-C", str(server.config_path)], stderr=subprocess.PIPE,
                           text=True, timeout=granted(30), check=False)
    assert other.returncode == 1 and str(path) in other.stderr
    server.stop()
    assert not path.exists()


def test_unix_socket_that_is_another_servers_by_now(make_server, image, content, tmp_path):
    """Its name stays where it is."""
    path = tmp_path / "nbd.sock"
    config = (f"[generic]\nport={{port}}\nlistenaddr=127.0.0.1\nunixsock={path}\nduallisten=true\n"
              f"[lab]\nexportname={image}\nreadonly=true\n")
    first = make_server(None, config=config)
    path.unlink()
    make_server(None, config=config)
    first.stop()
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(path))
    with On(sock) as c:
        c.go(b"lab")
        assert c.read(0, 4096) == content[:4096]
