# SPDX-License-Identifier: GPL-2.0
"""Loops that run before everything else (realtime = true)."""
import os
import subprocess

import pytest

from harness.process import DIE_WITH_PARENT
from harness.server import binary
from raw import check_serves

PORTABLE = "server-threads" in binary()
CONFIG = "[generic]\nport = {{port}}\nlistenaddr = 127.0.0.1\nrealtime = {}\n{}\n" \
         "[a]\nexportname = {}\nreadonly = true\nprerun = {}\n"


def works(*argv):
    return subprocess.run(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode == 0


# Containers have neither as a rule, and some the one without the other.
HERE = os.geteuid() == 0 and works("chrt", "-r", "1", "true")
FOR_OTHERS = HERE and works("prlimit", "--rtprio=1:1", "true")


def policies(server):
    return [os.sched_getscheduler(int(task)) for task in os.listdir(f"/proc/{server.pid}/task")]


def program(tmp_path):
    """A prerun program that writes how it is scheduled, and what it might ask for."""
    tmp_path.chmod(0o777)
    for folder in tmp_path.parents:
        if str(folder).startswith("/tmp/"):
            folder.chmod(folder.stat().st_mode | 0o55)
    tool = tmp_path / "tool"
    tool.write_text(f"#!/bin/sh\nchrt -p $$ > {tmp_path}/said\nulimit -r >> {tmp_path}/said\n")
    tool.chmod(0o755)
    return tool


@pytest.mark.skipif(PORTABLE, reason="that engine has no loops")
@pytest.mark.parametrize("user", [
    pytest.param("", marks=pytest.mark.skipif(not HERE, reason="the kernel refuses real-time scheduling here")),
    pytest.param("user = nobody", marks=pytest.mark.skipif(not FOR_OTHERS, reason="RLIMIT_RTPRIO cannot be raised here")),
])
def test_loops_come_first(make_server, image, tmp_path, user):
    """The workers and the programs that are run do not."""
    server = make_server(config=CONFIG.format("true", user, image, program(tmp_path)))
    first = os.SCHED_RR | os.SCHED_RESET_ON_FORK
    have = policies(server)
    assert have.count(first) == os.sysconf("SC_NPROCESSORS_ONLN")
    assert set(have) == {first, os.SCHED_OTHER}
    check_serves(server, b"a")
    said = (tmp_path / "said").read_text().splitlines()
    assert "SCHED_OTHER" in said[0] and said[-1] == "0"
    assert "realtime" not in server.log_path.read_text()


@pytest.mark.skipif(not FOR_OTHERS, reason="RLIMIT_RTPRIO cannot be raised here")
def test_programs_may_not_come_first(make_server, image, tmp_path):
    """With either engine."""
    server = make_server(config=CONFIG.format("true", "", image, program(tmp_path)))
    check_serves(server, b"a")
    assert (tmp_path / "said").read_text().splitlines()[-1] == "0"


def test_nothing_comes_first_unless_asked(make_server, image, tmp_path):
    server = make_server(config=CONFIG.format("false", "", image, program(tmp_path)))
    assert set(policies(server)) == {os.SCHED_OTHER}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give its rights up")
def test_where_it_is_refused(make_server, image, tmp_path):
    """It says so once, with what to do, and serves."""
    without = ["setpriv", "--bounding-set=-sys_nice,-sys_resource", "prlimit", "--rtprio=0:0", "--"]
    server = make_server(config=CONFIG.format("true", "user = nobody", image, program(tmp_path)), wrap=[*DIE_WITH_PARENT, *without])
    assert set(policies(server)) == {os.SCHED_OTHER}
    check_serves(server, b"a")
    said = [line for line in server.log_path.read_text().splitlines() if "realtime = true" in line]
    assert len(said) == 1 and "going on without" in said[0]
    assert ("no loops" if PORTABLE else "LimitRTPRIO=1") in said[0]
