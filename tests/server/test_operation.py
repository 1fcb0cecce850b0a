# SPDX-License-Identifier: GPL-2.0
"""What an operator does with a server that runs: look, reload, publish an
image, manage overlays."""
import contextlib
import json
import os
import re
import resource
import shutil
import signal
import socket
import struct
import subprocess
import time
import urllib.request

import pytest

from harness import wire
from harness.patience import granted, until
from harness.process import DIE_WITH_PARENT
from harness.server import ServerError, binary, free_port
from raw import MIB, Raw, check_serves, go_data, request
from session import Refused, Station


def ask(*argv, status=0):
    done = subprocess.run([binary(), *map(str, argv)], stdin=subprocess.DEVNULL, text=True, timeout=granted(30),
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert done.returncode == status, (done.stdout, done.stderr)
    return done.stdout if not status else done.stderr


def nobody_left(server):
    """Wait until it shows no connection any more."""
    until(lambda: not json.loads(ask("status", server.sock, "--json"))["connections"])


def configure(server, text):
    """Replace the sections of its exports."""
    whole = server.config_path.read_text()
    server.config_path.write_text(whole[:whole.index("\n[", 5) + 1] + text)


# -- looking -------------------------------------------------------------------

def test_status(lab, image):
    server = lab(f"[lab]\nexportname = {image}\noverlay = keep\n[plain]\nexportname = {image}\nreadonly = true\n")
    with Station(server, "lab", "pc7", "b") as a, Station(server, "plain", boot=None) as b:
        assert a.write(0, b"x" * 8192) == 0 and a.flush() == 0
        for _ in range(9):
            assert len(b.read(0, 4096)) == 4096
        assert len(b.read(0, MIB)) == MIB
        assert b.simple(wire.NBD_CMD_READ, 1 << 40, 512) == wire.NBD_EINVAL
        status = json.loads(ask("status", server.sock, "--json"))
        assert status["pid"] == server.pid
        exports = {e["name"]: e for e in status["exports"]}
        assert exports["lab"]["file"] == str(image) and exports["lab"]["size"] == 32 * MIB
        assert exports["lab"]["overlay"] == "keep" and exports["plain"]["connections"] == 1
        one, two = status["connections"]
        assert one["station"] == "pc7" and one["export"] == "lab" and one["overlay_bytes"] == 8192
        assert one["writes"] == 1 and one["written_bytes"] == 8192 and one["disk_requests"] == 2
        assert one["image"] == exports["lab"]["image"] == a.image
        # Of a writer nothing is answered from memory; of one batch all is.
        assert one["answers_timed"] == 0 == one["answer_latency_us"]
        assert two["answers_timed"] == 2 and 0 < two["answer_latency_us"] < 60e6 or two["disk_requests"]
        assert two["reads"] == 10 and two["read_bytes"] == MIB + 9 * 4096 and two["errors"] == 1 and two["read_only"]
        assert two["address"] == "127.0.0.1:%d" % b.sock.getsockname()[1]
        table = ask("status", server.sock)
        assert "127.0.0.1" in table and str(image) in table
        row, = [line for line in table.splitlines() if line.startswith("pc7 ")]
        assert " in use " in row and row.endswith(" " + a.image)
        assert one["state"] == two["state"] == "in use" and status["negotiating"] == []
        assert abs(one["since"] - time.time()) < 100
    nobody_left(server)
    server.stop()
    assert "no server answers there" in ask("status", server.sock, status=1)


def connection(server, address):
    """What is told of one of them, by its client's socket."""
    status = json.loads(ask("status", server.sock, "--json"))
    return next((c for c in status["connections"] + status["negotiating"] if c["address"].endswith(f":{address}")), None)


def test_states(lab, image):
    """Who negotiates, and who does not take answers, is seen as such."""
    server = lab(f"[lab]\nexportname = {image}\nreadonly = true\n")
    with Raw(server, rcvbuf=4096) as c:
        port = c.sock.getsockname()[1]
        until(lambda: connection(server, port))
        assert connection(server, port)["state"] == "negotiating"
        assert f":{port} " in ask("status", server.sock) and "negotiating" in ask("status", server.sock)
        c.go(b"lab")
        assert connection(server, port)["state"] == "in use"
        # More than the sockets' buffers have room for.
        for i in range(16):
            c.send(request(wire.NBD_CMD_READ, 0, 2 * MIB, cookie=i))
        until(lambda: connection(server, port)["state"] == "stalled", what=lambda: connection(server, port))
        assert " stalled " in ask("status", server.sock)
        for i in range(16):
            c.recv(16 + 2 * MIB)
        until(lambda: connection(server, port)["state"] == "in use", what=lambda: connection(server, port))
        c.disconnect()
    nobody_left(server)


def test_stations_that_are_away(lab, image):
    """They have an overlay and no connection: lost, or with a goodbye."""
    server = lab(f"[lab]\nexportname = {image}\noverlay = keep\n")

    def away():
        return {a["station"]: a for a in json.loads(ask("status", server.sock, "--json"))["away"]}

    with Station(server, "lab", "pc7", "b") as a, Station(server, "lab", "pc8", "b") as b:
        assert a.write(0, b"x" * 4096) == 0 and away() == {}
        port = a.sock.getsockname()[1]
        a.reset()
        b.disconnect()
        until(lambda: len(away()) == 2)
        lost, left = away()["pc7"], away()["pc8"]
        assert lost["state"] == "away" and lost["overlay_bytes"] == 4096 and lost["address"].endswith(f":{port}")
        assert left["state"] == "left" and left["overlay_bytes"] == 0 and left["image"] == b.image
        rows = {line.split()[0]: line.split() for line in ask("status", server.sock).splitlines() if line.startswith("pc")}
        assert rows["pc7"][3] == "away" and rows["pc8"][3] == "left" and rows["pc7"][-1] == a.image
    with Station(server, "lab", "pc7", "b", generation=1) as c:
        assert list(away()) == ["pc8"]
        c.disconnect()
    until(lambda: away().get("pc7", {}).get("state") == "left")


def test_session_with_an_authfile(lab, image, tmp_path):
    """Who may come, which image it is and the overlay are found one after the other,
    each by a worker, for one option; and anew where the connection is."""
    (tmp_path / "auth").write_text("127.0.0.1\n")
    server = lab(f"[lab]\nexportname = {image}\noverlay = keep\nauthfile = {tmp_path}/auth\n")
    with Station(server, "lab", "pc7", "b") as c:
        assert c.write(0, b"x" * 4096) == 0
        c.reset()
    with Station(server, "lab", "pc7", "b", generation=1) as c:
        assert c.read(0, 4096) == b"x" * 4096
        (tmp_path / "auth").write_text("127.0.0.1 readonly\n")
        with Station(server, "lab", "pc8", "b") as other:
            assert other.flags & wire.NBD_FLAG_READ_ONLY
        assert c.write(0, b"y" * 4096) == 0
        (tmp_path / "auth").write_text("127.0.0.2\n")
        with pytest.raises(Refused, match="not open to this address"):
            Station(server, "lab", "pc8", "b")
        assert c.write(0, b"z" * 4096) == 0
        c.disconnect()


def test_metrics(lab, image, tmp_path):
    port = free_port()
    server = lab(f"[a\"b]\nexportname = {image}\n", f"metricsport = {port}\n")
    with Station(server, 'a"b', boot=None) as c:
        assert len(c.read(0, 4096)) == 4096
        text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=granted(20)).read().decode()
        samples = exposition(text)
        assert samples["nbdroot_read_bytes_total", ()] == 4096 and samples["nbdroot_connections", ()] == 1
        assert '\nnbdroot_export_connections{export="a\\"b"} 1\n' in text
        c.disconnect()
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/reload", timeout=granted(20))
    # What has ended still counts.
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(f"{tmp_path}/sock")
        s.sendall(b"metrics\n")
        assert b"\nnbdroot_read_bytes_total 4096\n" in s.makefile("rb").read()
    # It is not a door to the commands.
    with socket.create_connection(("127.0.0.1", port)) as s:
        s.sendall(b"drain\n")
        assert b"400" in s.makefile("rb").read()
    check_serves(server, b'a"b')


