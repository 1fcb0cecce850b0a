# SPDX-License-Identifier: GPL-2.0
"""Every example of the server's manual pages and of docs/server.md is run:
configurations are served, commands end with status 0. Only what stands for the
reader's own is replaced: the folders of images and of configuration, the port,
and where the control socket is."""
import grp
import os
import pwd
import re
import signal
import subprocess
import urllib.request
from pathlib import Path

import pytest

from harness.patience import granted, until
from harness.server import ServerError, binary, free_port
from raw import MIB, check_serves
from session import Station

TOP = Path(__file__).resolve().parents[2]
PAGES = ["docs/man/nbd-server.1", "docs/man/nbd-server.5", "docs/server.md", "server/server.conf.example"]


def blocks(page):
    """The examples of a page, as text."""
    text = (TOP / page).read_text()
    if page.endswith(".md"):
        return [b for _, b in re.findall(r"^```(ini|sh)\n(.*?)^```$", text, re.M | re.S)]
    if page.endswith(".conf.example"):
        # What is commented out is an example as well.
        return [re.sub(r"^#(?=\s*(\[|\w+ = |\t))\s*", "", text.replace("\t# ", "\t"), flags=re.M)]
    return [b.replace("\\-", "-") for b in re.findall(r"^\.EX\n(.*?)^\.EE$", text, re.M | re.S)]


def examples(config):
    found = []
    for page in PAGES:
        for number, block in enumerate(blocks(page)):
            is_config = re.search(r"^\s*\[", block, re.M) is not None
            if is_config == config:
                found.append(pytest.param(block, id=f"{Path(page).name}-{number}"))
    return found


@pytest.fixture
def place(tmp_path):
    """place(text): with the reader's folders made, and put into tmp_path."""
    for folder in ("srv/nbdroot", "etc/nbdroot/server.d", "run/nbdroot", "dev/vg0", "var/lib/nbdroot"):
        (tmp_path / folder).mkdir(parents=True)
    for image in ("srv/lab.img", "srv/root.img", "srv/home.img", "srv/nbdroot/root.img", "dev/vg0/home",
                  "dev/vg0/root", "new.img", "root.img"):
        (tmp_path / image).write_bytes(b"i" * MIB)
    (tmp_path / "etc/nbdroot/server.d/more.conf").write_text(
        f"[more]\nexportname = {tmp_path}/srv/root.img\nreadonly = true\n")
    for rules in ("home.allow", "lab.allow"):
        (tmp_path / "etc/nbdroot" / rules).write_text("127.0.0.1\n")
    (tmp_path / "etc/nbdroot/stations").write_text("127.0.0.1 pc7\n")

    def put(text):
        return re.sub(r"(?<![\w.])/(srv|etc|run|dev|var)/", rf"{tmp_path}/\1/", text)

    return put


# What of an example is the reader's own, and what it is here.
OURS = {
    "port": lambda: "{port}",
    "listenaddr": lambda: "127.0.0.1",
    "metricsport": lambda: str(free_port()),
    "user": lambda: pwd.getpwuid(os.geteuid()).pw_name,
    "group": lambda: grp.getgrgid(os.getegid()).gr_name,
}


def serveable(text, put, tmp_path):
    """The text with values of our own in its lines, and with those lines that a
    server needs beside another."""
    if "[generic]" not in text:
        text = "[generic]\n" + text
    needs = {"port": "1", "listenaddr": "1", "statedir": f"{tmp_path}/var/nbdroot"}
    for key, value in needs.items():
        if not re.search(rf"^\s*{key} = ", text, re.M):
            text = text.replace("[generic]", f"[generic]\n{key} = {value}", 1)
    text = put(text)
    return re.sub(r"^(\s*)(\w+) = .*$", lambda m: f"{m[1]}{m[2]} = {OURS[m[2]]()}" if m[2] in OURS else m[0],
                  text, flags=re.M)


@pytest.mark.parametrize("text", examples(config=True))
def test_configuration(make_server, place, tmp_path, text):
    config = serveable(text, place, tmp_path)
    server = make_server(config=config)
    # Not a line of it has been lost.
    assert set(re.findall(r"^\s*(\w+) = ", text, re.M)) <= set(re.findall(r"^\s*(\w+) = ", config, re.M))
    exports = [name for name in re.findall(r"^\s*\[(.*)\]", text, re.M) if name != "generic"]
    assert exports
    if "includedir" in text:
        exports.append("more")
    for name in exports:
        check_serves(server, name.encode())
    port = re.search(r"metricsport = (\d+)", config)
    if port:
        with urllib.request.urlopen(f"http://127.0.0.1:{port[1]}/metrics", timeout=granted(20)) as answer:
            assert b"nbdroot_connections " in answer.read()
    server.stop()
    assert subprocess.run([binary(), "--check", "-C", str(server.config_path)], timeout=granted(20)).returncode == 0


def inline():
    """Lines of a configuration that are told within a sentence."""
    found = set()
    for page in PAGES[:3]:
        text = (TOP / page).read_text()
        found |= set(re.findall(r"`(\w+ = [^`\n]+)`" if page.endswith(".md") else r'^\.BR? "?(\w+ = [\w-]+)"?', text, re.M))
    assert len(found) > 6
    return sorted(found)


