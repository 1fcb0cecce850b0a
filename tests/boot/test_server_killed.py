# SPDX-License-Identifier: GPL-2.0
"""The server dies while stations write; they wait, go on, and nothing that
fsync confirmed is lost."""
import re
import struct
import time

import pytest
from harness.images import clean_filesystem, file_in_image
from harness.patience import until

RECORD = 4096   # of durable.c
IO_ERRORS = re.compile(r"I/O error|EXT4-fs error|JBD2: .*error|Aborting journal|"
                       r"Remounting filesystem read-only|blk_update_request", re.I)
# File: slots. a: hardly anything is written over, so that what was confirmed
# before the server died is there to be looked at. b: through the page cache
# with fsync, over and over. c: past it, every write durable by itself.
SLOTS = {"a": 4096, "b": 64, "c": 64}
DIRECT = {"c"}


def check(path, confirmed):
    """What durable.c's check() does, here on the image. Returns the number of
    slots that hold something."""
    slots = SLOTS[path.name]
    data = path.read_bytes()
    assert len(data) == RECORD * slots
    held = 0
    for slot in range(slots):
        record = data[slot * RECORD:(slot + 1) * RECORD]
        words = struct.unpack(f"<{RECORD // 8}Q", record)
        seq = words[0]
        least = confirmed - (confirmed - slot) % slots if confirmed >= slot else 0
        if not seq and not least:
            continue
        where = f"{path.name}: slot {slot} holds write {seq}, {least} is confirmed"
        assert seq % slots == slot and seq >= least, where
        base = seq * 0x9e3779b97f4a7c15
        assert all(word == (base + i) % 2**64 for i, word in enumerate(words) if i), where + ", damaged"
        held += 1
    return held


def start_writing(station, names):
    for name in names:
        station.run(f"(durable write /root/{name} {SLOTS[name]} /run/{name}.note"
                    f"{' direct' * (name in DIRECT)} >/run/{name}.said 2>&1 &)")
    until(lambda: min(confirmed(station, names).values()) >= 2 * SLOTS["c"], 60, "the writers do not get going", every=1)


def confirmed(station, names=SLOTS):
    """How many writes of each are confirmed: what the writers themselves noted."""
    return {name: int(station.run(f"cat /run/{name}.note 2>/dev/null; true") or 0) for name in names}


@pytest.mark.parametrize("outage", [20])
def test_killed_while_writing(outage, make_server, durable_image, make_station, tmp_path):
    server = make_server(durable_image)
    station = make_station(nbdroot=f"10.0.2.2:{server.port}")
    station.wait_for_root()
    start_writing(station, SLOTS)

    server.kill9()
    killed_at = time.monotonic()
    stalled = confirmed(station)      # the shell and BusyBox are in the cache
    time.sleep(max(0, outage - (time.monotonic() - killed_at)))
    assert station.run("cat /sys/block/nb0/nb/state") == "recovering"
    server.restart()

    station.run("until [ $(cat /sys/block/nb0/nb/state) = live ]; do sleep 1; done", timeout=60)
    until(lambda: all(now > stalled[name] for name, now in confirmed(station).items()), 60,
          "the writers do not go on", every=1)
    assert int(station.run("cat /sys/block/nb0/nb/reconnects")) >= 1

    station.run("killall durable; while pidof durable; do sleep 1; done >/dev/null")
    finally_confirmed = confirmed(station)
    station.run("sync; echo 3 >/proc/sys/vm/drop_caches")
    for name, count in finally_confirmed.items():
        station.run(f"durable check /root/{name} {SLOTS[name]} {count}")
        assert "stopped after" in station.run(f"cat /run/{name}.said")
    station.poweroff()

    assert not IO_ERRORS.search(station.console), IO_ERRORS.search(station.console)[0]
    clean_filesystem(durable_image)
    for name, count in finally_confirmed.items():
        held = check(file_in_image(durable_image, f"/root/{name}", tmp_path / name), count)
        assert held >= min(count, SLOTS[name])


def test_power_cut_of_the_station(make_server, durable_image, make_station, tmp_path):
    """The plug is pulled at both ends while it writes: what fsync had
    confirmed is on the image, once the journal is replayed."""
    server = make_server(durable_image)
    station = make_station(nbdroot=f"10.0.2.2:{server.port}")
    station.wait_for_root()
    start_writing(station, ["a"])
    count = confirmed(station, ["a"])["a"]
    station.kill()
    server.kill9()

    again = make_server(durable_image)
    station = make_station(nbdroot=f"10.0.2.2:{again.port}")
    station.wait_for_root()
    station.run(f"durable check /root/a {SLOTS['a']} {count}")
    station.poweroff()
    clean_filesystem(durable_image)
    check(file_in_image(durable_image, "/root/a", tmp_path / "a"), count)
