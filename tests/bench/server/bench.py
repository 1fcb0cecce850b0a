#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""What a request costs: our nbd-server beside Debian's, nbdkit, qemu-nbd and a floor.

    tests/bench/server/bench.py [--seconds 1] [--rounds 5] [--rows NAME,...] [--markdown FILE]

All serve one warm image over the loopback to load.c, in turns: a round is one
run with each of them, one after the other, so that what else happens on this
machine meets all alike. Two figures a server: how much came through, as the
median of the rounds' ratios to ours, and the processor time that the server's
threads took (/proc/PID/task/*/schedstat), which on a boot host is the capacity
and does not care who else was running. A measurement, not a test: it fails
only when it cannot measure. tests/bench/server/floor.c says what the floor is.
"""
import argparse
import os
import platform
import select
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import nbd

HERE = Path(__file__).resolve().parent
TOP = HERE.parents[2]
BUILD = TOP / "build/bench-server"
sys.path.insert(0, str(TOP / "tests"))

from harness.server import free_port  # noqa: E402

MIB = 1 << 20
KIB = 1 << 10
IMAGE = 512 * MIB
PEERS = ["nbd-server", "nbdkit", "qemu-nbd"]

# name: what is done, load's arguments (mode, connections, in flight, bytes), who takes
# part, and at least how much of the best peer and of the floor ours is to reach
ROWS = {
    "seq128k": ("1 connection, 16 in flight, 128 KiB sequential reads", ("seq", 1, 16, 128 * KIB), 2.2, 0.85),
    "rand4k-32": ("1 connection, 32 in flight, 4 KiB random reads", ("read", 1, 32, 4 * KIB), 2.5, 0.85),
    "rand4k-128": ("1 connection, 128 in flight, 4 KiB random reads", ("read", 1, 128, 4 * KIB), 4, 0.85),
    "rand4k-1": ("1 connection, 1 in flight, 4 KiB", ("read", 1, 1, 4 * KIB), 1, 0.85),
    "16x16k": ("16 connections, 4 in flight, 16 KiB", ("read", 16, 4, 16 * KIB), 1.5, 0.85),
    "64x64k": ("64 connections, 2 in flight, 64 KiB", ("read", 64, 2, 64 * KIB), 1.3, 0.85),
    "write64k": ("random writes, 4 connections, 4 in flight, 64 KiB", ("write", 4, 4, 64 * KIB), 1, None),
}


def make_image(path, size):
    block = os.urandom(MIB)
    with open(path, "wb") as f:
        for i in range(size // MIB):
            f.write(i.to_bytes(8, "big") + block[8:])
        f.flush()
        os.fsync(f.fileno())


def warm(path):
    with open(path, "rb") as f:
        while f.read(MIB):
            pass


class Server:
    """One of the servers, under way; `command` with {port} in it."""

    def __init__(self, name, command, export="", write=False, port=None, pidfile=None):
        self.name, self.export, self.pidfile = name, export, pidfile
        self.port = port or free_port()
        self.command = [str(c).format(port=self.port) for c in command]
        self.log = open(BUILD / f"{name}{'-rw' if write else ''}.log", "wb")  # noqa: SIM115
        self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=self.log,
                                        stderr=self.log)
        deadline = time.monotonic() + 20
        while not self.listens():
            if time.monotonic() > deadline or (self.process.poll() is not None and not pidfile):
                raise SystemExit(f"{name} does not serve: {' '.join(self.command)}: see {self.log.name}")
            time.sleep(0.05)
        # One that always goes to the background.
        self.pid = int(pidfile.read_text()) if pidfile else self.process.pid

    def listens(self):
        """Not by connecting: one that hangs up too early ends nbdkit 1.32 by an assertion."""
        listening = f":{self.port:04X} 00000000:0000 0A "
        v6 = f":{self.port:04X} {'0' * 32}:0000 0A "
        return listening in Path("/proc/net/tcp").read_text() or v6 in Path("/proc/net/tcp6").read_text()

    def pids(self):
        """The process and all that it has forked."""
        found, todo = [], [self.pid]
        while todo:
            pid = todo.pop()
            found.append(pid)
            try:
                for task in os.listdir(f"/proc/{pid}/task"):
                    with open(f"/proc/{pid}/task/{task}/children", encoding="ascii") as f:
                        todo += [int(p) for p in f.read().split()]
            except OSError:
                pass
        return found

    def cpu(self):
        """{thread: seconds it has run}. Threads come and go with connections: only
        those that are there at both ends of a run tell something of it."""
        found = {}
        for pid in self.pids():
            try:
                for task in os.listdir(f"/proc/{pid}/task"):
                    with open(f"/proc/{pid}/task/{task}/schedstat", encoding="ascii") as f:
                        found[task] = int(f.read().split()[0]) / 1e9
            except OSError:
                pass
        return found

    def memory(self):
        """Bytes that it has for itself (RssAnon of it and its children)."""
        total = 0
        for pid in self.pids():
            try:
                with open(f"/proc/{pid}/status", encoding="ascii") as f:
                    total += sum(int(line.split()[1]) << 10 for line in f if line.startswith("RssAnon"))
            except OSError:
                pass
        return total

    def stop(self):
        if self.pidfile:
            os.kill(self.pid, signal.SIGTERM)
        else:
            self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()


class Load:
    """load.c against a server."""

    def __init__(self, server, image, mode, connections, depth, size, seconds, export=None, first=False):
        """first: this one runs whenever it can, before everything else here."""
        self.process = subprocess.Popen(
            [BUILD / "load", str(server.port), server.export if export is None else export, str(image), mode,
             str(connections), str(depth), str(size), str(seconds)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if first:
            os.sched_setscheduler(self.process.pid, os.SCHED_FIFO, os.sched_param(1))
        line = self.line()
        if not line:
            raise SystemExit(f"{server.name}: no load can be put on it: see {server.log.name}")
        self.connected = float(line[1])

    def line(self):
        if not select.select([self.process.stdout], [], [], 60)[0]:
            self.process.kill()
        return self.process.stdout.readline().split()

    def go(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self

    def result(self):
        """(requests, seconds, median, p99)"""
        line = self.line()
        if not line:
            raise SystemExit("the load has ended early")
        return int(line[0]), *map(float, line[1:])

    def end(self):
        self.process.stdin.close()
        self.process.wait(20)
        self.process.stdout.close()


def start_all(image, scratch):
    """{name: Server} for reads, and for writes."""
    ours = TOP / "build/server/nbd-server"
    debian = BUILD / "debian/bin/nbd-server"
    reads, writes = {}, {}
    config = BUILD / "debian.conf"
    for write, into in ((False, reads), (True, writes)):
        path = scratch if write else image
        ro = [] if write else ["-r"]
        into["ours"] = Server("ours", [ours, "-n", *ro, "127.0.0.1@{port}", path], write=write)
        if not write:
            into["floor"] = Server("floor", [BUILD / "floor", "{port}", path])
        port = free_port()
        conf = config.with_suffix(".rw" if write else ".ro")
        conf.write_text(f"[generic]\nport={port}\nlistenaddr=127.0.0.1\n[x]\nexportname={path}\n"
                        f"readonly={'false' if write else 'true'}\nflush=true\nfua=true\n")
        pidfile = conf.with_suffix(f"{conf.suffix}.pid")
        pidfile.unlink(missing_ok=True)
        into["nbd-server"] = Server("nbd-server", [debian, "-C", conf, "-p", pidfile], "x", write, port, pidfile)
        into["nbdkit"] = Server("nbdkit", ["nbdkit", "-f", *ro, "-i", "127.0.0.1", "-p", "{port}", "file", path], write=write)
        into["qemu-nbd"] = Server("qemu-nbd", ["qemu-nbd", "-t", *ro, "-e", "100", "-f", "raw", "-b", "127.0.0.1",
                                               "-p", "{port}", path], write=write)
    return reads, writes


def versions():
    def first(*argv):
        done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        return done.stdout.splitlines()[0]
    yield f"Linux {platform.release()}, {os.cpu_count()} processors"
    yield first(TOP / "build/server/nbd-server", "-V")
    yield "Debian's " + first(BUILD / "debian/bin/nbd-server", "-V").lstrip()
    yield first("nbdkit", "--version")
    yield first("qemu-nbd", "--version")


def one_run(server, image, args, seconds, first=False):
    """(requests per second, CPU seconds per request, p50, p99)"""
    load = Load(server, image, *args, seconds, first=first)
    before = server.cpu()
    load.go()
    requests, took, median, p99 = load.result()
    spent = sum(ran - before.get(task, 0) for task, ran in server.cpu().items())
    load.end()
    return requests / took, spent / max(requests, 1), median, p99


def measure(servers, image, args, options):
    runs = {name: [] for name in servers}
    for _ in range(options.rounds):
        for name, server in servers.items():
            runs[name].append(one_run(server, image, args, options.seconds))
    return runs


class Report:
    def __init__(self):
        self.lines = []

    def __call__(self, text=""):
        print(text, flush=True)
        self.lines.append(text)


def show_row(say, text, args, runs, peer_goal, floor_goal):
    size = args[3]
    ours = runs["ours"]
    say(f"\n### {text}\n")
    say("| server | requests/s | MiB/s | CPU µs per request | CPU s per GiB | ours, of it |" +
        (" median µs | p99 µs |" if args[2] == 1 else ""))
    say("|---|---|---|---|---|---|" + ("---|---|" if args[2] == 1 else ""))
    ratios = {}
    for name, all_runs in runs.items():
        rate = statistics.median(r[0] for r in all_runs)
        cpu = statistics.median(r[1] for r in all_runs)
        ratios[name] = statistics.median(o[0] / r[0] for o, r in zip(ours, all_runs))
        cpu_ratio = cpu / max(statistics.median(r[1] for r in ours), 1e-12)
        tail = f" {statistics.median(r[2] for r in all_runs):.1f} | {statistics.median(r[3] for r in all_runs):.1f} |" \
            if args[2] == 1 else ""
        say(f"| {name} | {rate:,.0f} | {rate * size / MIB:,.0f} | {cpu * 1e6:.2f} | {cpu * (1 << 30) / size:.3f} "
            f"| {ratios[name]:.2f} (CPU {cpu_ratio:.2f}) |{tail}")
    best = min(ratios[p] for p in PEERS)
    verdict = f"ours is {best:.2f} of the best peer (goal {peer_goal})"
    if floor_goal:
        verdict += f", {ratios['floor']:.2f} of the floor (goal {floor_goal})"
    say("\n" + verdict)


# -- rows of their own kind ------------------------------------------------------

def overlay_row(say, image, options):
    """The same reads through an overlay of which 5 % was written."""
    with tempfile.TemporaryDirectory(dir=BUILD) as folder:
        port = free_port()
        conf = Path(folder) / "config"
        conf.write_text(f"[generic]\nport={port}\nlistenaddr=127.0.0.1\nstatedir={folder}\n[plain]\nexportname={image}\n"
                        f"readonly=true\n[lab]\nexportname={image}\noverlay=keep\noverlay_dir={folder}/overlays\n")
        server = Server("ours", [TOP / "build/server/nbd-server", "-n", "-C", conf], port=port)
        try:
            # Every twentieth 64 KiB.
            h = nbd.NBD()
            h.connect_uri(f"nbd://127.0.0.1:{port}/lab/bench")
            for offset in range(0, IMAGE, 20 * 64 * KIB):
                h.pwrite(os.urandom(64 * KIB), offset)
            h.shutdown()
            overlay = sum(f.stat().st_blocks * 512 for f in Path(folder, "overlays").rglob("*") if f.is_file())
            say(f"\n### The same reads through an overlay ({overlay / IMAGE:.1%} of its blocks written)\n")
            say("| work | through the overlay, of the plain file | CPU |\n|---|---|---|")
            for text, args, _, _ in ROWS.values():
                if args[0] == "write":
                    continue
                ratios, cpus = [], []
                for _ in range(options.rounds):
                    runs = {}
                    for export in ("plain", "lab/bench"):
                        server.export = export
                        # What was written is not the image's: no check of it.
                        mode = args[0] if export == "plain" else args[0] + "!"
                        runs[export] = one_run(server, image, (mode, *args[1:]), options.seconds)
                    ratios.append(runs["lab/bench"][0] / runs["plain"][0])
                    cpus.append(runs["lab/bench"][1] / runs["plain"][1])
                say(f"| {text} | {statistics.median(ratios):.2f} (goal 0.8) | {statistics.median(cpus):.2f} |")
        finally:
            server.stop()


def idle_row(say, reads, image, options):
    """2,000 connections that do nothing."""
    ours = reads["ours"]
    args = ("read", 1, 1, 4 * KIB)
    alone = [one_run(ours, image, args, options.seconds) for _ in range(options.rounds)]
    before = ours.memory()
    idle = Load(ours, image, "idle", 2000, 1, 4096, 0)
    time.sleep(0.5)
    each = (ours.memory() - before) / 2000
    among = [one_run(ours, image, args, options.seconds) for _ in range(options.rounds)]
    idle.go()
    idle.end()
    say("\n### 2,000 idle stations\n")
    say(f"{each / KIB:.1f} KiB of server memory each (goal: 16 at most); all connected within {idle.connected:.2f} s "
        f"(goal: 5); a 4 KiB read takes {statistics.median(r[2] for r in among):.1f} µs, "
        f"alone {statistics.median(r[2] for r in alone):.1f} µs")


def cold_row(say, image, options):
    """A warm reader beside one whose every read is cold. It runs before all else: the
    server's delays are to be seen, not its own for want of a processor. What the machine
    alone does to it is seen where the floor serves it, another process that has nothing
    to do with the cold reads."""
    cold = BUILD / "cold"
    if not cold.exists():
        make_image(cold, 1024 * MIB)
    servers = []
    for name, generic in (("ours", ""), ("ours, realtime = false", "realtime=false\n")):
        port = free_port()
        conf = BUILD / f"cold{len(servers)}.conf"
        conf.write_text(f"[generic]\nport={port}\nlistenaddr=127.0.0.1\n{generic}[warm]\nexportname={image}\nreadonly=true\n"
                        f"[cold]\nexportname={cold}\nreadonly=true\n")
        servers.append(Server(name, [TOP / "build/server/nbd-server", "-n", "-C", conf], "warm", port=port))
    floor = Server("floor", [BUILD / "floor", "{port}", image])
    stop = threading.Event()
    pause = 0.02

    def forget():
        fd = os.open(cold, os.O_RDONLY)
        while not stop.is_set():
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            stop.wait(pause)
        os.close(fd)

    thread = threading.Thread(target=forget)
    thread.start()
    try:
        args = ("read", 1, 1, 4 * KIB)
        # Of the floor's, the cold reads are those of the first.
        runs = {one: ([], [], []) for one in [*servers, floor]}
        for _ in range(max(options.rounds, 3)):
            for warm_one, (alone, beside, colds) in runs.items():
                server = servers[0] if warm_one is floor else warm_one
                alone.append(one_run(warm_one, image, args, options.seconds, True)[3])
                deep = Load(server, cold, "read!", 1, 128, 64 * KIB, options.seconds + 1, export="cold").go()
                time.sleep(0.3)
                beside.append(one_run(warm_one, image, args, options.seconds, True)[3])
                reads, took, _, _ = deep.result()
                colds.append(reads / took)
                deep.end()
        # Another one's cold reads, one at a time, as of a station that boots. They are
        # to be cold all of them.
        pause = 0.005
        modest, args = ([], []), ("read!", 1, 1, 64 * KIB)
        servers[0].export = "cold"
        for _ in range(max(options.rounds, 3)):
            modest[0].append(one_run(servers[0], cold, args, options.seconds, True)[2])
            deep = Load(servers[0], cold, "read!", 1, 250, 64 * KIB, options.seconds + 1, export="cold").go()
            time.sleep(0.3)
            modest[1].append(one_run(servers[0], cold, args, options.seconds, True)[2])
            deep.result()
            deep.end()
        say("\n### One station doing deep cold reads\n")
        say("p99 of a warm 4 KiB read beside cold reads of 64 KiB, 128 in flight\n")
        say("| who serves the warm reads | alone, µs | beside, µs | ratio (goal: 2 at most) | cold reads/s |\n|---|---|---|---|---|")
        for warm_one, (alone, beside, colds) in runs.items():
            ratio = statistics.median(b / a for a, b in zip(alone, beside))
            say(f"| {warm_one.name} | {statistics.median(alone):.0f} | {statistics.median(beside):.0f} | {ratio:.2f} | {statistics.median(colds):,.0f} |")
        alone, beside = map(statistics.median, modest)
        say(f"\nA cold read of 64 KiB of another connection, one at a time, beside 250 in flight: {beside:,.0f} µs "
            f"(median; alone {alone:,.0f})")
    finally:
        stop.set()
        thread.join()
        for one in [*servers, floor]:
            one.stop()


def build():
    BUILD.mkdir(parents=True, exist_ok=True)
    subprocess.run(["make", "-s", "-C", TOP / "server"], check=True)
    for name in ("load", "floor"):
        subprocess.run(["gcc", "-O2", "-Wall", "-Wextra", "-pthread", "-I", TOP / "proto", "-o", BUILD / name,
                        HERE / f"{name}.c"], check=True)
    subprocess.run([TOP / "tools/undeb", BUILD / "debian", "nbd-server"], check=True)


def main():
    parser = argparse.ArgumentParser(description="our nbd-server beside others")
    parser.add_argument("--seconds", type=float, default=1.0, help="of one run")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", default=",".join([*ROWS, "overlay", "idle", "cold"]))
    parser.add_argument("--markdown", help="write the report there too")
    options = parser.parse_args()
    rows = options.rows.split(",")

    build()
    image, scratch = BUILD / "image", BUILD / "scratch"
    for path in (image, scratch):
        if not path.exists() or path.stat().st_size != IMAGE:
            make_image(path, IMAGE)
    warm(image)
    warm(scratch)
    say = Report()
    for line in versions():
        say(f"* {line}")
    reads, writes = start_all(image, scratch)
    try:
        for server in [*reads.values(), *writes.values()]:
            say(f"* `{' '.join(server.command)}`".replace(f"{TOP}/", ""))
        say(f"* {options.rounds} rounds of {options.seconds} s each, an image of {IMAGE // MIB} MiB, warm; "
            "load.c and the servers share the processors")
        for name in rows:
            if name not in ROWS:
                continue
            text, args, peer_goal, floor_goal = ROWS[name]
            servers = writes if args[0] == "write" else reads
            show_row(say, text, args, measure(servers, scratch if args[0] == "write" else image, args, options),
                     peer_goal, floor_goal)
        if "overlay" in rows:
            overlay_row(say, image, options)
        if "idle" in rows:
            idle_row(say, reads, image, options)
        if "cold" in rows:
            cold_row(say, image, options)
    finally:
        for server in [*reads.values(), *writes.values()]:
            server.stop()
    if options.markdown:
        Path(options.markdown).write_text("\n".join(say.lines) + "\n")


main()
