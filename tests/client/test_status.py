# SPDX-License-Identifier: GPL-2.0
"""nbd-client status: what the driver shows, for people and for programs."""
import json


def test_nothing_attached(each):
    result = each.run("status")
    assert (result.returncode, result.stdout) == (0, "")
    assert json.loads(each.run("status", "--json").stdout) == []
    result = each.run("status", "nb0")
    assert (result.returncode, result.stderr) == (1, "nbd-client: nb0: not attached\n")


def test_people(each):
    each.disk()
    each.write("sys/block/nb0/nb/servers", "127.0.0.1:1234\n[::1]:2\n")
    text = each.run("status", "/dev/nb0").stdout
    for line in ("device: nb0", "driver: nb", "size: 2.0 GiB", "state: live", "server: 127.0.0.1:1234",
                 "servers: 127.0.0.1:1234 [::1]:2"):
        assert f"  {line}\n" in text


def test_json(each):
    """Whatever the driver shows comes through, and nothing breaks out of it."""
    each.disk()
    each.disk("nb12", ro=1)
    each.write("sys/block/nb12/nb/export", 'a"b\\c\x1bé\n')
    each.write("sys/block/nb12/nb/reconnects", "17\n")
    each.write("sys/block/nb12/nb/zeroes", "007\n")
    each.write("sys/block/nbd0/size", "0\n")        # another driver's
    first, second = json.loads(each.run("status", "--json").stdout)
    assert (first["device"], first["size"], first["ro"]) == ("nb0", 2 << 30, 0)
    assert (second["device"], second["ro"], second["reconnects"]) == ("nb12", 1, 17)
    assert second["export"] == 'a"b\\c?é'
    assert second["zeroes"] == "007"
    assert len(json.loads(each.run("--json", "status", "nb12").stdout)) == 1


def test_the_kernels_own_driver(each):
    """Where it carries the root it is shown too; what is not attached is not."""
    each.write("sys/block/nbd0/size", "2048\n")
    each.write("sys/block/nbd0/ro", "0\n")
    each.write("sys/block/nbd0/pid", "123\n")
    each.write("sys/block/nbd1/size", "0\n")
    assert json.loads(each.run("status", "--json").stdout) == [
        {"device": "nbd0", "driver": "nbd", "size": 1 << 20, "ro": 0}]
