# SPDX-License-Identifier: GPL-2.0
"""libnbd with its strictness off: a well-kept client that sends what it must not.

The list of libnbd's own tests/errors-server-*.c, told to this server."""
import errno

import nbd
import pytest

from raw import MIB

SIZE = 32 * MIB


@pytest.fixture
def handle(served):
    h = nbd.NBD()
    h.set_strict_mode(0)
    h.set_full_info(True)
    h.connect_uri(served.uri())
    yield h
    # Whatever was refused, the connection is alive and right.
    assert len(h.pread(512, 0)) == 512
    h.flush()
    h.shutdown()


def fails(code, call, *args):
    with pytest.raises(nbd.Error) as error:
        call(*args)
    assert error.value.errno == errno.errorcode[code], error.value


def test_geometry(handle):
    assert handle.get_size() == SIZE
    assert not handle.is_read_only() and not handle.is_rotational()
    assert handle.can_flush() and handle.can_fua() and handle.can_trim() and handle.can_zero()
    assert handle.can_fast_zero() and handle.can_multi_conn() and handle.can_cache()
    assert handle.can_df() and handle.get_structured_replies_negotiated()
    assert handle.get_block_size(nbd.SIZE_MINIMUM) == 1
    assert handle.get_block_size(nbd.SIZE_MAXIMUM) == 64 * MIB
    assert handle.get_canonical_export_name() == ""


def test_past_the_end(handle):
    fails(errno.EINVAL, handle.pread, 512, SIZE)
    fails(errno.EINVAL, handle.pread, 512, SIZE - 511)
    fails(errno.ENOSPC, handle.pwrite, b"x" * 512, SIZE)
    fails(errno.EINVAL, handle.trim, 512, SIZE)
    fails(errno.ENOSPC, handle.zero, 512, SIZE)
    fails(errno.EINVAL, handle.cache, 512, SIZE)
    fails(errno.EINVAL, handle.pread, 512, 2**63 - 512)


def test_nothing_aligned(handle):
    handle.pwrite(b"abc", 1)
    assert handle.pread(5, 0)[1:4] == b"abc"
    handle.zero(1, 2)
    assert handle.pread(3, 1) == b"a\0c"
    handle.trim(3, 1)


def test_zero_lengths(handle):
    fails(errno.EINVAL, handle.pread, 0, 0)
    fails(errno.EINVAL, handle.pwrite, b"", 0)
    fails(errno.EINVAL, handle.trim, 0, 0)
    fails(errno.EINVAL, handle.zero, 0, 0)
    fails(errno.EINVAL, handle.cache, 0, 0)


def test_unknown_flags(handle):
    assert len(handle.pread(512, 0, nbd.CMD_FLAG_DF)) == 512
    fails(errno.EINVAL, handle.pread, 512, 0, nbd.CMD_FLAG_REQ_ONE)
    fails(errno.EINVAL, handle.pread, 512, 0, 0x8000)
    fails(errno.EINVAL, handle.pwrite, b"x" * 512, 0, 0x8000)
    fails(errno.EINVAL, handle.trim, 512, 0, nbd.CMD_FLAG_NO_HOLE)
    fails(errno.EINVAL, handle.flush, 0x40)


def test_too_big(handle):
    fails(errno.EINVAL, handle.pread, 32 * MIB + 1, 0)
    fails(errno.ENOSPC, handle.pwrite, bytes(33 * MIB), 0)
    handle.pwrite(bytes(32 * MIB), 0)


def test_fua_and_zero_flags(handle):
    handle.pwrite(b"x" * 4096, 0, nbd.CMD_FLAG_FUA)
    handle.zero(4096, 0, nbd.CMD_FLAG_FUA | nbd.CMD_FLAG_NO_HOLE)
    handle.zero(4096, 0, nbd.CMD_FLAG_FAST_ZERO)
    assert handle.pread(4096, 0) == bytearray(4096)


def test_readonly(served_readonly):
    h = nbd.NBD()
    h.set_strict_mode(0)
    h.connect_uri(served_readonly.uri())
    fails(errno.EPERM, h.pwrite, b"x" * 512, 0)
    fails(errno.EPERM, h.trim, 512, 0)
    fails(errno.EPERM, h.zero, 512, 0)
    assert len(h.pread(512, 0)) == 512
    h.shutdown()


def test_option_mode(served):
    """A client that dwells in the negotiation and changes its mind."""
    h = nbd.NBD()
    h.set_opt_mode(True)
    h.connect_uri(served.uri())
    names = []
    assert h.opt_list(lambda name, text: names.append((name, text)) or 0) == 1
    assert names == [("", "")]
    h.set_export_name("nope")
    with pytest.raises(nbd.Error):
        h.opt_info()
    with pytest.raises(nbd.Error):
        h.opt_go()
    h.set_export_name("")
    h.opt_info()
    assert h.get_size() == SIZE
    h.opt_go()
    assert len(h.pread(512, 0)) == 512
    h.shutdown()


def test_option_abort(served):
    h = nbd.NBD()
    h.set_opt_mode(True)
    h.connect_uri(served.uri())
    h.opt_abort()
    served.wait_log("left after the negotiation (NBD_OPT_ABORT)")


def test_many_commands_in_flight(served, content):
    """Sixty-four of each kind on four connections at a time."""
    handles = [nbd.NBD() for _ in range(4)]
    for h in handles:
        h.connect_uri(served.uri())
    cookies = []
    for i in range(256):
        h = handles[i % 4]
        buf = nbd.Buffer(65536)
        cookies.append((h, h.aio_pread(buf, i * 65536), buf, i * 65536))
    while cookies:
        for item in list(cookies):
            h, cookie, buf, offset = item
            if h.aio_command_completed(cookie):
                assert buf.to_bytearray() == content[offset:offset + 65536]
                cookies.remove(item)
            else:
                h.poll(10)
    for h in handles:
        h.shutdown()
