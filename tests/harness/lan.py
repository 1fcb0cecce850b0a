# SPDX-License-Identifier: GPL-2.0
"""A network of one's own: a network namespace with a tap for a station's card,
and dnsmasq on it for addresses and names. Stdlib only. Needs root.

    with Lan(tmp) as lan:
        lan.names(server1=["10.9.8.1"])
        Station(kernel(), nbdroot="server1:1234", net=lan.netdev, wrap=lan.inside)

Whatever is started with `inside` before its command line finds itself there; the
namespace goes with the last of them.
"""
import os
import shutil
import signal
import subprocess
from pathlib import Path

from .patience import until
from .process import DIE_WITH_PARENT

ADDRESS = "10.9.8.1"
ADDRESS6 = "fd09:8::1"
DOMAIN = "lab.example"
SETUP = f"""set -e
ip link set lo up
ip tuntap add dev tap0 mode tap
ip addr add {ADDRESS}/24 dev tap0
ip addr add {ADDRESS6}/64 dev tap0 nodad
ip link set tap0 up
"""


class LanError(Exception):
    """There can be no such network here; the message says why."""


class Lan:
    """dnsmasq gives addresses of 10.9.8.0/24, itself (10.9.8.1) as nameserver,
    the domain lab.example, and whatever else its `options` say."""

    netdev = "tap,id=n0,ifname=tap0,script=no,downscript=no"

    def __init__(self, directory, *options):
        self.dir, self.options = Path(directory), options
        self.hosts = self.dir / "hosts"
        self.hosts.write_text("")
        self.log = self.dir / "dnsmasq.log"
        self.holder = self.dnsmasq = None

    def __enter__(self):
        if os.geteuid() or not shutil.which("dnsmasq", path="/usr/sbin:/usr/bin"):
            raise LanError("needs root, and dnsmasq")
        self.holder = subprocess.Popen(["unshare", "-n", *DIE_WITH_PARENT, "sh", "-c", "echo up; exec sleep inf"],
                                       stdout=subprocess.PIPE, text=True)
        self.holder.stdout.readline()
        self.inside = ["nsenter", f"--net=/proc/{self.holder.pid}/ns/net"]
        made = subprocess.run([*self.inside, "sh", "-c", SETUP], capture_output=True, text=True)
        if made.returncode:
            self.__exit__()
            raise LanError(made.stderr)
        with open(self.log, "wb") as log:
            self.dnsmasq = subprocess.Popen(
                [*self.inside, *DIE_WITH_PARENT, "dnsmasq", "-d", "-C/dev/null", "--user=root", "--group=root",
                 "--pid-file=", "--no-resolv", "--no-hosts", f"--addn-hosts={self.hosts}", "--expand-hosts",
                 f"--domain={DOMAIN}", f"--local=/{DOMAIN}/", "--interface=tap0", "--bind-interfaces",
                 "--dhcp-range=10.9.8.50,10.9.8.60,1h", f"--dhcp-leasefile={self.dir}/leases",
                 "--log-queries", *self.options], stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        self.wait_log("started, version")       # before it, a SIGHUP would end it
        return self

    def names(self, **hosts):
        """dnsmasq knows these from now on: name=[addresses]."""
        self.hosts.write_text("".join(f"{a} {name}\n" for name, addresses in hosts.items() for a in addresses))
        self.dnsmasq.send_signal(signal.SIGHUP)

    def wait_log(self, text, timeout=60):
        until(lambda: text in self.log.read_text(errors="replace"), timeout,
              lambda: f"no {text!r} in:\n{self.log.read_text(errors='replace')}")

    def __exit__(self, *what):
        for process in (self.dnsmasq, self.holder):
            if process:
                process.kill()
                process.wait()
