# SPDX-License-Identifier: GPL-2.0
"""Start, kill, restart and stop a real nbd-server. Stdlib only: the demo uses it too.

    with Server(image) as s:            # nbd-server -n 127.0.0.1@PORT image
        run(["nbdinfo", s.uri()])
        s.kill9(); s.restart()          # same port, same arguments, same log

The binary is $NBD_SERVER, else the sanitised build, else the plain one. It
stays in the foreground, in a process group of its own, its log in a file.
"""
import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from .patience import deadline, granted
from .ports import free_port

TOP = Path(__file__).resolve().parents[2]


def binary():
    """Path of the nbd-server to run, or FileNotFoundError with what to do."""
    if os.environ.get("NBD_SERVER"):
        return os.environ["NBD_SERVER"]
    for path in ("build/san/server/nbd-server", "build/server/nbd-server"):
        if os.access(TOP / path, os.X_OK):
            return str(TOP / path)
    raise FileNotFoundError("no nbd-server built: run `make -C server SAN=1`, "
                            "or name one in $NBD_SERVER")


class ServerError(Exception):
    """The server did not do as told; the message carries the end of its log."""


class Server:
    """One nbd-server on one port.

    image, *args  FILE, then what follows it on the command line (a SIZE)
    options       options before the port, e.g. ["-r"]
    config        text of a configuration file; image may then be None. It is
                  formatted with {port}, which must end up as the port served.
    host          address to listen on; None for every address
    env           further environment variables
    """

    def __init__(self, image=None, *args, options=(), config=None,
                 host="127.0.0.1", port=None, log=None, env=None, wrap=()):
        self.image = image
        self.args = [str(a) for a in args]
        self.options = [str(o) for o in options]
        self.host = host
        self.port = port or free_port(host or "127.0.0.1")
        self._dir = tempfile.TemporaryDirectory(prefix="nbd-server-")
        self.env = dict(os.environ, **(env or {}))
        self.env.setdefault("ASAN_OPTIONS", "detect_leaks=1:abort_on_error=0:exitcode=99")
        self.env.setdefault("UBSAN_OPTIONS", "print_stacktrace=1")
        # What it remembers of its stations is this server's alone.
        if "STATE_DIRECTORY" not in (env or {}):
            self.env["STATE_DIRECTORY"] = f"{self._dir.name}/state"
        self.wrap = list(wrap)
        self.process = None
        self.log_path = Path(log) if log else Path(self._dir.name) / "log"
        self.config_path = None
        if config is not None:
            self.config_path = Path(self._dir.name) / "config"
            self.config_path.write_text(config.format(port=self.port))

    # -- what it is called -------------------------------------------------
    @property
    def address(self):
        return self.host or "127.0.0.1"

    def uri(self, export=""):
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"nbd://{host}:{self.port}/{export}"

    @property
    def pid(self):
        return self.process.pid

    # -- life --------------------------------------------------------------
    def command(self):
        argv = self.wrap + [binary(), "-n", *self.options]
        if self.config_path:
            argv += ["-C", str(self.config_path)]
        if self.image is not None:
            host = f"[{self.host}]" if self.host and ":" in self.host else self.host
            argv += [f"{host}@{self.port}" if host else str(self.port), str(self.image)]
            argv += self.args
        return argv

    def start(self, timeout=20):
        """Returns once it listens; ServerError if it does not."""
        start_of_log = self.log_path.stat().st_size if self.log_path.exists() else 0
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=self.env, start_new_session=True)
        end = deadline(timeout)
        while b"listening on " not in self.log_path.read_bytes()[start_of_log:]:
            if self.process.poll() is not None:
                raise ServerError(f"nbd-server ended with {self.process.returncode}:\n{self.log_tail()}")
            if time.monotonic() > end:
                self.kill9()
                raise ServerError(f"nbd-server does not listen after {granted(timeout)} s:\n{self.log_tail()}")
            time.sleep(0.02)
        return self

    def running(self):
        return self.process is not None and self.process.poll() is None

    def kill9(self):
        """What a power cut does to the process; the page cache survives."""
        if self.running():
            self.process.send_signal(signal.SIGKILL)
        if self.process:
            self.process.wait()

    def restart(self, timeout=20):
        """Start again with the same arguments on the same port."""
        if self.running():
            self.stop()
        return self.start(timeout)

    def stop(self, timeout=30):
        """SIGTERM; ServerError unless it ends by itself with status 0 (a
        sanitizer's complaint ends it with another one)."""
        if self.process is None:
            return
        if self.running():
            self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(granted(timeout))
        except subprocess.TimeoutExpired:
            self.kill9()
            raise ServerError(f"nbd-server does not stop within {granted(timeout)} s:\n{self.log_tail()}") from None
        if status != 0:
            raise ServerError(f"nbd-server ended with {status}:\n{self.log_tail(200)}")

    # -- log ---------------------------------------------------------------
    def log(self):
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def log_tail(self, lines=40):
        return "\n".join(self.log().splitlines()[-lines:])

    def wait_log(self, text, timeout=10, count=1):
        """Wait until `text` is in the log `count` times."""
        end = deadline(timeout)
        while self.log().count(text) < count:
            if time.monotonic() > end:
                raise ServerError(f"no {text!r} in the log after {granted(timeout)} s:\n{self.log_tail()}")
            time.sleep(0.02)

    # -- with --------------------------------------------------------------
    def __enter__(self):
        return self.start()

    def __exit__(self, kind, value, trace):
        try:
            if kind is None:
                self.stop()
            else:
                self.kill9()
        finally:
            self._dir.cleanup()
