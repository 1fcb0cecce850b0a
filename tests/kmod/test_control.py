# SPDX-License-Identifier: GPL-2.0
"""/dev/nb-control: what it takes, and what it says to what it does not."""
import pytest

from conftest import at
from harness import wire

NOBODY = "10.0.2.2:1"


@pytest.mark.parametrize("line, says", [
    ("", "unknown command"),
    ("mount dev=nb0", "mount: unknown command; write attach or detach"),
    ("attach", "dev=nbN is missing"),
    ("attach dev=nb0", "server=ADDRESS:PORT is missing"),
    ("attach dev=sda server=10.0.2.2:1", "dev=sda: not a device name; write dev=nb0"),
    ("attach dev=nb server=10.0.2.2:1", "dev=nb: not a device name"),
    ("attach dev=nb01 server=10.0.2.2:1", "dev=nb01: not a device name"),
    ("attach dev=nb-1 server=10.0.2.2:1", "not a device name"),
    ("attach dev=nb99999999999 server=10.0.2.2:1", "not a device name"),
    ("attach dev=nb0 server=server1:1234", "not an address and port"),
    ("attach dev=nb0 server=10.0.2.2", "not an address and port"),
    ("attach dev=nb0 server=10.0.2.2:0", "not an address and port"),
    ("attach dev=nb0 server=10.0.2.2:65536", "not an address and port"),
    ("attach dev=nb0 server=10.0.2.300:1", "not an address and port"),
    ("attach dev=nb0 server=[fe80::1:1", "not an address and port"),
    ("attach dev=nb0 server=2001:db8::1:1", "not an address and port"),
    ("attach dev=nb0 server=:1", "not an address and port"),
    ("attach dev=nb0 server=[]:1", "not an address and port"),
    ("attach  dev=nb0 server=10.0.2.2:1", "one space between words"),
    ("attach dev=nb0 server=10.0.2.2:1 swap", "not key=value"),
    ("attach dev=nb0 server=10.0.2.2:1 conn=4", "conn=4: unknown word"),
    ("attach dev=nb0 server=10.0.2.2:1 lost=never", "write lost=wait, or seconds"),
    ("attach dev=nb0 server=10.0.2.2:1 conns=0", "a number of connections from 1 to 16"),
    ("attach dev=nb0 server=10.0.2.2:1 conns=17", "a number of connections from 1 to 16"),
    ("attach dev=nb0 server=10.0.2.2:1 timeout=1", "write seconds from 2 to 240"),
    ("attach dev=nb0 server=10.0.2.2:1 timeout=007", "write seconds from 2 to 240"),
    ("attach dev=nb0 server=10.0.2.2:1 hold=-1", "write seconds from 0 to 3600"),
    ("attach dev=nb0 server=10.0.2.2:1 ro=perhaps", "write ro=1"),
    ("attach dev=nb0 server=10.0.2.2:1 station=a/b", "write 1 to 64 of the characters"),
    ("attach dev=nb0 server=10.0.2.2:1 boot=", "write 1 to 64 of the characters"),
    ("attach dev=nb0 server=10.0.2.2:1 lost=0", "write lost=wait, or seconds"),
    ("attach dev=nb0 server=10.0.2.2:1 export=a\\8", "three octal digits"),
    ("attach dev=nb0 server=10.0.2.2:1 export=a\\000", "three octal digits"),
    ("attach dev=nb0 server=10.0.2.2:1 export=a\\777", "three octal digits"),
    ("detach dev=nb7", "nb7: not attached"),
    ("detach dev=nb0 force=maybe", "write force=1"),
    ("detach dev=nb0 server=10.0.2.2:1", "unknown word"),
    ("attach dev=nb0 " + "server=10.0.2.2:1 " * 9 + "lost=1", "more servers than the driver takes"),
])
def test_bad_lines_get_a_sentence(rig, line, says):
    ok, answer = rig.ctl(line) if line else rig.ctl(" ")
    assert not ok
    assert says in answer


