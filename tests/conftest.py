# SPDX-License-Identifier: GPL-2.0
"""Fixtures of every suite that starts a server or a station.

kernel          the kernel under test ($KVER, a release or series)
make_server     make_server(image, ...) -> a running harness.server.Server
make_station    make_station(nbdroot=..., ...) -> a running harness.station.Station
root_image      a private copy of the default root
server, station the usual pair: the default root served, and a station booting it

When a test fails it shows the end of each station's console and server's log.
"""
import os
import shutil
import sys
from pathlib import Path

import pytest
from _pytest.runner import runtestprotocol

sys.path.insert(0, str(Path(__file__).resolve().parent))

from harness import kernel as harness_kernel  # noqa: E402
from harness import patience  # noqa: E402
from harness.images import copy_image  # noqa: E402
from harness.process import DIE_WITH_PARENT  # noqa: E402
from harness.server import Server  # noqa: E402
from harness.station import HOST, Station  # noqa: E402

# Whoever runs the tests may have a slow machine, and other things to do on it.
patience.grant(5)
# As "make check" builds: another warning flag would have make, when a test runs it,
# build the driver anew under the hands of the suite that runs beside.
os.environ.setdefault("WERROR", "1")


def pytest_configure(config):
    config.addinivalue_line("markers", "long: only in make check-long")


def pytest_collection_modifyitems(config, items):
    if config.getoption("markexpr"):
        return
    for item in items:
        if "long" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="slow: make check-long"))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    if report.failed:
        for name, thing in getattr(item, "watched", ()):
            tail = thing.console_tail() if isinstance(thing, Station) else thing.log_tail()
            report.sections.append((f"{name}: the end of what it said", tail))


def emulator_has_failed(item):
    """How, or None."""
    stations = [thing for _, thing in getattr(item, "watched", ()) if isinstance(thing, Station)]
    return next(filter(None, (station.emulator_failed() for station in stations)), None)


def pytest_runtest_protocol(item, nextitem):
    """Once more, and said aloud, if it was the emulator that failed."""
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    reports = runtestprotocol(item, nextitem=nextitem, log=False)
    how = any(report.failed for report in reports) and emulator_has_failed(item)
    if how:
        item.config.get_terminal_writer().line(
            f"\n{item.nodeid}: the emulator failed: {how}; once more", yellow=True)
        item.watched = []
        reports = runtestprotocol(item, nextitem=nextitem, log=False)
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def watch(request, name, thing):
    if not hasattr(request.node, "watched"):
        request.node.watched = []
    request.node.watched.append((name, thing))


@pytest.fixture(autouse=True)
def no_state_of_the_machine(tmp_path, monkeypatch):
    """No server of a test looks at, or adds to, what a real one has remembered."""
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))


@pytest.fixture
def kernel():
    return harness_kernel.kernel()


@pytest.fixture
def root_image(tmp_path):
    """A private copy of the default root."""
    return copy_image(harness_kernel.DEFAULT_ROOT, tmp_path / "root.ext4")


@pytest.fixture
def make_server(request):
    """make_server(image, ...) starts a Server and stops it after the test,
    which fails if it does not end well."""
    servers = []

    def make(*args, **kwargs):
        kwargs.setdefault("wrap", DIE_WITH_PARENT)
        server = Server(*args, **kwargs)
        servers.append(server)
        watch(request, "nbd-server", server)
        return server.start()

    yield make
    errors = []
    for server in servers:
        if server.running():
            try:
                server.stop()
            except Exception as error:  # all must be stopped before we complain
                errors.append(str(error))
    assert not errors, "\n".join(errors)


@pytest.fixture
def make_station(request, kernel):
    """make_station(nbdroot=..., ...) powers a Station on; off after the test."""
    stations = []

    def make(**kwargs):
        kwargs.setdefault("kernel", kernel)
        station = Station(**kwargs)
        stations.append(station)
        watch(request, "station", station)
        return station.start()

    yield make
    keep = os.environ.get("KEEP_CONSOLES")
    for station in stations:
        if keep:
            name = request.node.name.replace("/", "_")
            shutil.copyfile(station.console_path, Path(keep) / f"{name}.console")
        station.close()


@pytest.fixture
def server(make_server, root_image):
    """The default root, served read-write from a private copy."""
    return make_server(root_image)


@pytest.fixture
def nbdroot(server):
    """What a station puts after nbdroot= to reach `server`."""
    return f"{HOST}:{server.port}"


@pytest.fixture
def station(make_station, nbdroot):
    """A station that boots the default root from `server`."""
    station = make_station(nbdroot=nbdroot)
    station.wait_for_root()
    return station
