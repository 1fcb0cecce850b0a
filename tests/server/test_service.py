# SPDX-License-Identifier: GPL-2.0
"""The server as its unit starts it, as far as that can be had without systemd:
capabilities, limits, umask, folders, what may be written; and as another user."""
import os
import resource
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from harness.patience import granted
from harness.process import DIE_WITH_PARENT
from harness.server import ServerError, binary
from preload import preload
from raw import MIB
from session import Station

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")

UNIT = Path(__file__).resolve().parents[2] / "server/nbd-server.service"
# ProtectSystem=strict: all but $1 (folders) and what the kernel shows of itself.
PROTECT = """for rw in $1; do mount --bind $rw $rw; done
while read -r _ where _; do
    case " $1 /dev /proc /sys " in *" ${where%%/[a-z]*/} "*|*" $where "*) continue;; esac
    case $where in /dev/*|/proc/*|/sys/*) continue;; esac
    mount -o remount,bind,ro $where 2>/dev/null
done </proc/mounts
! touch /etc/nbd-server-may-write-here 2>/dev/null || exit 9
"""


def unit():
    """{key: its last value} of the section [Service]."""
    text = UNIT.read_text()
    lines = text[text.index("[Service]"):text.index("[Install]")].splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


def has_namespaces():
    return subprocess.run(["unshare", "-m", "mount", "--bind", "/usr", "/usr"], check=False,
                          stderr=subprocess.DEVNULL).returncode == 0