@pytest.mark.parametrize("line", inline())
def test_inline(make_server, place, tmp_path, line):
    key, value = line.split(" = ")
    value = place("/etc/nbdroot/stations") if value == "FILE" else value
    generic = re.search(rf'GENERIC\("{key}"', (TOP / "server/config-keys.c").read_text())
    text = f"[lab]\nexportname = {tmp_path}/srv/lab.img\n"
    # What it is told together with.
    if not generic and key != "overlay":
        text += "overlay = keep\n"
    text += f"{key} = {value}\n" if not generic else ""
    text = "[generic]\n" + (f"{key} = {value}\n" if generic else "") + \
        (f"unixsock = {tmp_path}/nbd.sock\n" if key == "duallisten" else "") + text
    try:
        server = make_server(config=serveable(text, place, tmp_path))
    except ServerError as error:
        if "CAP_SYS_RESOURCE" not in str(error):
            raise
        pytest.skip("the kernel does not let us do that here")
    check_serves(server, b"lab")


@pytest.mark.parametrize("text", examples(config=False))
def test_commands(make_server, place, tmp_path, text):
    """Each line, in turn, beside a server with a station's overlay."""
    lab = next(b for b in blocks("docs/server.md") if "[lab]" in b)
    server = make_server(config=serveable(lab, place, tmp_path))
    with Station(server, "lab/pc7", boot=None) as c:
        assert c.write(0, b"x") == 0
        c.disconnect()
    (tmp_path / "etc/nbdroot/server.conf").write_text(
        f"[generic]\nport = {free_port()}\nlistenaddr = 127.0.0.1\n[a]\nexportname = {tmp_path}/srv/root.img\nreadonly = true\n")
    wait_idle(tmp_path)
    for line in text.strip().splitlines():
        run_line(line, place, tmp_path)
    check_serves(server, b"lab/pc8")


def overlays(tmp_path):
    return f"--dir={tmp_path}/var/nbdroot/overlays"


def wait_idle(tmp_path):
    until(lambda: b"in use" not in subprocess.run([binary(), "overlays", "list", overlays(tmp_path)],
                                                  stdout=subprocess.PIPE).stdout)


def run_line(line, put, tmp_path):
    words = put(line).split()
    pidfile = tmp_path / "pid"
    if words[0] == "nbd-server":
        words[0] = binary()
        if words[1] in ("status", "top", "reload", "drain"):
            words.append(f"--socket={tmp_path}/run/nbdroot/control.sock")
        elif words[1] == "overlays":
            words.append(overlays(tmp_path))
        elif "--check" not in words:
            # It serves: in the background, or with -n until it is told.
            words = [words[0], "-p", str(pidfile), *(re.sub(r"^([\d.]+@)?(10809|1234)$", f"127.0.0.1@{free_port()}", w)
                                                     for w in words[1:])]
    if "top" in words:
        top = subprocess.Popen(words, stdout=subprocess.PIPE)
        assert b"connections: reading" in top.stdout.readline()
        top.kill()
        top.wait()
        top.stdout.close()
        return
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL, cwd=tmp_path)
    if "-n" in words:
        until(lambda: process.poll() is not None or pidfile.exists() and pidfile.read_text())
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(granted(20)) == 0
        return
    assert process.wait(granted(20)) == 0, line
    if "-p" in words:
        pid = int(pidfile.read_text())
        os.kill(pid, signal.SIGTERM)
        until(lambda: not pidfile.exists(), what=f"{line}: does not end")


def test_every_key_is_in_the_manual():
    """What the parser knows, nbd-server(5) tells."""
    page = (TOP / "docs/man/nbd-server.5").read_text()
    source = (TOP / "server/config-keys.c").read_text()
    keys = set(re.findall(r'^\t(?:GENERIC|EXPORT)\("(\w+)"', source, re.M)) | set(re.findall(r'^\t\{ "(\w+)", T_', source, re.M))
    assert len(keys) > 40
    missing = {key for key in keys if not re.search(rf"\b{key}\b", page)}
    assert not missing


def drop_ins():
    """What the reader is told to add to the unit."""
    blocks = re.findall(r"^```\n(\[Service\]\n.*?)^```$", (TOP / "docs/server.md").read_text(), re.M | re.S)
    assert blocks
    return ["", *blocks]


@pytest.mark.parametrize("more", drop_ins(), ids=lambda text: text.split("\n")[1] if text else "alone")
def test_unit_of_the_service(tmp_path, more):
    """systemd understands every line of it, and of what may be added."""
    text = (TOP / "server/nbd-server.service").read_text()
    if not os.access("/usr/bin/systemd-analyze", os.X_OK):
        pytest.skip("no systemd-analyze")
    # A drop-in file is read after the unit, as these lines are.
    unit = tmp_path / "nbd-server.service"
    unit.write_text(text.replace("@bindir@/nbd-server", binary()) + more)
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", str(unit)], timeout=granted(60), text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    ours = [line for line in done.stdout.splitlines() if "nbd-server.service" in line]
    assert not ours, "\n".join(ours)
