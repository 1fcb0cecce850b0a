# SPDX-License-Identifier: GPL-2.0
"""The configuration file: what it does, and how strict it is."""
import contextlib
import json
import os
import socket
import struct
import subprocess

import nbd
import pytest

from harness import wire
from harness.patience import granted, until
from harness.server import Server, ServerError, binary, free_port
from raw import MIB, Raw, check_serves, forget, go_data, option

GO = wire.NBD_OPT_GO


@pytest.fixture
def configured(make_server, image):
    """configured(text): a server of it; {image} and the address are put in."""

    def make(text, generic=""):
        server = make_server(config="[generic]\nport = {port}\nlistenaddr = 127.0.0.1\n" + generic
                             + "\n" + text.replace("IMAGE", str(image)))
        return server

    return make


def refused(c, name):
    (kind, text), = c.option(GO, go_data(name))
    return kind, text.decode()


# -- what it does ----------------------------------------------------------

def test_exports(configured, content):
    server = configured("[lab]\nexportname = IMAGE\nreadonly = true\ndescription = a lab\nfilesize = 1m\n")
    with Raw(server) as c:
        c.hello()
        replies = c.option(wire.NBD_OPT_INFO, go_data(b"lab", [1, 2]))
        infos = {struct.unpack(">H", d[:2])[0]: d[2:] for k, d in replies if k == wire.NBD_REP_INFO}
        assert infos[wire.NBD_INFO_NAME] == b"lab"
        assert infos[wire.NBD_INFO_DESCRIPTION] == b"a lab"
        kind, text = refused(c, b"")
        assert kind == wire.NBD_REP_ERR_UNKNOWN and text == 'no export ""'
    with Raw(server) as c:
        c.go(b"lab")
        assert c.size == MIB and c.flags & wire.NBD_FLAG_READ_ONLY
        assert c.read(0, MIB) == content[:MIB]


def test_default_export(configured):
    check_serves(configured("[]\nexportname = IMAGE\n"))


def test_list_is_closed_unless_allowed(configured):
    server = configured("[lab]\nexportname = IMAGE\n")
    with Raw(server) as c:
        c.hello()
        (kind, text), = c.option(wire.NBD_OPT_LIST)
        assert kind == wire.NBD_REP_ERR_POLICY and b"allowlist" in text
        # And a wrong name does not give a right one away.
        assert refused(c, b"x") == (wire.NBD_REP_ERR_UNKNOWN, 'no export "x"')


@pytest.mark.parametrize("key,flag,command", [
    ("flush", wire.NBD_FLAG_SEND_FLUSH, wire.NBD_CMD_FLUSH),
    ("trim", wire.NBD_FLAG_SEND_TRIM, wire.NBD_CMD_TRIM)])
def test_features_switched_off(configured, key, flag, command):
    server = configured(f"[a]\nexportname = IMAGE\n{key} = false\n")
    with Raw(server) as c:
        c.go(b"a")
        assert not c.flags & flag
        length = 0 if command == wire.NBD_CMD_FLUSH else 512
        assert c.simple(command, 0, length) == wire.NBD_EINVAL


def test_fua_switched_off(configured):
    server = configured("[a]\nexportname = IMAGE\nfua = 0\nrotational = 1\n")
    with Raw(server) as c:
        c.go(b"a")
        assert not c.flags & wire.NBD_FLAG_SEND_FUA and c.flags & wire.NBD_FLAG_ROTATIONAL
        assert c.write(0, b"x" * 512, wire.NBD_CMD_FLAG_FUA) == wire.NBD_EINVAL
        assert c.write(0, b"x" * 512) == 0


def test_maxconnections_counts_open_ones(configured):
    """Not all there ever were, as another server does."""
    server = configured("[a]\nexportname = IMAGE\nmaxconnections = 2\n")
    for _ in range(5):
        with Raw(server) as one, Raw(server) as two, Raw(server) as three:
            one.go(b"a")
            two.go(b"a")
            three.hello()
            kind, text = refused(three, b"a")
            assert kind == wire.NBD_REP_ERR_POLICY and "maxconnections = 2" in text
            assert three.option(wire.NBD_OPT_INFO, go_data(b"a"))[-1][0] == wire.NBD_REP_ACK
            three.send(option(wire.NBD_OPT_EXPORT_NAME, b"a"))
            assert three.closed()
            one.disconnect()
            two.disconnect()


