# SPDX-License-Identifier: GPL-2.0
"""nbd-client --boot: waits, tells, goes on; and what it makes of the network's
facts."""
import errno
import time

import pytest
from harness.patience import until
from harness.ports import free_port

OK = (0, "nb0: attached")


def refused(line):
    server = line.split("server=")[1].split()[0]
    return errno.ECONNREFUSED, f"nb0: {server}: connection refused"


def test_attaches(client, driver):
    client.cmdline("root=/dev/nb0 nbdroot=127.0.0.1:1234/root")
    client.disk()
    driver.answer = lambda line: OK
    result = client.run("--boot")
    assert result.returncode == 0
    assert result.stderr == 'nbd-client: /dev/nb0 is "root" on 127.0.0.1:1234, 2.0 GiB\n'
    assert driver.lines == ["attach dev=nb0 server=127.0.0.1:1234 lost=wait export=root"]


def test_waits_for_the_server(client, driver):
    """The cause with the next step, then a line every 10 s with the cause for
    whoever comes late, and with the step again when it is another one."""
    client.cmdline("nbdroot=127.0.0.1:1234")
    driver.answer = refused
    begin = time.monotonic()
    boot = client.start("--boot")
    boot.expect("waiting for /dev/nb0: 127.0.0.1:1234: connection refused; "
                "start the NBD server there, or correct the port\n")
    boot.expect("still waiting for /dev/nb0 after ")
    assert time.monotonic() - begin > 9
    boot.expect(" s: 127.0.0.1:1234: connection refused\n")
    assert boot.said().count("start the NBD server there") == 1
    assert 2 < len(driver.lines) < 4 + time.monotonic() - begin

    driver.answer = lambda line: (errno.EHOSTUNREACH, "nb0: 127.0.0.1:1234: x")
    boot.expect("now because: 127.0.0.1:1234: host is unreachable; is the server on")
    client.disk()
    driver.answer = lambda line: OK
    assert boot.wait() == 0
    assert boot.said().endswith("/dev/nb0 is the default export on 127.0.0.1:1234, 2.0 GiB\n")
    # On a slow machine a line may be said again.
    *waiting, _ = boot.said().splitlines()
    assert len(waiting) >= 3 and all("waiting for /dev/nb0" in line for line in waiting)
    assert boot.said().count("now because") == 1


def test_a_host_that_is_off_is_one_reason(client, driver):
    """It is "unreachable" when ARP gives up first and "timed out" otherwise."""
    client.cmdline("nbdroot=127.0.0.1:1234")
    driver.answer = lambda line: (errno.EHOSTUNREACH, "nb0: 127.0.0.1:1234: x")
    boot = client.start("--boot")
    boot.expect("host is unreachable")
    driver.answer = lambda line: (errno.ETIMEDOUT, "nb0: 127.0.0.1:1234: x")
    boot.expect("still waiting for /dev/nb0 after ")
    assert "now because" not in boot.said()

    driver.answer = lambda line: (errno.ETIMEDOUT, "nb0: 127.0.0.1:1234: connected, but silent")
    boot.expect("now because: 127.0.0.1:1234: connected, but silent")


def test_several_servers_of_one_export(client, driver):
    client.cmdline("nbdroot=127.0.0.1:1 nbdroot=[::1]:2 nbdroot=127.0.0.2 nbdport=3")
    driver.answer = lambda line: OK
    assert client.run("--boot").returncode == 0
    assert driver.lines == ["attach dev=nb0 server=127.0.0.1:1 server=[::1]:2 "
                            "server=127.0.0.2:3 lost=wait export="]


def test_servers_of_different_exports(client, driver):
    """Each export is an attach of its own, in the order of the line."""
    client.cmdline("nbdroot=127.0.0.1:1/a nbdroot=127.0.0.2:2/b nbdroot=127.0.0.3:3/a")
    client.disk(server="127.0.0.2:2")
    driver.answer = lambda line: OK if line.endswith("=b") else refused(line)
    result = client.run("--boot")
    assert driver.lines == [
        "attach dev=nb0 server=127.0.0.1:1 server=127.0.0.3:3 lost=wait export=a",
        "attach dev=nb0 server=127.0.0.2:2 lost=wait export=b"]
    assert '/dev/nb0 is "b" on 127.0.0.2:2' in result.stderr


def test_each_server_once_in_a_round(client, driver):
    client.cmdline("nbdroot=127.0.0.1:1/a nbdroot=127.0.0.2:2/b nbdroot=127.0.0.3:3/a")
    driver.answer = refused
    client.start("--boot")
    until(lambda: len(driver.lines) >= 4)
    assert driver.lines[2:4] == driver.lines[:2]


