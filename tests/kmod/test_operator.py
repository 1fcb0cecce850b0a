# SPDX-License-Identifier: GPL-2.0
"""What an operator, and udev for him, get to know of a disk: uevents, trace events,
sysfs, modinfo."""
import re
import subprocess

from conftest import at
from faultserver import FaultServer
from harness import wire
from harness.patience import until
from probes import Events

MULTI = FaultServer.FLAGS | wire.NBD_FLAG_CAN_MULTI_CONN


class Uevents:
    """with Uevents(rig) as u: u.wait("NB_STATE=live"), u.seen: nb0's change events
    so far, each as {name: value}."""

    def __init__(self, rig):
        self.rig = rig

    def __enter__(self):
        self.rig.run("printf '#!/bin/sh\\n(env; echo END) >>/run/uevents\\n' >/bin/note && chmod +x /bin/note && >/run/uevents")
        self.rig.send("uevent note & echo $! >/run/uevent.pid\n")
        # The kernel's list of who listens: protocol 15, group 1.
        self.rig.until("[ -s /run/uevent.pid ] && awk '$2 == 15 && $4 % 2 { print $3 }' /proc/net/netlink | grep -qx $(cat /run/uevent.pid)")
        return self

    @property
    def seen(self):
        said = self.rig.run("cat /run/uevents")
        events = [dict(line.split("=", 1) for line in part.splitlines() if "=" in line) for part in said.split("END")]
        return [e for e in events if e.get("ACTION") == "change" and e.get("DEVNAME") == "nb0"]

    def wait(self, **wanted):
        until(lambda: any(wanted.items() <= e.items() for e in self.seen), 30, lambda: self.seen, every=0.3)

    def __exit__(self, *what):
        self.rig.run("kill $(cat /run/uevent.pid); wait; rm /run/uevent*", check=False)


def test_a_uevent_for_each_change_of_state(rig, server):
    """udev, systemd and whoever watches them hear of a lost server and of its return."""
    rig.attach(server, more="lost=3")
    with Uevents(rig) as u:
        server.die()
        u.wait(NB_STATE="recovering")
        u.wait(NB_STATE="failed")
        server.listen()
        u.wait(NB_STATE="live")
        assert [e["NB_STATE"] for e in u.seen if "NB_STATE" in e] == ["recovering", "failed", "live"]
        assert not any("RESIZE" in e for e in u.seen)


def test_a_uevent_when_the_disk_has_grown(rig, server):
    """What lies on it can be told to grow: RESIZE=1, as of any disk, and the new size is
    there already."""
    rig.attach(server)
    with Uevents(rig) as u:
        server.die()
        server.data.extend(bytes(16 << 20))
        server.size = 32 << 20
        server.listen()
        u.wait(RESIZE="1")
        assert rig.run("cat /sys/block/nb0/size") == "65536"
        u.wait(NB_STATE="live")


def test_a_takeover_is_traced(rig, server):
    """Who looks into what became of a write can see which server has fenced the
    connections before, and for which generation."""
    server.identity = "boot1/host1/image1"
    rig.attach(server)
    generation = int(rig.sysfs("session").split()[3])
    with Events(rig, "nb_takeover", "nb_reconnect") as events:
        server.die()
        server.listen()
        rig.until("[ $(cat /sys/block/nb0/nb/reconnects) = 1 ]")
        rig.wait_state("live")
        said = events.list()
    now = int(rig.sysfs("session").split()[3])
    assert now > generation
    assert ("nb_takeover", f"nb0 server={at(server)} generation={now}") in said
    assert [name for name, _ in said] == ["nb_reconnect", "nb_takeover"]


def test_a_stranger_takes_nothing_over(rig, server):
    """It has fenced nothing, and nobody is to believe that."""
    rig.attach(server)
    with Events(rig, "nb_takeover", "nb_reconnect") as events:
        server.die()
        server.listen()
        rig.until("[ $(cat /sys/block/nb0/nb/reconnects) = 1 ]")
        assert [name for name, _ in events.list()] == ["nb_reconnect"]


def test_each_connection_is_listed(rig, server):
    """Whether it is there, and how often it was lost: a bad one among good ones shows."""
    server.flags = MULTI
    rig.attach(server, more="conns=2")
    assert rig.sysfs("conns").splitlines() == ["0 live lost 0", "1 live lost 0"]
    assert rig.sysfs("connections") == "2"
    until(lambda: len(server.open) == 2)
    server.limit = 1
    server.open[1].reset()
    rig.until("[ $(cat /sys/block/nb0/nb/connections) = 1 ]")
    now = sorted(line.split(" ", 1)[1] for line in rig.sysfs("conns").splitlines())
    assert now == ["down lost 1", "live lost 0"]
    server.limit = None
    rig.until("[ $(cat /sys/block/nb0/nb/connections) = 2 ]")
    now = sorted(line.split(" ", 1)[1] for line in rig.sysfs("conns").splitlines())
    assert now == ["live lost 0", "live lost 1"]