LABEL = r'(\w+)="((?:[^"\\\n]|\\\\|\\"|\\n)*)"'


def exposition(text):
    """The samples of Prometheus' text format, {(name, labels): value}: strictly
    read, and with what promtool complains of besides."""
    assert text.endswith("\n")
    samples, told, order = {}, {}, []
    for line in text[:-1].split("\n"):
        said = re.fullmatch(r"# (HELP|TYPE) ([a-z_:][a-z0-9_:]*) (.+)", line)
        if said:
            kind, name, rest = said.groups()
            assert (kind, name) not in told, line
            assert name not in order, "told after its samples"
            told[kind, name] = rest
            continue
        sample = re.fullmatch(r"([a-z_:][a-z0-9_:]*)(?:\{(" + LABEL + "(?:," + LABEL + r")*)\})? (\d+(?:\.\d+)?)", line)
        assert sample, line
        name = sample[1]
        assert told["TYPE", name] in ("counter", "gauge") and told["HELP", name]
        assert (told["TYPE", name] == "counter") == name.endswith("_total")
        labels = re.findall(LABEL, sample[2] or "")
        assert len(dict(labels)) == len(labels)
        key = name, tuple(sorted(labels))
        assert key not in samples, f"twice: {line}"
        samples[key] = float(sample[sample.re.groups])
        if order[-1:] != [name]:
            assert name not in order, f"not in one group: {line}"
            order.append(name)
    assert {name for _, name in told} == set(order)
    return samples


