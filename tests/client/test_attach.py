# SPDX-License-Identifier: GPL-2.0
"""What the client writes to the driver, and what it makes of the answer."""
import errno

import pytest

ATTACHED = ("attach dev=nb0 server=127.0.0.1:1234 lost=wait export=root")


@pytest.mark.parametrize("args", [
    ("127.0.0.1", "1234", "/dev/nb0", "-N", "root"),
    ("-N", "root", "127.0.0.1", "1234", "nb0"),
    ("127.0.0.1", "--name", "root", "1234", "nb0", "-persist", "-swap"),
])
def test_the_line(each, args):
    each.disk()
    result = each.run(*args)
    assert (result.returncode, result.stdout) == (0, "")
    assert result.stderr == 'nbd-client: /dev/nb0 is "root" on 127.0.0.1:1234, 2.0 GiB\n'
    assert each.read("dev/nb-control") == ATTACHED


def test_odd_names_and_ipv6(each):
    each.run("[2001:db8::1]", "nb7", "-N", "a b\\é")
    assert each.read("dev/nb-control") == (
        "attach dev=nb7 server=[2001:db8::1]:10809 lost=wait "
        "export=a\\040b\\134\\303\\251")


def test_detach(each):
    assert each.run("-d", "/dev/nb0").returncode == 0
    assert each.read("dev/nb-control") == "detach dev=nb0"
    each.write("dev/nb-control", "")
    assert each.run("-d", "-f", "nb12").returncode == 0
    assert each.read("dev/nb-control") == "detach dev=nb12 force=1"


def test_check(each):
    result = each.run("-c", "nb0")
    assert (result.returncode, result.stdout) == (1, "")
    each.disk()
    result = each.run("-c", "/dev/nb0")
    assert (result.returncode, result.stdout) == (0, "live\n")


def test_write_fails(each):
    """The real write: /dev/full is a device on which it cannot succeed."""
    (each.root / "dev/nb-control").unlink()
    (each.root / "dev/nb-control").symlink_to("/dev/full")
    result = each.run("127.0.0.1", "1234", "nb0")
    assert result.returncode == 5
    assert f"error {errno.ENOSPC}" in result.stderr


def test_no_driver(each):
    (each.root / "dev/nb-control").unlink()
    result = each.run("-d", "nb0")
    assert result.returncode == 4
    assert "the driver nb is not loaded" in result.stderr
    each.cmdline("nbdroot=127.0.0.1")
    result = each.run("--boot")
    assert result.returncode == 4
    assert "the driver nb for kernel" in result.stderr
    assert "make the initramfs anew" in result.stderr


def test_driver_loaded_without_node(client):
    (client.root / "dev/nb-control").unlink()
    client.write("sys/module/nb/version", "")
    result = client.run("127.0.0.1", "nb0")
    assert result.returncode == 4
    assert "is devtmpfs mounted" in result.stderr


@pytest.mark.parametrize("error,status,words", [
    (errno.ECONNREFUSED, 5, "127.0.0.1:1234: connection refused; start the NBD server there"),
    (errno.ETIMEDOUT, 5, "127.0.0.1:1234: timed out; is the server on"),
    (errno.EHOSTUNREACH, 5, "host is unreachable; is the server on"),
    (errno.ENETUNREACH, 5, "network is unreachable; is the network up"),
    (errno.ECONNRESET, 5, "127.0.0.1:1234: as the driver says; the server's log says why"),
    (errno.EACCES, 6, "127.0.0.1:1234: as the driver says; allow this station's address"),
    (errno.EOPNOTSUPP, 6, "127.0.0.1:1234: as the driver says"),
    (errno.EPROTO, 5, "127.0.0.1:1234: as the driver says"),
    (errno.EEXIST, 7, "127.0.0.1:1234: as the driver says"),
    (errno.EINVAL, 1, "127.0.0.1:1234: as the driver says"),
])
def test_failures(client, driver, error, status, words):
    driver.answer = lambda line: (error, "nb0: 127.0.0.1:1234: as the driver says")
    result = client.run("127.0.0.1", "1234", "nb0")
    assert result.returncode == status
    assert words in result.stderr
    assert result.stderr.count("\n") == 1