def test_unknown_export_says_what_there_is(client, driver, make_server, tmp_path):
    config = "[generic]\nport = {port}\nallowlist = true\n"
    for name in ("lab", "kiosk"):
        (tmp_path / name).write_bytes(bytes(4096))
        config += f"[{name}]\nexportname = {tmp_path / name}\n"
    port = make_server(config=config).port
    client.cmdline(f"nbdroot=127.0.0.1:{port}/root")
    driver.answer = lambda line: (errno.ENOENT, f"nb0: 127.0.0.1:{port}: no such export")
    boot = client.start("--boot")
    boot.expect(f'127.0.0.1:{port}: no export "root" (server offers: lab, kiosk); '
                "add it to the server's configuration, or name another one\n")
    driver.answer = lambda line: OK
    assert boot.wait() == 0


def test_unknown_export_without_a_list(client, driver):
    port = free_port()
    client.cmdline(f"nbdroot=127.0.0.1:{port}/root")
    driver.answer = lambda line: (errno.ENOENT, f"nb0: 127.0.0.1:{port}: none")
    boot = client.start("--boot")
    boot.expect(f'127.0.0.1:{port}: no export "root" (and it does not list what it offers: '
                "connection refused)")


def test_number_as_name(client, driver):
    """HOST:NUMBER where the number is the name of an export."""
    client.cmdline("nbdroot=127.0.0.1:1234")
    client.disk()

    def answer(line):
        if line.endswith("export=1234"):
            return OK
        return errno.ENOENT, "nb0: 127.0.0.1:1234: no such export"

    driver.answer = answer
    result = client.run("--boot")
    assert result.returncode == 0
    assert "warning: 127.0.0.1 has no default export" in result.stderr
    assert "nbdroot=127.0.0.1:1234/1234" in result.stderr
    assert '/dev/nb0 is "1234" on 127.0.0.1:1234' in result.stderr


def test_number_is_not_tried_beside_a_name(client, driver):
    client.cmdline("nbdroot=127.0.0.1:1234/root")
    driver.answer = lambda line: (errno.ENOENT, "nb0: 127.0.0.1:1234: no such export")
    client.start("--boot").expect("no export")
    assert all(line.endswith("export=root") for line in driver.lines)


def test_attached_already(client, driver):
    client.cmdline("nbdroot=127.0.0.1")
    client.disk()
    driver.answer = lambda line: (errno.EEXIST, "nb0: already attached")
    result = client.run("--boot")
    assert (result.returncode, result.stderr) == (0, "nbd-client: /dev/nb0 is attached already\n")


def test_attached_already_and_an_overlay(client, driver):
    """By hand, from the rescue shell: what the station writes stays with it all the same."""
    client.cmdline("nbdroot=127.0.0.1,overlay")
    client.disk()
    driver.answer = lambda line: (errno.EEXIST, "nb0: already attached")
    assert client.run("--boot").returncode == 0
    assert client.read("run/nbdroot.overlay") == "50%"


@pytest.mark.parametrize("options, ro, size", [
    ("overlay=tmpfs:1G,prefetch=4096", " ro=1", "1G"), ("rw,overlay,prefetch=4096", "", "50%"),
    ("prefetch=4096", "", None),
])
def test_overlay_and_prefetch(client, driver, options, ro, size):
    """The word for the initramfs is there before the disk is: dracut mounts at once."""
    def read():
        file = client.root / "run/nbdroot.overlay"
        return file.read_text() if file.exists() else None

    seen = []
    client.cmdline(f"nbdroot=127.0.0.1,{options}")
    client.disk()
    client.write("sys/block/nb0/queue/read_ahead_kb", "128\n")
    driver.answer = lambda line: (seen.append(read()), (0, ""))[1]
    assert client.run("--boot").returncode == 0
    assert driver.lines == [f"attach dev=nb0 server=127.0.0.1:10809{ro} lost=wait export="]
    assert seen == [size]
    assert client.read("sys/block/nb0/queue/read_ahead_kb") == "4096"


def test_an_overlay_that_nobody_would_hear_of(client, driver):
    client.cmdline("nbdroot=127.0.0.1,overlay")
    (client.root / "run/nbdroot.overlay").mkdir()
    result = client.run("--boot")
    assert (result.returncode, driver.lines) == (2, [])
    assert "/run/nbdroot.overlay cannot be written" in result.stderr


def test_malformed_line_is_final(client, driver):
    """Should the driver not take what we write, asking again is no use."""
    client.cmdline("nbdroot=127.0.0.1")
    driver.answer = lambda line: (errno.EINVAL, "lost=wait: unknown word")
    result = client.run("--boot")
    assert (result.returncode, result.stderr) == (1, "nbd-client: lost=wait: unknown word\n")


def test_interface_not_there_yet(client, driver):
    client.cmdline("nbdroot=[fe80::1%nosuch0]")
    client.start("--boot").expect("there is no network interface nosuch0 yet")
    client.cmdline("nbdroot=[fe80::1%2nosuch]")
    client.start("--boot").expect("there is no network interface 2nosuch yet")
    assert driver.lines == []