def test_all_connections_are_down(rig, server):
    server.flags = MULTI
    rig.attach(server, more="conns=2")
    server.die()
    rig.wait_state("recovering")
    rig.until("[ $(cat /sys/block/nb0/nb/connections) = 0 ]")
    assert [line.split()[1] for line in rig.sysfs("conns").splitlines()] == ["down", "down"]


def test_a_server_that_allows_only_one_connection_from_now_on(rig, server):
    """Of the one before it allowed several. One is made, all goes by it, and when the
    next generation allows several again they are made."""
    server.flags = MULTI
    rig.attach(server, more="conns=2")
    assert rig.sysfs("connections") == "2"
    server.die()
    server.flags = FaultServer.FLAGS
    server.connections = 0
    server.listen()
    rig.wait_state("live")
    rig.run("dd if=/dev/urandom of=/tmp/w bs=64k count=16 2>/dev/null && dd if=/tmp/w of=/dev/nb0 bs=64k oflag=direct "
            "conv=fsync 2>/dev/null && for c in 1 2; do taskset $c dd if=/dev/nb0 bs=64k count=16 iflag=direct 2>/dev/null | "
            "cmp - /tmp/w || exit; done")
    assert rig.sysfs("connections") == "1" and server.connections == 1
    assert "i/o error" not in rig.dmesg().lower()
    server.die()
    server.flags = MULTI
    server.listen()
    rig.until("[ $(cat /sys/block/nb0/nb/connections) = 2 ]")


def test_an_export_that_has_become_read_only(rig, server):
    """It cannot carry a disk that is written to: that waits, and says why, until there
    is one that can; no write fails."""
    rig.attach(server)
    server.die()
    server.flags |= wire.NBD_FLAG_READ_ONLY
    rig.run("rm -f /tmp/written; dd if=/dev/urandom of=/tmp/w bs=4k count=1 2>/dev/null")
    rig.send("dd if=/tmp/w of=/dev/nb0 bs=4k oflag=direct 2>/dev/null && echo done >/tmp/written &\n")
    rig.wait_state("recovering")
    rig.wait_opened()
    server.listen()
    rig.until("grep -q 'the export has become read-only' /sys/block/nb0/nb/last_error")
    assert rig.sysfs("state") == "recovering"
    assert rig.run("cat /sys/block/nb0/ro") == "0"
    server.flags = FaultServer.FLAGS
    rig.run("wait; cat /tmp/written; dd if=/dev/nb0 bs=4k count=1 iflag=direct 2>/dev/null | cmp - /tmp/w")
    assert "i/o error" not in rig.dmesg().lower()


def test_a_server_that_is_read_only_is_left_for_the_next(rig, server):
    with FaultServer(flags=FaultServer.FLAGS | wire.NBD_FLAG_READ_ONLY) as second, FaultServer() as third:
        rig.attach(server, second, third, more="hold=0")
        server.die()
        rig.run("dd if=/dev/zero of=/dev/nb0 bs=4k count=1 oflag=direct 2>/dev/null")
        assert rig.sysfs("server") == at(third) and wire.NBD_CMD_WRITE in third.kinds()
        assert second.connections and wire.NBD_CMD_WRITE not in second.kinds(), "it was not asked"
        rig.detach()


def modinfo(k, field):
    return subprocess.run(["/sbin/modinfo", "-F", field, k.module], check=True,
                          capture_output=True, text=True).stdout.strip()


def test_modinfo_tells_what_it_is(rig, rig_kernel):
    """And each parameter what it does, and its default, which is what it has."""
    assert "block device" in modinfo(rig_kernel, "description") and "NBD" in modinfo(rig_kernel, "description")
    assert modinfo(rig_kernel, "license") == "GPL" and modinfo(rig_kernel, "author")
    assert modinfo(rig_kernel, "version") == rig.run("cat /sys/module/nb/version")
    told = dict(line.split(":", 1) for line in modinfo(rig_kernel, "parm").splitlines())
    have = rig.run("cd /sys/module/nb/parameters && grep . *; cd /").splitlines()
    assert set(told) == {line.split(":")[0] for line in have} and len(told) >= 2
    for line in have:
        name, value = line.split(":")
        assert re.search(rf"\w.*\(default {value}\) \(uint\)$", told[name]), told[name]
