# SPDX-License-Identifier: GPL-2.0
"""Names to addresses, with a nameserver that behaves, and some that do not."""
import errno
import socket
import struct
import threading
import time

import pytest

A, CNAME, AAAA = 1, 5, 28


class Nameserver:
    """answer(name, kind) -> list of (kind, data) to send back, a number (the
    RCODE), bytes (sent as they are) or None (silence)."""

    def __init__(self, address, port, answer):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_DGRAM)
        self.socket.bind((address, port))
        self.socket.settimeout(0.05)
        self.answer, self.asked, self.queries = answer, [], []
        self.running = True
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()

    def stop(self):
        self.running = False
        self.thread.join()
        self.socket.close()

    def serve(self):
        while self.running:
            try:
                query, peer = self.socket.recvfrom(2000)
            except TimeoutError:
                continue
            labels, at = [], 12
            while query[at]:
                labels.append(query[at + 1:at + 1 + query[at]].decode())
                at += 1 + query[at]
            kind = struct.unpack(">H", query[at + 1:at + 3])[0]
            self.asked.append((".".join(labels), kind))
            self.queries.append((query, peer))
            reply = self.answer(".".join(labels), kind)
            for packet in self.packets(query, reply):
                self.socket.sendto(packet, peer)

    @staticmethod
    def packets(query, reply):
        if isinstance(reply, int):
            return [query[:2] + bytes([0x81, 0x80 | reply]) + query[4:]]
        if isinstance(reply, bytes):
            return [reply]
        if isinstance(reply, list):
            packet = query[:2] + b"\x81\x80\0\1" + struct.pack(">H", len(reply)) + bytes(4) + query[12:]
            for kind, data in reply:
                packet += b"\xc0\x0c" + struct.pack(">HHIH", kind, 1, 60, len(data)) + data
            return [packet]
        return []


def ip(text):
    return (AAAA, socket.inet_pton(socket.AF_INET6, text)) if ":" in text else \
        (A, socket.inet_aton(text))


@pytest.fixture
def nameserver(dns_port):
    running = []

    def start(answer, address="127.0.0.1"):
        running.append(Nameserver(address, dns_port, answer))
        return running[-1]

    yield start
    for n in running:
        n.stop()


@pytest.fixture
def ask(each):
    """ask(HOST) -> the servers of the attach line, or what stderr says."""
    each.write("etc/resolv.conf", "search lab.example\nnameserver 127.0.0.1\n")

    def ask(host):
        result = each.run(host, "1234", "nb0")
        if result.returncode:
            return result.stderr
        return [word[7:] for word in each.read("dev/nb-control").split()
                if word.startswith("server=")]

    ask.machine = each
    return ask


def quick(good, seconds):
    """Does it take less, in one of many tries? Other work here slows some."""
    def took():
        begin = time.monotonic()
        assert good()
        return time.monotonic() - begin

    return any(took() < seconds for _ in range(20))


def known(table):
    return lambda name, kind: \
        [ip(a) for a in table[name] if (":" in a) == (kind == AAAA)] if name in table else 3


def test_both_families(ask, nameserver):
    nameserver(known({"s.example": ["2001:db8::1", "192.0.2.1", "192.0.2.2"]}))
    assert ask("s.example") == ["192.0.2.1:1234", "192.0.2.2:1234", "[2001:db8::1]:1234"]


def test_search_domain(ask, nameserver):
    n = nameserver(known({"s.lab.example": ["192.0.2.1"]}))
    assert ask("s") == ["192.0.2.1:1234"]
    assert ("s", A) not in n.asked


def test_bare_name_after_search(ask, nameserver):
    n = nameserver(known({"s": ["192.0.2.1"]}))
    assert ask("s") == ["192.0.2.1:1234"]
    assert ("s.lab.example", A) in n.asked


def test_search_domain_that_no_name_can_have(ask, nameserver):
    ask.machine.write("etc/resolv.conf", f"search {'x' * 64} a..b\nnameserver 127.0.0.1\n")
    n = nameserver(known({"s": ["192.0.2.1"]}))
    assert ask("s") == ["192.0.2.1:1234"]
    assert sorted(n.asked) == [("s", A), ("s", AAAA)]


def test_dotted_name_is_not_searched(ask, nameserver):
    n = nameserver(known({}))
    assert 'knows no host "s.example"' in ask("s.example")
    # Each question once: "no such name" is an answer.
    assert sorted(n.asked) == [("s.example", A), ("s.example", AAAA)]


def test_hosts_first(ask, nameserver):
    n = nameserver(known({"s": ["192.0.2.1"]}))
    ask.machine.write("etc/hosts", "192.0.2.9 other s\n")
    assert ask("S") == ["192.0.2.9:1234"]
    assert n.asked == []


def test_nameserver_of_dhcp(ask, nameserver):
    nameserver(known({"s": ["192.0.2.1"]}))
    (ask.machine.root / "etc/resolv.conf").unlink()
    ask.machine.write("run/net-eth0.conf", "IPV4DNS0='0.0.0.0'\nIPV4DNS1='127.0.0.1'\n")
    assert ask("s") == ["192.0.2.1:1234"]


def test_second_nameserver(ask, nameserver):
    """Nobody at the first; the second knows."""
    ask.machine.write("etc/resolv.conf", "nameserver 127.0.0.3\nnameserver 127.0.0.2\n")
    nameserver(known({"s": ["192.0.2.1"]}), "127.0.0.2")
    assert quick(lambda: ask("s") == ["192.0.2.1:1234"], 1.4)       # ANSWER_MS


