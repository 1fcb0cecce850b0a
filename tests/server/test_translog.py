# SPDX-License-Identifier: GPL-2.0
"""transactionlog: what was asked and answered, header by header, in a file that
nbd-trdump reads; and that no station ever suffers for it."""
import os
import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from harness import wire
from harness.patience import granted, until
from harness.server import Server, ServerError, binary
from raw import MIB, Raw, check_serves, extended_request, request

TOP = Path(__file__).resolve().parents[2]
REQUEST, SIMPLE, CHUNK = (wire.NBD_REQUEST_MAGIC, wire.NBD_SIMPLE_REPLY_MAGIC,
                          wire.NBD_STRUCTURED_REPLY_MAGIC)
SIZES = {REQUEST: 28, SIMPLE: 16, CHUNK: 20}
HEAD = "[generic]\nport = {port}\nlistenaddr = 127.0.0.1\n"


def headers(log):
    """The headers in a log, as bytes. Nothing else is in it, and all are whole."""
    data, found = log.read_bytes(), []
    while data:
        size = SIZES[struct.unpack(">I", data[:4])[0]]
        assert len(data) >= size
        found.append(data[:size])
        data = data[size:]
    return found


def cookies(log, *magics):
    return [struct.unpack(">Q", h[8:16])[0] for h in headers(log)
            if struct.unpack(">I", h[:4])[0] in magics]


@pytest.fixture
def log(tmp_path):
    return tmp_path / "log"


@pytest.fixture
def logged(make_server, image, log):
    """logged(more, ...): a server whose export "a" has a transaction log."""
    def make(more="", path=image, **kwargs):
        return make_server(config=f"{HEAD}[a]\nexportname = {path}\ntransactionlog = {log}\n{more}",
                           **kwargs)
    return make


class Noting(Raw):
    """Keeps every header of the transmission as it went over the wire."""

    def go(self, name=b""):
        super().go(name)
        self.headers = []
        return self

    def request(self, command, offset=0, length=0, flags=0, cookie=1, payload=b""):
        self.headers.append(request(command, offset, length, flags, cookie))
        return super().request(command, offset, length, flags, cookie, payload=payload)

    def reply(self):
        error, cookie = super().reply()
        self.headers.append(struct.pack(">IIQ", SIMPLE, error, cookie))
        return error, cookie


def talk(c):
    """One of each kind, right and wrong."""
    assert c.write(4096, b"w" * 4096, wire.NBD_CMD_FLAG_FUA) == 0
    assert c.read(4096, 512) == b"w" * 512
    assert len(c.read(0, 3 * MIB)) == 3 * MIB
    assert c.simple(wire.NBD_CMD_TRIM, 0, 4096) == 0
    assert c.simple(wire.NBD_CMD_WRITE_ZEROES, 0, 4096, wire.NBD_CMD_FLAG_NO_HOLE) == 0
    assert c.flush() == 0
    assert c.read(c.size, 512) == wire.NBD_EINVAL
    assert c.write(c.size - 512, b"x" * 4096) == wire.NBD_ENOSPC
    assert c.simple(77, 1, 2, 3) == wire.NBD_EINVAL
    c.disconnect()


# -- what is in it ---------------------------------------------------------

def test_headers_as_on_the_wire(logged, log):
    server = logged()
    with Noting(server) as c:
        talk(c.go(b"a"))
    server.stop()
    assert headers(log) == c.headers
    assert len(c.headers) == 9 * 2 + 1, "a request without an answer: NBD_CMD_DISC"


