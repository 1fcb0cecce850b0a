# SPDX-License-Identifier: GPL-2.0
"""A server that stays in memory, and that never waits for dirty pages (lockmemory = true)."""
import os
import subprocess
from pathlib import Path

import pytest

from harness.memory import assert_in_memory, flushers, mappings
from harness.process import DIE_WITH_PARENT
from harness.server import TOP, ServerError, binary
from raw import MIB, Raw, check_serves

CONFIG = "[generic]\nport = {{port}}\nlistenaddr = 127.0.0.1\nlockmemory = {}\n{}\n[a]\nexportname = {}\n"
MAY = os.geteuid() == 0 and subprocess.run(["prlimit", "--memlock=unlimited:unlimited", "true"],
                                           capture_output=True, check=False).returncode == 0

pytestmark = pytest.mark.skipif("server-threads" in binary(), reason="it is the same code")


@pytest.fixture(autouse=True)
def plain_build(monkeypatch):
    """A sanitizer turns mlockall() into nothing."""
    monkeypatch.setenv("NBD_SERVER", str(TOP / "build/server/nbd-server"))


def smaps(server):
    return Path(f"/proc/{server.pid}/smaps").read_text()


def stats(server):
    return "".join(stat.read_text() for stat in Path(f"/proc/{server.pid}/task").glob("*/stat"))


@pytest.mark.skipif(not MAY, reason="the kernel refuses it here")
@pytest.mark.parametrize("user", ["", "user = nobody"])
def test_it_stays_in_memory(make_server, image, tmp_path, user):
    """All of the program, what it allocates, every thread; but not the image."""
    server = make_server(config=CONFIG.format("true", user, image))
    check_serves(server, b"a")
    with Raw(server) as c:
        c.go(b"a")
        for _ in range(2):      # from the disk, then without a copy from memory
            for offset in range(0, 32 * MIB, MIB):
                assert len(c.read(offset, MIB)) == MIB
    assert_in_memory(smaps(server), str(image), 32 << 10)
    assert len(flushers(stats(server))) > 1 and all(flushers(stats(server)))


def test_not_unless_asked(make_server, image):
    server = make_server(config=CONFIG.format("false", "", image))
    assert not any(m.kib["Locked"] for m in mappings(smaps(server)))
    assert not any(flushers(stats(server)))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give its rights up")
def test_where_it_is_refused(make_server, image):
    """It does not serve as if it had it, and says what is missing."""
    without = ["setpriv", "--bounding-set=-sys_resource", "--"]
    with pytest.raises(ServerError) as error:
        make_server(config=CONFIG.format("true", "", image), wrap=[*DIE_WITH_PARENT, *without])
    assert "lockmemory = true: the kernel refuses it (PR_SET_IO_FLUSHER: " in str(error.value)
    assert "CAP_SYS_RESOURCE" in str(error.value)
