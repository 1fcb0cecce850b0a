# SPDX-License-Identifier: GPL-2.0
"""What an operator does with a server that runs: reload, check, manage overlays."""
import json
import os
import signal
import socket
import subprocess
import time

import pytest

from harness import wire
from harness.patience import granted, until
from harness.server import ServerError, binary, free_port
from operate import ask, configure, nobody_left
from raw import MIB, Raw, check_serves
from session import Refused, Station


# -- changing --------------------------------------------------------------------

def test_reload(lab, image, tmp_path):
    """Exports come, change and go; who is connected notices nothing."""
    other = tmp_path / "other"
    other.write_bytes(b"o" * MIB)
    server = lab(f"[lab]\nexportname = {image}\nreadonly = true\n[goes]\nexportname = {other}\n")
    with Station(server, "lab", boot=None) as lab1, Station(server, "goes", boot=None) as goes:
        assert goes.write(0, b"w" * 4096) == 0
        configure(server, f"[lab]\nexportname = {image}\nreadonly = true\nmaxconnections = 1\n"
                          f"[new]\nexportname = {image}\nreadonly = true\n")
        answer = json.loads(ask("reload", server.sock))
        assert answer == {"ok": True, "text": "exports: 1 added, 1 changed, 1 removed, 0 as before"}
        assert len(lab1.read(0, 4096)) == 4096 and goes.read(0, 4096) == b"w" * 4096
        assert goes.write(4096, b"v" * 4096) == 0 and goes.flush() == 0
        # The limit counts who was there before it.
        with pytest.raises(Refused, match="maxconnections = 1"):
            Station(server, "lab", boot=None)
        with pytest.raises(Refused, match='no export "goes"'):
            Station(server, "goes", boot=None)
        check_serves(server, b"new")
        # Served again while its former clients are still there.
        configure(server, f"[lab]\nexportname = {image}\nreadonly = true\n[goes]\nexportname = {other}\n")
        server.process.send_signal(signal.SIGHUP)
        server.wait_log("SIGHUP: read again: exports: 1 added, 1 changed, 1 removed")
        check_serves(server, b"goes")
        goes.disconnect()
    assert other.read_bytes()[4096:8192] == b"v" * 4096


@pytest.mark.parametrize("text,says", [
    ("[lab]\nexportname = IMAGE\nreadonly = true\n[b]\nread_only = 1\n", 'unknown key "read_only"; did you mean "readonly"?'),
    ("[lab]\nexportname = IMAGE\nreadonly = true\n[b]\nexportname = /nonexistent\n", "/nonexistent: No such file"),
    ("[lab]\nexportname = IMAGE\nreadonly = true\n[b]\nexportname = IMAGE\n", "is served already, read-only, as export"),
    # What has let go of its file for the sake of another has it again.
    ("[b]\nexportname = IMAGE\n[c]\nexportname = /nonexistent\n", "/nonexistent: No such file"),
    ("[b]\nexportname = IMAGE\nreadonly = true\n[b]\nexportname = IMAGE\nreadonly = true\n", "defined twice"),
    ("", "no export in it"),
])
def test_reload_of_something_wrong(lab, image, text, says):
    """All of it or nothing of it."""
    server = lab(f"[lab]\nexportname = {image}\nreadonly = true\n")
    configure(server, text.replace("IMAGE", str(image)))
    answer = subprocess.run([binary(), "reload", server.sock], stdout=subprocess.PIPE, text=True, timeout=granted(20))
    assert answer.returncode == 1 and says.replace('"', '\\"') in answer.stdout
    server.wait_log("reload: nothing is changed")
    check_serves(server, b"lab")
    with pytest.raises(Refused, match='no export "b"'):
        Station(server, "b", boot=None)


def test_reload_with_another_statedir(lab, image, tmp_path):
    """Stations run from what is in the one that there was."""
    server = lab(f"[lab]\nexportname = {image}\noverlay = keep\n")
    with Station(server, "lab", "pc1", "b") as c:
        assert c.write(0, b"w" * 100) == 0
        whole = server.config_path.read_text()
        server.config_path.write_text(whole.replace(f"{tmp_path}/state", f"{tmp_path}/elsewhere"))
        answer = subprocess.run([binary(), "reload", server.sock], stdout=subprocess.PIPE, text=True, timeout=granted(20))
        assert answer.returncode == 1 and f"statedir is {tmp_path}/elsewhere now, and was " in answer.stdout
        c.disconnect()
    with Station(server, "lab", "pc1", "b") as c:
        assert c.read(0, 100) == b"w" * 100
        c.disconnect()


