#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""What a request costs: nb.ko beside in-tree nbd and nvme-tcp.

    tests/bench/driver/bench.py [--kver 6.12] [--seconds 5] [--mode wall,icount,conns,serving,where]
                                [--drivers nb,nbd,nvme] [--jobs 1,2,...] [--param name=value]

Two guests, each of one processor, joined by two taps and a bridge on this
host (without the right to make those, by a Unix socket, which knows no
segmentation offload: then large transfers cost everybody more). One guest
serves the same file in its memory through our nbd-server and through nvmet-tcp;
the other has the drivers and runs fio.

Two modes. "wall": how much comes through, and what it takes of the guest's
processor. "icount": QEMU counts instructions (-icount shift=0: one nanosecond
of guest time is one instruction), the guest's kernel how long it idles; the
difference is instructions per request, which neither the load of this machine
nor its speed changes. And "conns": nb alone in a guest of four processors, with
1, 2 and 4 connections: requests per second that its processors ran on this
machine. "serving": instructions that the other guest needs to serve a request,
which is what limits large transfers. "where": of which layers those of "icount"
are, by samples (where.py). A measurement, not a test: it fails only
when it cannot measure.
"""
import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
TOP = HERE.parents[2]
sys.path.insert(0, str(TOP / "tests"))

from harness.guest import busybox, put_debians_client, put_program  # noqa: E402
from harness.kernel import BUILD, kernel, qemu_binary  # noqa: E402
from harness.station import Station  # noqa: E402

import where  # noqa: E402

MIB = 1 << 20
IMAGE_MIB = 256
MODULES = ["virtio_pci", "virtio_net", "af_packet", "nbd", "nvme-tcp", "nvmet-tcp"]

# name, fio's options, bytes of a request
JOBS = [
    ("4 KiB randread, 1 in flight", "--rw=randread --bs=4k --iodepth=1", 4096),
    ("4 KiB randread, 32, one by one", "--rw=randread --bs=4k --iodepth=32", 4096),
    ("4 KiB randread, 32, by 16",
     "--rw=randread --bs=4k --iodepth=32 --iodepth_batch_submit=16 --iodepth_batch_complete_min=16", 4096),
    ("4 KiB randwrite, 32, one by one", "--rw=randwrite --bs=4k --iodepth=32", 4096),
    ("4 KiB randwrite, 32, by 16",
     "--rw=randwrite --bs=4k --iodepth=32 --iodepth_batch_submit=16 --iodepth_batch_complete_min=16", 4096),
    ("1 MiB read, 4 in flight", "--rw=read --bs=1M --iodepth=4", MIB),
    ("1 MiB write, 4 in flight", "--rw=write --bs=1M --iodepth=4", MIB),
]


def run(*argv, **kw):
    return subprocess.run([str(a) for a in argv], check=True, capture_output=True, text=True, **kw).stdout


# -- the guests' image ---------------------------------------------------------

def put_modules(root, k):
    for name in MODULES:
        said = run("modprobe", "-C", "/dev/null", "-d", k.modroot, "-S", k.kver, "--show-depends", name)
        for file in re.findall(r"^insmod (\S+)", said, re.M):
            dest = root / file[file.index("lib/modules/"):]
            dest.parent.mkdir(parents=True, exist_ok=True)
            if file.endswith(".xz"):
                dest.with_suffix("").write_bytes(subprocess.run(["xz", "-dc", file], check=True,
                                                                capture_output=True).stdout)
            else:
                shutil.copy(file, dest)
    moddir = root / "lib/modules" / k.kver
    for file in [*(k.modroot / "lib/modules" / k.kver).glob("modules.builtin*"),
                 k.modroot / "lib/modules" / k.kver / "modules.order"]:
        shutil.copy(file, moddir)
    (moddir / "updates").mkdir()
    shutil.copy(k.module, moddir / "updates/nb.ko")
    run("strip", "--strip-debug", moddir / "updates/nb.ko")
    run("depmod", "-b", root, k.kver)


def make_image(k, tmp):
    """An uncompressed cpio with BusyBox, fio, both servers and all drivers."""
    root = tmp / "root"
    for d in ("bin", "sbin", "dev", "proc", "sys", "run", "tmp", "etc"):
        (root / d).mkdir(parents=True)
    if not Path("/bin/busybox").exists():
        run(TOP / "tools/undeb", BUILD / "debs/busybox-static", "busybox-static")
    shutil.copy(busybox(), root / "bin/busybox")
    for applet in run(busybox(), "--list").split():
        if applet != "busybox":
            (root / "bin" / applet).symlink_to("busybox")
    (root / "sbin/modprobe").symlink_to("../bin/busybox")
    put_debians_client(root, "nbd-client")
    put_program(root, shutil.which("fio"), "fio")
    put_program(root, BUILD / "server/nbd-server", "nbd-server")
    put_modules(root, k)
    shutil.copy(HERE / "init", root / "init")
    with open(tmp / "bench.cpio", "wb") as out:
        names = run("find", ".", "-mindepth", "1", cwd=root)
        subprocess.run(["cpio", "-o", "-H", "newc", "-R", "0:0", "--quiet"], cwd=root, check=True,
                       input=names.encode(), stdout=out)
    return tmp / "bench.cpio"


# -- the wire between them -----------------------------------------------------

class Wire:
    """Two taps on a bridge, or a Unix socket."""

    def __init__(self, tmp):
        self.tmp, self.taps, self.bridge = tmp, [], f"nbb{os.getpid() % 100000}"
        try:
            run("ip", "link", "add", self.bridge, "type", "bridge")
            run("ip", "link", "set", self.bridge, "up")
            for end in "ds":
                tap = f"{self.bridge}{end}"
                run("ip", "tuntap", "add", "dev", tap, "mode", "tap", "vnet_hdr")
                self.taps.append(tap)
                run("ip", "link", "set", tap, "master", self.bridge, "up")
        except (OSError, subprocess.CalledProcessError):
            self.close()
            self.taps, self.bridge = [], None
        self.what = "taps and a bridge" if self.taps else "a Unix socket, no offloads"

    def netdev(self, end):
        if self.taps:
            return f"tap,id=n0,ifname={self.taps[end]},script=no,downscript=no"
        return (f"dgram,id=n0,local.type=unix,local.path={self.tmp}/wire{end},"
                f"remote.type=unix,remote.path={self.tmp}/wire{1 - end}")

    def close(self):
        for link in [*self.taps, self.bridge]:
            if link:
                subprocess.run(["ip", "link", "del", link], capture_output=True)


class Guest(Station):
    parallel = True

    def __init__(self, k, image, wire, role, icount=False, smp=1):
        super().__init__(k, initramfs=image, root=None, net=wire.netdev(role == "server"),
                         nic=f"virtio-net-pci,mac=52:54:00:0b:0b:0{2 if role == 'server' else 1}",
                         mem=1400, smp=smp, append=f"quiet idle=halt mitigations=off bench={role}")
        self.icount = icount

    def command(self):
        argv = super().command()
        if self.icount:
            # One thread: instructions are counted in order.
            i = argv.index("-accel")
            argv[i:i + 2] = ["-accel", "tcg,thread=single", "-icount", "shift=0,sleep=on"]
        if "max" in argv:
            # TCG carries out "rep movsb", by which a kernel copies to and from user memory on
            # processors where that is fastest (ERMS), a byte at a time; else it moves words.
            argv[argv.index("max")] = "max,-erms,-fsrm"
        return [*argv, "-name", "guest,debug-threads=on"]    # see ran()

    def ran(self):
        """Seconds that its processors have run on this machine."""
        ticks = 0
        for thread in Path(f"/proc/{self.process.pid}/task").iterdir():
            if (thread / "comm").read_text().startswith("CPU "):
                fields = (thread / "stat").read_text().rpartition(")")[2].split()
                ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def boot(self):
        self.expect("the rig is up", 240)
        self.expect(r"station:\S*# ")
        self.run("echo 1 >/proc/sys/kernel/printk")
        return self


def start_servers(guest):
    guest.run(f"dd if=/dev/urandom of=/tmp/image bs=1M count={IMAGE_MIB} 2>/dev/null", 240)
    guest.run("nbd-server -n 10.9.9.2@10809 /tmp/image >/tmp/server.log 2>&1 & sleep 1; "
              "grep -q listening /tmp/server.log || { cat /tmp/server.log; false; }")
    guest.run("modprobe nvmet-tcp; mount -t configfs config /sys/kernel/config; cd /sys/kernel/config/nvmet; "
              "mkdir subsystems/nb; echo 1 >subsystems/nb/attr_allow_any_host; mkdir subsystems/nb/namespaces/1; "
              "echo -n /tmp/image >subsystems/nb/namespaces/1/device_path; "
              "echo 1 >subsystems/nb/namespaces/1/buffered_io; echo 1 >subsystems/nb/namespaces/1/enable; "
              "mkdir ports/1; echo tcp >ports/1/addr_trtype; echo ipv4 >ports/1/addr_adrfam; "
              "echo 10.9.9.2 >ports/1/addr_traddr; echo 4420 >ports/1/addr_trsvcid; "
              "ln -s /sys/kernel/config/nvmet/subsystems/nb ports/1/subsystems/nb; cd /")


class Driver:
    def __init__(self, name, disk, attach, detach):
        self.name, self.disk, self.attach, self.detach = name, disk, attach, detach


def drivers(params):
    return [
        Driver("nb", "nb0", f"modprobe nb {' '.join(params)} && "
               "ctl attach dev=nb0 server=10.9.9.2:10809 conns=1 || ctl attach dev=nb0 server=10.9.9.2:10809",
               "ctl detach dev=nb0; rmmod nb"),
        Driver("nbd", "nbd0", "modprobe nbd max_part=0 nbds_max=1 && nbd-client -C 1 -N '' 10.9.9.2 10809 /dev/nbd0",
               "nbd-client -d /dev/nbd0; sleep 1; rmmod nbd"),
        Driver("nvme", "nvme0n1", "modprobe nvme-tcp && echo transport=tcp,traddr=10.9.9.2,trsvcid=4420,nqn=nb,"
               "nr_io_queues=1,queue_size=128 >/dev/nvme-fabrics && sleep 1",
               "echo 1 >/sys/class/nvme/nvme0/delete_controller; rmmod nvme-tcp"),
    ]


# -- measuring -----------------------------------------------------------------

def snaps(said):
    """The last two lines of /bin/snap."""
    return [[float(n) for n in line.split()] for line in re.findall(r"^\d+ \d+ \d+ \d+$", said, re.M)[-2:]]


class Cost:
    """Of one request: nanoseconds of the guest's processor; and how many a second.
    What the guest does at rest (background, of each nanosecond) is taken off: while
    it waits for a peer that a busy machine slows down, its ticks go on."""

    def __init__(self, said, size, background):
        a, b = snaps(said)
        self.requests = (b[3] - a[3]) * 512 / size
        if self.requests < 1:
            raise RuntimeError(f"nothing came through:\n{said}")
        elapsed, idle = b[0] - a[0], b[1] - a[1]
        self.cpu = (elapsed - idle - background * elapsed) / self.requests
        self.rate = self.requests / elapsed * 1e9
        self.busy = (elapsed - idle) / elapsed


def measure(guest, todo, jobs, seconds):
    """{(driver, job): Cost}. All are attached all the time and take turns at each job, so
    that what else this machine does meets them alike."""
    costs = {}
    for d in todo:
        guest.run(d.attach, 120)
    a, b = snaps(guest.run(f"sleep 1; snap {todo[0].disk}; sleep 3; snap {todo[0].disk}"))
    background = 1 - (b[1] - a[1]) / (b[0] - a[0])
    for job in jobs:
        name, options, size = JOBS[job]
        for d in todo:
            said = guest.run(f"load {d.disk} {seconds} --size={IMAGE_MIB}m {options}", 600)
            c = costs[d.name, job] = Cost(said, size, background)
            print(f"    {name:34} {d.name:5} {c.rate:9.0f}/s {c.cpu:11.0f} ns or instructions  "
                  f"processor {c.busy:4.0%} busy", flush=True)
    for d in todo:
        guest.run(d.detach, 120)
    return costs


CONNS = (1, 2, 4)
CONNS_JOB = "--rw=randread --bs=4k --iodepth=32 --iodepth_batch_submit=16 --iodepth_batch_complete_min=16 --numjobs=4"


def measure_conns(guest, params, seconds, rounds=3):
    """Requests per second that the processors ran, with so many connections."""
    per_second = {n: [] for n in CONNS}
    for _ in range(rounds):
        for n in CONNS:
            guest.run(f"modprobe nb {' '.join(params)}; ctl attach dev=nb0 server=10.9.9.2:10809 conns={n}")
            assert guest.run("cat /sys/block/nb0/nb/connections") == str(n)
            guest.run(f"load nb0 1000 --size={IMAGE_MIB}m {CONNS_JOB} >/dev/null 2>&1 & sleep 3")
            ran, before = guest.ran(), guest.run("snap nb0").split()
            time.sleep(seconds)
            after, ran = guest.run("snap nb0").split(), guest.ran() - ran
            per_second[n].append((int(after[3]) - int(before[3])) / 8 / ran)
            guest.run("killall -INT fio; killall sleep; wait; ctl detach dev=nb0; rmmod nb", 60)
    print("\nRequests of 4 KiB per second of the guest's processors, four processors\n")
    print("| connections | median of rounds | of one connection's |\n|---|---|---|")
    median = {n: sorted(v)[len(v) // 2] for n, v in per_second.items()}
    for n in CONNS:
        print(f"| {n} | {median[n]:.0f} | {median[n] / median[1]:.2f} |")
    print(flush=True)


def measure_serving(server, guest, todo, jobs, seconds):
    """Instructions of the server's guest for each request, whatever carries it."""
    print("\nInstructions of the serving guest per request (-icount shift=0)\n")
    print("| work | " + " | ".join(d.name for d in todo) + " |\n|" + "---|" * (1 + len(todo)))
    for d in todo:
        guest.run(d.attach, 120)
    for job in jobs:
        name, options, size = JOBS[job]
        row = []
        for d in todo:
            guest.run(f"load {d.disk} 1000 --size={IMAGE_MIB}m {options} >/dev/null 2>&1 & sleep 3")
            before, a = int(guest.run(f"snap {d.disk}").split()[3]), server.run("snap")
            time.sleep(seconds)
            after, b = int(guest.run(f"snap {d.disk}").split()[3]), server.run("snap")
            a, b = snaps(f"{a}\n{b}")
            row.append(f"{((b[0] - a[0]) - (b[1] - a[1])) / ((after - before) * 512 / size):.0f}")
            guest.run("killall -INT fio; killall sleep; wait", 60)
        print(f"| {name} | " + " | ".join(row) + " |", flush=True)
    for d in todo:
        guest.run(d.detach, 120)