@pytest.mark.parametrize("rules,opens", [
    ("127.0.0.1\n", True),
    ("# nobody\n\n  127.0.0.0/8   # this machine\n", True),
    ("0.0.0.0/0\n", True),
    ("10.0.0.1\n127.0.0.1/32\n", True),
    ("127.0.0.10\n127.0.0.\n", None),
    ("127.0.0.10\n", False),
    ("127.0.0.2/31\n", False),
    ("127.0.0.0/31\n", True),
    ("::1\n2001:db8::/32\n::/0\n", False),
    ("", False),
    ("127.0.0.1/33\n", None),
    ("127.0.0.1/\n", None),
    ("127.0.0.1/-1\n", None),
    ("localhost\n", None),
    # Longer than anybody writes a rule; each part of it is on that line.
    pytest.param("# " + 253 * "x" + " 127.0.0.0/8\n", False, id="long comment"),
    pytest.param("10.0.0.1 " + 246 * " " + "127.0.0.1\n", "behind an address", id="long gap"),
    pytest.param("10.0.0.1 # " + 3000 * "x " + "\n127.0.0.1\n", True, id="very long comment"),
    pytest.param(300 * "1" + "\n", None, id="long word"),
])
def test_authfile(configured, tmp_path, rules, opens):
    """None: the server does not start with it, nor with a text, which is the
    reason. CVE-2013-6410: 10.0.0.1 is not the beginning of 10.0.0.10."""
    auth = tmp_path / "auth"
    auth.write_text(rules)
    config = f"[a]\nexportname = IMAGE\nauthfile = {auth}\n"
    if opens not in (True, False):
        with pytest.raises(ServerError, match=f"{auth}:[0-9]+: .* {opens or 'is not an address'}"):
            configured(config)
        return
    server = configured(config, "allowlist = true")
    with Raw(server) as c:
        c.hello()
        listed = [k for k, _ in c.option(wire.NBD_OPT_LIST)].count(wire.NBD_REP_SERVER)
        assert listed == (1 if opens else 0)
        if opens:
            assert c.option(GO, go_data(b"a"))[-1][0] == wire.NBD_REP_ACK
        else:
            assert refused(c, b"a") == (wire.NBD_REP_ERR_POLICY, 'export "a" is not open to this address')


@pytest.mark.parametrize("rules,writes", [
    ("127.0.0.1\n", True),
    ("127.0.0.1 readonly\n", False),
    ("127.0.0.1\treadonly # the one by the door\n0.0.0.0/0\n", False),
    ("127.0.0.2 readonly\n127.0.0.1\n127.0.0.0/8 readonly\n", True),
    ("127.0.0.1 readwrite\n", None),
])
def test_authfile_that_lets_only_read(configured, image, tmp_path, rules, writes):
    """The first line that names the address says which."""
    auth = tmp_path / "auth"
    auth.write_text(rules)
    config = f"[a]\nexportname = IMAGE\nauthfile = {auth}\n"
    if writes is None:
        with pytest.raises(ServerError, match='"readwrite" behind an address; only "readonly" may be there'):
            configured(config)
        return
    server = configured(config)
    with Raw(server) as c:
        c.go(b"a")
        assert bool(c.flags & wire.NBD_FLAG_READ_ONLY) is not writes
        assert bool(c.flags & wire.NBD_FLAG_SEND_TRIM) is writes
        before = c.read(0, 512)
        assert c.write(0, b"w" * 512) == (0 if writes else wire.NBD_EPERM)
        assert c.read(0, 512) == (b"w" * 512 if writes else before)


