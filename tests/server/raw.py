# SPDX-License-Identifier: GPL-2.0
"""A client that can say anything: bytes on a socket, and the messages of the
protocol for those who want them well-formed. Numbers come from proto/."""
import os
import socket
import struct
from pathlib import Path

from harness import wire
from harness.patience import granted

MIB = 1 << 20


class Closed(Exception):
    """The server hung up."""


def option(number, data=b"", length=None, magic=None):
    """An option as bytes; `length` lies about the data that follows."""
    return struct.pack(">QII", wire.NBD_OPTS_MAGIC if magic is None else magic, number,
                       len(data) if length is None else length) + data


def go_data(name=b"", infos=(), name_len=None, n_infos=None):
    """The data of NBD_OPT_GO and NBD_OPT_INFO; the lengths may lie."""
    return (struct.pack(">I", len(name) if name_len is None else name_len) + name
            + struct.pack(">H", len(infos) if n_infos is None else n_infos)
            + b"".join(struct.pack(">H", i) for i in infos))


def meta_data(name=b"", queries=(), name_len=None, n_queries=None):
    """The data of NBD_OPT_LIST_META_CONTEXT and NBD_OPT_SET_META_CONTEXT; the lengths may lie."""
    return (struct.pack(">I", len(name) if name_len is None else name_len) + name
            + struct.pack(">I", len(queries) if n_queries is None else n_queries)
            + b"".join(struct.pack(">I", len(q)) + q for q in queries))


def extended_request(command, offset=0, length=0, flags=0, cookie=1, payload=b""):
    return struct.pack(">IHHQQQ", wire.NBD_EXTENDED_REQUEST_MAGIC, flags, command, cookie,
                       offset, length) + payload


def request(command, offset=0, length=0, flags=0, cookie=1, magic=None, payload=b""):
    return struct.pack(">IHHQQI", wire.NBD_REQUEST_MAGIC if magic is None else magic,
                       flags, command, cookie, offset, length) + payload