def measure_where(guest, todo, jobs):
    """The layers that a request's instructions are spent in."""
    for d in todo:
        guest.run(d.attach, 120)
    symbols = where.read_symbols(guest)
    for job in jobs:
        name, options, size = JOBS[job]
        found = {}
        for d in todo:
            guest.run(f"load {d.disk} 1000 --size={IMAGE_MIB}m {options} >/dev/null 2>&1 & sleep 3")
            a = guest.run(f"snap {d.disk}")
            seen = where.profile(guest, symbols)
            a, b = snaps(a + "\n" + guest.run(f"snap {d.disk}"))
            found[d.name] = seen, ((b[0] - a[0]) - (b[1] - a[1])) / ((b[3] - a[3]) * 512 / size)
            guest.run("killall -INT load; killall -INT fio; killall sleep; wait", 300)
        where.show(name, found, functions=12)
    for d in todo:
        guest.run(d.detach, 120)


def table(title, costs, todo, jobs, cpu_name, with_rate):
    peers = [d.name for d in todo if d.name != "nb"]
    print(f"\n{title}\n")
    head = ["work", f"nb: {cpu_name}"] + [f"{p}: {cpu_name}" for p in peers]
    head += [f"nb/{p} {cpu_name}" for p in peers]
    if with_rate:
        head += ["nb: requests/s"] + [f"nb/{p} throughput" for p in peers]
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for job in jobs:
        ours = costs.get(("nb", job))
        theirs = [costs.get((p, job)) for p in peers]
        row = [JOBS[job][0], f"{ours.cpu:.0f}" if ours else "-"] + [f"{t.cpu:.0f}" for t in theirs]
        row += [f"{ours.cpu / t.cpu:.2f}" if ours else "-" for t in theirs]
        if with_rate:
            row += [f"{ours.rate:.0f}" if ours else "-"] + [f"{ours.rate / t.rate:.2f}" if ours else "-" for t in theirs]
        print("| " + " | ".join(row) + " |")
    print(flush=True)


