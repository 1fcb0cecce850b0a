# SPDX-License-Identifier: GPL-2.0
"""Names instead of addresses: a network with a DHCP server and a nameserver
(dnsmasq), and a server that the boot line, or DHCP, only names."""
import pytest
from harness.lan import ADDRESS, ADDRESS6, Lan, LanError
from harness.process import DIE_WITH_PARENT


@pytest.fixture
def make_lan(tmp_path):
    lans = []

    def make(*options):
        try:
            lans.append(Lan(tmp_path, *options).__enter__())
        except LanError as error:
            pytest.skip(str(error))
        return lans[-1]

    yield make
    for lan in lans:
        lan.__exit__()


def test_a_name_that_is_not_known_yet(make_lan, make_server, root_image, make_station):
    """The console says who does not know it; the station boots once it is. The
    short name finds its domain, and each of its addresses is a server."""
    lan = make_lan()
    make_server(root_image, host=None, port=1234, wrap=lan.inside + DIE_WITH_PARENT)
    station = make_station(nbdroot="server1:1234", net=lan.netdev, wrap=lan.inside)
    station.expect(rf'waiting for /dev/nb0: server1: nameserver {ADDRESS} knows no host "server1"', 150)
    lan.names(server1=[ADDRESS6, ADDRESS])
    station.expect(rf"/dev/nb0 is the default export on server1 \({ADDRESS}:1234\), 64\.0 MiB")
    station.wait_for_root()
    assert station.run("cat /sys/block/nb0/nb/servers").split() == [f"{ADDRESS}:1234", f"[{ADDRESS6}]:1234"]
    assert "query[AAAA] server1.lab.example" in lan.log.read_text()
    station.poweroff()


def test_everything_from_dhcp(make_lan, make_server, root_image, make_station):
    """nbdroot=dhcp: the root path (option 17) names the server, with an option."""
    lan = make_lan("--dhcp-option=option:root-path,nbdroot=server1:1234,ro")
    lan.names(server1=[ADDRESS])
    make_server(root_image, host=ADDRESS, port=1234, wrap=lan.inside + DIE_WITH_PARENT)
    station = make_station(nbdroot="dhcp", net=lan.netdev, wrap=lan.inside)
    station.expect(rf"/dev/nb0 is the default export on server1 \({ADDRESS}:1234\), 64\.0 MiB, read-only", 150)
    station.wait_for_root()
    assert station.run("cat /sys/block/nb0/ro") == "1"
    station.poweroff()
