# SPDX-License-Identifier: GPL-2.0
"""The negotiation, said right, said wrong, and lied about.

Every length a client can name is tried at, below and above what is true: it is
where the known holes of NBD servers were (CVE-2017-15118, CVE-2017-15119,
CVE-2022-26495, CVE-2022-26496)."""
import struct

import pytest

from harness import wire
from raw import MIB, Closed, Raw, go_data, option

EXPORT_NAME, ABORT, LIST = wire.NBD_OPT_EXPORT_NAME, wire.NBD_OPT_ABORT, wire.NBD_OPT_LIST
INFO, GO = wire.NBD_OPT_INFO, wire.NBD_OPT_GO
ACK = (wire.NBD_REP_ACK, b"")
MAX32 = 0xffffffff


def refusal(c, number, data=b"", **lies):
    """The one error reply to it; the stream must be in step after it."""
    (kind, text), = c.option(number, data, **lies)
    assert kind & wire.NBD_REP_FLAG_ERROR
    assert c.option(LIST)[-1] == ACK
    return kind, text.decode()


def infos(replies):
    return {struct.unpack(">H", d[:2])[0]: d[2:] for k, d in replies if k == wire.NBD_REP_INFO}


# -- said right ------------------------------------------------------------

def test_export_name_with_zeroes(served):
    with Raw(served) as c:
        c.hello(flags=wire.NBD_FLAG_C_FIXED_NEWSTYLE)
        c.send(option(EXPORT_NAME))
        size, flags = struct.unpack(">QH", c.recv(10))
        assert size == 32 * MIB and flags & wire.NBD_FLAG_HAS_FLAGS
        assert c.recv(124) == bytes(124)
        assert c.read(0, 1) != b""


def test_export_name_without_zeroes(served, content):
    with Raw(served) as c:
        c.hello()
        c.send(option(EXPORT_NAME))
        c.recv(10)
        assert c.read(100, 10) == content[100:110]


def test_export_name_of_nothing_ends_it(served):
    with Raw(served) as c:
        c.hello()
        c.send(option(EXPORT_NAME, b"lab"))
        assert c.closed()
    served.wait_log('no export "lab"')


def test_old_newstyle_client(served):
    """Without FIXED_NEWSTYLE only EXPORT_NAME is understood."""
    with Raw(served) as c:
        c.hello(flags=0)
        c.send(option(EXPORT_NAME))
        assert len(c.recv(134)) == 134
    with Raw(served) as c:
        c.hello(flags=0)
        c.send(option(GO, go_data()))
        assert c.closed()


def test_abort_is_acknowledged(served):
    for data in (b"", b"x" * 100):
        with Raw(served) as c:
            c.hello()
            assert c.option(ABORT, data) == [ACK]
            assert c.closed()


def test_list(served):
    with Raw(served) as c:
        c.hello()
        assert c.option(LIST) == [(wire.NBD_REP_SERVER, struct.pack(">I", 0)), ACK]


def test_info_sends_what_is_asked(served):
    with Raw(served) as c:
        c.hello()
        assert set(infos(c.option(INFO, go_data()))) == {wire.NBD_INFO_EXPORT}
        got = infos(c.option(INFO, go_data(infos=[0, 1, 2, 3, 4, 999, 65535])))
        assert set(got) == {wire.NBD_INFO_EXPORT, wire.NBD_INFO_NAME, wire.NBD_INFO_BLOCK_SIZE}
        assert got[wire.NBD_INFO_NAME] == b""
        assert struct.unpack(">III", got[wire.NBD_INFO_BLOCK_SIZE]) == (1, 4096, 64 * MIB)
        # INFO leaves the client in the negotiation; GO ends it.
        replies = c.option(GO, go_data(infos=[3]))
        assert set(infos(replies)) == {wire.NBD_INFO_EXPORT, wire.NBD_INFO_BLOCK_SIZE}
        assert c.read(0, 512) != wire.NBD_EINVAL