def versions(k, guest, wire):
    print(f"kernel {k.kver}; {run(qemu_binary(), '--version').splitlines()[0]}; {run('fio', '--version').strip()}; "
          f"nbd-server {guest.run('nbd-server -V 2>&1 | head -n 1', check=False)[0]}; "
          f"{guest.run('nbd-client -V 2>&1 | head -n 1', check=False)[0]}; nbdroot at "
          f"{subprocess.run(['git', '-C', TOP, 'describe', '--always', '--dirty'], capture_output=True, text=True).stdout.strip()}; "
          f"joined by {wire.what}; load average of this machine {os.getloadavg()[0]:.1f} at the start", flush=True)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--kver", default=os.environ.get("KVER") or "6.12")
    p.add_argument("--seconds", type=float, default=4)
    p.add_argument("--mode", default="wall,icount,conns")
    p.add_argument("--drivers", default="nb,nbd,nvme")
    p.add_argument("--jobs", default=",".join(str(i + 1) for i in range(len(JOBS))))
    p.add_argument("--param", action="append", default=[], help="of the module nb")
    args = p.parse_args()
    k = kernel(args.kver)
    todo = [d for d in drivers(args.param) if d.name in args.drivers.split(",")]
    jobs = [int(j) - 1 for j in args.jobs.split(",")]

    with tempfile.TemporaryDirectory(prefix="bench-") as tmp:
        tmp = Path(tmp)
        image = make_image(k, tmp)
        wire = Wire(tmp)
        try:
            modes = args.mode.split(",")
            if "serving" in modes:
                modes.remove("serving")
                with Guest(k, image, wire, "server", icount=True) as server, \
                        Guest(k, image, wire, "driver") as guest:
                    server.boot()
                    start_servers(server)
                    guest.boot()
                    measure_serving(server, guest, todo, jobs, args.seconds)
            if not modes:
                return
            with Guest(k, image, wire, "server") as server:
                server.boot()
                start_servers(server)
                versions(k, server, wire)
                for mode in modes:
                    with Guest(k, image, wire, "driver", icount=mode in ("icount", "where"),
                               smp=4 if mode == "conns" else 1) as guest:
                        guest.boot()
                        print(f"\n  {mode}: {' '.join(guest.command()[:12])} ...", flush=True)
                        if mode == "conns":
                            measure_conns(guest, args.param, args.seconds)
                            continue
                        if mode == "where":
                            measure_where(guest, todo, jobs)
                            continue
                        costs = measure(guest, todo, jobs, args.seconds if mode == "wall" else args.seconds / 4)
                    if mode == "icount":
                        table("Guest instructions per request (-icount shift=0)", costs, todo, jobs,
                              "instructions", False)
                    else:
                        table("By the clock: guest processor per request (ns), and throughput", costs, todo, jobs,
                              "ns", True)
        finally:
            wire.close()


if __name__ == "__main__":
    main()
