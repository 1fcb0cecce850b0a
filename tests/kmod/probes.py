# SPDX-License-Identifier: GPL-2.0
"""What the station's kernel did, counted by itself and not by a clock: kprobes, and
the driver's trace events."""
import re

import pytest

TRACING = "/sys/kernel/tracing"


def mount_tracing(rig):
    rig.run(f"[ -e {TRACING}/events ] || mount -t tracefs tracefs {TRACING}")


class Calls:
    """with Calls(rig, "function", "size=%dx") as calls: calls.count(), calls.list()"""

    def __init__(self, rig, function, *args):
        self.rig, self.function, self.args = rig, function, args

    def __enter__(self):
        rig = self.rig
        mount_tracing(rig)
        if rig.run(f"[ -e {TRACING}/kprobe_events ]", check=False)[1]:
            pytest.skip("a kernel without kprobes")
        if rig.run(f"grep -q ' {self.function}$' /proc/kallsyms", check=False)[1]:
            pytest.skip(f"a kernel without {self.function}()")
        rig.run(f"cd {TRACING}; echo 'p:seen {self.function} {' '.join(self.args)}' >kprobe_events && "
                "echo 1 >events/kprobes/seen/enable; echo >trace; cd /")
        return self

    def count(self):
        return int(self.rig.run(f"awk '$1 == \"seen\" {{ print $2 }}' {TRACING}/kprobe_profile"))

    def list(self):
        """Each call's arguments, as {name: number}."""
        said = self.rig.run(f"grep -o ' seen: .*' {TRACING}/trace", check=False)[0]
        return [{k: int(v, 0) for k, v in re.findall(r"(\w+)=(\w+)", line)} for line in said.splitlines()]

    def __exit__(self, *what):
        self.rig.run(f"cd {TRACING}; echo 0 >events/kprobes/seen/enable; echo >kprobe_events; cd /")


class Events:
    """with Events(rig, "nb_takeover", ...) as events: events.list()"""

    def __init__(self, rig, *names):
        self.rig, self.names = rig, names

    def set(self, on):
        for name in self.names:
            self.rig.run(f"echo {on} >{TRACING}/events/nb/{name}/enable")

    def __enter__(self):
        mount_tracing(self.rig)
        self.rig.run(f"echo >{TRACING}/trace")
        self.set(1)
        return self

    def list(self):
        """[(event, what it says)]"""
        said = self.rig.run(f"grep -o 'nb_[a-z]*: .*' {TRACING}/trace", check=False)[0]
        return [tuple(line.split(": ", 1)) for line in said.splitlines()]

    def __exit__(self, *what):
        self.set(0)