def flags_told(c, number, name):
    """What an option tells of an export's flags."""
    replies = c.option(number, go_data(name))
    assert replies[-1] == (wire.NBD_REP_ACK, b""), replies
    info, = (d for k, d in replies if k == wire.NBD_REP_INFO and d[:2] == b"\0\0")
    return struct.unpack(">QH", info[2:])[1]


@pytest.mark.parametrize("headers", [None, wire.NBD_OPT_STRUCTURED_REPLY, wire.NBD_OPT_EXTENDED_HEADERS])
@pytest.mark.parametrize("overlay", ["", "overlay = fresh\n"])
def test_info_and_go_tell_the_same(configured, tmp_path, headers, overlay):
    """An address that may only read is told so before it has the export, and no
    other address, nor another export, is told it by mistake."""
    auth = tmp_path / "auth"
    auth.write_text("127.0.0.2 readonly\n127.0.0.0/8\n")
    (tmp_path / "b").write_bytes(b"b" * MIB)
    server = configured(f"[a]\nexportname = IMAGE\nauthfile = {auth}\ndescription = text\n{overlay}"
                        f"[b]\nexportname = {tmp_path}/b\n", "allowlist = true")
    told = {}
    for address in ("127.0.0.1", "127.0.0.2", "127.0.0.1"):
        with Raw(server, source=address) as c, Raw(server, source=address) as old:
            c.hello()
            if headers:
                assert c.option(headers) == [(wire.NBD_REP_ACK, b"")]
            told[address] = flags_told(c, wire.NBD_OPT_INFO, b"a")
            assert not flags_told(c, wire.NBD_OPT_INFO, b"b") & wire.NBD_FLAG_READ_ONLY
            names = [d for k, d in c.option(wire.NBD_OPT_LIST) if k == wire.NBD_REP_SERVER]
            assert names == [b"\0\0\0\1atext", b"\0\0\0\1b"]
            assert flags_told(c, wire.NBD_OPT_INFO, b"a") == told[address]
            assert flags_told(c, GO, b"a") == told[address]
            old.hello().send(option(wire.NBD_OPT_EXPORT_NAME, b"a"))
            flags, = struct.unpack(">8xH", old.recv(10))
            assert flags == told[address] & ~wire.NBD_FLAG_SEND_DF
    assert told["127.0.0.2"] == (told["127.0.0.1"] | wire.NBD_FLAG_READ_ONLY) & ~(
        wire.NBD_FLAG_SEND_TRIM | wire.NBD_FLAG_SEND_WRITE_ZEROES | wire.NBD_FLAG_SEND_FAST_ZERO)


def test_authfile_that_goes_closes_the_export(configured, tmp_path):
    auth = tmp_path / "auth"
    auth.write_text("127.0.0.1\n")
    server = configured(f"[a]\nexportname = IMAGE\nauthfile = {auth}\n")
    check_serves(server, b"a")
    auth.unlink()
    with Raw(server) as c:
        c.hello()
        assert refused(c, b"a")[0] == wire.NBD_REP_ERR_POLICY
    server.wait_log("without its authfile an export is closed to everybody")
    auth.write_text("127.0.0.1\n")
    check_serves(server, b"a")


@pytest.mark.parametrize("rules,tcp,unix", [
    ("127.0.0.1\n", True, None), ("unix\n", None, True), ("unix readonly\n0.0.0.0/0\n", True, False),
    ("0.0.0.0/0\n::/0\n", True, None)])
def test_authfile_and_a_unix_socket(make_server, image, tmp_path, rules, tcp, unix):
    """True: may write; False: may read; None: may not come in."""
    (tmp_path / "auth").write_text(rules)
    server = make_server(config=f"[generic]\nport = {{port}}\nlistenaddr = 127.0.0.1\nunixsock = {tmp_path}/nbd\n"
                                f"duallisten = true\n[a]\nexportname = {image}\nauthfile = {tmp_path}/auth\n")
    for uri, may in ((f"nbd://127.0.0.1:{server.port}/a", tcp), (f"nbd+unix:///a?socket={tmp_path}/nbd", unix)):
        h = nbd.NBD()
        if may is None:
            with pytest.raises(nbd.Error):
                h.connect_uri(uri)
            continue
        h.connect_uri(uri)
        assert h.is_read_only() is not may
        h.shutdown()