def confined(service):
    """The words that give the rights of the unit to a program."""
    files = min(int(service["LimitNOFILE"]), resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    rights = service["CapabilityBoundingSet"].lower().replace("cap_", "+").replace(" ", ",")
    return ["prlimit", f"--nofile={files}", "--rtprio=0", "setpriv", "--no-new-privs",
            "--bounding-set", f"-all,{rights}", "--"]


class Service:
    """start(config) serves it as the unit would, with `state` for StateDirectory=
    and `run` for RuntimeDirectory=."""

    def __init__(self, make_server, tmp_path):
        self.make_server, self.service = make_server, unit()
        self.state, self.run, self.srv = (tmp_path / name for name in ("state", "run", "srv"))
        self.state.mkdir()
        self.state.chmod(int(self.service["StateDirectoryMode"], 8))
        self.run.mkdir(mode=0o755)
        self.srv.mkdir(mode=0o755)
        # A way there: pytest's folders are root's.
        for folder in (tmp_path, *tmp_path.parents):
            if str(folder).startswith("/tmp/"):
                folder.chmod(folder.stat().st_mode | 0o11)
        self.env = {"STATE_DIRECTORY": str(self.state)}

    def config(self, sections, generic=""):
        return (f"[generic]\nport = {{port}}\nlistenaddr = 127.0.0.1\ncontrolsock = {self.run}/control.sock\n"
                f"{generic}\n{sections}")

    def start(self, sections, generic=""):
        script = f"umask {self.service['UMask']}\n"
        wrap = list(DIE_WITH_PARENT)
        if has_namespaces() and self.service["ProtectSystem"] == "strict":
            wrap += ["unshare", "--mount", "--propagation", "private"]
            script += PROTECT
        wrap += ["sh", "-c", script + "shift; exec \"$@\"", "sh", f"{self.state} {self.run} {self.srv}",
                 *confined(self.service)]
        return self.make_server(config=self.config(sections, generic), wrap=wrap, env=self.env)

    def reload(self, server):
        """As ExecReload= says; "+" is with all rights, else with those of the unit."""
        command = self.service["ExecReload"]
        full = command.startswith("+")
        argv = command.lstrip("+").replace("$MAINPID", str(server.pid)).split()
        subprocess.run(argv if full else [*confined(self.service), *argv], check=True, timeout=granted(30))


@pytest.fixture
def service(make_server, tmp_path):
    return Service(make_server, tmp_path)


@pytest.fixture
def published(service, image):
    return shutil.copy(image, service.srv / "lab.img")


def uid(pid):
    with open(f"/proc/{pid}/status") as f:
        return next(line.split()[1] for line in f if line.startswith("Uid:"))


@pytest.mark.parametrize("user", ["", "user = nobody", "user = nobody\ngroup = nogroup"])
def test_overlays_and_reload(service, published, user):
    """An overlay, a reload that adds one, and all of it again after a restart."""
    section = "[{}]\nexportname = {}\noverlay = keep\n"
    server = service.start(section.format("lab", published) + f"[plain]\nexportname = {published}\nreadonly = true\n", user)
    assert uid(server.pid) == ("65534" if user else "0")
    with Station(server, "lab/pc1") as c:
        assert c.write(0, b"1" * 8192) == 0 and c.flush() == 0
        with open(server.config_path, "a") as f:
            f.write(section.format("more", published))
        server.config_path.parent.chmod(0o755)      # as /etc/nbdroot
        server.config_path.chmod(0o644)
        service.reload(server)
        server.wait_log("SIGHUP: read again: exports: 1 added")
        with Station(server, "more/pc1") as other:
            assert other.write(0, b"2" * 8192) == 0 and other.flush() == 0
    server.restart()
    for name, byte in (("lab/pc1", b"1"), ("more/pc1", b"2")):
        with Station(server, name) as c:
            assert c.read(0, 8192) == byte * 8192
    # By that a restart would find the image of the station again.
    with Station(server, "plain", "pc1", "b") as c:
        assert len(c.read(0, MIB)) == MIB
        assert list((service.state / "pins").iterdir())


def test_a_user_who_came_later(service, published):
    """Overlays that the server made as root are its user's from then on."""
    lab = f"[lab]\nexportname = {published}\noverlay = keep\n"
    server = service.start(lab)
    with Station(server, "lab/pc1") as c:
        assert c.write(0, b"1" * 8192) == 0 and c.flush() == 0
    server.stop()
    server = service.start(lab, "user = nobody")
    with Station(server, "lab/pc1") as c:
        assert c.read(0, 8192) == b"1" * 8192 and c.write(0, b"2") == 0
    # Nothing else is given away.
    assert {path.stat().st_uid for path in (service.srv, service.run)} == {0}


@pytest.mark.parametrize("name", ["overlays", "pins"])
def test_no_link_of_the_users_is_followed(service, published, name):
    """What the state directory is to him already, root gives him nothing else by."""
    victim = folder(service.srv / "victim", 0o755)
    (victim / "secret").write_text("root's")
    os.chown(service.state, 65534, 65534)
    (service.state / name).symlink_to(victim)
    lab = f"[lab]\nexportname = {published}\noverlay = keep\n"
    if name == "overlays":
        assert "cannot be used by nobody" in check(service, lab, "user = nobody", status=1)
        with pytest.raises(ServerError, match="cannot be used by nobody"):
            service.start(lab, "user = nobody")
    else:
        service.start(lab, "user = nobody").stop()
    assert {path.stat().st_uid for path in (victim, victim / "secret")} == {0}
    shutil.rmtree(victim)


@pytest.mark.parametrize("name", ["overlays", "pins"])
def test_no_folder_the_user_has_renamed(service, published, name):
    """Nor by a folder of root's in it that he has called what the server calls its own."""
    secret = folder(service.state / "private", 0o700)
    (secret / "key").write_text("root's")
    os.chown(service.state, 65534, 65534)
    secret = secret.rename(service.state / name)
    lab = f"[lab]\nexportname = {published}\noverlay = keep\n"
    check(service, lab, "user = nobody", status=1 if name == "overlays" else 0)
    if name == "overlays":
        with pytest.raises(ServerError, match="cannot be used by nobody"):
            service.start(lab, "user = nobody")
    else:
        service.start(lab, "user = nobody").stop()
    assert {path.stat().st_uid for path in (secret, secret / "key")} == {0}


def test_no_transaction_log_where_the_user_may_not(service, published):
    """The log is opened before root becomes the user; a link of his leads it nowhere."""
    victim = service.srv / "made-by-root"
    os.chown(service.state, 65534, 65534)
    (service.state / "lab.log").symlink_to(victim)
    lab = f"[lab]\nexportname = {published}\nreadonly = true\ntransactionlog = {service.state}/lab.log\n"
    assert "is a link" in check(service, lab, "user = nobody", status=1)
    with pytest.raises(ServerError, match="lab.log: is a link"):
        service.start(lab, "user = nobody")
    assert not victim.exists()


def test_nothing_is_swept_by_root(service, published):
    """What a link of the user's leads to, in a folder where each may write but take
    away nothing of others."""
    shared = folder(service.srv / "shared", 0o1777)
    os.chown(service.state, 65534, 65534)
    (shared / "others.lost").write_text("somebody else's")
    (service.state / "pins").symlink_to(shared)
    service.start(f"[lab]\nexportname = {published}\nreadonly = true\n", "user = nobody").stop()
    assert (shared / "others.lost").exists()
    shutil.rmtree(shared)


# A folder that was made just now changes places with one that was there.
EXCHANGED = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

int mkdir(const char *path, mode_t mode)
{
	const size_t len = strlen(path);
	int r = (int)syscall(SYS_mkdirat, AT_FDCWD, path, mode);

	if (!r && len > 5 && !strcmp(path + len - 5, "/pins") &&
	    renameat2(AT_FDCWD, getenv("EXCHANGED"), AT_FDCWD, path, RENAME_EXCHANGE))
		abort();
	return r;
}
"""


def test_no_folder_the_user_has_exchanged(service, published, tmp_path):
    """Between its making and its giving."""
    secret = folder(service.state / "private", 0o700)
    (secret / "key").write_text("root's")
    os.chown(service.state, 65534, 65534)
    service.env.update(preload(tmp_path, EXCHANGED), EXCHANGED=str(secret))
    service.start(f"[lab]\nexportname = {published}\nreadonly = true\n", "user = nobody").stop()
    secret = service.state / "pins"
    assert {path.stat().st_uid for path in (secret, secret / "key")} == {0}


# Of a socket that listens, the name becomes a link at once.
TURNED = r"""
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

int listen(int fd, int n)
{
	struct sockaddr_un a = { 0 };
	socklen_t len = sizeof(a);

	if (!getsockname(fd, (struct sockaddr *)&a, &len) &&
	    a.sun_family == AF_UNIX &&
	    (unlink(a.sun_path) || symlink(getenv("TURNED"), a.sun_path)))
		abort();
	return (int)syscall(SYS_listen, fd, n);
}
"""


def test_control_socket_that_became_a_link(service, published, tmp_path):
    """In a folder of the user's, between the making of the socket and its giving."""
    victim = service.srv / "victim"
    victim.write_text("root's")
    service.env.update(preload(tmp_path, TURNED), TURNED=str(victim))
    server = service.start(f"[lab]\nexportname = {published}\nreadonly = true\n", "user = nobody")
    server.wait_log("control.sock: cannot be given to the server's user")
    server.stop()
    assert victim.stat().st_uid == 0


def check(service, sections, generic="", status=0):
    path = service.srv / "checked.conf"
    path.write_text(service.config(sections, generic).format(port=1))
    done = subprocess.run([binary(), "--check", "-C", path], env=dict(os.environ, **service.env), text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=granted(30), check=False)
    assert done.returncode == status, done.stdout
    return done.stdout


def folder(path, mode, owner=0):
    path.mkdir()
    path.chmod(mode)
    os.chown(path, owner, owner)
    return path


@pytest.mark.parametrize("what,says", [
    ("new", ""),
    ("as before", ""),
    ("its own", ""),
    ("root's", "cannot be used by nobody: Permission denied"),
    ("in root's", "cannot be used by nobody: Permission denied"),
    ("nowhere", "cannot be made: No such file or directory"),
    ("a file", "cannot be made: "),
    ("in /proc", "cannot be made: "),
])
def test_check_of_the_folders(service, published, tmp_path, what, says):
    """--check and the server are of one opinion on whether the user can use them,
    and --check leaves them as they were."""
    generic = "user = nobody\n"
    key = ""
    if what == "as before":
        folder(service.state / "overlays", 0o700, 65534)
    elif what == "its own":
        key = f"overlay_dir = {folder(service.srv / 'own', 0o700, 65534)}\n"
    elif what == "root's":
        key = f"overlay_dir = {folder(service.srv / 'roots', 0o700)}\n"
    elif what == "in root's":
        generic += f"statedir = {folder(service.srv / 'roots', 0o700)}\n"
    elif what == "nowhere":
        key = f"overlay_dir = {tmp_path}/no/such/dir\n"
    elif what == "a file":
        (tmp_path / "file").touch()
        key = f"overlay_dir = {tmp_path}/file\n"
    elif what == "in /proc":
        generic += "statedir = /proc/foo\n"
    lab = f"[lab]\nexportname = {published}\noverlay = keep\n{key}"

    def all_there():
        return sorted((str(path), path.stat().st_uid, path.stat().st_mtime_ns)
                      for path in tmp_path.rglob("*") if service.state in (path, *path.parents))

    before = all_there()
    said = check(service, lab, generic, status=1 if says else 0)
    assert says in said and [entry[:2] for entry in all_there()] == [entry[:2] for entry in before]
    assert not list(tmp_path.rglob(".nbd-server-check*"))
    if says:
        with pytest.raises(ServerError, match=says):
            service.start(lab, generic)
        return
    server = service.start(lab, generic)
    with Station(server, "lab/pc1") as c:
        assert c.write(0, b"1") == 0
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(granted(30)) == 0


def test_pins_that_cannot_be_kept(service, published):
    """That is no reason not to serve; --check says it."""
    lab = f"[lab]\nexportname = {published}\nreadonly = true\n"
    assert "which image each station runs from" in check(service, lab, "statedir = /proc/foo\n")
    with Station(service.start(lab, "statedir = /proc/foo\nuser = nobody"), "lab", boot=None) as c:
        assert len(c.read(0, MIB)) == MIB
