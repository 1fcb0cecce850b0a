# SPDX-License-Identifier: GPL-2.0
"""Programs around each connection (prerun, postrun), and the place that a client
has meanwhile."""
import time

import pytest

from harness import wire
from harness.process import DIE_WITH_PARENT
from raw import Raw, check_serves, go_data, option
from session import Refused, Station


def test_prerun_and_postrun(lab, image, tmp_path):
    """Without a shell, once each per connection; a prerun that fails refuses."""
    log = tmp_path / "log"
    tool = tmp_path / "tool"
    tool.write_text(f"#!/bin/sh\necho \"$@\" \"$NBD_EXPORT\" \"$NBD_ADDRESS\" >> {log}\n")
    tool.chmod(0o755)
    server = lab(f"[a]\nexportname = {image}\nreadonly = true\nprerun = {tool} before %s ; $(id)\npostrun = {tool} after %s\n"
                 f"[b]\nexportname = {image}\nreadonly = true\nprerun = /bin/false\n")
    check_serves(server, b"a")
    deadline = time.monotonic() + 10
    while not log.exists() or log.read_text().count("\n") < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert log.read_text() == (f"before {image} ; $(id) a 127.0.0.1\n" f"after {image} a 127.0.0.1\n")
    with pytest.raises(Refused, match="prerun program refuses it"):
        Station(server, "b", boot=None)


def test_prerun_that_takes_long(lab, image):
    """The 10 s that a client has are not the server's; other stations are
    served meanwhile."""
    server = lab(f"[a]\nexportname = {image}\nprerun = /bin/sleep 11\nreadonly = true\n"
                 f"[b]\nexportname = {image}\noverlay = fresh\n"
                 f"[c]\nexportname = {image}\nprerun = /bin/sleep 4\nreadonly = true\n", "max_threads = 8")
    with Raw(server) as slow, Station(server, "b/one", boot=None) as other:
        slow.sock.settimeout(30)
        slow.hello().send(option(wire.NBD_OPT_GO, go_data(b"a")))
        more = [Raw(server) for _ in range(8)]
        for c in more:
            c.hello().send(option(wire.NBD_OPT_GO, go_data(b"c")))
        time.sleep(0.5)
        start = time.monotonic()
        assert other.write(0, b"x" * 4096) == 0 and other.flush() == 0
        assert time.monotonic() - start < 3
        # Those who have left are not opened for.
        for c in more:
            c.reset()
        assert slow.option_replies(wire.NBD_OPT_GO)[-1] == (wire.NBD_REP_ACK, b"")
        assert len(slow.read(0, 4096)) == 4096
        check_serves(server, b"b/two")


def test_the_place_of_one_who_left(lab, image):
    """Who has been closed is not counted any more, however much there still is
    to do; only a program has its place until it has run."""
    server = lab(f"[a]\nexportname = {image}\nreadonly = true\nmaxconnections = 1\n"
                 f"[b]\nexportname = {image}\nreadonly = true\nmaxconnections = 1\npostrun = /bin/sleep 1\n"
                 f"[c]\nexportname = {image}\nreadonly = true\nmaxconnections = 3\nprerun = /bin/sleep 2\n", "max_threads = 1")
    with Raw(server) as one, Raw(server) as two:
        one.go(b"a")
        busy = [Raw(server) for _ in range(3)]
        for c in busy:
            c.hello().send(option(wire.NBD_OPT_GO, go_data(b"c")))
        time.sleep(0.3)
        one.disconnect()
        two.sock.settimeout(30)
        two.go(b"a")
        for c in busy:
            c.close()
    with Raw(server) as one, Raw(server) as two:
        one.go(b"b")
        one.disconnect()
        two.hello()
        kind, text = two.option(wire.NBD_OPT_GO, go_data(b"b"))[-1]
        assert kind == wire.NBD_REP_ERR_POLICY and b"maxconnections = 1" in text
        deadline = time.monotonic() + 30
        while two.option(wire.NBD_OPT_GO, go_data(b"b"))[-1][0] != wire.NBD_REP_ACK:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_the_place_of_one_who_gave_up(lab, image):
    """His prerun is still at it: the next one's must not run beside it."""
    server = lab(f"[a]\nexportname = {image}\nreadonly = true\nmaxconnections = 1\nprerun = /bin/sleep 2\n")
    with Raw(server) as one, Raw(server, timeout=30) as two:
        one.hello().send(option(wire.NBD_OPT_GO, go_data(b"a")))
        time.sleep(0.3)
        one.reset()
        time.sleep(0.3)
        two.hello()
        assert two.option(wire.NBD_OPT_GO, go_data(b"a"))[-1][0] == wire.NBD_REP_ERR_POLICY
        deadline = time.monotonic() + 30
        while two.option(wire.NBD_OPT_GO, go_data(b"a"))[-1][0] != wire.NBD_REP_ACK:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_prerun_without_a_status(make_server, image):
    """Started by one who ignores SIGCHLD, which its children inherit."""
    server = make_server(config="[generic]\nport = {port}\nlistenaddr = 127.0.0.1\n"
                         f"[a]\nexportname = {image}\nreadonly = true\nprerun = /bin/false\n"
                         f"[b]\nexportname = {image}\nreadonly = true\nprerun = /bin/true\n",
                         wrap=[*DIE_WITH_PARENT, "env", "--ignore-signal=CHLD"])
    with pytest.raises(Refused, match="prerun program refuses it"):
        Station(server, "a", boot=None)
    check_serves(server, b"b")
