# SPDX-License-Identifier: GPL-2.0
"""Programs around each connection (prerun, postrun), and the place that a client
has meanwhile."""
import os
import signal
import threading
import time

import pytest

from harness import wire
from harness.patience import granted, until
from harness.process import DIE_WITH_PARENT
from harness.server import binary
from preload import preload
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
    until(lambda: log.exists() and log.read_text().count("\n") >= 2)
    assert log.read_text() == (f"before {image} ; $(id) a 127.0.0.1\n" f"after {image} a 127.0.0.1\n")
    with pytest.raises(Refused, match="prerun program refuses it"):
        Station(server, "b", boot=None)


def test_prerun_that_refuses_does_not_fill_the_log(lab, image):
    """Whoever it refuses may come again, at once (log.h: LOG_PEER_RATE)."""
    server = lab(f"[a]\nexportname = {image}\nreadonly = true\nprerun = /bin/false\n")
    begun = time.monotonic()

    def come():
        for _ in range(200):
            with pytest.raises(Refused):
                Station(server, "a", boot=None)

    clients = [threading.Thread(target=come) for _ in range(8)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    # A second that has begun, and one that has not ended.
    assert 1 <= server.log().count("/bin/false: ended with") <= 200 * (time.monotonic() - begun + 2)


def test_prerun_that_takes_long(lab, image, make_gate):
    """The 10 s that a client has are not the server's; other stations are
    served meanwhile."""
    gate = make_gate()
    server = lab(f"[a]\nexportname = {image}\nprerun = {gate.program}\nreadonly = true\n"
                 f"[b]\nexportname = {image}\noverlay = fresh\n"
                 f"[c]\nexportname = {image}\nprerun = {gate.program}\nreadonly = true\n", "max_threads = 8")
    with Raw(server) as slow, Station(server, "b/one", boot=None) as other:
        slow.hello().send(option(wire.NBD_OPT_GO, go_data(b"a")))
        gate.reached()
        start = time.monotonic()
        more = [Raw(server) for _ in range(8)]
        for c in more:
            c.hello().send(option(wire.NBD_OPT_GO, go_data(b"c")))
        gate.reached(2)     # more than a quarter of the workers need not be at that
        assert other.write(0, b"x" * 4096) == 0 and other.flush() == 0
        # Those who have left are not opened for.
        for c in more:
            c.reset()
        time.sleep(max(0.3, start + 11 - time.monotonic()))
        gate.open()
        assert slow.option_replies(wire.NBD_OPT_GO)[-1] == (wire.NBD_REP_ACK, b"")
        assert len(slow.read(0, 4096)) == 4096
        check_serves(server, b"b/two")


def test_the_place_of_one_who_left(lab, image, make_gate):
    """Who has been closed is not counted any more, however much there still is
    to do; only a program has its place until it has run."""
    before, after = make_gate(), make_gate()
    server = lab(f"[a]\nexportname = {image}\nreadonly = true\nmaxconnections = 1\n"
                 f"[b]\nexportname = {image}\nreadonly = true\nmaxconnections = 1\npostrun = {after.program}\n"
                 f"[c]\nexportname = {image}\nreadonly = true\nmaxconnections = 3\nprerun = {before.program}\n", "max_threads = 1")
    with Raw(server) as one, Raw(server) as two:
        one.go(b"a")
        busy = [Raw(server) for _ in range(3)]
        for c in busy:
            c.hello().send(option(wire.NBD_OPT_GO, go_data(b"c")))
        before.reached()        # the only worker is at that
        one.disconnect()
        two.hello().send(option(wire.NBD_OPT_GO, go_data(b"a")))
        time.sleep(0.3)
        before.open()
        assert two.option_replies(wire.NBD_OPT_GO)[-1][0] == wire.NBD_REP_ACK
        for c in busy:
            c.close()
    with Raw(server) as one, Raw(server) as two:
        one.go(b"b")
        one.disconnect()
        after.reached()
        two.hello()
        kind, text = two.option(wire.NBD_OPT_GO, go_data(b"b"))[-1]
        assert kind == wire.NBD_REP_ERR_POLICY and b"maxconnections = 1" in text
        after.open()
        until(lambda: two.option(wire.NBD_OPT_GO, go_data(b"b"))[-1][0] == wire.NBD_REP_ACK, every=0.1)


def test_the_place_of_one_who_gave_up(lab, image, make_gate):
    """His prerun is still at it: the next one's must not run beside it."""
    gate = make_gate()
    server = lab(f"[a]\nexportname = {image}\nreadonly = true\nmaxconnections = 1\nprerun = {gate.program}\n")
    with Raw(server) as one, Raw(server, timeout=30) as two:
        one.hello().send(option(wire.NBD_OPT_GO, go_data(b"a")))
        gate.reached()
        one.reset()
        time.sleep(0.3)
        two.hello()
        assert two.option(wire.NBD_OPT_GO, go_data(b"a"))[-1][0] == wire.NBD_REP_ERR_POLICY
        assert gate.started() == 1
        gate.open()
        until(lambda: two.option(wire.NBD_OPT_GO, go_data(b"a"))[-1][0] == wire.NBD_REP_ACK, every=0.1)


# accept(2), of either kind, is done only when it is let, once there is $HOLD.
SLOW_ACCEPT = r"""
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

int accept4(int fd, struct sockaddr *addr, socklen_t *len, int flags)
{
	int got = (int)syscall(SYS_accept4, fd, addr, len, flags);

	while (got >= 0 && !access(getenv("HOLD"), F_OK))
		usleep(20000);
	return got;
}

int accept(int fd, struct sockaddr *addr, socklen_t *len)
{
	return accept4(fd, addr, len, 0);
}
"""


def sockets(server):
    folder = f"/proc/{server.pid}/fd"
    return sum(os.readlink(f"{folder}/{fd}").startswith("socket") for fd in os.listdir(folder))


def test_programs_inherit_no_connection(make_server, image, tmp_path):
    """Not even one that is accepted at this moment."""
    hold, log, tool = tmp_path / "hold", tmp_path / "log", tmp_path / "tool"
    tool.write_text(f"#!/bin/sh\nls -l /proc/$$/fd >>{log}\n")
    tool.chmod(0o755)
    config = f"[a]\nexportname = {image}\nreadonly = true\nprerun = {tool}\n"
    server = make_server(config="[generic]\nport = {port}\nlistenaddr = 127.0.0.1\n" + config,
                         env={**preload(tmp_path, SLOW_ACCEPT), "HOLD": str(hold)})
    # Where there are loops, the one that accepts serves some of them.
    early = [Raw(server).hello() for _ in range(2 * os.cpu_count())]
    hold.touch()
    try:
        late = Raw(server)
        until(lambda: sockets(server) == 2 + len(early))
        for c in early:
            c.send(option(wire.NBD_OPT_GO, go_data(b"a")))
        if "server-threads" in binary():
            until(lambda: log.exists() and log.read_text().count("/dev/null") >= len(early))
    finally:
        hold.unlink()
    late.go(b"a")
    assert "/dev/null" in log.read_text() and "socket" not in log.read_text()
    for c in (*early, late):
        c.close()


def test_stop_while_an_export_is_to_be_opened(lab, image, tmp_path, make_gate):
    """What comes behind the option that waits is answered, and is not taken for the
    name that a worker looks at when it comes to it."""
    gate = make_gate()
    server = lab(f"[a]\nexportname = {image}\noverlay = keep\n"
                 f"[b]\nexportname = {image}\nreadonly = true\nprerun = {gate.program}\n", "max_threads = 1")
    with Raw(server) as one, Raw(server) as two:
        one.hello().send(option(wire.NBD_OPT_GO, go_data(b"b")))
        gate.reached()          # the only worker is at that
        two.hello().send(option(wire.NBD_OPT_GO, go_data(b"a/pc7")) + option(wire.NBD_OPT_LIST, b"x" * 200))
        time.sleep(0.3)
        server.process.send_signal(signal.SIGTERM)
        for number in (wire.NBD_OPT_GO, wire.NBD_OPT_LIST):
            assert two.option_replies(number)[-1][0] == wire.NBD_REP_ERR_SHUTDOWN
        gate.open()
        assert two.closed()
    assert server.process.wait(granted(20)) == 0
    assert [path.name for path in (tmp_path / "state/overlays").glob("*.overlay")] == ["a@pc7.overlay"]


def test_prerun_without_a_status(make_server, image):
    """Started by one who ignores SIGCHLD, which its children inherit."""
    server = make_server(config="[generic]\nport = {port}\nlistenaddr = 127.0.0.1\n"
                         f"[a]\nexportname = {image}\nreadonly = true\nprerun = /bin/false\n"
                         f"[b]\nexportname = {image}\nreadonly = true\nprerun = /bin/true\n",
                         wrap=[*DIE_WITH_PARENT, "env", "--ignore-signal=CHLD"])
    with pytest.raises(Refused, match="prerun program refuses it"):
        Station(server, "a", boot=None)
    check_serves(server, b"b")
