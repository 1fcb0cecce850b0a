# SPDX-License-Identifier: GPL-2.0
"""A person's terminal as a station's console. Stdlib only.

    with Terminal() as terminal:        # raw; as it was again afterwards
        station = Station(..., echo=terminal.show).start()
        terminal.join(station)          # until it is off, or Ctrl-A X

Every key goes to the station, Ctrl-C too, but for Ctrl-A: Ctrl-A X pulls the
plug, Ctrl-A Ctrl-A is a Ctrl-A for the station. Without a terminal on stdin
show() just prints.
"""
import os
import re
import select
import sys
import termios
import tty

CTRL_A = b"\x01"

# What firmware does to a terminal that the person would rather keep: reset
# it, clear it, turn line wrapping off.
FIRMWARE_HABITS = re.compile(rb"\x1bc|\x1b\[2J|\x1b\[\?7l|\x1b\[=\d*h")
# Such a sequence may come in pieces.
UNFINISHED = re.compile(rb"\x1b(\[[0-9;?=]*)?$")


class PlugPulled(Exception):
    """The person has had enough."""


class TerminalGone(Exception):
    """There is nobody there any more."""


class Terminal:
    def __init__(self):
        self.present = sys.stdin.isatty()
        self._saved = None
        self._held = b""
        self._escape = False

    def __enter__(self):
        if self.present:
            self._saved = termios.tcgetattr(sys.stdin)
        return self

    def raw(self):
        if self.present:
            tty.setraw(sys.stdin)

    def __exit__(self, kind, value, trace):
        if self._saved:
            try:
                print("\x1b[?7h\x1b[0m", end="", flush=True)
                termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._saved)
            except (OSError, termios.error):
                pass        # it has gone

    def show(self, data):
        """What the console says, as it comes."""
        if self.present:
            data = FIRMWARE_HABITS.sub(b"", self._held + data)
            unfinished = UNFINISHED.search(data)
            self._held = unfinished[0] if unfinished else b""
            data = data[:len(data) - len(self._held)]
        try:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
        except OSError:
            pass            # whoever watched has left; the run still counts

    def say(self, text):
        """A word of our own. A raw terminal wants its own carriage returns."""
        try:
            print(text.replace("\n", "\r\n") + "\r" if self.present else text, flush=True)
        except OSError:
            pass

    def join(self, station, meanwhile=lambda: None):
        """Pass keys on until the station is off; meanwhile() is called several
        times a second."""
        self.raw()
        while station.running():
            meanwhile()
            if not select.select([sys.stdin], [], [], 0.2)[0]:
                continue
            keys = os.read(sys.stdin.fileno(), 1024)
            if not keys:
                raise TerminalGone("the terminal is gone")
            try:
                station.send(self._for_station(keys))
            except OSError:
                pass        # it has gone off this moment

    def _for_station(self, keys):
        out = b""
        for key in (keys[i:i + 1] for i in range(len(keys))):
            if self._escape:
                self._escape = False
                if key in b"xX":
                    raise PlugPulled("the plug is pulled")
                if key == CTRL_A:
                    out += key
            elif key == CTRL_A:
                self._escape = True
            else:
                out += key
        return out