def test_a_fresh_open_lists_what_can_be_written(rig):
    assert "attach dev=nbN server=ADDRESS:PORT" in rig.run("cat /dev/nb-control")
    assert rig.run("stat -c %a /dev/nb-control") == "600"


def test_too_long_a_line_is_refused(rig):
    for line in ("head -c 5000 /dev/zero | tr '\\0' x", "head -c 90 /dev/zero"):
        said = rig.run(f"{line} | dd bs=8192 iflag=fullblock of=/dev/nb-control", check=False)[0]
        assert "Invalid argument" in said


@pytest.mark.parametrize("address, says", [
    (NOBODY, "connection refused: nothing listens on that port"),
    ("10.0.2.77:1234", "10.0.2.77:1234: no"),     # no answer in time, or no such host
    ("192.0.2.1:1", ""),
    ("[fec0::2]:1", ""),
    ("[fe80::2%eth0]:1", ""),
])
def test_attach_to_nobody_says_why_and_leaves_nothing(rig, address, says):
    ok, answer = rig.ctl(f"attach dev=nb0 server={address}")
    assert not ok
    assert answer.startswith(f"nb0: {address}: ") and says in answer
    assert rig.run("ls /dev/nb0 /sys/block/nb0", check=False)[1] != 0


@pytest.mark.parametrize("refusal, text, says", [
    (wire.NBD_REP_ERR_UNKNOWN, b"", 'the server has no export "lab"'),
    (wire.NBD_REP_ERR_POLICY, b"not today\x1b[2J", "rules refuse this client; it says: not today?[2J"),
    (wire.NBD_REP_ERR_TLS_REQD, b"", "wants TLS"),
    (wire.NBD_REP_ERR_SHUTDOWN, b"", "shutting down"),
    (0x80001234, b"", "unknown"),
])
def test_a_refusal_is_passed_on_in_words(rig, server, refusal, text, says):
    server.refuse = refusal, text
    ok, answer = rig.ctl(f"attach dev=nb0 server={at(server)} export=lab")
    assert not ok and says in answer


@pytest.mark.parametrize("what, says", [
    (dict(blocks=(65536, 65536, 32 << 20)), "blocks of 65536 bytes"),
    (dict(blocks=(1, 512, 512)), "takes only 512 bytes at a time"),
    (dict(blocks=(3, 512, 4096)), "not a power of two"),
    (dict(size=0), "the export is empty"),
    (dict(size=511), "the export is empty"),
    (dict(size=1 << 63), "larger than 2^63"),
])
def test_an_impossible_export_is_refused(rig, server, what, says):
    for name, value in what.items():
        setattr(server, name, value)
    ok, answer = rig.ctl(f"attach dev=nb0 server={at(server)}")
    assert not ok and says in answer


def test_the_second_server_is_tried_when_the_first_is_down(rig, server):
    ok, answer = rig.ctl(f"attach dev=nb0 server={NOBODY} server={at(server)}")
    assert ok and at(server) in answer
    assert rig.sysfs("server") == at(server)
    assert rig.sysfs("servers").split() == [NOBODY, at(server)]


def test_a_name_is_given_once(rig, server):
    rig.attach(server)
    ok, answer = rig.ctl(f"attach dev=nb0 server={at(server)}")
    assert not ok and "already attached" in answer
    rig.attach(server, dev="nb1")
    assert rig.sysfs("state", dev="nb1") == "live"


def test_an_export_name_may_have_any_byte(rig, server):
    rig.attach(server, more=r"export=a\040b\303\251")
    assert rig.sysfs("export") == "a bé"


def test_root_of_a_container_is_not_root(rig, server):
    rig.attach(server)
    if rig.run("unshare -Ur true", check=False)[1]:
        pytest.skip("no user namespaces in this kernel")
    said, failed = rig.run("unshare -Ur sh -c 'echo detach dev=nb0 >/dev/nb-control'", check=False)
    assert failed and "Operation not permitted" in said
    assert rig.sysfs("state") == "live"
