# SPDX-License-Identifier: GPL-2.0
"""What an operator sees of a server that runs: status, top, metrics, the control socket."""
import contextlib
import json
import os
import re
import resource
import shutil
import socket
import subprocess
import time
import urllib.request

import pytest

from harness import wire
from harness.patience import granted, until
from harness.process import DIE_WITH_PARENT
from harness.server import ServerError, binary, free_port
from operate import ask, configure, nobody_left
from raw import MIB, Raw, check_serves, request
from session import Refused, Station


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


def test_one_error_of_a_long_request(lab, image):
    """However many chunks it was carried out in."""
    server = lab(f"[lab]\nexportname = {image}\noverlay = keep\noverlay_max = 64k\n")
    with Station(server, "lab", "pc7", "b") as c:
        assert c.write(0, b"x" * 4 * MIB) == wire.NBD_ENOSPC
        # The image gets shorter: nothing of it can be read any more.
        os.truncate(image, 4096)
        c.request(wire.NBD_CMD_READ, MIB, 8 * MIB, 0, 3)
        assert all(kind == wire.NBD_REPLY_TYPE_ERROR for kind, _ in c._chunks())
        one, = json.loads(ask("status", server.sock, "--json"))["connections"]
        assert (one["writes"], one["reads"], one["errors"]) == (1, 1, 2)


def test_log_cannot_be_filled(lab, image):
    """By what a client does over and over (log.h: LOG_PEER_RATE)."""
    server = lab(f"[lab]\nexportname = {image}\noverlay = keep\noverlay_max = 4k\n")
    begun = time.monotonic()
    with Station(server, "lab", "pc7", "b") as c:
        for _ in range(1500):
            assert c.write(0, b"x" * 4096) == 0 and c.write(4096, b"x" * 4096) == wire.NBD_ENOSPC
            assert c.simple(wire.NBD_CMD_TRIM, 0, 4096) == 0
    # A second that has begun, and one that has not ended.
    assert 1 <= server.log().count("its overlay is full") <= 200 * (time.monotonic() - begun + 2)


def test_a_visitor_is_not_away(lab, image, tmp_path):
    """He leaves no overlay, so he is not of those who have one and may come back: names
    that nobody has would take their places."""
    server = lab(f"[lab]\nexportname = {image}\noverlay = keep\n")
    with Station(server, "lab/pc7", boot=None) as c:
        assert c.write(0, b"x") == 0
        c.disconnect()
    with Station(server, "lab/visitor", boot=None) as c:
        c.disconnect()
    nobody_left(server)
    overlays = tmp_path / "state/overlays"
    until(lambda: [path.name for path in overlays.iterdir()] == ["lab@pc7.overlay"])
    until(lambda: [a["station"] for a in json.loads(ask("status", server.sock, "--json"))["away"]] == ["pc7"],
          what=lambda: ask("status", server.sock))


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