def test_reload_says_what_waits_for_a_restart(lab, image, tmp_path):
    server = lab(f"[lab]\nexportname = {image}\nreadonly = true\n")
    whole = server.config_path.read_text()
    assert json.loads(ask("reload", server.sock))["text"] == "exports: 0 added, 0 changed, 0 removed, 1 as before"
    server.config_path.write_text(whole.replace(f"port = {server.port}", "port = 1").replace(
        "allowlist = true", f"metricsport = 2\nunixsock = {tmp_path}/unix\nmax_threads = 3\nlockmemory = true"))
    said = json.loads(ask("reload", server.sock))["text"]
    assert said.endswith("1 as before; changed, but only after a restart: port, unixsock, metricsport, max_threads, lockmemory")
    # Not only once.
    assert json.loads(ask("reload", server.sock))["text"] == said
    server.config_path.write_text(whole)
    assert "restart" not in ask("reload", server.sock)
    check_serves(server, b"lab")


@pytest.mark.parametrize("keys", ["", "readonly = true", "filesize = 2m", "overlay = keep", "identity = other"])
@pytest.mark.parametrize("name", ["lab", "renamed"])
def test_reload_of_a_file_that_nobody_uses(lab, image, keys, name):
    """There and back again: the export that is replaced is not in its own way."""
    first = f"[lab]\nexportname = {image}\n"
    server = lab(first)
    # One that says its boot, and has left.
    with Station(server, "lab", "pc7", "b") as c:
        assert c.write(0, b"w" * 100) == 0
        c.disconnect()
    nobody_left(server)
    for text in f"[{name}]\nexportname = {image}\n{keys}\n", first:
        configure(server, text)
        # Its last connection may be on its way out still.
        until(lambda: not subprocess.run([binary(), "reload", server.sock], stdout=subprocess.DEVNULL).returncode,
              what=server.log_tail, every=0.1)
        status, = json.loads(ask("status", server.sock, "--json"))["exports"]
        assert status["size"] == (2 if text != first and "2m" in keys else 32) * MIB
        with Station(server, status["name"], "pc7", f"b{len(text)}") as c:
            assert c.read(0, 100) == b"w" * 100
            assert bool(c.flags & wire.NBD_FLAG_READ_ONLY) == (text != first and "readonly" in keys)
            if text != first:
                # In use it is another matter.
                configure(server, first)
                answer = subprocess.run([binary(), "reload", server.sock], stdout=subprocess.PIPE, text=True)
                assert answer.returncode == ((keys, name) != ("", "lab"))
            c.disconnect()


@pytest.mark.parametrize("asked_by", ["socket", "signal"])
def test_stop_during_a_reload(make_server, image, tmp_path, slow_disk, asked_by):
    """One that a disk keeps waiting holds up the end for some seconds only, and does
    not go on over what is freed."""
    generic = (f"[generic]\nport = {{port}}\nlistenaddr = 127.0.0.1\nstatedir = {tmp_path}/state\n"
               f"controlsock = {tmp_path}/sock\nunixsock = {tmp_path}/unix\nduallisten = true\n")
    section = "[{}]\nexportname = {}\nreadonly = true\n"
    server = make_server(config=generic + section.format("lab", image), env={**slow_disk.env, "DISK_LINGERS": "1"},
                         options=["-p", tmp_path / "pid"])
    slow = tmp_path / "image-slow"
    slow.write_bytes(b"s" * MIB)
    with open(server.config_path, "a") as f:
        f.write(section.format("slow", slow))
    if asked_by == "signal":
        server.process.send_signal(signal.SIGHUP)
    else:
        reload = subprocess.Popen([binary(), "reload", f"--socket={tmp_path}/sock"], stderr=subprocess.PIPE, text=True)
    slow_disk.reached()
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(granted(30)) == 0, server.log()
    assert server.log().rstrip().endswith("stopped")
    assert not any((tmp_path / name).exists() for name in ("sock", "unix", "pid"))
    if asked_by == "signal":
        return
    said = reload.communicate(timeout=granted(20))[1]
    assert reload.returncode == 1 and "did not answer; it may be stopping" in said


