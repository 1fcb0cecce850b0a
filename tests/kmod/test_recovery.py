# SPDX-License-Identifier: GPL-2.0
"""Servers that die, come back, lie and hang: nobody on the station may notice
more than a pause, and no byte may be wrong."""
import hashlib
import re
import struct
import threading
import time

import pytest

import faultserver
from conftest import at
from harness import wire
from harness.patience import until


def once(what):
    """A hook that misbehaves for the first request of its kind, then no more."""
    done = threading.Event()

    def hook(conn, req):
        if done.is_set():
            return False
        if what(conn, req) is False:
            return False
        done.set()
        return True
    hook.done = done
    return hook


def fill(server):
    for i in range(0, len(server.data), 8):
        server.data[i:i + 8] = struct.pack(">Q", i * 0x9e3779b97f4a7c15 % (1 << 64))


def read_all(rig, server):
    """Read the whole device past the cache, and compare with what the server has."""
    rig.run("dd if=/dev/nb0 of=/tmp/all bs=256k iflag=direct 2>/dev/null")
    assert rig.run("md5sum </tmp/all").split()[0] == hashlib.md5(server.data).hexdigest()


def test_writes_in_flight_survive_the_server(rig, server):
    rig.attach(server)
    # It takes writes in and says nothing: these are in flight when it dies.
    server.hook = lambda conn, req: req.type == wire.NBD_CMD_WRITE
    rig.run("dd if=/dev/urandom of=/tmp/w bs=1M count=4 2>/dev/null")
    rig.send("dd if=/tmp/w of=/dev/nb0 bs=1M conv=fsync 2>/dev/null && echo ALL-WRITTEN &\n")
    server.wait_seen(wire.NBD_CMD_WRITE)
    server.die()
    server.hook = None
    rig.wait_state("recovering")
    time.sleep(2)
    assert re.search("connection lost: closed by the server; [1-9][0-9]* requests in flight", rig.dmesg())
    server.listen()
    rig.expect("ALL-WRITTEN", 60)
    rig.run("wait")
    assert rig.sysfs("state") == "live" and int(rig.sysfs("requeued")) > 0
    assert rig.sysfs("reconnects") == "1"
    rig.run("dd if=/dev/nb0 bs=1M count=4 iflag=direct 2>/dev/null | cmp - /tmp/w")
    assert "error" not in rig.dmesg().lower()


def test_reads_in_flight_survive_a_reset(rig, server):
    fill(server)
    rig.attach(server)
    server.hook = hook = once(lambda conn, req: conn.reset() is None if req.type == wire.NBD_CMD_READ else False)
    read_all(rig, server)
    assert hook.done.is_set() and rig.sysfs("reconnects") == "1"