@pytest.mark.parametrize("option", [wire.NBD_OPT_STRUCTURED_REPLY, wire.NBD_OPT_EXTENDED_HEADERS])
def test_chunks(logged, log, option):
    """Of structured replies the heads of the chunks. Extended headers are
    written as those that they extend."""
    server = logged()
    with Raw(server) as c:
        c.structured(b"base:allocation", name=b"a", option=option)
        flags = wire.NBD_CMD_FLAG_PAYLOAD_LEN if c.extended else 0
        assert c.outcome(wire.NBD_CMD_WRITE, 0, 512, flags, b"x" * 512, cookie=1) == (0, "")
        assert c.parts(0, 512) == [(0, b"x" * 512)]
        assert c.extents(0, 512) == [(512, 0)]
        assert c.outcome(wire.NBD_CMD_READ, c.size, 512, cookie=4)[0] == wire.NBD_EINVAL
    server.stop()
    usual, done = 0x1020304050607080, wire.NBD_REPLY_FLAG_DONE
    text = len("beyond the end of the export")
    status, size = ((wire.NBD_REPLY_TYPE_BLOCK_STATUS_EXT, 24) if c.extended else
                    (wire.NBD_REPLY_TYPE_BLOCK_STATUS, 12))

    def chunk(kind, cookie, length):
        return struct.pack(">IHHQI", CHUNK, done, kind, cookie, length)

    assert headers(log) == [
        request(wire.NBD_CMD_WRITE, 0, 512, flags, 1), chunk(wire.NBD_REPLY_TYPE_NONE, 1, 0),
        request(wire.NBD_CMD_READ, 0, 512, 0, usual), chunk(wire.NBD_REPLY_TYPE_OFFSET_DATA, usual, 520),
        request(wire.NBD_CMD_BLOCK_STATUS, 0, 512, 0, usual), chunk(status, usual, size),
        request(wire.NBD_CMD_READ, 32 * MIB, 512, 0, 4), chunk(wire.NBD_REPLY_TYPE_ERROR, 4, 6 + text)]


def test_a_length_beyond_32_bits(logged, log):
    server = logged()
    with Raw(server) as c:
        c.structured(name=b"a", option=wire.NBD_OPT_EXTENDED_HEADERS)
        c.outcome(wire.NBD_CMD_TRIM, 0, 5 << 32)
        c.send(extended_request(wire.NBD_CMD_DISC))
        assert c.closed()
    server.stop()
    assert headers(log)[0][24:] == b"\xff" * 4


def test_a_long_read_in_chunks(logged, log):
    """Each of its chunks has a head, and one of them, the last, is DONE."""
    server = logged()
    with Raw(server) as c:
        c.structured(name=b"a")
        got = c.parts(0, 8 * MIB)
        assert sum(len(data) for _, data in got) == 8 * MIB
        c.request(wire.NBD_CMD_DISC)
        assert c.closed()
    server.stop()
    _, *chunks, _ = headers(log)
    assert len(chunks) == len(got)
    assert [bool(h[5] & wire.NBD_REPLY_FLAG_DONE) for h in chunks] == [False] * (len(got) - 1) + [True]


def test_a_request_that_waits_for_memory_is_there_once(logged, log, big):
    """Forty reads of 16 MiB into one buffer each: more than a connection may have."""
    server = logged(path=big(32 * MIB))
    with Raw(server) as c:
        c.go(b"a")
        for cookie in range(40):
            c.request(wire.NBD_CMD_READ, 0, 16 * MIB, cookie=cookie)
        for _ in range(40):
            assert c.reply()[0] == 0
            c.recv(16 * MIB)
    server.stop()
    assert cookies(log, REQUEST) == list(range(40))
    assert sorted(cookies(log, SIMPLE)) == list(range(40))


def test_many_connections(logged, log):
    """All whole, and each one's in order."""
    server = logged()
    with_log = [Raw(server).go(b"a") for _ in range(8)]
    for i in range(200):
        for number, c in enumerate(with_log):
            c.request(wire.NBD_CMD_READ, i * 512, 512, cookie=number << 32 | i)
    for c in with_log:
        for _ in range(200):
            assert c.reply()[0] == 0
            c.recv(512)
        c.close()
    server.stop()
    for magic in (REQUEST, SIMPLE):
        found = cookies(log, magic)
        assert len(found) == 1600
        if magic == REQUEST:
            for number in range(8):
                assert [k & 0xffff for k in found if k >> 32 == number] == list(range(200))
    asked = set()
    for h in headers(log):
        cookie = h[8:16]
        if h[:4] == struct.pack(">I", REQUEST):
            asked.add(cookie)
        else:
            asked.remove(cookie)
    assert not asked