def test_server_that_is_silent(client, driver):
    """It is on, and the cable is in."""
    driver.answer = lambda line: (errno.ETIMEDOUT, "nb0: 127.0.0.1:1234: connected, but silent")
    assert client.run("127.0.0.1", "1234", "nb0").stderr == \
        "nbd-client: 127.0.0.1:1234: connected, but silent\n"


def test_answer_about_something_else(client, driver):
    driver.answer = lambda line: (errno.EEXIST, "nb0: already attached; detach it first")
    result = client.run("127.0.0.1", "1234", "nb0")
    assert result.returncode == 7
    assert result.stderr == "nbd-client: nb0: already attached; detach it first\n"


def test_detach_in_use(client, driver):
    driver.answer = lambda line: (errno.EBUSY, "nb0: in use")
    result = client.run("-d", "nb0")
    assert (result.returncode, result.stderr) == (7, "nbd-client: nb0: in use\n")
    driver.answer = lambda line: (errno.ENODEV, "nb0: not attached")
    assert client.run("-d", "nb0").returncode == 1


@pytest.mark.parametrize("sectors,size", [
    (0, "0.0 KiB"), (1, "0.5 KiB"), (2047, "1023.5 KiB"), (2048, "1.0 MiB"),
    (131072, "64.0 MiB"), (4194304, "2.0 GiB"), (1 << 31, "1.0 TiB"), (1 << 50, "524288.0 TiB"),
])
def test_sizes(client, sectors, size):
    client.disk(sectors=sectors, ro=1)
    assert f", {size}, read-only\n" in client.run("127.0.0.1", "1234", "nb0").stderr


NEW_DRIVER = ("nb 0.2\nattach dev=nbN server=ADDRESS:PORT export=NAME lost=wait|SECONDS conns=N hold=SECONDS "
              "timeout=SECONDS station=WORD boot=WORD ro=1\ndetach dev=nbN [force=1]\n")
OLD_DRIVER = "nb 0.1\nattach dev=nbN server=ADDRESS:PORT export=NAME lost=wait|SECONDS\n"


def test_options(client, driver):
    """Upstream's letters and our words; what only costs is passed over in a line."""
    client.write("dev/nb-control", NEW_DRIVER)
    result = client.run("127.0.0.1", "1", "nb0", "-C", "4", "-t", "9", "-R", "lost=60", "hold=0",
                        "-p", "-swap", "-b", "4096", "-nofork", "bs=1024")
    assert driver.lines == ["attach dev=nb0 server=127.0.0.1:1 ro=1 conns=4 lost=60 hold=0 timeout=9 export="]
    assert result.stderr.count("has no effect here") == 2
    assert 'warning: "bs=1024" has no effect' in result.stderr
    for bad, words in ((("-C", "x"), '"conns=x" is not right'), (("-x",), "no TLS"), (("-Cx",), '"conns=x" is not right'),
                       (("-t", "0"), '"timeout=0" is not right'), (("-nam=x",), 'unknown option "-nam=x"'),
                       (("-f9",), 'unknown option "-f9"'), (("--t30",), 'unknown option "--t30"'), (("conns",), "conns"), (("tls=1",), "not possible yet"), (("-N",), 'missing after "-N"'),
                       (("--nam=x",), 'unknown option "--nam"'), (("overlay=tmpfs:1g",), "for --boot only")):
        assert words in client.run("127.0.0.1", "1", "nb0", *bad).stderr
    assert len(driver.lines) == 1


@pytest.mark.parametrize("name", [("-N", "a=b"), ("--name=a=b",), ("-name=a=b",)])
def test_options_with_an_equals_sign(client, driver, name):
    client.run("127.0.0.1", "1", "nb0", *name, "--timeout=9", "-connections=2", "-block-size=512", "-R")
    assert driver.lines == ["attach dev=nb0 server=127.0.0.1:1 ro=1 conns=2 lost=wait timeout=9 export=a=b"]


def test_values_glued_to_their_letters(each):
    """As getopt reads them; a whole name goes first (-name=x is not -N ame=x)."""
    each.run("127.0.0.1", "1", "nb0", "-C4", "-t30", "-b512", "-D60", "-Na=b")
    assert each.read("dev/nb-control") == "attach dev=nb0 server=127.0.0.1:1 conns=4 lost=60 timeout=30 export=a=b"