def test_half_a_reply_then_death(rig, server):
    fill(server)
    rig.attach(server)

    def half(conn, req):
        if req.type != wire.NBD_CMD_READ or req.length < 65536:
            return False
        conn.send(struct.pack(">IIQ", wire.NBD_SIMPLE_REPLY_MAGIC, 0, req.cookie) + bytes(req.length // 2))
        conn.close()
    server.hook = hook = once(half)
    read_all(rig, server)
    assert hook.done.is_set() and rig.sysfs("reconnects") == "1"


def simple(cookie, error=0, magic=wire.NBD_SIMPLE_REPLY_MAGIC):
    return struct.pack(">IIQ", magic, error, cookie)


HOSTILE = {
    "a cookie never used": lambda conn, req: conn.send(simple(0xdeadbeefcafef00d)),
    "another tag": lambda conn, req: conn.send(simple(req.cookie ^ 1)),
    "a tag out of range": lambda conn, req: conn.send(simple(req.cookie | 0xffff)),
    "an older issue of the tag": lambda conn, req: conn.send(simple(req.cookie - (1 << 32))),
    "a wrong magic": lambda conn, req: conn.send(simple(req.cookie, magic=0x12345678)),
    "a structured reply": lambda conn, req: conn.send(
        struct.pack(">IHHQI", wire.NBD_STRUCTURED_REPLY_MAGIC, 1, 0, req.cookie, 0)),
    "rubbish": lambda conn, req: conn.send(b"\xff" * 4096),
    "text": lambda conn, req: conn.send(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
    "two replies": lambda conn, req: conn.send(
        (simple(req.cookie) + conn.server.data[req.offset:req.offset + req.length]) * 2),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_reply_costs_the_connection_only(rig, server, name):
    fill(server)
    rig.attach(server)
    server.hook = hook = once(
        lambda conn, req: HOSTILE[name](conn, req) if req.type == wire.NBD_CMD_READ else False)
    read_all(rig, server)
    assert hook.done.is_set()
    assert rig.sysfs("reconnects") == "1", rig.sysfs("last_error")
    assert "reply" in rig.sysfs("last_error")


def test_a_reply_before_the_payload_is_out(rig, server):
    """A server that answers a large write when it has seen only its head. What it
    reads then is what the memory holds by then: that is its loss, not ours."""
    rig.attach(server)
    honest = faultserver.Connection.request

    def early(self):
        magic, flags, kind, cookie, offset, length = struct.unpack(
            ">IHHQQI", self.recv(wire.NBD_REQUEST_SIZE))
        if kind == wire.NBD_CMD_WRITE:
            self.reply(cookie)
            time.sleep(0.2)
            self.server.data[offset:offset + length] = self.recv(length)
            return faultserver.Request(flags, wire.NBD_CMD_CACHE, cookie, offset, length, b"")
        return faultserver.Request(flags, kind, cookie, offset, length, b"")

    server.hook = lambda conn, req: req.type == wire.NBD_CMD_CACHE
    try:
        faultserver.Connection.request = early
        rig.run("dd if=/dev/urandom of=/tmp/w bs=1M count=8 2>/dev/null; "
                "dd if=/tmp/w of=/dev/nb0 bs=1M oflag=direct 2>/dev/null")
    finally:
        faultserver.Connection.request = honest
    rig.run("dd if=/dev/nb0 of=/dev/null bs=1M count=8 iflag=direct 2>/dev/null")
    assert rig.sysfs("reconnects") == "0"
    assert "i/o error" not in rig.dmesg().lower()


def test_a_trickle_of_bytes_is_only_slow(rig, server):
    fill(server)
    rig.attach(server)

    def trickle(conn, req):
        if req.type != wire.NBD_CMD_READ:
            return False
        reply = simple(req.cookie) + bytes(server.data[req.offset:req.offset + req.length])
        for i in range(0, 40):
            conn.send(reply[i:i + 1])
            time.sleep(0.01)
        conn.send(reply[40:])
    server.hook = hook = once(trickle)
    read_all(rig, server)
    assert hook.done.is_set() and rig.sysfs("reconnects") == "0"


def test_shutting_down_is_not_an_error(rig, server):
    fill(server)
    rig.attach(server)
    server.hook = hook = once(lambda conn, req: conn.reply(req.cookie, wire.NBD_ESHUTDOWN))
    read_all(rig, server)
    assert hook.done.is_set() and rig.sysfs("reconnects") == "1"
    assert "shutting down" in rig.sysfs("last_error")


@pytest.mark.parametrize("what, says", [
    (dict(size=8 << 20), "has shrunk"),
    (dict(flags=wire.NBD_FLAG_HAS_FLAGS), "lost features"),
    (dict(blocks=(4096, 4096, 1 << 20)), "other block sizes"),
])
def test_another_export_is_not_taken_for_the_old_one(rig, server, what, says):
    fill(server)
    rig.attach(server)
    before = {name: getattr(server, name) for name in what}
    server.die()
    for name, value in what.items():
        setattr(server, name, value)
    server.listen()
    rig.until(f"grep -q '{says}' /sys/block/nb0/nb/last_error")
    assert rig.sysfs("state") == "recovering"
    for name, value in before.items():
        setattr(server, name, value)
    rig.wait_state("live")
    read_all(rig, server)


def test_lost_seconds_then_errors_then_back(rig, server):
    rig.attach(server, more="lost=4")
    start = time.monotonic()
    server.die()
    assert rig.run("dd if=/dev/nb0 of=/dev/null bs=4k count=1 iflag=direct", check=False)[1]
    assert time.monotonic() - start > 2
    assert rig.sysfs("state") == "failed"
    assert "requests fail from now on" in rig.dmesg()
    server.listen()
    rig.wait_state("live", 20)
    rig.run("dd if=/dev/nb0 of=/dev/null bs=4k count=1 iflag=direct")


def stamp(rig, words):
    """When the kernel said that, in seconds since it started."""
    return float(re.search(rf"([0-9.]+) nb: nb0: .*{words}", rig.dmesg())[1])


def test_lost_seconds_are_kept_to_the_second(rig, server):
    """Also while a server is being tried that says nothing: that try would take 5 s,
    the second one until 10 s after the loss."""
    for _ in range(4):      # a machine may stand still for seconds, but not each time
        server.talk = None
        rig.attach(server, more="lost=7")
        rig.run("dmesg -c >/dev/null")
        server.talk = lambda conn: conn.recv(1 << 20)
        for conn in list(server.open):
            conn.reset()
        assert rig.run("dd if=/dev/nb0 of=/dev/null bs=4k count=1 iflag=direct", check=False)[1]
        waited = stamp(rig, "requests fail from now on") - stamp(rig, "connection lost")
        assert rig.sysfs("state") == "failed"
        if 7 <= waited < 9.5:
            return
        rig.detach(more="force=1")
    pytest.fail(f"{waited} s")


def lies_next(conn, req):
    """It answers one request of a connection as it should, and the next with rubbish."""
    if conn in conn.server.carried_one:
        return conn.send(b"\xff" * 16) is None
    conn.server.carried_one.add(conn)
    return False


@pytest.mark.parametrize("hook", [lambda conn, req: conn.reset() is None, lies_next], ids=["drops us", "lies"])
def test_a_server_that_is_of_no_use_is_not_hammered(rig, server, hook):
    """It negotiates, then hangs up, or lies: every try succeeds, and none is of use."""
    server.carried_one = set()
    rig.attach(server)
    before, start = server.connections, time.monotonic()
    server.hook = hook
    rig.send("dd if=/dev/nb0 of=/dev/null bs=4k count=100 iflag=direct && echo RE''AD &\n")
    time.sleep(10)
    until(lambda: server.connections - before > 3)
    assert server.connections - before < 1.4 * (time.monotonic() - start)
    server.hook = None
    rig.expect("READ", 30)
    rig.run("wait")


@pytest.mark.parametrize("times", [12, pytest.param(100, marks=pytest.mark.long)])
def test_a_server_that_is_restarted_again_and_again(rig, server, times):
    """As long as it answers in between, it is found at once, the hundredth time as the first."""
    rig.attach(server)
    waits = []
    for i in range(times):
        rig.run("dd if=/dev/nb0 of=/dev/null bs=4k count=1 iflag=direct 2>/dev/null")
        server.die()
        server.listen()
        start = time.monotonic()
        rig.run(f"until [ $(cat /sys/block/nb0/nb/reconnects) -gt {i} ]; do sleep 0.1; done", 60)
        waits.append(time.monotonic() - start)
    print("connected again after", *(f"{wait:.2f}" for wait in waits))
    waits.sort()
    assert waits[times // 2] < 1.5
    assert waits[-times // 4] < 5       # a machine may stand still, but not all the time


def test_a_server_that_dies_while_partitions_are_read(rig, server):
    """The attach fails, with the reason; it does not wait where no signal reaches it."""
    server.hook = lambda conn, req: server.die() is None
    ok, answer = rig.ctl(f"attach dev=nb0 server={at(server)}")
    assert not ok and "closed by the server" in answer
    server.hook = None
    server.listen()
    rig.attach(server)
    read_all(rig, server)


def test_it_goes_on_with_the_next_server(rig, server):
    fill(server)
    with faultserver.FaultServer() as second:
        second.data = server.data
        rig.attach(server, second)
        server.die()
        read_all(rig, server)
        assert rig.sysfs("server") == at(second)


def test_a_cable_that_was_out(rig, server):
    fill(server)
    rig.attach(server)
    rig.unplug_cable()
    rig.send("dd if=/dev/nb0 of=/dev/null bs=64k iflag=direct 2>/dev/null && echo ALL-READ &\n")
    rig.wait_state("recovering", 30)
    assert re.search("connection lost: no (answer in time|such host)", rig.dmesg())
    rig.plug_cable()
    rig.expect("ALL-READ", 60)
    rig.run("wait")
    assert "i/o error" not in rig.dmesg().lower()


def test_many_deaths_under_load(rig, server):
    """Ten times in a row, in the middle of writing and reading."""
    rig.attach(server)
    rig.send("(while [ ! -e /tmp/stop ]; do dd if=/dev/nb0 of=/dev/null bs=64k count=64 iflag=direct; done) 2>/dev/null &\n")
    rig.send("(while [ ! -e /tmp/stop ]; do dd if=/dev/urandom of=/tmp/w bs=1M count=4; "
             "dd if=/tmp/w of=/dev/nb0 bs=32k seek=64 oflag=direct conv=fsync || echo FAI''LED; done; "
             "echo W''RITER-DONE) 2>/dev/null &\n")
    for i in range(10):
        time.sleep(0.3)
        server.die()
        time.sleep(0.3 * (i % 3))
        server.listen()
        rig.until(f"[ $(cat /sys/block/nb0/nb/reconnects) -gt {i} ]")
    rig.send("touch /tmp/stop\n")
    rig.expect("WRITER-DONE", 120)
    rig.run("wait; rm /tmp/stop")
    assert "FAILED" not in rig.console.split("W''RITER")[-1]
    rig.run("dd if=/dev/nb0 bs=1M skip=2 count=4 iflag=direct 2>/dev/null | cmp - /tmp/w")
    assert rig.sysfs("reconnects") == "10"
    assert "i/o error" not in rig.dmesg().lower()


def test_who_reads_just_as_the_server_is_back(rig, server):
    """udev does, at each change of state. Before 6.13 the block layer could forget
    a request that came in the moment in which its queue was opened again."""
    server.flags |= wire.NBD_FLAG_CAN_MULTI_CONN
    rig.attach(server)
    turn = iter(range(1 << 20))

    def hang_up(conn, req):
        if req.offset or next(turn) % 2:
            return False
        for each in list(server.open):
            each.reset()
        return True
    server.hook = hang_up
    rig.run("newcomer nb0 300", 180)
    assert int(rig.sysfs("reconnects")) >= 300


def test_an_early_reply_twice(rig, server):
    """The socket is full, so the head of a request is only partly out when the
    server, which guessed its cookie, answers it: and then answers it again."""
    rig.attach(server)
    stop = threading.Event()

    def guess(conn, req):
        if req.type != wire.NBD_CMD_WRITE or stop.is_set():
            return False
        stop.set()
        time.sleep(1)       # reads nothing: the station's socket fills up
        generation = req.cookie >> 32
        for ahead in range(1, 130):
            for tag in range(128):
                conn.send(simple(((generation + ahead) & 0xffffffff) << 32 | tag))
        return True
    server.hook = guess
    rig.run("dd if=/dev/urandom of=/tmp/w bs=1M count=12 2>/dev/null; sync; "
            "dd if=/tmp/w of=/dev/nb0 bs=1M conv=fsync 2>/dev/null", timeout=120)
    server.hook = None
    rig.run("dd if=/dev/nb0 bs=1M count=12 iflag=direct 2>/dev/null | cmp - /tmp/w")


def test_a_busy_server_is_not_a_dead_one(rig, server):
    """It takes nothing in for 12 seconds, then goes on: its window was closed,
    but it was there all the time."""
    rig.attach(server)
    server.hook = hook = once(lambda conn, req: time.sleep(12) or conn.carry_out(req) is None
                              if req.type == wire.NBD_CMD_WRITE else False)
    rig.run("dd if=/dev/urandom of=/tmp/w bs=1M count=14 2>/dev/null; "
            "dd if=/tmp/w of=/dev/nb0 bs=1M conv=fsync 2>/dev/null", timeout=120)
    assert hook.done.is_set() and rig.sysfs("reconnects") == "0"
    rig.run("dd if=/dev/nb0 bs=1M count=14 iflag=direct 2>/dev/null | cmp - /tmp/w")


def test_a_grown_export_grows_the_disk(rig, server):
    rig.attach(server)
    server.die()
    server.data.extend(bytes(16 << 20))
    server.size = len(server.data)
    server.listen()
    rig.wait_state("live")
    rig.until("[ $(cat /sys/block/nb0/size) = 65536 ]", 20)
    rig.run("dd if=/dev/urandom of=/dev/nb0 bs=1M seek=31 count=1 conv=fsync 2>/dev/null")
    assert server.data[-(1 << 20):] != bytes(1 << 20)


@pytest.mark.long
def test_a_silent_server_is_given_up_after_30_seconds(rig, server):
    fill(server)
    rig.attach(server)
    server.hook = hook = once(lambda conn, req: True)
    start = time.monotonic()
    rig.run("dd if=/dev/nb0 of=/dev/null bs=4k count=1 iflag=direct", timeout=120)
    assert hook.done.is_set() and 25 < time.monotonic() - start < 90
    assert "no answer for 30 s" in rig.sysfs("last_error")


@pytest.mark.long
def test_one_request_that_is_never_answered(rig, server):
    """Others are, all the time: after ten timeouts that is no server for this one."""
    fill(server)
    rig.attach(server, more="conns=1")
    rig.run("echo 3000 >/sys/block/nb0/queue/io_timeout")
    server.hook = hook = once(lambda conn, req: req.offset == 8 << 20)
    rig.send("(while [ ! -e /tmp/stop ]; do dd if=/dev/nb0 of=/dev/null bs=4k count=1 iflag=direct; sleep 0.2; done) "
             "2>/dev/null &\n")
    rig.run("dd if=/dev/nb0 of=/tmp/r bs=4k count=1 skip=2048 iflag=direct 2>/dev/null", 150)
    rig.run("touch /tmp/stop; wait; rm /tmp/stop")
    assert hook.done.is_set()
    assert "no answer to one request, only to others" in rig.dmesg()
    assert rig.run("md5sum </tmp/r").split()[0] == hashlib.md5(server.data[8 << 20:(8 << 20) + 4096]).hexdigest()


@pytest.mark.long
def test_one_request_that_takes_longer_than_any_timeout(rig, server):
    """It is given up once, and has the time it needs the next time."""
    rig.attach(server, more="conns=1")
    rig.run("echo 3000 >/sys/block/nb0/queue/io_timeout")

    def slow(conn, req):
        if req.type == wire.NBD_CMD_WRITE:
            time.sleep(5)
        return False
    server.hook = slow
    rig.run("dd if=/dev/zero of=/dev/nb0 bs=4k count=1 oflag=direct 2>/dev/null", 60)
    assert rig.sysfs("reconnects") == "1"


def test_a_network_that_changes_all_the_time(rig, server):
    """Addresses come and go faster than the server negotiates: it is heard to
    its end. In other namespaces anybody may do that."""
    rig.attach(server)
    server.die()
    rig.wait_state("recovering")
    server.on_option = lambda conn, option, data: time.sleep(0.5)
    loop = ("while [ ! -e /tmp/stop ]; do ip addr add 127.0.0.9/8 dev lo; "
            "ip addr del 127.0.0.9/8 dev lo; done 2>/dev/null")
    rig.send(f"({loop}) &\n")
    rig.send(f"unshare -n sh -c '{loop}' 2>/dev/null &\n")
    server.listen()
    rig.wait_state("live", 40)
    rig.run("touch /tmp/stop; wait; rm /tmp/stop")