NAMES = [b'quoted"name', b"back\\slash", "caf\u00e9".encode(), "caf\u00e8".encode(), b"caf\xe9", b"caf\xe8",
         "caf\ufffde9".encode(), b"tab\there", b"\xf0\x9f\x90\x98", b"\xc0\xaf", b"c1\xc2\x9b"]


def test_names_of_any_bytes(lab, image, tmp_path):
    """In JSON, in the metrics and in the table no two names become one, and what
    is UTF-8 is as it was. (A section's name cannot have a newline.)"""
    config = b"".join(b"[%s]\nexportname = %s\noverlay = keep\n" % (name, str(image).encode()) for name in NAMES)
    server = lab(f"[lab]\nexportname = {image}\noverlay = keep\n")
    configure(server, "")
    with server.config_path.open("ab") as f:
        f.write(config)
    ask("reload", server.sock)

    def told(what):
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(f"{tmp_path}/sock")
            s.sendall(what + b"\n")
            return s.makefile("rb").read().decode()     # all of it is UTF-8

    with contextlib.ExitStack() as stack:
        for name in NAMES:
            c = stack.enter_context(Raw(server))
            c.go(name)
        status = json.loads(told(b"status"))
        want = ['quoted"name', "back\\slash", "caf\u00e9", "caf\u00e8", "caf\ufffde9", "caf\ufffde8",
                "caf\ufffdef\ufffdbf\ufffdbde9", "tab\there", "\U0001f418", "\ufffdc0\ufffdaf", "c1\ufffdc2\ufffd9b"]
        assert [e["name"] for e in status["exports"]] == want
        assert [c["export"] for c in status["connections"]] == want
        samples = exposition(told(b"metrics"))
        labels = [dict(labels) for (name, labels) in samples if name == "nbdroot_export_connections"]
        assert [e["export"] for e in labels] == [name.replace("\\", r"\\").replace('"', r"\"").replace("\t", "\ufffd09")
                                                 for name in want]
        assert set(samples.values()) >= {1.0, len(NAMES)}
        lines = told(b"table").splitlines()
        for shown in ('quoted"name', r"back\134slash", "caf\u00e9", "caf\u00e8", r"caf\351", r"caf\350",
                      r"caf\357\277\275e9", r"tab\011here", "\U0001f418", r"\300\257", r"c1\302\233"):
            assert sum(shown in line.split()[:2] for line in lines) == 2, shown


def test_top(lab, image):
    server = lab(f"[lab]\nexportname = {image}\n")
    with Station(server, "lab", "pc9", "b") as c:
        top = subprocess.Popen([binary(), "top", server.sock], stdout=subprocess.PIPE, text=True)
        seen = ""
        try:
            while seen.count("pc9") < 2:
                c.read(0, MIB)
                seen += top.stdout.readline()
        finally:
            top.kill()
            top.wait()
            top.stdout.close()
        assert "1 connections: reading" in seen


def test_control_socket(lab, image, tmp_path, make_server):
    server = lab(f"[lab]\nexportname = {image}\nreadonly = true\n")
    path = f"{tmp_path}/sock"
    assert os.stat(path).st_mode & 0o777 == 0o600
    for line, says in ((b"nonsense\n", '\\"nonsense\\" is not a command'), (b"x" * 1000, "is not a command"),
                       (b"status", '"exports"'), (b"\n", "")):
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(path)
            s.sendall(line)
            s.shutdown(socket.SHUT_WR)
            answer = s.makefile("r").read()
            assert says in answer
    # Those who say nothing are not in the way of one who asks.
    silent = [socket.socket(socket.AF_UNIX) for _ in range(10)]
    for s in silent:
        s.connect(path)
    ask("status", server.sock)
    for s in silent:
        s.close()
    # A second server does not take it; a killed one does not block the next.
    with pytest.raises(ServerError, match="Address already in use; another server has it"):
        lab(f"[lab]\nexportname = {image}\nreadonly = true\n")
    server.kill9()
    server.start()
    ask("status", server.sock)
    ask("drain", server.sock)
    assert server.process.wait(granted(20)) == 0 and not os.path.exists(path)