def test_the_shortest_timeout(client, driver):
    """The driver and TCP know no shorter one: the classic client's -t 1 becomes that."""
    result = client.run("127.0.0.1", "1", "nb0", "-t", "1")
    assert driver.lines == ["attach dev=nb0 server=127.0.0.1:1 lost=wait timeout=2 export="]
    assert 'warning: "timeout=1" becomes timeout=2, the least' in result.stderr


def test_nbdtab(each):
    for device in ("/dev/nbd0", "nb3"):
        result = each.run(device)
        assert result.returncode == 2
        assert result.stderr == ("nbd-client: /etc/nbdtab is not read; write it like "
                                 f"nbd-client server1 1234 {device} -N lab\n")


@pytest.mark.parametrize("args,words", [
    (("-u", "/run/nbd.sock", "/dev/nb3"), "the driver nb speaks TCP only; for a Unix socket write nbd3, the kernel's own driver"),
    (("-u", "nbd.sock", "nbd0"), 'not an absolute path of 107 bytes at most: "nbd.sock"'),
    (("-unix", "/" + 107 * "x", "nbd0"), "not an absolute path of 107 bytes"),
    (("-unix", "/run/nbd.sock"), "a host and a device are needed"),
    (("/run/nbd.sock", "nbd0"), '"/run/nbd.sock" is neither a host name nor an address'),
    (("nbd0", "-u"), 'a word is missing after "-u"'),
])
def test_unix_socket_refused(each, args, words):
    """Not by guesses: a host is no path, and the path must outlive our directory."""
    result = each.run(*args)
    assert result.returncode == 2
    assert words in result.stderr and result.stderr.count("\n") == 1


def test_uri(client, driver):
    client.run("nbd://127.0.0.1:7/a%20b", "nb0")
    client.run("nbd://127.0.0.1:7/lab,ro,conns=4", "nb0", "timeout=9")
    assert driver.lines == ["attach dev=nb0 server=127.0.0.1:7 lost=wait export=a\\040b",
                            "attach dev=nb0 server=127.0.0.1:7 ro=1 conns=4 lost=wait timeout=9 export=lab"]


def test_dhcp_by_hand(each):
    """In place of a host, as in nbdroot=: its root server, which -l does not ask for."""
    result = each.run("dhcp", "nb0")
    assert result.returncode == 5 and "DHCP has named no root server" in result.stderr
    result = each.run("-l", "dhcp")
    assert result.returncode == 5 and result.stderr.count("\n") == 1, result
    each.write("run/net-eth0.conf", "ROOTSERVER='192.0.2.1'\n")
    each.disk(server="192.0.2.1:7")
    assert each.run("dhcp", "7", "nb0", "-N", "lab").returncode == 0
    assert each.read("dev/nb-control") == "attach dev=nb0 server=192.0.2.1:7 lost=wait export=lab"


def test_old_driver(client, driver):
    """It is not asked for what it cannot do, and the person learns why."""
    client.write("dev/nb-control", OLD_DRIVER)
    result = client.run("127.0.0.1", "nb0", "conns=4")
    assert (result.returncode, driver.lines) == (2, [])
    assert "does not know conns=; leave it out, or load a newer nb.ko" in result.stderr


def test_station_and_boot(client, driver):
    """From DHCP's host name, else the card's address; a word of one's own first."""
    boot = "1b671a64-40d5-491e-99b0-da01ff1f3341"
    client.write("dev/nb-control", NEW_DRIVER)
    client.write("proc/sys/kernel/random/boot_id", boot + "\n")
    for name, mac, carrier in (("eth0", "52:54:00:00:00:01", 0), ("eth1", "52:54:00:00:00:02", 1),
                               ("lo", "00:00:00:00:00:00", 1)):
        client.write(f"sys/class/net/{name}/address", mac + "\n")
        client.write(f"sys/class/net/{name}/carrier", f"{carrier}\n")
    client.cmdline("nbdroot=127.0.0.1:1")
    client.run("--boot")
    client.write("run/net-eth1.conf", "HOSTNAME='kiosk7'\n")
    client.run("--boot")
    client.write("run/net-eth1.conf", "HOSTNAME='kiosk 7'\n")
    client.run("--boot")
    client.cmdline("nbdroot=127.0.0.1:1,station=mine")
    client.run("--boot")
    assert driver.lines == [f"attach dev=nb0 server=127.0.0.1:1 lost=wait station={station} boot={boot} export="
                            for station in ("52:54:00:00:00:02", "kiosk7", "52:54:00:00:00:02", "mine")]