def test_transmission_flags(served):
    with Raw(served) as c:
        c.go()
        assert c.flags == (
            wire.NBD_FLAG_HAS_FLAGS | wire.NBD_FLAG_SEND_FLUSH | wire.NBD_FLAG_SEND_FUA
            | wire.NBD_FLAG_SEND_TRIM | wire.NBD_FLAG_SEND_WRITE_ZEROES
            | wire.NBD_FLAG_CAN_MULTI_CONN | wire.NBD_FLAG_SEND_CACHE | wire.NBD_FLAG_SEND_FAST_ZERO)


def test_unknown_export_says_what_there_is(served):
    with Raw(served) as c:
        c.hello()
        kind, text = refusal(c, GO, go_data(b"lab"))
        assert kind == wire.NBD_REP_ERR_UNKNOWN
        assert text == 'no export "lab"; the only one here is ""'
    served.wait_log('NBD_OPT_GO answered with NBD_REP_ERR_UNKNOWN: no export "lab"')
    served.wait_log("127.0.0.1:")


@pytest.mark.parametrize("number", [0, wire.NBD_OPT_PEEK_EXPORT, wire.NBD_OPT_STARTTLS,
                                    12, 0x7fffffff, MAX32])
@pytest.mark.parametrize("size", [0, 1, 8192])
def test_unknown_option_keeps_step(served, number, size):
    with Raw(served) as c:
        c.hello()
        kind, _ = refusal(c, number, b"\xff" * size)
        assert kind == wire.NBD_REP_ERR_UNSUP
        assert c.option(GO, go_data())[-1] == ACK


def test_a_byte_at_a_time(served, content):
    stream = struct.pack(">I", 3) + option(LIST) + option(99, b"abc") + option(GO, go_data())
    with Raw(served) as c:
        c.recv(18)
        for i in range(len(stream)):
            c.send(stream[i:i + 1])
        c.option_replies(LIST)
        c.option_replies(99)
        assert c.option_replies(GO)[-1] == ACK
        assert c.read(5, 5) == content[5:10]


def test_all_at_once(served, content):
    """Options and the first requests in one segment: none is lost."""
    from raw import request
    with Raw(served) as c:
        c.send(struct.pack(">I", 3) + option(LIST) * 20 + option(GO, go_data())
               + request(wire.NBD_CMD_READ, 1000, 10, cookie=42))
        c.recv(18)
        for _ in range(20):
            assert c.option_replies(LIST)[-1] == ACK
        assert c.option_replies(GO)[-1] == ACK
        assert c.reply() == (0, 42)
        assert c.recv(10) == content[1000:1010]


# -- said wrong ------------------------------------------------------------

@pytest.mark.parametrize("flags", [4, 7, 0x80000003, MAX32])
def test_unknown_client_flags_end_it(served, flags):
    with Raw(served) as c:
        c.hello(flags=flags)
        assert c.closed()
    served.wait_log("unknown client flags")


@pytest.mark.parametrize("magic", [0, wire.NBD_MAGIC, wire.NBD_OPTS_MAGIC + 1, (1 << 64) - 1])
def test_option_without_its_magic_ends_it(served, magic):
    with Raw(served) as c:
        c.hello()
        c.send(option(LIST, magic=magic))
        assert c.closed()
    served.wait_log("without its magic")


def test_not_a_client_at_all(served):
    for hello in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x02\x00" * 20, bytes(1000)):
        with Raw(served) as c:
            c.recv(18)
            c.send(hello)
            assert c.closed()


def test_list_with_data(served):
    with Raw(served) as c:
        c.hello()
        assert refusal(c, LIST, b"x")[0] == wire.NBD_REP_ERR_INVALID


@pytest.mark.parametrize("number", [INFO, GO])
@pytest.mark.parametrize("name,length", [
    (name, length) for name in (b"", b"root")
    for length in (0, 1, 2, 3, 4, 5, 6, 4096, 4097, 8192, 0x7fffffff, 0xfffffff8, MAX32 - 1, MAX32)
    if length != len(name)])
