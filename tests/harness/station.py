# SPDX-License-Identifier: GPL-2.0
"""A station: a QEMU machine driven over its serial console. Stdlib only.

    with Station(kernel(), nbdroot="10.0.2.2:1234") as s:   # direct kernel boot
        s.wait_for_root()
        s.run("findmnt /")                                  # -> its output
        s.poweroff()

It powers on by PXE instead when given a `tftp` directory and `bootfile`. All
the console has ever said is in .console; a failed expectation raises
StationError with its end. QEMU dies with us, whatever happens to us.
"""
import codecs
import json
import re
import shlex
import socket
import subprocess
import tempfile
import threading
import time
import warnings
from pathlib import Path

from .accel import accel_args
from .kernel import qemu_binary
from .patience import deadline, granted
from .process import die_with_parent

# Everything is slow without KVM, and other work shares the machine.
BOOT_SECONDS = 180
COMMAND_SECONDS = 60

SHELL_LINE = 1000       # BusyBox's shell takes no longer ones (1024, all told)

ROOT_REACHED = r"this station has reached its root"
# Kernel messages land amid what the shell prints, whole lines at a time.
PRINTK = re.compile(r"\r?\[ *\d+\.\d+\] [^\n]*\n")
# How a complaint of the kernel begins; its call trace may be longer than a screen.
TROUBLE = re.compile(r"\bBUG: |\bWARNING: |\bOops: |Kernel panic|: 0000 \[#\d+\]|"
                     r"rcu: INFO: |blocked for more than|possible circular locking")
# A kernel that changes its own code (a static key, say) sets breakpoints for a
# moment. TCG with a thread a processor has been seen to run one that was taken
# back already: the guest's kernel then does not know it, and dies of it.
STALE_BREAKPOINT = re.compile(r"\bint3: 0000 \[#1\]")
# A kernel looks whether its timer ticks for as long as some ticks take by the
# processor's clock, which goes on while TCG, on a busy machine, stands still.
DEAD_TIMER = "IO-APIC + timer doesn't work"
# From here on it is not the kernel alone that runs in the machine.
NOT_ALONE = re.compile(r"Run /init|nbdroot: |the rig is")
ESCAPES = re.compile(r"\x1b(\[[0-9;?]*[A-Za-z]|[()][0-9A-Za-z]|[=>c78])|\x1b\][^\x07]*\x07")

# The host's loopback, as a station on QEMU's own network sees it.
HOST = "10.0.2.2"


class StationError(Exception):
    """The station did not do what was expected; carries the end of its console."""


