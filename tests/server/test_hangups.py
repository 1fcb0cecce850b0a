# SPDX-License-Identifier: GPL-2.0
"""Clients that leave at the worst moment, stall, or come in crowds."""
import os
import socket
import struct
import threading
import time

import pytest

from harness import wire
from harness.patience import granted, until
from raw import MIB, Closed, Raw, check_serves, forget, go_data, option, request

GO, LIST = wire.NBD_OPT_GO, wire.NBD_OPT_LIST
READ, WRITE, FLUSH = wire.NBD_CMD_READ, wire.NBD_CMD_WRITE, wire.NBD_CMD_FLUSH


def idle(server):
    """Wait until it holds no connection any more: descriptors are back."""
    def links():
        found = []
        for fd in os.listdir(f"/proc/{server.pid}/fd"):
            try:
                found.append(os.readlink(f"/proc/{server.pid}/fd/{fd}"))
            except FileNotFoundError:
                pass
        return found

    # The listener stays.
    until(lambda: sum(link.startswith("socket:") for link in links()) == 1,
          what=lambda: f"connections are left over: {links()}")


GOOD = (struct.pack(">I", 3) + option(LIST) + option(99, b"xyz") + option(GO, go_data(b"", [0, 3]))
        + request(WRITE, 4096, 512, cookie=1, payload=b"w" * 512) + request(FLUSH, cookie=2)
        + request(READ, 0, 512, cookie=3))


@pytest.mark.parametrize("how", ["close", "reset"])
def test_hang_up_after_every_byte(served, how):
    """CVE-2013-7441: one good conversation, cut short at each of its bytes."""
    for n in range(len(GOOD) + 1):
        c = Raw(served)
        c.send(GOOD[:n])
        getattr(c, how)()
    idle(served)


def test_hang_up_while_it_is_answering(served):
    for n in range(40):
        c = Raw(served, rcvbuf=4096)
        c.go()
        c.send(b"".join(request(READ, i * MIB, MIB, cookie=i) for i in range(20)))
        c.recv(n * 997)
        c.reset()
    idle(served)


@pytest.mark.parametrize("length,sent", [(512, 0), (512, 511), (4096, 1), (MIB, MIB - 1), (MIB + 1, MIB),
                                         (20 * MIB, 0), (20 * MIB, 7 * MIB + 5), (32 * MIB, 32 * MIB - 1)])
def test_hang_up_in_the_middle_of_a_write(served, content, length, sent):
    with Raw(served) as c:
        c.go()
        c.send(request(WRITE, 0, length, payload=content[:sent]))
    served.wait_log("in the middle of a request")
    idle(served)
    # What came was what is there already; what did not come was not written.
    assert served.image.read_bytes() == content


def test_half_closed(served, content):
    """A client that has said all it will say still gets its answers."""
    with Raw(served) as c:
        c.go()
        c.send(request(READ, 0, 8 * MIB, cookie=1) + request(WRITE, 0, 4, cookie=2, payload=b"last"))
        c.sock.shutdown(socket.SHUT_WR)
        left = {1, 2}
        while left:
            error, cookie = c.reply()
            assert error == 0
            if cookie == 1:
                c.recv(8 * MIB)
            left.remove(cookie)
        assert c.closed()
    assert served.image.read_bytes()[:4] == b"last"
    served.wait_log("hung up without NBD_CMD_DISC")


