# SPDX-License-Identifier: GPL-2.0
"""Urgent data of TCP: NBD has no use for it, and tcp_read_sock() does not read past it."""
import socket
import threading

import pytest

from harness import wire


@pytest.mark.parametrize("when", ["before a reply", "amid a reply"])
def test_urgent_data_costs_the_connection_only(rig, server, when):
    sent = threading.Event()

    def hook(conn, req):
        if sent.is_set() or req.type != wire.NBD_CMD_READ:
            return False
        sent.set()
        reply = wire.NBD_SIMPLE_REPLY_MAGIC.to_bytes(4, "big") + bytes(4) + req.cookie.to_bytes(8, "big") + \
            bytes(server.data[req.offset:req.offset + req.length])
        half = 0 if when == "before a reply" else len(reply) // 2
        conn.send(reply[:half])
        conn.sock.send(b"!", socket.MSG_OOB)
        conn.send(reply[half:])
        return True
    rig.attach(server)
    server.hook = hook
    rig.run("dd if=/dev/nb0 of=/dev/null bs=64k count=1 iflag=direct 2>/dev/null", 20)
    assert sent.is_set() and rig.sysfs("reconnects") == "1"
    assert "connection lost: urgent data amid the replies" in rig.dmesg()