@pytest.mark.parametrize("asks", ["info", "list", "go"])
def test_authfile_that_hangs(configured, tmp_path, content, asks):
    """Those who want its export wait. Nobody else does, whatever loop they are of."""
    auth = tmp_path / "auth"
    auth.write_text("127.0.0.1\n")
    server = configured(f"[a]\nexportname = IMAGE\nreadonly = true\nauthfile = {auth}\n"
                        "[b]\nexportname = IMAGE\nreadonly = true\n", "allowlist = true")
    with contextlib.ExitStack() as stack:
        stations = [stack.enter_context(Raw(server)).go(b"b") for _ in range(8)]
        os.mkfifo(tmp_path / "fifo")
        os.rename(tmp_path / "fifo", auth)
        waiting = [stack.enter_context(Raw(server)).hello() for _ in range(3)]
        for c in waiting:
            c.send({"info": option(wire.NBD_OPT_INFO, go_data(b"a")), "list": option(wire.NBD_OPT_LIST),
                    "go": option(GO, go_data(b"a"))}[asks])
        # A reader has it open: they are at it.
        until(lambda: opened_for_writing(auth, stack), what=server.log_tail)
        for i, c in enumerate(stations * 3):
            assert c.read(i * 4096, 4096) == content[i * 4096:(i + 1) * 4096]
        # Another one who comes to the other export is let in.
        stack.enter_context(Raw(server)).go(b"b").disconnect()
        # A regular file again; the pipe ends, with nobody's address in it.
        (tmp_path / "auth.new").write_text("127.0.0.1\n")
        os.rename(tmp_path / "auth.new", auth)
    check_serves(server, b"a")


def opened_for_writing(path, stack):
    try:
        fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return False
    stack.callback(os.close, fd)
    return True


def test_includedir(make_server, image, tmp_path):
    more = tmp_path / "more.d"
    more.mkdir()
    (more / "a.conf").write_text(f"[a]\nexportname = {image}\nreadonly = true\n")
    (more / "b.conf").write_text(f"[b]\nexportname = {image}\nreadonly = true\n")
    (more / "c.conf~").write_text("not this one")
    server = make_server(config=f"[generic]\nport={{port}}\nlistenaddr=127.0.0.1\nincludedir = {more}\n")
    for name in (b"a", b"b"):
        check_serves(server, name)
    (more / "c.conf").write_text("[generic]\nport = 1\n")
    server.stop()
    with pytest.raises(ServerError, match=f"{more}/c.conf:1: .generic. in a file that is included"):
        server.start()


def test_command_line_besides(make_server, image, tmp_path):
    """PORT and FILE given besides: its port wins, and "" is one more export."""
    other = tmp_path / "other"
    other.write_bytes(b"o" * MIB)
    config = tmp_path / "config"
    config.write_text(f"[generic]\nport = 1\n[lab]\nexportname = {other}\n")
    server = make_server(image, options=["-C", config])
    check_serves(server)
    check_serves(server, b"lab")


