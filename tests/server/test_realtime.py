# SPDX-License-Identifier: GPL-2.0
"""Loops that run before everything else while the disk is read (realtime = true, which is the default)."""
import os
import subprocess

import pytest

from harness.patience import until
from harness.process import DIE_WITH_PARENT
from harness.server import binary
from raw import MIB, Raw, check_serves, forget

PORTABLE = "server-threads" in binary()
CONFIG = "[generic]\nport = {{port}}\nlistenaddr = 127.0.0.1\n{}\n[a]\nexportname = {}\nreadonly = true\n"
LOOPS = len(os.sched_getaffinity(0))


def works(*argv):
    return subprocess.run(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode == 0


# Containers have neither as a rule, and some the one without the other.
HERE = os.geteuid() == 0 and works("chrt", "-r", "1", "true")
FOR_OTHERS = HERE and works("prlimit", "--rtprio=1:1", "true")


def policies(server):
    return [os.sched_getscheduler(int(task)) & ~os.SCHED_RESET_ON_FORK for task in os.listdir(f"/proc/{server.pid}/task")]


class Stations:
    """One of each loop, which they are dealt to in turn."""

    def __init__(self, server, image, export=b"a"):
        self.server, self.image, self.at = server, image, 0
        self.all = [Raw(server) for _ in range(LOOPS)]
        for one in self.all:
            one.go(export)

    def read(self, cold):
        """Each of them, something that is not in memory if `cold`; how many threads come first then."""
        for one in self.all:
            self.at = (self.at + MIB) % (32 * MIB)
            if cold:
                forget(self.image)
            assert len(one.read(self.at, 4096)) == 4096
        return policies(self.server).count(os.SCHED_RR)

    def end(self):
        for one in self.all:
            one.disconnect()
            one.close()


@pytest.mark.skipif(PORTABLE, reason="that engine has no loops")
@pytest.mark.parametrize("more", [
    pytest.param(None, id="no configuration", marks=pytest.mark.skipif(not HERE, reason="the kernel refuses real-time scheduling here")),
    pytest.param("", id="default", marks=pytest.mark.skipif(not HERE, reason="the kernel refuses real-time scheduling here")),
    pytest.param("user = nobody", id="for others", marks=pytest.mark.skipif(not FOR_OTHERS, reason="RLIMIT_RTPRIO cannot be raised here")),
])
def test_loops_come_first_while_the_disk_is_read(make_server, image, more):
    """All of them, and not the workers; and no longer than that."""
    server = make_server(image) if more is None else make_server(config=CONFIG.format(more, image))
    if not forget(image):
        pytest.skip("this file system does not forget")
    stations = Stations(server, image, b"" if more is None else b"a")
    assert set(policies(server)) == {os.SCHED_OTHER}
    until(lambda: stations.read(cold=True) == LOOPS, 10, "the loops do not come first")
    stations.read(cold=False)
    until(lambda: stations.read(cold=False) == 0, 10, "the loops still come first")
    stations.end()
    assert "realtime" not in server.log_path.read_text()


@pytest.mark.skipif(PORTABLE or not HERE, reason="no loops, or the kernel refuses real-time scheduling here")
@pytest.mark.parametrize("how,policy", [("-b 0", os.SCHED_BATCH), ("-r 10", os.SCHED_RR)])
def test_what_somebody_has_said_stays(make_server, image, how, policy):
    """chrt, or systemd: of all threads, whatever is read."""
    server = make_server(config=CONFIG.format("", image), wrap=[*DIE_WITH_PARENT, "chrt", *how.split()])
    stations = Stations(server, image)
    for _ in range(20):
        stations.read(cold=True)
        assert set(policies(server)) == {policy}
    stations.end()


def test_nothing_comes_first_if_it_is_not_to(make_server, image):
    server = make_server(config=CONFIG.format("realtime = false", image))
    stations = Stations(server, image)
    for _ in range(50):
        assert stations.read(cold=True) == 0
    stations.end()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give its rights up")
@pytest.mark.parametrize("asked", ["realtime = true", ""])
def test_where_it_is_refused(make_server, image, asked):
    """It serves; who has asked for it is told, once, what to do."""
    without = ["setpriv", "--bounding-set=-sys_nice,-sys_resource", "prlimit", "--rtprio=0:0", "--"]
    server = make_server(config=CONFIG.format(f"{asked}\nuser = nobody", image), wrap=[*DIE_WITH_PARENT, *without])
    stations = Stations(server, image)
    for _ in range(20):
        assert stations.read(cold=True) == 0
    stations.end()
    check_serves(server, b"a")
    said = [line for line in server.log_path.read_text().splitlines() if "realtime = true" in line]
    assert len(said) == (1 if asked else 0)
    if asked:
        assert "going on without" in said[0]
        assert ("no loops" if PORTABLE else "LimitRTPRIO=1") in said[0]
