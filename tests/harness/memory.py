# SPDX-License-Identifier: GPL-2.0
"""What of a process is in memory, and has to stay there, told from what /proc
says of it. Stdlib only."""
import re
from collections import namedtuple

# what is mapped, {"Size": KiB, ...}, flags such as "lo" (locked)
Mapping = namedtuple("Mapping", "name kib flags")

PF_MEMALLOC_NOIO = 0x80000      # what is to be seen of PR_SET_IO_FLUSHER


def mappings(smaps):
    """Of /proc/PID/smaps."""
    found = []
    for part in re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", smaps, flags=re.M)[1:]:
        head, *_, flags = part.splitlines()
        kib = {k: int(v) for k, v in re.findall(r"^(\w+): +(\d+) kB", part, re.M)}
        found.append(Mapping((head.split(None, 5) + [""])[5].strip(), kib, flags.split()[1:]))
    return found


def flushers(stats):
    """Of each thread, of which there is a line of /proc/PID/task/TID/stat: does it get
    memory without waiting for pages to be written?"""
    return [bool(int(line.rpartition(")")[2].split()[6]) & PF_MEMALLOC_NOIO) for line in stats.splitlines()]


def assert_in_memory(smaps, image, kib):
    """A server's program is, whole, and what it allocates is kept; its image is not
    mapped into memory, and all of it takes less than so much."""
    maps = mappings(smaps)
    program = [m for m in maps if m.name.endswith("/nbd-server")]
    assert program and all("lo" in m.flags and m.kib["Rss"] == m.kib["Size"] for m in program), smaps
    assert all("lo" in m.flags for m in maps if m.name in ("", "[heap]", "[stack]")), smaps
    images = [m for m in maps if m.name == image]
    assert images and all(not m.kib["Rss"] and "lo" not in m.flags for m in images), smaps
    assert sum(m.kib["Rss"] for m in maps) < kib, smaps
