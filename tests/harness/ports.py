# SPDX-License-Identifier: GPL-2.0
"""Ports that are free, and stay so. Stdlib only.

A port that the kernel chose and that was given back may be taken a moment later: by
another suite's server, or as the near end of anybody's connection. A client that
calls one where nobody listens may even be connected to itself. So these are below
the range that the kernel chooses from, and each process has a block of its own.
"""
import itertools
import random
import socket
from pathlib import Path

FIRST, BLOCK = 12000, 200

_mine = None


def _own_block():
    """(what holds it, its ports in turn), or None. A name of the abstract kind is
    one process's at a time, and gone with it."""
    end = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    blocks = list(range(FIRST, end - BLOCK + 1, BLOCK))
    random.shuffle(blocks)
    for first in blocks:
        name = socket.socket(socket.AF_UNIX)
        try:
            name.bind(f"\0nbdroot-ports-{first}")
        except OSError:
            name.close()
            continue
        return name, itertools.cycle(range(first, first + BLOCK))
    return None


def _bound(host, port, kind):
    """The port, if nobody has it."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, kind) as s:
        if port and kind == socket.SOCK_STREAM:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind((host, port))
        return s.getsockname()[1]


def free_port(host="127.0.0.1", kind=socket.SOCK_STREAM):
    """A port that nobody has, nor will be given by this soon."""
    global _mine
    _mine = _mine or _own_block()
    for port in itertools.islice(_mine[1], BLOCK) if _mine else ():
        try:
            return _bound(host, port, kind)
        except OSError:
            pass
    return _bound(host, 0, kind)


def listening(port):
    """Does anybody listen there, on an IPv4 address? Asked without a connection."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, _, state, *_ = line.split()
        if state == "0A" and int(local.rpartition(":")[2], 16) == port:
            return True
    return False