class Station:
    """One QEMU machine.

    kernel      harness.kernel.Kernel to boot directly; None to boot by PXE
    initramfs   image (default: the kernel's standalone one); False for none
    nbdroot, root, append   what goes on the kernel command line
    tftp, bootfile          directory served by QEMU's own TFTP, and its first file
    net         "user" (QEMU's own network: host loopback is 10.0.2.2), or
                QEMU -netdev text whose id is n0
    nic         QEMU device of the network card
    mem, smp, args          size, and further QEMU arguments
    console_log             where to keep the console (default: a temporary file)
    wrap        what stands before QEMU's command line: another network namespace
    """
    parallel = False            # processors that run at the same time under TCG, too

    def __init__(self, kernel=None, initramfs=None, nbdroot=None, root="/dev/nb0",
                 append="", tftp=None, bootfile=None, net="user", nic="virtio-net-pci",
                 mem=512, smp=2, args=(), console_log=None, vmlinuz=None, echo=None,
                 wrap=()):
        self._dir = tempfile.TemporaryDirectory(prefix="station-")
        self.dir = Path(self._dir.name)
        self.console_path = Path(console_log or self.dir / "console.log")
        self._kernel = kernel
        self._vmlinuz = vmlinuz or (kernel.vmlinuz if kernel else None)
        self._initramfs = initramfs
        self._tftp, self._bootfile = tftp, bootfile
        self._net, self._nic, self._mem, self._smp = net, nic, mem, smp
        self._args, self._wrap = list(args), list(wrap)
        self._echo = echo           # called with each chunk the console says
        self.cmdline = " ".join(filter(None, [
            "console=ttyS0 panic=1", f"root={root}" if root else "",
            f"nbdroot={nbdroot}" if nbdroot is not None else "", append]))
        self.process = None
        self._text = ""             # everything said so far
        self._seen = 0              # how far expect() has consumed it
        self._more = threading.Condition()
        self._serial = self._qmp = self._reader = None
        self._runs = 0
        self._closed = False        # the console has ended
        self._pulled = False        # we pulled the plug
        self._again = False         # powered on once more

    # -- power -------------------------------------------------------------
    def command(self):
        argv = [*self._wrap, qemu_binary(), "-nodefaults", "-no-user-config", "-no-reboot",
                "-machine", "pc,graphics=off", *accel_args(self._vmlinuz, self.parallel),
                "-m", str(self._mem), "-smp", str(self._smp),
                "-display", "none", "-device", "virtio-rng-pci",
                "-chardev", f"socket,id=con,path={self.dir}/con",
                "-serial", "chardev:con",
                "-chardev", f"socket,id=qmp,path={self.dir}/qmp",
                "-mon", "chardev=qmp,mode=control"]
        net = "user,id=n0" if self._net == "user" else self._net
        if self._tftp:
            net += f",tftp={self._tftp},bootfile={self._bootfile}"
        argv += ["-netdev", net,
                 "-device", f"{self._nic},netdev=n0,id=card,bootindex=1"]
        if self._kernel and not self._tftp:
            argv += ["-kernel", str(self._vmlinuz), "-append", self.cmdline]
            if self._initramfs is not False:
                argv += ["-initrd", str(self._initramfs or self._kernel.initramfs)]
        return argv + self._args

    def start(self):
        self._closed = False
        listeners = [self._listen("con"), self._listen("qmp")]
        self._qemu_log = open(self.dir / "qemu.log", "w+b")
        self.process = subprocess.Popen(
            self.command(), stdin=subprocess.DEVNULL, stdout=self._qemu_log,
            stderr=self._qemu_log, start_new_session=True, preexec_fn=die_with_parent)
        try:
            self._serial, self._qmp = (self._accept(sock) for sock in listeners)
        finally:
            for sock in listeners:
                sock.close()
        self._reason = "no reason given"
        self._qmp_file = self._qmp.makefile("rw")
        self._qmp_file.readline()
        self.qmp("qmp_capabilities")
        self._reader = threading.Thread(target=self._read_console, daemon=True)
        self._reader.start()
        return self

    def start_anew(self):
        """Power on, as if it had never been."""
        if self.process:
            self.kill()
        self._forget("")
        self._again = self._pulled = False
        return self.start()

    def _forget(self, text):
        """What an emulator that has ended has said."""
        if self._reader:
            self._reader.join()     # its last word: that the console is closed
        for sock in (self._serial, self._qmp):
            if sock:
                sock.close()
        with self._more:
            self._text, self._seen = text, 0

    def _listen(self, name):
        (self.dir / name).unlink(missing_ok=True)
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(str(self.dir / name))
        sock.listen(1)
        sock.settimeout(0.2)
        return sock

    def _accept(self, sock):
        end = deadline(30)
        while time.monotonic() < end and self.process.poll() is None:
            try:
                conn = sock.accept()[0]
                conn.settimeout(None)
                return conn
            except socket.timeout:
                pass
        self.kill()
        raise StationError(f"QEMU does not start: {self._qemu_said()}")

    def _qemu_said(self):
        log = self.dir / "qemu.log"     # until close()
        return log.read_text(errors="replace").strip() if log.exists() else ""

    def running(self):
        return self.process is not None and self.process.poll() is None

    def has_died(self):
        """Is it off, or does it run on only by chance?"""
        return self._closed or not self.running() or self.emulator_failed() is not None

    def kill(self):
        """Pull the plug."""
        if self._closed:        # it ends by itself: how, is worth knowing
            self._wait_ended()
        if self.running():
            self._pulled = True
            self.process.kill()
        if self.process:
            self.process.wait()

    def _wait_ended(self, seconds=10):
        try:
            self.process.wait(granted(seconds))
        except subprocess.TimeoutExpired:
            pass

    def how_it_ended(self):
        """What QEMU says of a machine that went off by itself; "" of another."""
        if self.process is None or self._pulled or not self._closed:
            return ""
        self._wait_ended()
        try:
            for line in self._qmp_file:
                event = json.loads(line)
                if event.get("event") == "SHUTDOWN":
                    self._reason = event["data"].get("reason")
        except (OSError, ValueError):
            pass
        return f"QEMU ended with {self.process.returncode}, {self._reason}. {self._qemu_said()}".strip()

    def emulator_failed(self):
        """How, if the machine died through no fault of what is tested in it, or
        None: QEMU crashed, ran code that the kernel had changed already, or stood still
        while the kernel tried its timer."""
        if "tcg,thread=multi" in self.command() and STALE_BREAKPOINT.search(self.console):
            return "it ran a breakpoint that was taken back"
        if DEAD_TIMER in self.console:
            return "it stood still while the kernel looked whether the timer ticks"
        how = self.how_it_ended()
        return how if how and self.process.returncode else None

    def _power_on_again(self):
        """Once, and said aloud, when the machine was reset while a kernel that does
        not contain our driver was still alone in it, and said nothing of any trouble."""
        said = self.console
        how = self.emulator_failed()
        if not how and not TROUBLE.search(said) and self._initramfs is not False and \
                (not self._tftp or "Linux version" in said):
            how = self.how_it_ended()
            if self._reason != "guest-reset":
                how = None
        if self._again or not how or NOT_ALONE.search(said):
            return False
        self._wait_ended()
        self._again = True
        warnings.warn(f"the emulator failed: {how}; powered on again")
        self._forget(f"[The emulator failed: {how}. Powered on again.]\n")
        self.start()
        return True

    def wait_off(self, timeout=120):
        """Wait until the machine is off."""
        try:
            self.process.wait(granted(timeout))
        except subprocess.TimeoutExpired:
            raise self.error(f"the station is still on after {granted(timeout)} s") from None
        if self.process.returncode != 0:
            raise self.error(f"QEMU ended with {self.process.returncode}: {self._qemu_said()}")
        if "Kernel panic" in self.console:
            raise self.error("the kernel panicked")

    def poweroff(self, timeout=120, command="poweroff"):
        """Ask the station's shell to power off, and wait until it has."""
        self.send(command + "\n")
        self.wait_off(timeout)

    # -- console -----------------------------------------------------------
    def _read_console(self):
        # Incremental: a character may be cut in two by what one recv() brings.
        decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        with open(self.console_path, "ab") as log:
            while True:
                try:
                    data = self._serial.recv(65536)
                except OSError:
                    data = b""
                if data:
                    log.write(data)
                    log.flush()
                    if self._echo:
                        self._echo(data)
                with self._more:
                    if data:
                        self._text += decode(data)
                    else:
                        self._closed = True
                    self._more.notify_all()
                if not data:
                    return

    @property
    def console(self):
        """All the console has said, without terminal escapes."""
        with self._more:
            return ESCAPES.sub("", self._text).replace("\r", "")

    def console_tail(self, lines=60):
        """The console's end, and before it the first thing the kernel complained of."""
        said = self.console.splitlines()
        rest = max(len(said) - lines, 0)
        first = next((i for i in range(rest) if TROUBLE.search(said[i])), None)
        trouble = [] if first is None else said[first:min(first + 30, rest)] + ["[...]"]
        return "\n".join(trouble + said[rest:])

    def error(self, what):
        return StationError(f"{what}\n--- the station's console, its end ---\n{self.console_tail()}")

    def send(self, text):
        """Type text (or bytes) on the console."""
        self._serial.sendall(text.encode() if isinstance(text, str) else text)

    def expect(self, pattern, timeout=COMMAND_SECONDS, clean=False, what=None):
        """Wait for a regular expression in what the console says from here on
        (after the last match); returns the match. clean=True takes kernel
        messages out first. what: for a person, what is waited for."""
        regex = re.compile(pattern)
        end = deadline(timeout)
        while True:
            match = self._search(regex, clean)
            if match:
                return match
            left = end - time.monotonic()
            with self._more:
                if self._searched < len(self._text):
                    continue
                if left > 0 and not self._closed:
                    self._more.wait(left)
                    continue
            if left <= 0 or not self._power_on_again():
                break
        why = (f"the station went off ({self.how_it_ended()})" if self._closed
               else f"{granted(timeout):.0f} s have passed")
        what = what or f"for {pattern!r} on the console"
        raise self.error(f"waited {what}, but {why}")

    def _search(self, regex, clean):
        with self._more:
            self._searched = len(self._text)
            text = self._text[self._seen:]
            if clean:
                match = regex.search(PRINTK.sub("", ESCAPES.sub("", text)))
                seen_to = len(self._text)
            else:
                match = regex.search(text)
                seen_to = match and self._seen + match.end()
            if match:
                self._seen = seen_to
            return match

    def wait_for_root(self, timeout=BOOT_SECONDS):
        """Wait until the default root is up and its shell answers."""
        self.expect(ROOT_REACHED, timeout)
        self.expect(r"station:\S*# ")

    def run(self, command, timeout=COMMAND_SECONDS, check=True):
        """Run a command in the shell on the console. Returns what it printed;
        with check=False (output, status). All in one line: what is typed while
        the command runs would be echoed amid what it prints. The markers are
        typed in two halves so that the echo is not taken for them."""
        self._runs += 1
        n = self._runs
        line = f'echo "@@""{n}<"; eval {shlex.quote(command)}; echo "@@""{n}>$?@"\n'
        assert len(line) <= SHELL_LINE, f"too long for BusyBox's line editing: {command!r}"
        self.send(line)
        match = self.expect(rf"@@{n}<\r*\n([\s\S]*)@@{n}>(\d+)@", timeout, clean=True)
        output = match.group(1).replace("\r", "").strip()
        status = int(match.group(2))
        if not check:
            return output, status
        if status:
            raise self.error(f"{command!r} ended with status {status}:\n{output}")
        return output

    # -- machine -----------------------------------------------------------
    def qmp(self, command, **arguments):
        self._qmp_file.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self._qmp_file.flush()
        while True:
            answer = json.loads(self._qmp_file.readline())
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                raise StationError(f"QMP {command}: {answer['error']}")

    def unplug_cable(self):
        self.qmp("set_link", name="card", up=False)

    def plug_cable(self):
        self.qmp("set_link", name="card", up=True)

    # -- with --------------------------------------------------------------
    def __enter__(self):
        return self.start()

    def close(self):
        self.kill()
        for sock in (self._serial, self._qmp):
            if sock:
                sock.close()
        self._dir.cleanup()

    def __exit__(self, kind, value, trace):
        self.close()