def test_status_that_comes_too_late(lab, image, tmp_path):
    """Who has connected, but says what it wants only when all is gone, gets nothing."""
    server = lab(f"[lab]\nexportname = {image}\n")

    def threads():
        return len(os.listdir(f"/proc/{server.pid}/task"))

    before = threads()
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(f"{tmp_path}/sock")
        until(lambda: threads() > before)
        server.process.send_signal(signal.SIGTERM)
        until(lambda: threads() <= before)      # nobody accepts there any more
        s.sendall(b"status\n")
        assert s.makefile("rb").read() == b""
    assert server.process.wait(granted(20)) == 0


def test_no_thread_for_the_control_socket(image, tmp_path, slow_disk):
    """What runs already is not pulled from under by those who could not be started."""
    tmp_path.chmod(0o777)
    for folder in tmp_path.parents:
        if str(folder).startswith("/tmp/"):
            folder.chmod(folder.stat().st_mode | 0o55)
    image.chmod(0o666)
    threads = 1 if "server-threads" in binary() else os.sysconf("SC_NPROCESSORS_ONLN")
    config = tmp_path / "config"
    config.write_text(f"[generic]\nport = {free_port()}\nlistenaddr = 127.0.0.1\nmax_threads = 2\n"
                      f"controlsock = {tmp_path}/sock\nunixsock = {tmp_path}/unix\n[lab]\nexportname = {image}\n")
    # Nobody else's number.
    done = subprocess.run(["setpriv", "--reuid=61235", "--regid=61235", "--clear-groups", "--inh-caps=-all",
                           "prlimit", f"--nproc={1 + 2 + threads}", binary(), "-n", "-p", tmp_path / "pid", "-C", config],
                          env={**os.environ, **slow_disk.env, "DISK_LINGERS": "1"}, text=True, check=False,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=granted(30))
    assert done.returncode == 1 and "no thread to be had" in done.stdout, done.stdout
    assert not slow_disk.way.exists(), "it went through exit(3)"
    assert not any((tmp_path / name).exists() for name in ("sock", "unix", "pid"))


def test_other_signals_do_not_end_it(lab, image):
    server = lab(f"[lab]\nexportname = {image}\n")
    for sig in (signal.SIGUSR1, signal.SIGUSR2):
        server.process.send_signal(sig)
    server.wait_log("means nothing here", count=2)
    check_serves(server, b"lab")


# -- limits -------------------------------------------------------------------------

def test_connections_of_one_address(lab, image):
    """Open ones are counted, not all that ever were; 127.0.0.2 is another."""
    server = lab(f"[lab]\nexportname = {image}\n", "maxperaddress = 3\n")
    for _ in range(4):
        held = [Raw(server).go(b"lab") for _ in range(3)]
        assert Raw(server).closed()
        with socket.create_connection((server.address, server.port), granted(20), ("127.0.0.2", 0)) as other:
            assert other.recv(8) == b"NBDMAGIC"
        for c in held:
            c.disconnect()
        nobody_left(server)
    server.wait_log("127.0.0.1: a connection was refused: its address has as many connections as it may have (maxperaddress)")


# -- --check and -p -------------------------------------------------------------------

def test_check(lab, image, tmp_path):
    """Says what is wrong, all of it, beside a server that runs."""
    server = lab(f"[lab]\nexportname = {image}\n")
    assert ask("--check", "-C", server.config_path) == f"{server.config_path}: 1 export, nothing wrong\n"
    configure(server, f"[lab]\nexportname = {image}\n[b]\nexportname = {image}\n[c]\nexportname = {tmp_path}/no\n"
                      f"[d]\nexportname = {tmp_path}\n[e]\nexportname = {image}\nreadonly = true\nauthfile = {tmp_path}/no\n")
    said = ask("--check", "-C", server.config_path, status=1)
    for part in (f'is export "lab" ({server.config_path}:', f"{tmp_path}/no: No such file", "not a regular file",
                 "without its authfile an export is closed"):
        assert part in said
    check_serves(server, b"lab")
    assert "--check is for a configuration file" in ask("--check", status=1)
    assert '"--chekc" is not an option' in ask("--chekc", status=1)
    assert ask("--version").startswith("nbd-server (nbdroot)") and "Examples:" in ask("--help")