@pytest.fixture(scope="session")
def trdump():
    """The nbd project's reader of such logs: installed, or unpacked beside."""
    if shutil.which("nbd-trdump"):
        return "nbd-trdump"
    folder = TOP / "build/debs/nbd-server"
    if subprocess.run([TOP / "tools/undeb", folder, "nbd-server"]).returncode:
        pytest.skip("no nbd-trdump here, and none to be fetched")
    return next(folder.glob("**/bin/nbd-trdump"))


def test_nbd_trdump_reads_it(logged, log, trdump):
    server = logged()
    with Noting(server) as c:
        talk(c.go(b"a"))
    server.stop()
    with open(log) as f:
        said = subprocess.run([trdump], stdin=f, check=True, text=True, stdout=subprocess.PIPE).stdout
    lines = said.splitlines()
    assert "nknown" not in said.replace("UNKNOWN", ""), said
    assert len(lines) == len(c.headers)
    for line, header in zip(lines, c.headers):
        sign = ">" if len(header) == SIZES[REQUEST] else "<"
        cookie, = struct.unpack(">Q", header[8:16])
        assert re.match(f"{sign} H=0*{cookie:x} ", line), line
    assert "NBD_CMD_WRITE" in lines[0] and "FUA" in lines[0]
    assert re.search(r"O=0*1000 L=0*1000$", lines[0])


def test_nbd_trdump_stays_in_step(logged, log, trdump):
    """That of nbd 3.24 does not know structured replies, and says so; the requests
    it reads all the same."""
    server = logged()
    with Raw(server) as c:
        c.structured(name=b"a")
        for cookie in range(1, 20):
            assert len(c.chunks(wire.NBD_CMD_READ, 0, 512, cookie=cookie)) == 1
    server.stop()
    with open(log) as f:
        said = subprocess.run([trdump], stdin=f, check=True, text=True, stdout=subprocess.PIPE).stdout
    assert [int(k, 16) for k in re.findall(r"^> H=([0-9a-f]+) ", said, re.M)] == list(range(1, 20))


# -- whose it is -----------------------------------------------------------

def test_comes_to_the_file_while_the_server_runs(logged, log):
    server = logged()
    with Raw(server) as c:
        c.go(b"a")
        c.read(0, 512)
        until(lambda: len(headers(log)) >= 2)
    assert log.stat().st_mode & 0o777 == 0o600


def test_appended_to(logged, image, log):
    """After a restart, by two exports that name the same one, and after it was
    made empty under the server."""
    server = logged(f"readonly = true\n[b]\nexportname = {image}\nreadonly = true\n"
                    f"transactionlog = {log}\n")
    for _ in range(2):
        for name in (b"a", b"b"):
            check_serves(server, name)
        server.restart()
    assert len(headers(log)) == 2 * 2 * 3
    os.truncate(log, 0)
    check_serves(server, b"a")
    server.stop()
    assert len(headers(log)) == 3


def test_reload(make_server, image, log):
    """It comes and goes for those who connect; who is there keeps what it has."""
    plain = f"{HEAD}[a]\nexportname = {image}\nreadonly = true\n"
    server = make_server(config=plain)
    config = server.config_path.read_text()

    def reload(text):
        done = server.log().count("SIGHUP: ")
        server.config_path.write_text(text)
        os.kill(server.pid, 1)
        server.wait_log("SIGHUP: ", count=done + 1)

    with Raw(server) as before, Raw(server) as during:
        before.go(b"a")
        reload(config + f"transactionlog = {log}\n")
        during.go(b"a")
        before.read(0, 512)
        during.read(0, 1024)
        reload(config + f"transactionlog = {log.parent}/no/log\n")
        server.wait_log(f"SIGHUP: nothing is changed: {server.config_path}:7: {log.parent}/no/log: No such file")
        reload(config)
        during.read(0, 2048)
        check_serves(server, b"a")
    server.stop()
    assert [h[24:] for h in headers(log) if len(h) == SIZES[REQUEST]] == [
        struct.pack(">I", n) for n in (1024, 2048)]