class Raw:
    """One TCP connection to `server` (a harness.server.Server), from an address of
    this machine."""

    def __init__(self, server, timeout=20, rcvbuf=None, source=None):
        family = socket.AF_INET6 if ":" in server.address else socket.AF_INET
        self.sock = socket.socket(family, socket.SOCK_STREAM)
        if rcvbuf:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        self.sock.settimeout(granted(timeout))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if source:
            self.sock.bind((source, 0))
        self.sock.connect((server.address, server.port))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.sock.close()

    def reset(self):
        """Hang up with a RST instead of a FIN."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def send(self, data):
        try:
            self.sock.sendall(data)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise Closed from error
        return self

    def recv(self, n):
        data = bytearray()
        while len(data) < n:
            try:
                part = self.sock.recv(min(n - len(data), MIB))
            except ConnectionResetError as error:
                raise Closed from error
            if not part:
                raise Closed(f"after {len(data)} of {n} bytes")
            data += part
        return bytes(data)

    def closed(self):
        """Has the server hung up (what it still says is thrown away)?"""
        self.sock.settimeout(granted(20))
        try:
            while self.sock.recv(65536):
                pass
        except socket.timeout:
            return False
        except ConnectionResetError:
            pass
        return True

    # -- negotiation -------------------------------------------------------
    def hello(self, flags=3):
        magic, opts, server_flags = struct.unpack(">QQH", self.recv(18))
        assert (magic, opts) == (wire.NBD_MAGIC, wire.NBD_OPTS_MAGIC)
        assert server_flags == wire.NBD_FLAG_FIXED_NEWSTYLE | wire.NBD_FLAG_NO_ZEROES
        return self.send(struct.pack(">I", flags))

    def option_reply(self):
        """(option, type, data)"""
        magic, number, kind, length = struct.unpack(">QIII", self.recv(20))
        assert magic == wire.NBD_REP_MAGIC
        return number, kind, self.recv(length)

    def option(self, number, data=b"", **lies):
        """Send it; every reply to it up to the ACK or the error: [(type, data)]."""
        self.send(option(number, data, **lies))
        return self.option_replies(number)

    def option_replies(self, number):
        replies = []
        while True:
            about, kind, data = self.option_reply()
            assert about == number, f"a reply to option {about} in place of {number}"
            replies.append((kind, data))
            if kind == wire.NBD_REP_ACK or kind & wire.NBD_REP_FLAG_ERROR:
                return replies

    def go(self, name=b""):
        """hello() and NBD_OPT_GO; self.size and self.flags are set."""
        self.hello()
        replies = self.option(wire.NBD_OPT_GO, go_data(name))
        assert replies[-1] == (wire.NBD_REP_ACK, b""), replies
        infos = {struct.unpack(">H", d[:2])[0]: d[2:] for k, d in replies if k == wire.NBD_REP_INFO}
        self.size, self.flags = struct.unpack(">QH", infos[wire.NBD_INFO_EXPORT])
        return self

    def meta(self, option_number, *queries, name=b""):
        """{context: id} that the server answers with."""
        replies = self.option(option_number, meta_data(name, queries))
        assert replies[-1] == (wire.NBD_REP_ACK, b""), replies
        assert all(k == wire.NBD_REP_META_CONTEXT for k, _ in replies[:-1])
        return {d[4:].decode(): struct.unpack(">I", d[:4])[0] for _, d in replies[:-1]}

    def structured(self, *queries, name=b"", option=wire.NBD_OPT_STRUCTURED_REPLY):
        """hello(), structured replies, contexts, NBD_OPT_GO."""
        self.hello()
        assert self.option(option) == [(wire.NBD_REP_ACK, b"")]
        self.extended = option == wire.NBD_OPT_EXTENDED_HEADERS
        self.contexts = self.meta(wire.NBD_OPT_SET_META_CONTEXT, *queries, name=name) if queries else {}
        replies = self.option(wire.NBD_OPT_GO, go_data(name))
        assert replies[-1] == (wire.NBD_REP_ACK, b""), replies
        self.size, self.flags = struct.unpack(">QH", replies[0][1][2:12])
        return self

    # -- transmission ------------------------------------------------------
    def request(self, *args, **kwargs):
        make = extended_request if getattr(self, "extended", False) else request
        return self.send(make(*args, **kwargs))

    def chunk(self):
        """(flags, type, cookie, payload) of one chunk; with extended headers its
        offset is held against `self.asked`."""
        if self.extended:
            magic, flags, kind, cookie, offset, length = struct.unpack(">IHHQQQ", self.recv(32))
            assert magic == wire.NBD_EXTENDED_REPLY_MAGIC
            assert offset == self.asked
        else:
            magic, flags, kind, cookie, length = struct.unpack(">IHHQI", self.recv(20))
            assert magic == wire.NBD_STRUCTURED_REPLY_MAGIC
        return flags, kind, cookie, self.recv(length)

    def chunks(self, command, offset=0, length=0, flags=0, payload=b"", cookie=0x1020304050607080):
        """A request, and all of its reply: [(type, payload)]."""
        self.asked = offset
        self.request(command, offset, length, flags, cookie, payload=payload)
        found, done = [], False
        while not done:
            chunk_flags, kind, about, data = self.chunk()
            assert about == cookie and not chunk_flags & ~wire.NBD_REPLY_FLAG_DONE
            done = chunk_flags & wire.NBD_REPLY_FLAG_DONE
            found.append((kind, data))
        return found

    def outcome(self, *args, **kwargs):
        """The error of a structured reply without data: (number, text)."""
        (kind, data), = self.chunks(*args, **kwargs)
        if kind == wire.NBD_REPLY_TYPE_NONE:
            assert not data
            return 0, ""
        assert kind == wire.NBD_REPLY_TYPE_ERROR
        error, size = struct.unpack(">IH", data[:6])
        assert size == len(data) - 6
        return error, data[6:].decode()

    def parts(self, offset, length, flags=0):
        """A structured READ: [(offset, bytes or the length of a hole)]."""
        found = []
        for kind, data in self.chunks(wire.NBD_CMD_READ, offset, length, flags):
            at, = struct.unpack(">Q", data[:8])
            if kind == wire.NBD_REPLY_TYPE_OFFSET_HOLE:
                found.append((at, struct.unpack(">I", data[8:])[0]))
            else:
                assert kind == wire.NBD_REPLY_TYPE_OFFSET_DATA and len(data) > 8
                found.append((at, data[8:]))
        return found

    def extents(self, offset, length, flags=0):
        """NBD_CMD_BLOCK_STATUS: [(length, flags)]."""
        (kind, data), = self.chunks(wire.NBD_CMD_BLOCK_STATUS, offset, length, flags)
        context, = struct.unpack(">I", data[:4])
        assert context == self.contexts["base:allocation"]
        if self.extended:
            assert kind == wire.NBD_REPLY_TYPE_BLOCK_STATUS_EXT
            assert struct.unpack(">I", data[4:8])[0] * 16 == len(data) - 8
            return list(struct.iter_unpack(">QQ", data[8:]))
        assert kind == wire.NBD_REPLY_TYPE_BLOCK_STATUS
        return list(struct.iter_unpack(">II", data[4:]))

    def reply(self):
        """(error, cookie)"""
        magic, error, cookie = struct.unpack(">IIQ", self.recv(16))
        assert magic == wire.NBD_SIMPLE_REPLY_MAGIC
        return error, cookie

    def simple(self, command, offset=0, length=0, flags=0, payload=b"", cookie=0x1122334455667788):
        """A request whose answer has no data: the error."""
        self.request(command, offset, length, flags, cookie, payload=payload)
        error, about = self.reply()
        assert about == cookie
        return error

    def write(self, offset, data, flags=0):
        return self.simple(wire.NBD_CMD_WRITE, offset, len(data), flags, data)

    def flush(self):
        return self.simple(wire.NBD_CMD_FLUSH)

    def read(self, offset, length, flags=0):
        """The bytes, or the error as a number."""
        self.request(wire.NBD_CMD_READ, offset, length, flags, cookie=7)
        error, about = self.reply()
        assert about == 7
        return error or self.recv(length)

    def disconnect(self):
        self.request(wire.NBD_CMD_DISC)
        assert self.closed()


def check_serves(server, name=b""):
    """A good client gets good service: what it writes it reads."""
    with Raw(server) as c:
        c.go(name)
        if not c.flags & wire.NBD_FLAG_READ_ONLY:
            pattern = bytes(range(256)) * 16
            assert c.write(0, pattern) == 0
            assert c.flush() == 0
            assert c.read(0, 4096) == pattern
        else:
            assert len(c.read(0, 4096)) == 4096
        c.disconnect()


def file_bytes(path, offset, length):
    with open(Path(path), "rb") as f:
        f.seek(offset)
        return f.read(length)


def forget(path):
    """Have nothing of the file in memory; False where the file system will not."""
    with open(path, "rb") as f:
        os.fsync(f.fileno())
        os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        try:
            return not os.preadv(f.fileno(), [bytearray(4096)], MIB, os.RWF_NOWAIT)
        except BlockingIOError:
            return True