@pytest.mark.parametrize("structured", [False, True])
def test_half_closed_before_it_has_read(served, structured):
    """As libnbd does it: NBD_CMD_DISC behind what is in flight, then no more. All
    that was said is carried out, however slowly the answers are taken; sizes
    around what a socket holds, so that the server stops in the middle."""
    for size in range(MIB // 2, 5 * MIB, MIB // 2):
        with Raw(served, rcvbuf=4096, timeout=30) as c:
            if structured:
                c.structured()
            else:
                c.go()
            c.send(request(READ, 0, size, cookie=1) + request(READ, 0, 4096, cookie=2) +
                   request(wire.NBD_CMD_DISC, 0, 0, cookie=4))
            c.sock.shutdown(socket.SHUT_WR)
            time.sleep(0.1)
            got = 0
            while part := c.sock.recv(65536):
                got += len(part)
            assert got >= size + 4096 + 2 * 16, size
    idle(served)
    assert "hung up" not in served.log()


@pytest.mark.parametrize("said", [b"", struct.pack(">I", 3), struct.pack(">I", 3) + option(LIST, length=10)])
def test_silence_in_the_negotiation(served, said):
    """CVE-2017-9524, CVE-2024-7409: who says nothing is not kept."""
    start = time.monotonic()
    with Raw(served) as c:
        c.send(said)
        assert c.closed()
        assert time.monotonic() - start > 8
    served.wait_log("negotiation not done within 10 s")


def test_drip_does_not_extend_the_deadline(served):
    start = time.monotonic()
    with Raw(served) as c:
        c.hello()
        with pytest.raises(Closed):
            for byte in option(77, bytes(8000)):
                c.send(bytes([byte]))
                time.sleep(0.1)
                assert time.monotonic() - start < granted(20)
        assert time.monotonic() - start > 8


def test_idle_station_is_kept(served, content):
    """The deadline is for the negotiation only."""
    with Raw(served) as c:
        c.go()
        time.sleep(12)
        assert c.read(0, 16) == content[:16]


def test_stalled_readers_stall_only_themselves(served):
    """They ask for much and take nothing; another client does not notice, and
    memory stays bounded."""
    stalled = [Raw(served, rcvbuf=4096).go() for _ in range(20)]
    for c in stalled:
        c.sock.settimeout(0.2)
        try:
            for i in range(200):
                c.send(request(READ, 0, 32 * MIB, cookie=i))
        except OSError:
            pass
    start = time.monotonic()
    for _ in range(20):
        check_serves(served)
    assert time.monotonic() - start < 100
    # The budget is a quarter of the memory, 1 GiB at most; ASan doubles things.
    assert resident(served) < 3 << 30
    for c in stalled:
        c.reset()
    idle(served)


def resident(server):
    """In bytes."""
    with open(f"/proc/{server.pid}/statm") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGESIZE")


@pytest.mark.parametrize("command,length", [(READ, 65536), (READ, 512), (FLUSH, 0)])
def test_answers_that_nobody_takes(served, command, length):
    """A few kilobytes of requests ask for gigabytes of answers: they wait in
    the client's own socket, not in memory."""
    before = resident(served)
    with Raw(served, rcvbuf=4096) as c:
        c.go()
        c.sock.settimeout(1)
        try:
            for i in range(100):
                c.send(b"".join(request(command, 0, length, cookie=k) for k in range(1000)))
        except OSError:
            pass
        check_serves(served)
        assert resident(served) - before < 100 * MIB
        c.reset()
    idle(served)


def test_stalled_writers_stall_only_themselves(served, content):
    """Half a payload each, for ever. What has come of it may be written at any
    time, so the good clients work elsewhere."""
    stalled = [Raw(served).go() for _ in range(60)]
    for c in stalled:
        c.send(request(WRITE, 8 * MIB, 16 * MIB, payload=content[:MIB + 1000]))
    for _ in range(10):
        check_serves(served)
    with Raw(served) as c:
        c.go()
        assert c.write(24 * MIB, b"q" * 8 * MIB) == 0
        assert c.read(24 * MIB, 8 * MIB) == b"q" * 8 * MIB
    for c in stalled:
        c.close()
    idle(served)


def test_two_hundred_at_once(served, content):
    """All of them held open together, each served rightly."""
    # Each negotiates as it comes: they have 10 s for it, from then on.
    clients = [Raw(served, timeout=60).go() for _ in range(200)]
    for i, c in enumerate(clients):
        c.send(b"".join(request(READ, (i * 37 + k) * 4096, 4096, cookie=k) for k in range(20)))
    for i, c in enumerate(clients):
        got = {}
        for _ in range(20):
            error, cookie = c.reply()
            assert error == 0
            got[cookie] = c.recv(4096)
        for k in range(20):
            assert got[k] == content[(i * 37 + k) * 4096:(i * 37 + k + 1) * 4096]
    for c in clients:
        c.close()
    idle(served)


def test_crowd_that_comes_and_goes(served, content):
    """Threads that connect, work and leave without a word, again and again."""
    errors = []

    def station(seed):
        try:
            for i in range(15):
                with Raw(served, timeout=60) as c:
                    c.go()
                    offset = (seed * 15 + i) % 31 * MIB
                    assert len(c.read(offset, 65536)) == 65536
                    assert c.write(offset, content[offset:offset + 8192]) == 0
                    if i % 3 == 0:
                        c.send(request(READ, 0, MIB) * 5)
                        c.reset()
        except Exception as error:  # told below, in the test's own thread
            errors.append(error)

    threads = [threading.Thread(target=station, args=(n,)) for n in range(12)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not errors, errors
    idle(served)
    assert served.image.read_bytes() == content


def test_no_descriptors_left(make_server, image):
    """It refuses who is too many, says so, and serves again when some have left."""
    server = make_server(image, wrap=["prlimit", "--nofile=40:40"])
    clients = []
    for _ in range(80):
        clients.append(Raw(server))
    server.wait_log("too many open files", timeout=20)
    for c in clients:
        c.close()
    idle(server)
    check_serves(server)
    rests(server)


def cpu_time(pid):
    """Seconds of processor a process has used."""
    with open(f"/proc/{pid}/stat") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rests(server):
    """Once it has done what there was to do, whole seconds cost it next to nothing."""
    def at_rest():
        before = cpu_time(server.pid)
        time.sleep(2)
        return cpu_time(server.pid) - before < 0.4

    until(at_rest, what="it spins")


def test_idle_costs_nothing(served):
    """Connections in every state, and no cause to do anything."""
    clients = [Raw(served).go() for _ in range(5)]
    stalled = Raw(served, rcvbuf=4096).go()
    stalled.send(b"".join(request(READ, 0, 8 * MIB, cookie=i) for i in range(50)))
    half = Raw(served).go()
    half.send(request(WRITE, 0, 8 * MIB, payload=b""))
    rests(served)
    for c in clients + [stalled, half]:
        c.reset()
    idle(served)


def test_much_behind_a_read_that_takes_long(lab, image, content, make_gate):
    """More than the server takes in at once: it waits in the socket, and is no
    end of the stream."""
    gate = make_gate()
    server = lab(f"[a]\nexportname = {image}\noverlay = fresh\n"
                 f"[c]\nexportname = {image}\nreadonly = true\nprerun = {gate.program}\n", "max_threads = 1")
    with Raw(server, timeout=30).structured(name=b"a/pc") as c, Raw(server) as busy:
        busy.hello().send(option(wire.NBD_OPT_GO, go_data(b"c")))
        gate.reached()      # the only worker is at that
        forget(image)
        c.send(request(wire.NBD_CMD_READ, 0, 16 * MIB, cookie=1))
        pattern = os.urandom(MIB)
        sender = threading.Thread(target=c.send, args=(request(wire.NBD_CMD_WRITE, 20 * MIB, MIB, cookie=2) + pattern,))
        sender.start()
        time.sleep(0.3)     # all of it is on its way, or waits before the server
        gate.open()
        got, written = {}, False
        while not written or sum(map(len, got.values())) < 16 * MIB:
            _, kind, cookie, payload = c.chunk()
            if cookie == 2:
                assert kind == wire.NBD_REPLY_TYPE_NONE
                written = True
            else:
                assert kind == wire.NBD_REPLY_TYPE_OFFSET_DATA
                got[struct.unpack(">Q", payload[:8])[0]] = payload[8:]
        sender.join()
        assert b"".join(got[k] for k in sorted(got)) == content[:16 * MIB]