@pytest.mark.parametrize("there,words", [
    ([], "it has no partitions: root=/dev/nb0 perhaps"),
    ([1, 5], "it has nb0p1, nb0p5"),
])
def test_partition_missing(client, driver, there, words):
    client.cmdline("root=/dev/nb0p2 nbdroot=127.0.0.1:1234")
    client.disk()
    for number in there:
        client.write(f"sys/block/nb0/nb0p{number}/size", "8\n")
    driver.answer = lambda line: OK
    result = client.run("--boot")
    assert result.returncode == 0
    assert "root=/dev/nb0p2: the disk has no such partition; " + words in result.stderr


def test_partition_comes_late(client, driver):
    client.cmdline("root=/dev/nb0p2 nbdroot=127.0.0.1:1234")
    client.disk()
    driver.answer = lambda line: OK
    boot = client.start("--boot")
    boot.expect("/dev/nb0 is")
    time.sleep(0.5)
    assert boot.process.poll() is None
    client.write("sys/block/nb0/nb0p2/size", "8\n")
    assert boot.wait() == 0
    assert "partition" not in boot.said()


# --- what DHCP says ---------------------------------------------------------

def test_root_path(client, driver):
    client.cmdline("root=/dev/nb0 nbdroot=dhcp")
    client.write("run/net-eth0.conf", "ROOTPATH='192.0.2.7:99/root'\nROOTSERVER='192.0.2.1'\n")
    client.run("--boot")
    assert driver.lines == ["attach dev=nb0 server=192.0.2.7:99 lost=wait export=root"]


def test_root_path_without_server(client, driver):
    client.cmdline("nbdroot=")
    client.write("run/net-eth0.conf", "ROOTPATH=/opt/x\nROOTSERVER=192.0.2.1\n")
    client.run("--boot")
    assert driver.lines == ["attach dev=nb0 server=192.0.2.1:10809 lost=wait export=/opt/x"]


def test_root_server(client, driver):
    client.cmdline("nbdroot=dhcp:7/x")
    client.write("run/net-eth0.conf", "ROOTSERVER=192.0.2.1\n")
    client.run("--boot")
    assert driver.lines == ["attach dev=nb0 server=192.0.2.1:7 lost=wait export=x"]


def test_dhcp_comes_late(client, driver):
    client.cmdline("nbdroot=dhcp")
    boot = client.start("--boot")
    boot.expect("DHCP has named no root path (there is no /run/net-*.conf yet); set DHCP option 17")
    client.write("run/net-eth0.conf", "DEVICE='eth0'\n")
    boot.expect("no ROOTPATH in /run/net-*.conf")
    client.write("run/net-eth1.conf", "ROOTPATH='192.0.2.7'\n")
    assert boot.wait() == 0


def test_bad_root_path(client, driver):
    client.cmdline("nbdroot=dhcp")
    client.write("run/net-eth0.conf", "ROOTPATH='server:port/x'\n")
    result = client.run("--boot")
    assert result.returncode == 2
    assert 'DHCP root path "server:port/x": port "port" is not a number' in result.stderr


def test_one_bad_source_does_not_hold_up_the_others(client, driver):
    client.cmdline("nbdroot=nosuchhost nbdroot=127.0.0.1")
    client.write("etc/hosts", "127.0.0.1 localhost\n")
    assert client.run("--boot").returncode == 0
    assert driver.lines == ["attach dev=nb0 server=127.0.0.1:10809 lost=wait export="]


def test_root_path_with_options(client, driver):
    """The boot line's word counts for more than DHCP's."""
    client.cmdline("nbdroot=dhcp,lost=30")
    client.write("run/systemd/netif/leases/2", "ROOT_PATH=nbdroot=192.0.2.7:99/root,ro,lost=60\n")
    client.run("--boot")
    assert driver.lines == ["attach dev=nb0 server=192.0.2.7:99 ro=1 lost=30 export=root"]


def test_root_path_with_an_overlay(client, driver):
    client.cmdline("nbdroot=dhcp")
    client.write("run/udhcpc.eth0", "rootpath='192.0.2.7/root,overlay=tmpfs:64m'\n")
    client.run("--boot")
    client.cmdline("nbdroot=dhcp,overlay=tmpfs:9m,rw")
    client.run("--boot")
    assert client.read("run/nbdroot.overlay") == "9m"
    assert driver.lines == [f"attach dev=nb0 server=192.0.2.7:10809{ro} lost=wait export=root" for ro in (" ro=1", "")]


@pytest.mark.parametrize("lease", ["run/systemd/netif/leases/2", "run/udhcpc.eth0"])
def test_server_of_a_lease(client, driver, lease):
    client.cmdline("nbdroot=dhcp:7/x")
    client.write(lease, "SERVER_ADDRESS=192.0.2.1\nserverid='192.0.2.1'\n")
    client.run("--boot")
    assert driver.lines == ["attach dev=nb0 server=192.0.2.1:7 lost=wait export=x"]
