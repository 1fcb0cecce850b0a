#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""make demo: an nbd-server, and a station that boots from it by PXE.

    tools/demo.py [--root busybox|debian] [--kver KVER]
    tools/demo.py --restart-server      for another terminal: kill -9, and
                                        start again DOWN_SECONDS later

On a terminal the station's console is yours: every key goes to the station,
Ctrl-C too; Ctrl-A X pulls the plug. Without one the console is printed, the
station powered off once it has reached its root, and one line sums it up.

Everything runs in this process's care and dies with it, even if it is killed
with -9. The station works on a copy of the image, removed afterwards.
"""
import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

TOP = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TOP / "tests"))

from harness import bootdir  # noqa: E402
from harness.accel import accel_args  # noqa: E402
from harness.images import copy_image  # noqa: E402
from harness.kernel import BUILD, DEFAULT_ROOT, KernelError, kernel  # noqa: E402
from harness.process import DIE_WITH_PARENT, end_with_parent  # noqa: E402
from harness.server import Server, ServerError, free_port  # noqa: E402
from harness.station import HOST, Station, StationError  # noqa: E402
from harness.terminal import PlugPulled, Terminal, TerminalGone  # noqa: E402

PORT = 1234
DOWN_SECONDS = 5        # how long a restarted server stays away
# Without a terminal: the whole of it, under 3 minutes.
DEADLINE_SECONDS = float(os.environ.get("DEMO_SECONDS", 175))
STATE = BUILD / "demo.pid"

ROOTS = {
    "busybox": dict(image=DEFAULT_ROOT, mem=512, options="",
                    reached=r"this station has reached its root",
                    prompt=r"station:\S*# "),
    "debian": dict(image=BUILD / "debian/root.ext4", mem=1024, options=" rw",
                   reached=r"Debian GNU/Linux 12 \S+ ttyS0",
                   prompt=r"root@\S+:\S*# "),
}


class DemoError(Exception):
    """The demo cannot go on; the message is for the person who runs it."""


class Ended(Exception):
    """A signal asked us to end."""


# --- what the demo needs, and where it keeps it ----------------------------

def choose_port(say):
    """1234 as in the boot line that everybody quotes, if nobody has it."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", PORT))
            return PORT
        except OSError:
            port = free_port()
            say(f"demo: port {PORT} is taken on this machine; using {port}")
            return port


def is_demo(pid):
    """Numbers of processes are used again, all the sooner in a container."""
    try:
        return b"demo.py" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def workplace():
    """A directory of our own in build/; what a killed demo left goes now."""
    for old in BUILD.glob("demo-*"):
        pid = old.name.rpartition("-")[2]
        if not pid.isdigit() or not is_demo(pid):
            shutil.rmtree(old, ignore_errors=True)
    place = BUILD / f"demo-{os.getpid()}"
    place.mkdir()
    return place


class Demo:
    def __init__(self, root, kver, terminal):
        self.terminal = terminal
        self.say = terminal.say
        self.root = ROOTS[root]
        self.kernel = kernel(kver)
        self.restart_asked = False
        self.back_at = None
        for path, how in ((self.root["image"], "make root"), (self.kernel.initramfs, "make initramfs")):
            if not path.exists():
                raise DemoError(f"{path} is not there; `make demo` builds it (or `{how}`)")

    def start(self, place):
        image = copy_image(self.root["image"], place / "root.ext4")
        os.environ["NBD_SERVER"] = str(TOP / "server/nbd-server")
        self.server = Server(image, port=choose_port(self.say), log=place / "nbd-server.log",
                             wrap=DIE_WITH_PARENT)
        self.image = image
        self.server.start()
        self.say(f"demo: nbd-server serves a copy of {self.root['image'].name} on 127.0.0.1:{self.server.port}")
        accel = "KVM" if "kvm" in accel_args(self.kernel.vmlinuz) else "TCG, no usable KVM here"
        self.say(f"demo: powering on a station ({accel}): PXE, then {self.kernel.kver}, then its root")
        bootfile = bootdir.ipxe(place / "tftp", self.kernel, f"{HOST}:{self.server.port}",
                                "console=ttyS0 panic=10" + self.root["options"])
        self.station = Station(self.kernel, tftp=place / "tftp", bootfile=bootfile,
                               mem=self.root["mem"], echo=self.terminal.show,
                               console_log=place / "console.log")
        self.station.start()

    def stop(self):
        for thing, how in ((getattr(self, "station", None), "close"),
                           (getattr(self, "server", None), "kill9")):
            if thing:
                getattr(thing, how)()

    def tend_server(self):
        """Restart the server when asked to; called several times a second."""
        if self.restart_asked:
            self.restart_asked = False
            if self.server.running():
                self.say(f"\ndemo: the server is killed; it comes back in {DOWN_SECONDS} s")
            self.server.kill9()
            self.back_at = time.monotonic() + DOWN_SECONDS
        if self.back_at and time.monotonic() >= self.back_at:
            self.back_at = None
            self.server.start()
            self.say("\ndemo: the server is back")


