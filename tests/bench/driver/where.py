# SPDX-License-Identifier: GPL-2.0
"""Where a request's instructions go: samples of the program counter, by layer.

The guest, under -icount, is stopped again and again at moments of this machine's
time, and asked where it stands. While it is stopped its own time stands still too,
so the sampling is not in what it counts. (An interrupt that samples from within would
see nothing of what runs with interrupts off, and that is half of it.) What is seen
is the emulator's time, and shared out are instructions: the two differ most where an
instruction touches a device's register, for the emulator does the device's work then;
such samples are left out. So a layer's figure is good to a fifth or so, and those of
functions tell the order only.
"""
import base64
import bisect
import gzip
import re
import time
from collections import Counter

SAMPLES = 3000

REGISTERS = r"^(io(read|write)\d+|native_apic_m\w+|apic_\w+|__?pci_\w+|in[bwl]|out[bwl]|native_io_delay)$"

# The first that matches names the layer. Of modules: "function [module]".
LAYERS = [
    ("the driver", r"\[(nb|nbd|nvme_tcp|nvme_core|nvme_fabrics)\]$"),
    ("the card", r"\[virtio_\w+\]$|^(vring|virtqueue|virtio|vp_)"),
    ("block layer", r"^(__)?(blk|bio|blkdev|block|sbitmap|submit_bio|bvec|elv|dd_|bdev|rq_|part_|disk_|update_io|"
                    r"iov_iter|iomap|pin_user|unpin|internal_get_user|gup|follow_page|folio|bdi|dio_|end_io|scsi|"
                    r"get_user_pages|try_grab|lru|mempool|wbt|badblocks|invalidate_inode|want_pages|pte_offset)"),
    ("system calls, aio", r"^(__|do_|ksys_)?(entry_|syscall|do_syscall|x64_sys|x64_|aio|io_submit|io_get|lookup_ioctx|"
                          r"read_events|fget|fput|fdget|rw_verify|kiocb|security_|fsnotify|"
                          r"exit_to_user|put_aio|get_req|eventfd|apparmor|aa_|get_user_[48]|put_user_[48])"),
    ("TCP and IP", r"^(__|_)?(tcp|inet|inet6|ip_|ip6|ipv4|skb|kfree_skb|consume_skb|alloc_skb|napi_skb|build_skb|"
                   r"slab_build_skb|sk_|sock|release_sock|lock_sock|kernel_sendmsg|nf_|raw_|udp|fib|"
                   r"ip_queue|dst_|neigh|arp|csum|icmp|bictcp|cubictcp|rate_|reqsk|kfree_skbmem|pskb|"
                   r"copy_to_iter|simple_copy|datagram|eth_|page_pool|bpf|napi_consume)"),
    ("devices' queues", r"^(__|_)?(dev_|netif|net_rx|net_tx|napi|gro|gso|qdisc|pfifo|fq_|sch_|validate_xmit|"
                        r"enqueue_to_backlog|process_backlog|list_netif|packet_|tpacket|xps|netdev|harmonize|"
                        r"deliver_|busy_poll|dql)"),
    ("memory", r"^(__|_)?(mem(cpy|set|move)|copy_|clear_page|rep_|kmem|kmalloc|kfree|kvfree|slab|free_|alloc_|get_page|"
               r"put_page|page_frag|rmqueue|get_partial|put_cpu|new_slab|get_random|check_object|cmpxchg|get_any|"
               r"refill|zone|memcg|obj_cgroup|mod_|mod_memcg|fault_|rcu_segcb)"),
    ("interrupts, waking, timers", r"."),
]


def read_symbols(guest):
    """[(address, name)], in order, and the addresses alone. Needs nokaslr only for speed."""
    said = guest.run("echo 0 >/proc/sys/kernel/kptr_restrict; awk '$2 ~ /[tTwW]/ { print $1, $3, $4 }' /proc/kallsyms "
                     "| gzip -c | base64", 600)
    lines = gzip.decompress(base64.b64decode(re.sub(r"\s", "", said))).decode().splitlines()
    found = sorted((int(a, 16), name) for a, _, name in (line.partition(" ") for line in lines))
    return [a for a, _ in found], [name.strip() for _, name in found]


def sample(guest):
    """The program counter and the privilege level; None: it idles."""
    guest.qmp("stop")
    said = guest.qmp("human-monitor-command", **{"command-line": "info registers"})
    guest.qmp("cont")
    if re.search(r"HLT=1", said):
        return None
    return int(re.search(r"RIP=([0-9a-f]+)", said)[1], 16), int(re.search(r"CPL=(\d)", said)[1])


def layer(symbols, where):
    """(layer, function); None: a device's register."""
    pc, cpl = where
    if cpl == 3:
        return "fio", "fio"
    at = bisect.bisect_right(symbols[0], pc) - 1
    name = symbols[1][at] if at >= 0 else "?"
    if re.search(REGISTERS, name):
        return None
    return next(what for what, pattern in LAYERS if re.search(pattern, name)), name


def profile(guest, symbols, samples=SAMPLES):
    """Counter of (layer, function), without idling."""
    seen = Counter()
    for _ in range(samples):
        where = sample(guest)
        found = where and layer(symbols, where)
        if found:
            seen[found] += 1
        time.sleep(0.001)
    return seen


def show(name, found, functions=0):
    """found: {driver: (Counter, instructions per request)}"""
    print(f"\n{name}\n\n| layer | " + " | ".join(found) + " |\n|" + "---|" * (1 + len(found)))
    for what in ["fio"] + [w for w, _ in LAYERS]:
        row = []
        for seen, cost in found.values():
            share = sum(n for (w, _), n in seen.items() if w == what) / max(1, sum(seen.values()))
            row.append(f"{share * cost:.0f}")
        print(f"| {what} | " + " | ".join(row) + " |")
    print("| all | " + " | ".join(f"{cost:.0f}" for _, cost in found.values()) + " |", flush=True)
    for driver, (seen, cost) in found.items():
        for what in [w for w, _ in LAYERS] if functions else []:
            of = Counter({f: n for (w, f), n in seen.items() if w == what})
            print(f"  {driver}, {what}: " + ", ".join(f"{f} {n / sum(seen.values()) * cost:.0f}"
                                                      for f, n in of.most_common(functions)), flush=True)
