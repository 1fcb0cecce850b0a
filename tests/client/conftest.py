# SPDX-License-Identifier: GPL-2.0
"""The client, built as its Makefile builds it but with a root directory of the
test's own, so that its /proc/cmdline, /sys/block, /run and /etc are ours.

client   with sanitizers
each     the same for each C library and with sanitizers
driver   a fake driver: what it was told, and what it answers
"""
import os
import shutil
import signal
import socket
import subprocess
import threading
from pathlib import Path

import pytest
from harness.patience import granted, until
from harness.ports import free_port

HERE = Path(__file__).resolve().parent
TOP = HERE.parents[1]
BUILDS = ("san", "klibc", "musl", "glibc")


class Running:
    """A client in the background, its stderr in a file."""

    def __init__(self, argv, log):
        self.log = log
        with open(log, "wb") as out:
            self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL,
                                            stdout=out, stderr=out)

    def said(self):
        return self.log.read_text(errors="replace")

    def expect(self, text, timeout=40):
        until(lambda: text in self.said(), timeout, lambda: f"no {text!r} in:\n{self.said()}")

    def wait(self, timeout=40):
        return self.process.wait(granted(timeout))

    def end(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()


class Client:
    """A build of the program and the machine it believes to be on."""

    def __init__(self, binary, root):
        self.binary, self.root = binary, root
        self.started = []

    def reset(self):
        """A machine with the driver loaded and nothing else."""
        shutil.rmtree(self.root, ignore_errors=True)
        for folder in ("dev", "proc", "run", "etc", "sys/block"):
            (self.root / folder).mkdir(parents=True)
        self.write("dev/nb-control", "")

    def write(self, path, text):
        path = self.root / path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def read(self, path):
        return (self.root / path).read_text()

    def cmdline(self, text):
        self.write("proc/cmdline", text + "\n")

    def disk(self, name="nb0", server="127.0.0.1:1234", sectors=4194304, ro=0):
        """What the driver shows of an attached device."""
        for path, text in (("nb/state", "live"), ("nb/server", server),
                           ("size", sectors), ("ro", ro)):
            self.write(f"sys/block/{name}/{path}", f"{text}\n")

    def run(self, *args, timeout=60):
        return subprocess.run([self.binary, *args], capture_output=True, text=True,
                              stdin=subprocess.DEVNULL, timeout=granted(timeout))

    def start(self, *args):
        running = Running([self.binary, *args], self.root.parent / f"log{len(self.started)}")
        self.started.append(running)
        return running


class Driver:
    """Answers the client's commands: `answer` is called with each one."""

    def __init__(self, path):
        self.lines = []
        self.answer = lambda line: (0, "")
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(str(path))
        self.socket.listen()
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                peer, _ = self.socket.accept()
            except OSError:
                return
            with peer:
                line = b""
                try:
                    while not line.endswith(b"\n"):
                        more = peer.recv(5000)
                        if not more:
                            raise BrokenPipeError
                        line += more
                    self.lines.append(line[:-1].decode())
                    error, text = self.answer(self.lines[-1])
                    peer.sendall(f"{error} {text}".encode())
                except (BrokenPipeError, ConnectionResetError):
                    pass    # a test has ended, and its client


@pytest.fixture(scope="session")
def dns_port():
    """Where the test builds expect nameservers."""
    return free_port(kind=socket.SOCK_DGRAM)


@pytest.fixture(scope="session")
def builds(tmp_path_factory, dns_port):
    made = {}

    def build(libc):
        if libc not in made:
            # Unix sockets have short names: not pytest's long directories.
            top = tmp_path_factory.mktemp(libc)
            root = top / "r"
            subprocess.run(
                ["make", "-s", "-C", TOP / "nbd-client-static", f"OUT={top}", "WERROR=1",
                 f"NB_ROOT={root}", top / libc / "nbd-client",
                 f"TEST_FLAGS={HERE}/fake_control.c -I{TOP}/nbd-client-static "
                 f"-Wl,--wrap=control_command -DDNS_PORT={dns_port}"],
                check=True, env={k: v for k, v in os.environ.items() if k != "MAKEFLAGS"})
            made[libc] = Client(top / libc / "nbd-client", root)
        made[libc].reset()
        return made[libc]

    return build


@pytest.fixture
def make_client():
    """make_client(binary, root) for a build that a test made by itself."""
    def make(binary, root):
        made = Client(binary, root)
        made.reset()
        return made
    return make


@pytest.fixture
def client(builds):
    client = builds("san")
    yield client
    for running in client.started:
        running.end()
    client.started.clear()


@pytest.fixture(params=BUILDS)
def each(request, builds):
    return builds(request.param)


@pytest.fixture
def driver(client):
    driver = Driver(client.root / "driver")
    yield driver
    driver.socket.close()