def drip(connections):
    """A byte each, as long as they are taken; how many still are."""
    for s in list(connections):
        try:
            s.sendall(b"x")
        except OSError:
            connections.remove(s)
            s.close()
    return len(connections)


def test_control_slots_cannot_be_held(lab, image, tmp_path):
    """Who comes by the port takes no place of the socket's; and nobody keeps a
    place by saying what he wants a byte at a time."""
    port = free_port()
    server = lab(f"[lab]\nexportname = {image}\n", f"metricsport = {port}\n")
    by_port = [socket.create_connection(("127.0.0.1", port)) for _ in range(16)]
    ask("status", server.sock)
    held = []
    for _ in range(16):
        s = socket.socket(socket.AF_UNIX)
        s.connect(f"{tmp_path}/sock")
        held.append(s)
    until(lambda: not drip(by_port) + drip(held), what=lambda: (len(by_port), len(held)), every=0.5)
    ask("status", server.sock)
    urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=granted(20)).close()


def test_watchers_leave_room_to_ask(lab, image, tmp_path):
    """However many look at top, who stay; one too many is told so."""
    server = lab(f"[lab]\nexportname = {image}\n")
    tops, held = [], []
    for _ in range(16):
        s = socket.socket(socket.AF_UNIX)
        s.settimeout(granted(20))
        s.connect(f"{tmp_path}/sock")
        s.sendall(b"top\n")
        if b"as many look at top as may" in s.recv(64):
            s.close()
        else:
            tops.append(s)
    assert len(tops) == 8
    ask("status", server.sock)
    # And if all places are taken (until they have been silent for some seconds).
    for _ in range(8):
        held.append(socket.socket(socket.AF_UNIX))
        held[-1].connect(f"{tmp_path}/sock")
    full = subprocess.run([binary(), "status", server.sock], text=True, timeout=granted(30), check=False,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert full.returncode == 0 or "too many ask at once" in full.stdout and not full.stderr
    for s in (*tops, *held):
        s.close()


def processor_seconds(server):
    words = open(f"/proc/{server.pid}/stat").read().rsplit(")", 1)[1].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def test_not_one_descriptor_to_refuse_with(make_server, image):
    """The server does not spin, and whoever waits gets in once there are some."""
    server = make_server(image)
    limits = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (3, limits[1]))
    with socket.create_connection((server.address, server.port), timeout=granted(20)) as s:
        server.wait_log("too many open files")
        before = processor_seconds(server)
        time.sleep(2)
        assert processor_seconds(server) - before < 0.5
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, limits)
        assert s.recv(8) == b"NBDMAGIC"


@pytest.mark.skipif(not shutil.which("prlimit"), reason="prlimit of util-linux")
def test_control_without_descriptors(make_server, image, tmp_path):
    """The server does not spin while nothing can be accepted with."""
    server = make_server(config=f"[generic]\nport = {{port}}\nlistenaddr = 127.0.0.1\ncontrolsock = {tmp_path}/sock\n"
                         f"[a]\nexportname = {image}\n", wrap=[*DIE_WITH_PARENT, "prlimit", "--nofile=40"])
    held = [socket.create_connection((server.address, server.port)) for _ in range(45)]
    server.wait_log("too many open files")
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(f"{tmp_path}/sock")
        s.sendall(b"metrics\n")
        time.sleep(0.5)
        before = processor_seconds(server)
        time.sleep(2)
        assert processor_seconds(server) - before < 0.7
        for c in held:
            c.close()
        s.settimeout(granted(20))
        assert s.makefile("rb").read().startswith(b"#")


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


def test_reload_says_what_waits_for_a_restart(lab, image, tmp_path):
    server = lab(f"[lab]\nexportname = {image}\nreadonly = true\n")
    whole = server.config_path.read_text()
    assert json.loads(ask("reload", server.sock))["text"] == "exports: 0 added, 0 changed, 0 removed, 1 as before"
    server.config_path.write_text(whole.replace(f"port = {server.port}", "port = 1").replace(
        "allowlist = true", f"metricsport = 2\nunixsock = {tmp_path}/unix\nmax_threads = 3"))
    said = json.loads(ask("reload", server.sock))["text"]
    assert said.endswith("1 as before; changed, but only after a restart: port, unixsock, metricsport, max_threads")
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


def test_stop_during_a_reload(make_server, image, tmp_path, slow_disk):
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
    reload = subprocess.Popen([binary(), "reload", f"--socket={tmp_path}/sock"], stderr=subprocess.PIPE, text=True)
    slow_disk.reached()
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(granted(30)) == 0, server.log()
    assert server.log().rstrip().endswith("stopped")
    assert not any((tmp_path / name).exists() for name in ("sock", "unix", "pid"))
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