def test_readonly_on_the_command_line_holds_for_all(make_server, image, content, tmp_path):
    """No image is written. What stations write into overlays is none of it."""
    server = make_server(options=["-r"], config=f"[generic]\nport={{port}}\nlistenaddr=127.0.0.1\nstatedir={tmp_path}/state\n"
                                                f"[a]\nexportname={image}\nreadonly = false\n"
                                                f"[lab]\nexportname={image}\noverlay = keep\n")
    with Raw(server) as c:
        c.go(b"a")
        assert c.flags & wire.NBD_FLAG_READ_ONLY
    with Raw(server) as c:
        c.go(b"lab/pc1")
        assert not c.flags & wire.NBD_FLAG_READ_ONLY
        assert c.write(0, b"w" * 4096) == 0 and c.flush() == 0
    server.stop()
    assert image.read_bytes() == content


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_user(configured):
    server = configured("[a]\nexportname = IMAGE\n", "user = nobody\ngroup = nogroup")
    with open(f"/proc/{server.pid}/status") as f:
        ids = dict(line.split(":", 1) for line in f)
    assert ids["Uid"].split() == ["65534"] * 4 and ids["Gid"].split() == ["65534"] * 4
    assert ids["Groups"].split() in ([], ["65534"])
    check_serves(server, b"a")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_user_does_not_guess_what_is_in_memory(configured, image, tmp_path):
    """What must come from the disk is waited for by a worker, whoever we are;
    mincore(2) tells a user who may not write the file that all is in memory."""
    server = configured("[a]\nexportname = IMAGE\nreadonly = true\n",
                        f"user = nobody\ncontrolsock = {tmp_path}/sock\n")
    # Our own descriptor: the server has mapped the file, and not touched it.
    if not forget(image):
        pytest.skip("this file system does not give up what it has in memory")
    with Raw(server).go(b"a") as c:
        for off in range(0, 32 * MIB, 4 * MIB):
            assert len(c.read(off, 65536)) == 65536
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(f"{tmp_path}/sock")
            s.sendall(b"status\n")
            status = json.loads(s.makefile().read())
        assert status["connections"][0]["disk_requests"] > 0


# -- how strict it is ------------------------------------------------------

