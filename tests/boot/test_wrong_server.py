# SPDX-License-Identifier: GPL-2.0
"""Something is wrong with the server or the boot line: the console names the
cause and the next step, the station goes on trying, and boots once it can."""
from harness.server import free_port
from harness.station import HOST



def test_nothing_listens_there_yet(make_server, root_image, make_station):
    port = free_port()
    station = make_station(nbdroot=f"{HOST}:{port}")
    station.expect(rf"waiting for (?:/dev/)?nb0: .*{HOST}:{port}.*[Cc]onnection refused", 120)
    station.expect("start the NBD server there, or correct the port")
    station.expect("still waiting for (?:/dev/)?nb0 after", 30)

    make_server(root_image, port=port)
    station.wait_for_root()
    station.poweroff()


def test_unknown_export(make_server, root_image, make_station):
    port = free_port()
    other = make_server(config=f"[generic]\nport = {port}\nallowlist = true\n[kiosk]\nexportname = {root_image}\n",
                        port=port)
    station = make_station(nbdroot=f"{HOST}:{port}/lab")
    station.expect(r'waiting for (?:/dev/)?nb0: .*"lab".*kiosk', 120)
    station.expect("add it to the server's configuration, or name another one")
    station.expect("still waiting for (?:/dev/)?nb0 after", 30)

    other.stop()
    make_server(config=f"[generic]\nport = {port}\n[lab]\nexportname = {root_image}\n", port=port)
    station.wait_for_root()
    station.poweroff()


def test_unreachable_host(make_station):
    """An address of the station's own network that nobody has."""
    station = make_station(nbdroot="10.0.2.77:1234")
    station.expect(r"waiting for (?:/dev/)?nb0: .*10\.0\.2\.77:1234.*(No route to host|timed out|unreachable)", 120)
    station.expect("is the server on, its address right, the cable in")
    station.expect("still waiting for (?:/dev/)?nb0 after", 30)


def test_typo_in_the_boot_line(make_station):
    """Waiting cannot help: the word is quoted, a right one shown, and a shell given."""
    station = make_station(nbdroot="server1:12x4")
    station.expect(r"nbd-client: .*server1:12x4.*", 120)
    station.expect(r"\[3/5\] attach: FAILED")
    station.expect(r"hint: .*nbdroot=192\.0\.2\.1:1234")
    station.expect(r"\(initramfs\) ")
    assert station.run("cat /run/net-eth0.conf | grep -c IPV4ADDR") == "1"


def test_no_cable(make_server, root_image, make_station):
    server = make_server(root_image)
    station = make_station(nbdroot=f"{HOST}:{server.port}", args=["-S"])   # not running yet
    station.unplug_cable()
    station.qmp("cont")
    station.expect(r"\[2/5\] network: no link on any interface", 120)
    station.expect("Is the cable in the right port")

    station.plug_cable()
    station.wait_for_root()
    station.poweroff()
