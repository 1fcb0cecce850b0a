# SPDX-License-Identifier: GPL-2.0
"""A station's connection as our driver makes it: structured replies, and the
session named in the x-nbdroot metadata context (proto/nbd-session.h)."""
import struct

from harness import wire
from raw import Raw, go_data

SESSION = "x-nbdroot:session/{}/{}/{}/{}"


class Refused(Exception):
    """The server's words."""


class Station(Raw):
    """Connected to `export`. `server_boot`, `host`, `image`: what it answered."""

    def __init__(self, server, export="", station="-", boot="-", attach=1, generation=0, **kwargs):
        super().__init__(server, **kwargs)
        self.hello()
        self.name = export.encode()
        if boot is not None:
            self._name_session(station, boot, attach, generation)
        replies = self.option(wire.NBD_OPT_GO, go_data(self.name))
        if replies[-1][0] != wire.NBD_REP_ACK:
            self.close()
            raise Refused(replies[-1][1].decode())
        infos = {struct.unpack(">H", d[:2])[0]: d[2:] for k, d in replies if k == wire.NBD_REP_INFO}
        self.size, self.flags = struct.unpack(">QH", infos[wire.NBD_INFO_EXPORT])

    def _name_session(self, *session):
        assert self.option(wire.NBD_OPT_STRUCTURED_REPLY)[-1][0] == wire.NBD_REP_ACK
        query = SESSION.format(*session).encode()
        data = (struct.pack(">I", len(self.name)) + self.name
                + struct.pack(">II", 1, len(query)) + query)
        replies = self.option(wire.NBD_OPT_SET_META_CONTEXT, data)
        if replies[-1][0] != wire.NBD_REP_ACK:
            self.close()
            raise Refused(replies[-1][1].decode())
        (kind, answer), _ = replies
        assert kind == wire.NBD_REP_META_CONTEXT
        prefix, self.server_boot, self.host, self.image = answer[4:].decode().split("/")
        assert prefix == "x-nbdroot:server"
        self.structured = True

    structured = False

    def _chunks(self):
        """(type, offset, payload) of one reply, up to the one that is DONE."""
        flags = 0
        while not flags & wire.NBD_REPLY_FLAG_DONE:
            magic, flags, kind, _, length = struct.unpack(">IHHQI", self.recv(20))
            assert magic == wire.NBD_STRUCTURED_REPLY_MAGIC
            yield kind, self.recv(length)

    def simple(self, command, offset=0, length=0, flags=0, payload=b"", cookie=3):
        if not self.structured:
            return super().simple(command, offset, length, flags, payload, cookie)
        self.request(command, offset, length, flags, cookie, payload=payload)
        magic = self.sock.recv(4, 2)    # MSG_PEEK
        if magic == struct.pack(">I", wire.NBD_SIMPLE_REPLY_MAGIC):
            return self.reply()[0]
        error = 0
        for kind, data in self._chunks():
            if kind & 0x8000:
                error = struct.unpack(">I", data[:4])[0]
        return error

    def read(self, offset, length, flags=0):
        if not self.structured:
            return super().read(offset, length, flags)
        self.request(wire.NBD_CMD_READ, offset, length, flags, cookie=9)
        data, error = bytearray(length), 0
        for kind, part in self._chunks():
            if kind & 0x8000:
                error = struct.unpack(">I", part[:4])[0]
            elif kind == wire.NBD_REPLY_TYPE_OFFSET_DATA:
                at = struct.unpack(">Q", part[:8])[0] - offset
                data[at:at + len(part) - 8] = part[8:]
        return error or bytes(data)