WRONG = [
    ("[a]\nexportname = IMAGE\nread_only = true\n", 3, 'unknown key "read_only"; did you mean "readonly"?'),
    ("[a]\nexportname = IMAGE\nReadOnly = true\n", 3, 'did you mean "readonly"?'),
    ("[a]\nexportnme = IMAGE\n", 2, 'did you mean "exportname"?'),
    ("[a]\nexportname = IMAGE\nfrobnicate = 1\n", 3, 'unknown key "frobnicate"; nbd-server(5)'),
    ("[a]\nexportname = IMAGE\nport = 1\n", 3, '"port" belongs into [generic]'),
    ("[generic]\nreadonly = true\n", 2, '"readonly" belongs into the section of an export'),
    ("[a]\nexportname = IMAGE\nreadonly = yes\n", 3, 'readonly = "yes": write true or false'),
    ("[a]\nexportname = IMAGE\nreadonly =\n", 3, 'readonly = "": write true or false'),
    ("[a]\nexportname = IMAGE\nfilesize = big\n", 3, 'filesize = "big": not a size'),
    ("[a]\nexportname = IMAGE\nmaxconnections = -1\n", 3, 'maxconnections = "-1": not a number'),
    ("[a]\nexportname = image\n", 2, 'exportname = "image": not an absolute path'),
    ("[a]\nexportname = IMAGE\ntransactionlog = log\n", 3, 'transactionlog = "log": not an absolute path'),
    ("[generic]\ntransactionlog = /log\n", 2, '"transactionlog" belongs into the section of an export'),
    ("[a]\n\n# nothing\n", 3, 'export "a" (CONFIG:1) has no exportname'),
    ("[a]\n[b]\nexportname = IMAGE\n", 2, 'export "a" (CONFIG:1) has no exportname'),
    ("[a]\nexportname = IMAGE\ncopyonwrite = maybe\n", 3, 'copyonwrite = "maybe": write true or false'),
    ("[a]\nexportname = IMAGE\nvirtstyle = iphash\n", 3, "this server does not put addresses into names of files"),
    ("[a]\nexportname = IMAGE\nvirtstyle = cidrhash 24\n", 3, "this server does not put addresses into names of files"),
    ("[a]\nvirtstyle = ipliteral\nexportname = IMAGE.%s\n", 3, "does not put addresses into names of files (%s)"),
    ("[a]\nexportname = IMAGE\nprerun = dd if=x\n", 3, "write the program from the root, no shell looks for it: /usr/bin/logger"),
    ("[generic]\nmax_threads = 1025\n", 2, 'max_threads = "1025": not a number up to 1024'),
    ("[a]\nexportname = IMAGE\nmaxconnections = 1000001\n", 3, 'maxconnections = "1000001": not a number up to 1000000'),
    ("[generic]\nmaxperaddress = 4294967297\n", 2, "not a number up to 1000000"),
    ("[generic]\nport = http\n", 2, 'port = "http": not a port'),
    ("[generic]\nport = 0\n", 2, 'port = "0": not a port'),
    ("port = 1\n", 1, "a key before the first section"),
    ("[a\n", 1, "a section is a name in brackets"),
    ("[a] x\n", 1, "a section is a name in brackets"),
    ("[a]\nexportname\n", 2, "neither [SECTION] nor KEY = VALUE"),
    ("[" + "n" * 257 + "]\n", 1, "at most 256 bytes"),
    ("[a]\n\x00exportname = IMAGE\n", 2, "a zero byte"),
    ("[a]\nexportname = IMAGE\n[a]\nexportname = IMAGE\n", 3, "defined twice"),
    ("[a]\nexportname = IMAGE\noverlay = keep\ncopyonwrite = false\n", 4,
     'copyonwrite = "false": CONFIG:3 sets overlay to something else'),
    ("[a]\nreadonly = true\nexportname = IMAGE\nreadonly = false\n", 4,
     'readonly = "false": CONFIG:2 sets readonly to something else'),
    ("[a]\ncowdir = /a\nexportname = IMAGE\noverlay_dir = /b\n", 4, "CONFIG:2 sets cowdir to something else"),
    ("[a]\nexportname = IMAGE\noverlay_dir = /a\n", 3, "has overlay_dir, but no overlay; say which: overlay = keep"),
    ("[a]\nexportname = IMAGE\nexportname = IMAGE.2\n", 3, "CONFIG:2 sets exportname to something else"),
    ("[a]\nexportname = IMAGE\nfilesize = 1m\nfilesize = 1k\n", 4, "CONFIG:3 sets filesize to something else"),
    ("[a]\nexportname = IMAGE\nmaxconnections = 1\nmaxconnections = 0\n", 4, "CONFIG:3 sets maxconnections"),
    ("[generic]\nport = 1\n[a]\nexportname = IMAGE\n[generic]\nport = 2\n", 6, "CONFIG:2 sets port to something else"),
    ("[generic]\nincludedir = /etc\nincludedir = /\n", 3, "CONFIG:2 sets includedir to something else"),
    ("[a]\nexportname = /nonexistent\n", 2, "/nonexistent: No such file"),
    ("[a]\nexportname = IMAGE\nauthfile = /nonexistent\nreadonly = true\n", 3, "/nonexistent: No such file"),
    ("[a]\nexportname = IMAGE\noverlay = keep\nstations = /nonexistent\nflush = true\n", 4, "/nonexistent: No such file"),
    ("[a]\nexportname = IMAGE\ntransactionlog = /nonexistent/log\n\n", 3, "/nonexistent/log: No such file"),
    ("[generic]\n\nincludedir = /nonexistent\n[a]\nexportname = IMAGE\n", 3, "includedir /nonexistent: No such file"),
    ("[generic]\n\nduallisten = true\n[a]\nexportname = IMAGE\n", 3, "duallisten needs a Unix socket"),
    ("[generic]\nport = 1\nuser = nobody-here\nlistenaddr = 127.0.0.1\n[a]\nexportname = IMAGE\n", 3,
     "user = nobody-here: no such user"),
    ("[generic]\nport = PORT\ngroup = nobody-here\nlistenaddr = 127.0.0.1\n[a]\nexportname = IMAGE\n", 3,
     "group = nobody-here: no such group"),
    ("[generic]\nport = PORT\n\nlistenaddr = 127.0.0.1, 203.0.113.7\n[a]\nexportname = IMAGE\n", 4,
     "203.0.113.7 port PORT: Cannot assign"),
    ("[generic]\nlistenaddr = elephant.invalid\n[a]\nexportname = IMAGE\n", 2, 'listen address "elephant.invalid"'),
    ("[generic]\n\nport = TAKEN\n[a]\nexportname = IMAGE\n", 3, "Address already in use"),
    ("[generic]\n\nunixsock = /nonexistent/nbd\n[a]\nexportname = IMAGE\n", 3, "unix socket /nonexistent/nbd: No such file"),
    ("[generic]\nport = PORT\nlistenaddr = 127.0.0.1\ncontrolsock = /nonexistent/c\nmetricsport = 1\n[a]\nexportname = IMAGE\n",
     4, "controlsock = /nonexistent/c: No such file"),
    ("[generic]\nport = PORT\nlistenaddr = 127.0.0.1\nmetricsport = TAKEN\n[a]\nexportname = IMAGE\n", 4,
     "Address already in use"),
]