GREETING = f"""
demo: this terminal is the station's console now. Every key goes there, Ctrl-C too.
demo:   poweroff   in the station's shell ends the demo;  Ctrl-A X  pulls the plug
demo:   make demo-server-restart   in another terminal kills the server with -9 and
demo:   starts it again {DOWN_SECONDS} s later: watch the station wait and go on
"""


# --- without a terminal -------------------------------------------------------------

def by_itself(demo, started):
    """Wait for the root, look at it, power off. Returns the summary."""
    station = demo.station

    def left():
        return max(1, started + DEADLINE_SECONDS - time.monotonic())

    if station.expect(rf"{demo.root['reached']}|\(initramfs\) ", left(),
                      what="for the station to reach its root")[0] == "(initramfs) ":
        raise station.error("the station did not reach its root, and says why")
    reached = time.monotonic() - started
    station.expect(demo.root["prompt"], left(), what="for the station's shell")
    source = station.run("grep ' / ' /proc/self/mounts | tail -n 1", timeout=left()).split()[0]
    if source != "/dev/nb0":
        raise DemoError(f"the station's root is {source}, not /dev/nb0")
    station.poweroff(timeout=left())
    fsck = subprocess.run(["e2fsck", "-fn", str(demo.image)], capture_output=True, text=True)
    if fsck.returncode:
        raise DemoError(f"the image is not clean after poweroff:\n{fsck.stdout}")
    return (f"demo: OK: {demo.kernel.kver} booted by PXE, reached its root on {source} after "
            f"{reached:.0f} s, powered off, left the image clean")


# --- life --------------------------------------------------------------------

def run(args):
    def ended(number, _frame):
        raise Ended(f"ended by {signal.Signals(number).name}")

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, ended)
    end_with_parent()       # make, killed, would not tell us
    place = None
    status, last = 1, "demo: FAILED"
    started = time.monotonic()
    with Terminal() as terminal:
        try:
            demo = Demo(args.root, args.kver, terminal)
            place = workplace()
            signal.signal(signal.SIGUSR1, lambda *_: setattr(demo, "restart_asked", True))
            STATE.write_text(str(os.getpid()))
            try:
                demo.start(place)
                if terminal.present:
                    terminal.say(GREETING)
                    terminal.join(demo.station, demo.tend_server)
                    status, last = 0, "demo: the station is off"
                else:
                    last = by_itself(demo, started)
                    status = 0
            except StationError as error:
                raise DemoError(f"{error}\n--- the server's log, its end ---\n"
                                f"{demo.server.log_tail()}") from None
            finally:
                # No second signal may keep us from cleaning up.
                for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                    signal.signal(number, signal.SIG_IGN)
                demo.stop()
        except PlugPulled as reason:
            status, last = 0, f"demo: {reason}"
        except (Ended, TerminalGone) as reason:
            status, last = 130, f"demo: {reason}"
        except (DemoError, KernelError, ServerError) as error:
            # The reason comes last, where it is read.
            reason, _, more = str(error).partition("\n")
            last = f"{more}\ndemo: FAILED: {reason}"
        finally:
            if place:
                shutil.rmtree(place, ignore_errors=True)
                STATE.unlink(missing_ok=True)
    terminal.say(f"\n{last}")
    return status


def restart_server():
    try:
        pid = int(STATE.read_text())
        if not is_demo(pid):
            raise ProcessLookupError
        os.kill(pid, signal.SIGUSR1)
    except (OSError, ValueError):
        print("demo: no demo is running; `make demo` in another terminal starts one")
        return 1
    print(f"demo: the server is killed with -9 and comes back in {DOWN_SECONDS} s; watch the station")
    return 0


def main():
    parser = argparse.ArgumentParser(description="boot a station by PXE from an nbd-server")
    parser.add_argument("--root", choices=ROOTS, default="busybox")
    parser.add_argument("--kver", help="kernel release or series")
    parser.add_argument("--restart-server", action="store_true")
    args = parser.parse_args()
    return restart_server() if args.restart_server else run(args)


sys.exit(main())