def test_rotated(make_server, image, log):
    """After a rename and a reload a new file has what comes, to the last header;
    without a rename the same one goes on."""
    server = make_server(config=f"{HEAD}[a]\nexportname = {image}\nreadonly = true\ntransactionlog = {log}\n")
    old, gone = log.with_name("log.1"), log.with_name("log.2")

    def reload(count):
        os.kill(server.pid, 1)
        server.wait_log("SIGHUP: ", count=count)

    def written(path, n):
        until(lambda: len(headers(path)) >= n)
        assert len(headers(path)) == n

    with Raw(server) as c:
        c.go(b"a")
        c.read(0, 512)
        written(log, 2)
        reload(1)
        c.read(0, 512)
        written(log, 4)
        log.rename(old)
        c.read(0, 512)
        written(old, 6)
        reload(2)
        assert log.stat().st_size == 0 and log.stat().st_mode & 0o777 == 0o600
        for _ in range(100):
            c.read(0, 512)
        written(log, 200)
        # What has the name is somebody else's: not written to, and nothing is lost.
        log.rename(gone)
        log.write_text("precious\n")
        reload(3)
        server.wait_log("it goes on in the file that had this name")
        c.read(0, 512)
        written(gone, 202)
        log.unlink()
        reload(4)
        c.read(0, 512)
        written(log, 2)
        c.disconnect()
    server.stop()
    assert len(headers(old)) == 6 and len(headers(gone)) == 202 and len(headers(log)) == 3


# -- when it cannot be written -----------------------------------------------

def unusable(tmp_path, image, what):
    path = tmp_path / "wrong"
    if what == "nowhere":
        return tmp_path / "none/log", "No such file or directory"
    if what == "folder":
        return tmp_path, "Is a directory"
    if what == "pipe":
        os.mkfifo(path)
        return path, "not a regular file"
    if what == "short":
        path.write_bytes(b"x")
        return path, "holds something else than a transaction log"
    return image, "holds something else than a transaction log"


@pytest.mark.parametrize("what", ["nowhere", "folder", "pipe", "short", "image"])
def test_refused_at_start(image, tmp_path, what, content):
    path, says = unusable(tmp_path, image, what)
    config = tmp_path / "config"
    config.write_text("[generic]\nport = 1\n"
                      f"[a]\nexportname = {image}\ntransactionlog = {path}\n")
    for options in (["-n"], ["--check"]):
        done = subprocess.run([binary(), *options, "-C", config], text=True, timeout=granted(20),
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert done.returncode == 1
        assert f"nbd-server: {config}:5: {path}: " in done.stdout
        assert says in done.stdout or (what == "nowhere" and "cannot be made" in done.stdout)
    assert image.read_bytes() == content


def test_check_makes_no_file(image, tmp_path, log):
    config = tmp_path / "config"
    config.write_text(f"[a]\nexportname = {image}\ntransactionlog = {log}\n")
    done = subprocess.run([binary(), "--check", "-C", config], text=True, stdout=subprocess.PIPE)
    assert done.returncode == 0 and "1 export, nothing wrong" in done.stdout
    assert not log.exists()


@pytest.mark.skipif(not shutil.which("prlimit"), reason="prlimit of util-linux")
def test_a_write_that_fails_is_the_logs_end_and_nobody_elses(logged, log, content):
    """The file may not be longer than 64 KiB."""
    server = logged("readonly = true\n", wrap=["prlimit", "--fsize=65536"])
    with Raw(server) as c:
        c.go(b"a")
        for i in range(8):
            # 44 bytes each, so that it fails at some of these rounds.
            for _ in range(256):
                c.request(wire.NBD_CMD_READ, i * 512, 512, cookie=i)
            for _ in range(256):
                assert c.reply() == (0, i)
                assert c.recv(512) == content[i * 512:i * 512 + 512]
        server.wait_log(f"transaction log {log}: File too large; it ends here")
        assert c.read(0, 4096) == content[:4096]
        c.disconnect()
    server.stop()
    assert server.log().count("transaction log") == 1
    assert log.stat().st_size <= 65536
    headers(log)


def test_datalog_is_not_here(image):
    config = f"{HEAD}[a]\nexportname = {image}\ndatalog = "
    with Server(config=config + "false\n") as server:
        check_serves(server, b"a")
    with pytest.raises(ServerError, match=":6: datalog: this server does not have it"):
        Server(config=config + "true\n").start()