@pytest.mark.parametrize("generic,says", [
    ("listenaddr = not an address", 'listen address "not": '),
    ("listenaddr = 127.0.0.1, 192.0.2.77", "192.0.2.77 port PORT: Cannot assign requested address"),
    ("unixsock = /nonexistent/sock", "unixsock: unix socket /nonexistent/sock: No such file or directory; make its folder first"),
    ("unixsock = IMAGE", "it is no socket"),
    ("unixsock = /proc/sock", "unixsock: unix socket /proc/sock: "),
    ("unixsock = TMP/s\nlistenaddr = not-looked-at", ""),
    (f"unixsock = /{'x' * 120}", "a name of 1 to 107 bytes"),
    ("controlsock = /nonexistent/sock", "controlsock: unix socket /nonexistent/sock: No such file"),
    ("controlsock = IMAGE/sock", "controlsock: unix socket IMAGE/sock: Not a directory"),
    ("unixsock = TMP/s\ncontrolsock = TMP/s", "are the same"),
    ("metricsport = PORT", "port and metricsport are the same"),
    ("metricsport = PORT\nlistenaddr = 127.0.0.2", ""),
    ("user = nobody-of-this-name", "no such user"),
    ("unixsock = TMP/s\ncontrolsock = TMP/c\nmetricsport = OTHER\nlistenaddr = localhost", ""),
])
def test_check_of_sockets(image, tmp_path, generic, says):
    """What the server cannot have is found without serving, and nothing of it is made."""
    port, other = str(free_port()), str(free_port())

    def put(text):
        return (text.replace("PORT", port).replace("OTHER", other).replace("IMAGE", str(image))
                .replace("TMP", str(tmp_path)))

    config = tmp_path / "config"
    config.write_text(put(f"[generic]\nport = PORT\nstatedir = TMP/state\n{generic}\n"
                          "[a]\nexportname = IMAGE\nreadonly = true\n"))
    before = sorted(tmp_path.iterdir())
    said = ask("--check", "-C", config, status=1 if says else 0)
    assert put(says) in said and sorted(tmp_path.iterdir()) == before
    if says:
        done = subprocess.run([binary(), "-n", "-C", config], stderr=subprocess.PIPE, text=True, check=False,
                              timeout=granted(30))
        assert done.returncode == 1, done.stderr