@pytest.mark.parametrize("text,line,says", WRONG)
def test_wrong_line_is_named(image, tmp_path, text, line, says):
    config = tmp_path / "config"
    port = str(free_port())
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        config.write_text(text.replace("IMAGE", str(image)).replace("PORT", port)
                          .replace("TAKEN", str(taken.getsockname()[1])))
        done = subprocess.run([binary(), "-n", "-C", str(config)], text=True, timeout=granted(20),
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 1
    said = done.stdout.splitlines()[-1]
    assert said.startswith(f"nbd-server: {config}:{line}: ")
    assert says.replace("CONFIG", str(config)).replace("PORT", port) in said


@pytest.mark.parametrize("text,line", [
    ("[a]\nexportname = /nonexistent\nreadonly = true\n", 2),
    ("[a]\nexportname = IMAGE\n\nauthfile = /nonexistent\nfua = true\n", 4),
    ("[a]\nexportname = IMAGE\nreadonly = true\nfilesize = 1g\n", 4),
    ("[a]\nexportname = IMAGE\ntransactionlog = /nonexistent/log\nfua = true\n", 3),
    ("[a]\nprerun = /nonexistent %s\nexportname = IMAGE\n", 2),
    ("[a]\nexportname = IMAGE\npostrun = /nonexistent %s\nfua = true\n", 3),
    ("[generic]\nuser = nobody-here\n[a]\nexportname = IMAGE\n", 2),
    ("[generic]\n\ngroup = nobody-here\n[a]\nexportname = IMAGE\n", 3),
])
def test_check_names_the_line(image, tmp_path, text, line):
    config = tmp_path / "config"
    config.write_text(text.replace("IMAGE", str(image)))
    done = subprocess.run([binary(), "--check", "-C", str(config)], text=True, timeout=granted(20),
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 1 and done.stdout.startswith(f"nbd-server: {config}:{line}: ")
    assert len(done.stdout.splitlines()) == 1


def test_reload_names_the_line(configured, image, tmp_path):
    """Of an included file and of the main one, when both have been read."""
    more = tmp_path / "more.d"
    more.mkdir()
    (more / "a.conf").write_text(f"[b]\nreadonly = true\nexportname = {image}\n")
    server = configured("[a]\nexportname = IMAGE\nreadonly = true\n", f"includedir = {more}\ncontrolsock = {tmp_path}/sock\n")

    def reload():
        done = subprocess.run([binary(), "reload", f"--socket={tmp_path}/sock"], stdout=subprocess.PIPE, timeout=granted(20))
        return json.loads(done.stdout)

    assert reload()["ok"]
    (more / "a.conf").write_text("[b]\nreadonly = true\nexportname = /nonexistent\n")
    assert reload()["text"].startswith(f"{more}/a.conf:3: /nonexistent: No such file")
    (more / "a.conf").write_text(f"[b]\nreadonly = true\nexportname = {image}\nduallisten = 1\n")
    assert reload()["text"].startswith(f"{more}/a.conf:4: \"duallisten\" belongs into [generic]")
    (more / "a.conf").write_text(f"[b]\nreadonly = true\nexportname = {image}\n")
    whole = server.config_path.read_text()
    server.config_path.write_text(whole.replace("[generic]", "[generic]\n\nduallisten = true"))
    assert reload()["text"].startswith(f"{server.config_path}:3: duallisten needs a Unix socket")
    server.config_path.write_text(whole.replace(str(more), "/nonexistent").replace("[generic]", "[generic]\n"))
    assert reload()["text"].startswith(f"{server.config_path}:5: includedir /nonexistent: No such file")
    check_serves(server, b"a")


@pytest.mark.parametrize("text,says", [
    ("", "no export in it; add a section"), ("# nothing\n", "no export in it"),
    ("[generic]\n", "no export in it"),
    pytest.param("[a]\n" + "#" * (1 << 20), "not a configuration file", id="a megabyte")])
def test_wrong_as_a_whole(tmp_path, text, says):
    config = tmp_path / "config"
    config.write_text(text)
    done = subprocess.run([binary(), "-n", "-C", str(config)], text=True, timeout=granted(20),
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 1 and f"{config}: " in done.stdout and says in done.stdout


def test_wrong_user(image, tmp_path):
    server = Server(config=f"[generic]\nport={{port}}\nlistenaddr=127.0.0.1\nuser = nobody-here\n[a]\nexportname={image}\n")
    with pytest.raises(ServerError, match="user = nobody-here: no such user"):
        server.start()


def test_a_file_of_the_other_server(configured):
    """Its features that are off here are no error when they are off there."""
    check_serves(configured("[a]\nexportname = IMAGE\n" + "".join(
        f"{key} = false\n" for key in ("multifile", "copyonwrite", "sparse_cow", "sdp", "sync",
                                       "temporary", "waitfile", "treefiles", "splice", "force_tls")),
                            "oldstyle = false\nduallisten = false\n"), b"a")


def test_copyonwrite(configured, image, content, tmp_path):
    """As the other server has it, and its cowdir: each client writes for itself."""
    server = configured(f"[a]\nexportname = IMAGE\ncopyonwrite = true\ncowdir = {tmp_path}/cow\nsparse_cow = true\n")
    with Raw(server).go(b"a/one") as one, Raw(server).go(b"a/two") as two:
        assert not one.flags & wire.NBD_FLAG_READ_ONLY
        assert one.write(4096, b"1" * 8192) == 0 and two.write(4096, b"2" * 4096) == 0
        assert one.read(0, 16384) == content[:4096] + b"1" * 8192 + content[12288:16384]
        assert two.read(0, 16384) == content[:4096] + b"2" * 4096 + content[8192:16384]
        one.reset()
        with Raw(server).go(b"a/one") as again:
            # A lost connection is none of a new boot.
            assert again.read(4096, 8192) == b"1" * 8192
            assert again.simple(wire.NBD_CMD_FLUSH) == 0
            again.disconnect()
        two.disconnect()
    assert {path.name for path in (tmp_path / "cow").iterdir()} >= {"a@one.overlay", "a@two.overlay"}

    def starts_anew():
        with Raw(server).go(b"a/one") as c:
            anew = c.read(0, 16384) == content[:16384]
            # Who only reads is a visitor, whose goodbye ends nothing.
            assert anew or c.write(0, b"3") == 0
            c.disconnect()
            return anew

    # It has said goodbye: the next boot begins, even if its loss is seen only now.
    until(starts_anew)
    server.stop()
    assert image.read_bytes() == content


@pytest.mark.parametrize("style", ["none", "ipliteral"])
def test_virtstyle(configured, content, style):
    """Without %s in a name they make no difference, so they are taken."""
    server = configured(f"[a]\nexportname = IMAGE\nvirtstyle = {style}\nreadonly = true\n")
    with Raw(server).go(b"a") as c:
        assert c.read(0, 4096) == content[:4096]


def test_white_space_and_line_ends(configured):
    check_serves(configured("\t[a] \r\n\texportname=IMAGE\t\r\n ; comment\r\n\r\n  readonly   =   false  \r\n"), b"a")


def test_said_twice(configured, image):
    """What says the same is no contradiction, and another section is another matter."""
    check_serves(configured("[a]\nexportname = IMAGE\nreadonly = true\nreadonly = 1\noverlay = none\ncopyonwrite = false\n"
                            "filesize = 1m\nfilesize = 1048576\nexportname = IMAGE\n"
                            "[b]\nexportname = IMAGE\nreadonly = true\nfilesize = 2m\n"), b"a")