def test_name_length_lies(served, number, name, length):
    with Raw(served) as c:
        c.hello()
        kind, _ = refusal(c, number, go_data(name, [0, 3], name_len=length))
        assert kind in (wire.NBD_REP_ERR_INVALID, wire.NBD_REP_ERR_UNKNOWN)


@pytest.mark.parametrize("number", [INFO, GO])
@pytest.mark.parametrize("count", [0, 1, 3, 4, 255, 32767, 32768, 65535])
def test_info_count_lies(served, number, count):
    with Raw(served) as c:
        c.hello()
        kind, _ = refusal(c, number, go_data(b"", [0, 3], n_infos=count))
        assert kind == wire.NBD_REP_ERR_INVALID


@pytest.mark.parametrize("number", [INFO, GO])
@pytest.mark.parametrize("size", range(6))
def test_shorter_than_its_fixed_part(served, number, size):
    with Raw(served) as c:
        c.hello()
        assert refusal(c, number, bytes(size))[0] == wire.NBD_REP_ERR_INVALID


@pytest.mark.parametrize("length", [8193, 8194, 65535, 65536])
def test_long_data_is_skipped(served, length):
    """131,070 bytes of information requests are legal, and nobody's need."""
    for number in (LIST, GO, 77):
        with Raw(served) as c:
            c.hello()
            assert refusal(c, number, bytes(length))[0] == wire.NBD_REP_ERR_TOO_BIG


@pytest.mark.parametrize("length", [65537, 1 << 24, 0x7fffffff, MAX32])
@pytest.mark.parametrize("number", [EXPORT_NAME, ABORT, LIST, INFO, GO, 77])
def test_too_long_to_be_skipped(served, number, length):
    with Raw(served) as c:
        c.hello()
        c.send(option(number, bytes(100), length=length))
        assert c.closed()


@pytest.mark.parametrize("length", [4097, 8192, 8193, 65536])
def test_export_name_too_long(served, length):
    with Raw(served) as c:
        c.hello()
        try:
            c.send(option(EXPORT_NAME, b"n" * length))
        except Closed:
            pass
        assert c.closed()


@pytest.mark.parametrize("length", [255, 256, 257, 4095, 4096])
def test_longest_names_reach_every_error_path(served, length):
    """CVE-2020-10761: an error text with a long name in it. Bytes that a log
    must not see raw are in it too."""
    name = (b"\n\x1b[31m\0\"\\%s%n" * length)[:length]
    with Raw(served) as c:
        c.hello()
        for number in (INFO, GO):
            kind, text = refusal(c, number, go_data(name, [0]))
            assert kind == wire.NBD_REP_ERR_UNKNOWN
            assert len(text) < 600 and text.isprintable()
        c.send(option(EXPORT_NAME, name))
        assert c.closed()
    assert "\x1b" not in served.log()


def test_name_with_a_zero_byte_is_another_name(served):
    with Raw(served) as c:
        c.hello()
        assert refusal(c, GO, go_data(b"\0"))[0] == wire.NBD_REP_ERR_UNKNOWN


def test_options_without_end(served):
    with Raw(served) as c:
        c.hello()
        with pytest.raises(Closed):
            for _ in range(1000):
                c.option(LIST)
    served.wait_log("more than 256 options")


def test_lists_that_nobody_reads(served):
    """Answers wait for their reader; options wait for the answers."""
    with Raw(served, rcvbuf=2048) as c:
        c.hello()
        c.sock.settimeout(2)
        try:
            c.send(option(LIST) * 250)
        except OSError:
            pass


def test_transmission_waits_for_go(served):
    """Requests before GO are no options."""
    from raw import request
    with Raw(served) as c:
        c.hello()
        c.send(request(wire.NBD_CMD_WRITE, 0, 28, payload=bytes(28)))
        assert c.closed()
    assert served.image.read_bytes()[:28] != bytes(28)