def test_servfail_goes_on_to_the_second(ask, nameserver):
    ask.machine.write("etc/resolv.conf", "nameserver 127.0.0.1\nnameserver 127.0.0.2\n")
    nameserver(lambda name, kind: 2)
    nameserver(known({"s": ["192.0.2.1"]}), "127.0.0.2")
    assert ask("s") == ["192.0.2.1:1234"]


def test_nameserver_over_ipv6(ask, nameserver):
    ask.machine.write("etc/resolv.conf", "nameserver ::1\n")
    try:
        nameserver(known({"s": ["192.0.2.1"]}), "::1")
    except OSError:
        pytest.skip("no IPv6 here")
    assert ask("s") == ["192.0.2.1:1234"]


def test_no_nameserver(ask):
    (ask.machine.root / "etc/resolv.conf").unlink()
    assert 's: no nameserver is known yet' in ask("s")


def test_refused(ask, nameserver):
    nameserver(lambda name, kind: 5)
    assert "nameserver 127.0.0.1 refuses to look up" in ask("s.example")


def test_no_address(ask, nameserver):
    nameserver(lambda name, kind: [])
    assert 'has no address for "s.example"' in ask("s.example")


def test_link_local(ask, nameserver):
    """Such an address is nothing without its interface, which no nameserver knows."""
    table = {"s.example": ["fe80::1", "192.0.2.1", "fe80::2", "2001:db8::1"], "t.example": ["fe80::1"]}
    nameserver(known(table))
    assert ask("s.example") == ["192.0.2.1:1234", "[2001:db8::1]:1234"]
    assert 'has no address for "t.example"' in ask("t.example")
    ask.machine.write("etc/hosts", "fe80::1 u.example\nfe80::2%eth0 u.example\n")
    assert ask("u.example") == ["[fe80::2%eth0]:1234"]


def test_garbage(ask, nameserver):
    nameserver(lambda name, kind: [(A, b"\1\2\3")])
    assert "broken answer" in ask("s.example")


def test_port_unreachable(ask):
    assert 'nameserver 127.0.0.1 does not answer about "s.example" (connection refused)' in ask("s.example")


def test_silence(builds, nameserver):
    client = builds("san")
    client.write("etc/resolv.conf", "nameserver 127.0.0.1\n")
    nameserver(lambda name, kind: None)
    begin = time.monotonic()
    result = client.run("s.example", "1234", "nb0")
    assert "nameserver 127.0.0.1 does not answer about" in result.stderr
    assert "; check the cable" in result.stderr
    assert time.monotonic() - begin > 2


def test_aaaa_is_never_answered(ask, nameserver):
    """Some nameservers drop such questions; the address must not wait for it."""
    nameserver(lambda name, kind: [ip("192.0.2.1")] if kind == A else None)
    assert quick(lambda: ask("s.example") == ["192.0.2.1:1234"], 1.4)   # ANSWER_MS


def test_strays_before_the_answer(ask, nameserver):
    """Forged packets (wrong id, wrong question) do not count."""
    n = nameserver(known({"s.example": ["192.0.2.1"]}))
    packets = n.packets

    def forge(query, reply):
        good = packets(query, reply)
        if not isinstance(reply, list) or not reply:
            return good
        evil = packets(query, [ip("6.6.6.6") if reply[0][0] == A else ip("::6")])[0]
        wrong_id = bytes([evil[0] ^ 1]) + evil[1:]
        wrong_name = evil[:13] + b"t" + evil[14:]
        return [wrong_id, wrong_name, b"", b"x", evil[:11]] + good

    n.packets = forge
    assert ask("s.example") == ["192.0.2.1:1234"]


def test_ids_and_ports_are_random(builds, nameserver):
    client = builds("klibc")
    client.write("etc/resolv.conf", "nameserver 127.0.0.1\n")
    n = nameserver(known({"s": ["192.0.2.1"]}))
    for _ in range(16):
        client.run("s", "1234", "nb0")
    assert len({query[:2] for query, _ in n.queries}) > 24
    # one for each lookup, which asks for A and AAAA
    assert len({peer[1] for _, peer in n.queries}) > 12


def test_boot_waits_for_the_name(client, driver, nameserver):
    table = {}
    nameserver(known(table))
    client.cmdline("nbdroot=server1:1234/root")
    client.write("run/net-eth0.conf", "IPV4DNS0=127.0.0.1\nDNSDOMAIN=lab\n")
    client.disk(server="192.0.2.1:1234")
    boot = client.start("--boot")
    boot.expect('waiting for /dev/nb0: server1: nameserver 127.0.0.1 knows no host "server1')
    table["server1.lab"] = ["192.0.2.1"]
    assert boot.wait() == 0
    assert '/dev/nb0 is "root" on server1 (192.0.2.1:1234), 2.0 GiB' in boot.said()


def test_more_addresses_than_the_driver_takes(client, driver, nameserver):
    nameserver(known({"s": [f"192.0.2.{i}" for i in range(1, 20)]}))
    client.write("etc/resolv.conf", "nameserver 127.0.0.1\n")
    driver.answer = lambda line: (errno.ECONNREFUSED, "nb0: 192.0.2.3:10809: x")
    result = client.run("s", "nb0")
    assert driver.lines[0].count("server=") == 8
    assert "s (192.0.2.3:10809): connection refused" in result.stderr