def test_check_beside_a_port_that_is_in_use(lab, image):
    server = lab(f"[lab]\nexportname = {image}\n")
    done = subprocess.run([binary(), "--check", "-C", server.config_path], text=True, timeout=granted(30), check=False,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert done.returncode == 0 and f"127.0.0.1 port {server.port}: in use, by the server that runs" in done.stderr
    check_serves(server, b"lab")


def test_configuration_with_a_byte_order_mark(lab, image):
    server = lab(f"[lab]\nexportname = {image}\n")
    text = server.config_path.read_text()
    server.config_path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    ask("--check", "-C", server.config_path)


@pytest.mark.parametrize("holds", ["precious\n", "1 2\n", "12345678901234567890123456789012345678901234567890\n", "0x12\n"])
def test_pidfile_does_not_overwrite(image, tmp_path, holds):
    path = tmp_path / "pid"
    path.write_text(holds)
    said = ask("-n", "-p", path, f"127.0.0.1@{free_port()}", image, status=1)
    assert "holds something else than a process id" in said and path.read_text() == holds
    (tmp_path / "link").symlink_to(path)
    assert "cannot write" in ask("-n", "-p", tmp_path / "link", f"127.0.0.1@{free_port()}", image, status=1)


def test_pidfile_of_a_dead_server(make_server, image, tmp_path):
    path = tmp_path / "pid"
    dead = subprocess.Popen(["true"])
    dead.wait()
    path.write_text(f"{dead.pid}\n")
    server = make_server(image, options=["-p", path])
    assert path.read_text() == f"{server.pid}\n"
    server.stop()
    assert not path.exists()


@pytest.mark.parametrize("key", ["prerun", "postrun"])
def test_check_of_programs(image, tmp_path, key):
    config = tmp_path / "config"
    for program, says in (("/bin/true x %s", None), ("/no/such/program x", "/no/such/program: cannot be run: No such file"),
                          (str(image), "cannot be run: Permission denied"), ("/tmp", "cannot be run: Permission denied")):
        config.write_text(f"[a]\nexportname = {image}\n{key} = {program}\n")
        said = ask("--check", "-C", config, status=1 if says else 0)
        assert (says or "nothing wrong") in said


def test_a_file_twice(lab, image):
    """At once, and it says which export has it."""
    def took():
        start = time.monotonic()
        with pytest.raises(ServerError, match=r'config:\d+: .*image: is served already, read-write, as export "a"'):
            lab(f"[a]\nexportname = {image}\n[b]\nexportname = {image}\n")
        return time.monotonic() - start

    # Another process's lock is waited for for 5 s; a machine may be slow, but not each time.
    assert any(took() < 4 for _ in range(5))
    # Read-only, and with overlays, as often as one likes.
    server = lab(f"[a]\nexportname = {image}\nreadonly = true\n[b]\nexportname = {image}\noverlay = keep\n")
    check_serves(server, b"b/x")


# -- overlays ---------------------------------------------------------------------------

def test_overlays_in_several_folders(lab, image, tmp_path):
    """Each export's are where its section says, and listed once."""
    more = f"exportname = {image}\noverlay = keep\n"
    server = lab(f"[a]\n{more}overlay_dir = {tmp_path}/one\n[b]\n{more}overlay_dir = {tmp_path}/one\n[c]\n{more}"
                 f"[plain]\nexportname = {image}\nreadonly = true\n")
    for name in "abc":
        Station(server, f"{name}/pc", "pc", "b1").close()
    server.stop()
    config = ("-C", str(server.config_path))
    table = ask("overlays", "list", *config)
    assert [table.count(f"{name}@pc") for name in "abc"] == [1, 1, 1]
    ask("overlays", "drop", *config, "a@pc", "c@pc")
    table = ask("overlays", "list", *config)
    assert [table.count(f"{name}@pc") for name in "abc"] == [0, 1, 0]
    server.config_path.write_text(f"[plain]\nexportname = {image}\nreadonly = true\n")
    assert "no export in it has overlays" in ask("overlays", "list", *config, status=1)


def test_overlays_command(lab, image, content, tmp_path):
    server = lab(f"[lab]\nexportname = {image}\noverlay = keep\n")
    folder = f"--dir={tmp_path}/state/overlays"
    with Station(server, "lab/pc1", boot=None) as one:
        assert one.write(0, b"1" * 8192) == 0
        Station(server, "lab/pc2", "pc2", "b2").disconnect()
        table = until(lambda: (said := ask("overlays", "list", folder)).count("in use") <= 1 and "lab@pc2" in said and said)
        lines = {line.split()[0]: line for line in table.splitlines()}
        assert "8192" in lines["lab@pc1"] and "in use" in lines["lab@pc1"] and "idle" in lines["lab@pc2"]
        assert str(image) in lines["lab@pc1"]
        shown = ask("overlays", "show", folder, "lab@pc1")
        assert "station:  pc1" in shown and "written:  8192" in shown
        assert "in use; shut its station down first" in ask("overlays", "drop", folder, "lab@pc1", status=1)
        assert one.read(0, 10) == b"1" * 10
        one.disconnect()
    # Where they are is the configuration's to say.
    config = ("-C", str(server.config_path))
    assert "lab@pc2" in ask("overlays", "list", *config) and "written:  8192" in ask("overlays", "show", *config, "lab@pc1")
    until(lambda: "in use" not in ask("overlays", "list", folder))
    ask("overlays", "drop", folder, "lab@pc1", "lab@pc2")
    with Station(server, "lab/pc1", boot=None) as c:
        assert c.read(0, 10) == content[:10]
    for argv, says in ((["drop", folder, "lab@nobody"], "No such file"), (["drop", folder, "nobody"], "not EXPORT@STATION"),
                       (["drop", folder, "../../etc@passwd"], "No such file"), (["burn", folder], "write: nbd-server overlays"),
                       (["list", "--all"], '"--all" is not an option'), (["list", "--dir=/nonexistent"], "No such file"),
                       (["list", "-C"], '"-C" is not an option'), (["list", "-C", "/nonexistent"], "/nonexistent"),
                       (["show", *config, "other@pc1"], f"{tmp_path}/state/overlays/other@pc1.overlay")):
        assert says in ask("overlays", *argv, status=1)
