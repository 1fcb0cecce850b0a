# SPDX-License-Identifier: GPL-2.0
"""An NBD server that misbehaves when told to: it drives nb.ko into corners.

    with FaultServer() as s:
        s.hook = lambda conn, req: conn.send(b"rubbish") or True   # True: handled
        s.hook = None                                              # behaves again

Its data is in .data; what was asked of it in .seen, oldest first.
"""
import socket
import struct
import threading
import time
from collections import namedtuple

from harness import wire
from harness.patience import until
from harness.ports import free_port

Request = namedtuple("Request", "flags type cookie offset length payload")


def linger_off(sock):
    """Closing this socket sends RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class Connection:
    def __init__(self, server, sock):
        self.server, self.sock = server, sock
        self.lock = threading.Lock()
        self.structured = False     # negotiated
        self.session = None         # [station, boot, attach, generation] that it named
        self.fenced = False         # a newer generation has come
        self.answered = False       # for crashes()

    def send(self, data):
        with self.lock:
            self.sock.sendall(data)

    def recv(self, n):
        data = b""
        while len(data) < n:
            more = self.sock.recv(n - len(data))
            if not more:
                raise EOFError
            data += more
        return data

    def reply(self, cookie, error=0, data=b"", magic=wire.NBD_SIMPLE_REPLY_MAGIC):
        self.send(struct.pack(">IIQ", magic, error, cookie) + data)

    def chunk(self, cookie, kind, payload=b"", done=True, length=None):
        self.send(struct.pack(">IHHQI", wire.NBD_STRUCTURED_REPLY_MAGIC, wire.NBD_REPLY_FLAG_DONE if done else 0,
                              kind, cookie, len(payload) if length is None else length) + payload)

    def content(self, req, start, length, done=False, data=None):
        """Bytes start.. of a READ, as a data chunk."""
        at = req.offset + start
        self.chunk(req.cookie, wire.NBD_REPLY_TYPE_OFFSET_DATA,
                   struct.pack(">Q", at % (1 << 64)) + (data or bytes(self.server.data[at:at + length])), done)

    def hole(self, req, start, length, done=False):
        self.chunk(req.cookie, wire.NBD_REPLY_TYPE_OFFSET_HOLE,
                   struct.pack(">QI", req.offset + start, length), done)

    def fault(self, req, error, text=b"", tail=b"", done=True, kind=wire.NBD_REPLY_TYPE_ERROR):
        self.chunk(req.cookie, kind, struct.pack(">IH", error, len(text)) + text + tail, done)

    def reset(self):
        linger_off(self.sock)
        self.close()

    def close(self):
        try:
            self.server.open.remove(self)
        except ValueError:
            pass        # is closed already
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.sock.close()

    # -- negotiation -------------------------------------------------------
    def option_reply(self, option, kind, data=b""):
        self.send(struct.pack(">QIII", wire.NBD_REP_MAGIC, option, kind, len(data)) + data)

    def negotiate(self):
        s = self.server
        self.send(struct.pack(">QQH", wire.NBD_MAGIC, wire.NBD_OPTS_MAGIC,
                              wire.NBD_FLAG_FIXED_NEWSTYLE | wire.NBD_FLAG_NO_ZEROES))
        self.recv(wire.NBD_CLIENT_FLAGS_SIZE)
        while True:
            _, option, length = struct.unpack(">QII", self.recv(wire.NBD_OPTION_SIZE))
            asked = self.recv(length)
            s.options.append(option)
            if s.on_option and s.on_option(self, option, asked):
                continue
            if option == wire.NBD_OPT_STRUCTURED_REPLY and (s.structured or s.identity):
                self.structured = True
                self.option_reply(option, wire.NBD_REP_ACK)
                continue
            if option == wire.NBD_OPT_SET_META_CONTEXT and s.identity:
                self.session = asked.rsplit(b"x-nbdroot:session/", 1)[1].decode().split("/")
                s.fence(self)
                self.option_reply(option, wire.NBD_REP_META_CONTEXT,
                                  bytes(4) + f"x-nbdroot:server/{s.identity}".encode())
                self.option_reply(option, wire.NBD_REP_ACK)
                continue
            if option != wire.NBD_OPT_GO:
                self.option_reply(option, wire.NBD_REP_ERR_UNSUP)
                continue
            if s.refuse:
                kind, text = s.refuse
                self.option_reply(option, kind, text)
                raise EOFError
            self.option_reply(option, wire.NBD_REP_INFO,
                              struct.pack(">HQH", wire.NBD_INFO_EXPORT, s.size, s.flags))
            self.option_reply(option, wire.NBD_REP_INFO,
                              struct.pack(">HIII", wire.NBD_INFO_BLOCK_SIZE, *s.blocks))
            self.option_reply(option, wire.NBD_REP_ACK)
            return

    # -- transmission ------------------------------------------------------
    def request(self):
        magic, flags, kind, cookie, offset, length = struct.unpack(
            ">IHHQQI", self.recv(wire.NBD_REQUEST_SIZE))
        assert magic == wire.NBD_REQUEST_MAGIC, f"the driver sent {magic:#x}"
        payload = self.recv(length) if kind == wire.NBD_CMD_WRITE else b""
        return Request(flags, kind, cookie, offset, length, payload)

    def carry_out(self, req):
        """What an honest server does with a request."""
        data, end = self.server.data, req.offset + req.length
        if req.type == wire.NBD_CMD_READ and self.structured:
            self.content(req, 0, req.length, True)
            return
        if req.type == wire.NBD_CMD_READ:
            self.reply(req.cookie, data=bytes(data[req.offset:end]))
            return
        if req.type == wire.NBD_CMD_WRITE:
            data[req.offset:end] = req.payload
        elif req.type in (wire.NBD_CMD_TRIM, wire.NBD_CMD_WRITE_ZEROES):
            data[req.offset:end] = bytes(req.length)
        self.reply(req.cookie)

    def run(self):
        server = self.server
        try:
            if server.talk:
                server.talk(self)
                raise EOFError
            self.negotiate()
            server.connections += 1
            if server.drops and server.drops(self):
                raise EOFError
            while True:
                req = self.request()
                server.seen.append(req)
                server.carried.add(self)
                if req.type == wire.NBD_CMD_DISC:
                    time.sleep(server.farewell)
                    server.closed_at = time.monotonic()
                    return
                if not (server.hook and server.hook(self, req)):
                    self.carry_out(req)
        except (EOFError, OSError):
            pass
        except Exception as error:      # a test looks at .error when it ends
            server.error = error
        finally:
            self.close()


def crashes(conn, req):
    """A hook: it answers one request of each connection, and dies of the next."""
    if conn.answered:
        return conn.reset() is None
    conn.answered = True
    return False


class FaultServer:
    FLAGS = (wire.NBD_FLAG_HAS_FLAGS | wire.NBD_FLAG_SEND_FLUSH | wire.NBD_FLAG_SEND_FUA |
             wire.NBD_FLAG_SEND_TRIM | wire.NBD_FLAG_SEND_WRITE_ZEROES)

    def __init__(self, size=16 << 20, flags=FLAGS, blocks=(1, 4096, 32 << 20), host="127.0.0.1"):
        self.host = host
        self.size, self.flags, self.blocks = size, flags, blocks
        self.data = bytearray(size)
        self.hook = None            # hook(connection, request) -> handled?
        self.structured = False     # agrees to structured replies
        self.identity = None        # "BOOT/HOST/IMAGE": tells it, and fences older sessions
        self.talk = None            # talk(connection): instead of all of it, then hang up
        self.on_option = None       # on_option(connection, option, data) -> answered?
        self.refuse = None          # (NBD_REP_ERR_*, text) to answer NBD_OPT_GO with
        self.seen, self.options = [], []
        self.drops = None           # drops(connection): hang up, once it is negotiated?
        self.accepted = 0           # connections, whatever became of them
        self.connections = 0        # that got as far as transmission
        self.carried = set()        # connections that brought a request
        self.limit = None           # connections at a time; more are hung up on
        self.refused = 0            # so many were
        self.farewell = 0           # seconds until it closes after NBD_CMD_DISC
        self.closed_at = None       # time.monotonic() when it last did
        self.error = None
        self.port = free_port(host)
        self.listener = self.acceptor = None
        self.open = []

    def __enter__(self):
        return self.listen()

    def __exit__(self, *what):
        self.hook = None
        self.die()
        if self.error and not what[0]:
            raise self.error

    def listen(self):
        self.listener = socket.create_server((self.host, self.port))
        self.acceptor = threading.Thread(target=self._accept, args=(self.listener,), daemon=True)
        self.acceptor.start()
        return self

    def _accept(self, listener):
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            self.accepted += 1
            if self.limit and len(self.open) >= self.limit:
                self.refused += 1
                sock.close()
                continue
            conn = Connection(self, sock)
            self.open.append(conn)
            threading.Thread(target=conn.run, daemon=True).start()

    def die(self):
        """As if killed: no listener, every connection gone."""
        if self.listener:
            try:
                self.listener.shutdown(socket.SHUT_RDWR)    # wakes accept()
            except OSError:
                pass
            self.acceptor.join()    # one that came this moment is in .open, too
            self.listener.close()
            self.listener = None
        for conn in list(self.open):
            conn.close()

    def fence(self, newer):
        """What is left of older generations is not carried out any more."""
        for conn in list(self.open):
            if conn.session and conn.session[:3] == newer.session[:3] and \
                    int(conn.session[3]) < int(newer.session[3]):
                conn.fenced = True
                conn.close()

    def wait_seen(self, *kinds):
        """Until a request of one of those has come."""
        until(lambda: any(kind in kinds for kind in self.kinds()), 60, self.kinds)

    def kinds(self):
        return [r.type for r in self.seen]
