# SPDX-License-Identifier: GPL-2.0
"""Clients that others wrote get what they expect: libnbd's tools, qemu, fio."""
import json
import os
import subprocess

import pytest

from harness.patience import granted
from raw import MIB, forget


def run(*argv, status=0, **kwargs):
    """Run it; its output, or a failure that shows it."""
    done = subprocess.run([str(a) for a in argv], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, timeout=granted(180), **kwargs)
    assert done.returncode == status, f"{argv}: status {done.returncode}\n{done.stdout}"
    return done.stdout


def qemu_io(uri, *commands, readonly=False):
    argv = ["qemu-io", "-f", "raw"] + (["-r"] if readonly else [])
    for command in commands:
        argv += ["-c", command]
    out = run(*argv, uri)
    assert "failed" not in out and "mismatch" not in out, out
    return out


def test_nbdinfo_json(served):
    info = json.loads(run("nbdinfo", "--json", served.uri()))
    assert info["protocol"] == "newstyle-fixed"
    export, = info["exports"]
    assert export["export-name"] == ""
    assert export["export-size"] == 32 * MIB
    assert export["is_read_only"] is False
    assert (export["block_size_minimum"], export["block_size_preferred"],
            export["block_size_maximum"]) == (1, 4096, 64 * MIB)


@pytest.mark.parametrize("what", ["flush", "fua", "trim", "zero", "cache", "fast-zero", "multi-conn",
                                  "df", "structured-reply"])
def test_nbdinfo_can(served, what):
    run("nbdinfo", "--can", what, served.uri())


def test_nbdinfo_readonly(served_readonly):
    run("nbdinfo", "--is", "read-only", served_readonly.uri())
    run("nbdinfo", "--can", "flush", served_readonly.uri())
    run("nbdinfo", "--can", "multi-conn", served_readonly.uri())
    for what in ("trim", "zero"):
        run("nbdinfo", "--can", what, served_readonly.uri(), status=2)


def test_list_of_several(make_server, image, tmp_path):
    other = tmp_path / "other"
    other.write_bytes(b"x" * MIB)
    server = make_server(host=None, config=f"""
[generic]
port = {{port}}
listenaddr = 127.0.0.1
allowlist = true
[root]
exportname = {image}
description = the root of all
[other]
exportname = {other}
readonly = true
""")
    info = json.loads(run("nbdinfo", "--json", "--list", f"nbd://127.0.0.1:{server.port}"))
    by_name = {e["export-name"]: e for e in info["exports"]}
    assert set(by_name) == {"root", "other"}
    assert by_name["root"]["description"] == "the root of all"
    assert by_name["other"]["is_read_only"] is True
    assert by_name["other"]["export-size"] == MIB


def test_nbdcopy_both_ways(served, image, content, tmp_path):
    new = tmp_path / "new"
    new.write_bytes(content[::-1])
    run("nbdcopy", new, served.uri())
    assert image.read_bytes() == new.read_bytes()
    back = tmp_path / "back"
    run("nbdcopy", served.uri(), back)
    assert back.read_bytes() == new.read_bytes()


@pytest.mark.parametrize("size", [4096, 65536, MIB, 32 * MIB])
@pytest.mark.parametrize("kind", ["served", "served_readonly"])
def test_nbdcopy_request_sizes(request, kind, size, content, tmp_path):
    """Each way a read is answered: in the loop, by sendfile, by a worker."""
    server = request.getfixturevalue(kind)
    back = tmp_path / "back"
    run("nbdcopy", f"--request-size={size}", "-C", "4", "-R", "64", server.uri(), back)
    assert back.read_bytes() == content


def test_nbdcopy_cold_image(served_readonly, image, content, tmp_path):
    """Nothing of the image in memory: reads go to the disk by the workers."""
    forget(image)
    back = tmp_path / "back"
    run("nbdcopy", "-C", "2", served_readonly.uri(), back)
    assert back.read_bytes() == content


def test_nbdcopy_into_checkwrite(served, image):
    """nbdkit's own comparison, byte by byte and extent by extent."""
    run("nbdcopy", "--", served.uri(), "[", "nbdkit", "--exit-with-parent", "--filter=checkwrite",
        "file", image, "]")


def test_qemu_img(served, image, tmp_path):
    assert "identical" in run("qemu-img", "compare", "-f", "raw", image, served.uri())
    qcow = tmp_path / "copy.qcow2"
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", served.uri(), qcow)
    assert "identical" in run("qemu-img", "compare", qcow, served.uri())
    with open(image, "r+b") as f:
        f.write(b"\0" * 12345)
    run("qemu-img", "convert", "-n", "-f", "qcow2", "-O", "raw", qcow, served.uri())
    assert "identical" in run("qemu-img", "compare", qcow, image)


def test_qemu_io(served, image, content):
    qemu_io(served.uri(),
            "write -P 0xa5 4096 1M", "read -P 0xa5 4096 1M",
            "write -z -u 0 64k", "read -P 0 0 64k",
            "write -z 64k 64k", "read -P 0 64k 64k",
            "write -f -P 1 0 512", "read -P 1 0 512",
            "write -P 7 3 5", "read -P 7 3 5",                      # nothing aligned
            "discard 4M 1M", "flush",
            "write -P 9 1M 31M", "read -P 9 1M 31M",                # streamed
            "aio_write -P 1 8M 4M", "aio_write -P 2 12M 4M", "aio_flush",
            "read -P 1 8M 4M", "read -P 2 12M 4M")
    data = image.read_bytes()
    assert data[:9] == b"\1\1\1\7\7\7\7\7\1"
    assert data[8 * MIB:16 * MIB] == b"\1" * 4 * MIB + b"\2" * 4 * MIB


def test_qemu_io_readonly(served_readonly):
    qemu_io(served_readonly.uri(), "read 0 32M", "flush", readonly=True)


@pytest.mark.parametrize("block,mode", [("4k", "randrw"), ("512", "randwrite"), ("64k-1m", "randrw")])
def test_fio_verify(served, block, mode):
    run("fio", "--name=x", "--ioengine=nbd", f"--uri={served.uri()}", f"--rw={mode}",
        f"--bs{'range' if '-' in block else ''}={block}", "--size=16m", "--iodepth=64",
        "--verify=crc32c", "--verify_fatal=1", "--fsync=200", "--randseed=7",
        cwd=os.path.dirname(served.image))
    assert "err" not in served.log()


def test_fio_trim_and_four_connections(served):
    jobs = []
    for i in range(4):
        jobs += [f"--name=j{i}", "--ioengine=nbd", f"--uri={served.uri()}", "--rw=randwrite",
                 "--bs=16k", "--iodepth=16", f"--offset={i * 8}m", "--size=8m", "--verify=crc32c",
                 "--verify_fatal=1"]
    run("fio", *jobs, cwd=os.path.dirname(served.image))


def test_nbdkit_in_front(make_server, served, tmp_path):
    """nbdkit's nbd plugin (libnbd, many requests at a time) reads it through."""
    back = tmp_path / "back"
    run("nbdkit", "-U", "-", "nbd", f"uri={served.uri()}", "--run", f'nbdcopy "$uri" {back}')
    assert back.read_bytes() == served.image.read_bytes()


def test_maps_of_a_sparse_image(make_server, big):
    """nbdinfo and qemu-img read the same map that the file has; nbdcopy keeps it."""
    image = big(8 * MIB)
    with open(image, "r+b") as f:
        f.seek(2 * MIB)
        f.write(os.urandom(MIB))
        f.flush()
        os.fsync(f.fileno())
    server = make_server(image, options=["-r"])
    mapped = json.loads(run("nbdinfo", "--map", "--json", server.uri()))
    assert [(e["offset"], e["length"], e["type"]) for e in mapped] == [
        (0, 2 * MIB, 3), (2 * MIB, MIB, 0), (3 * MIB, 5 * MIB, 3)]
    mapped = json.loads(run("qemu-img", "map", "-f", "raw", "--output=json", server.uri()))
    assert [(e["start"], e["length"], e["data"], e["zero"]) for e in mapped] == [
        (0, 2 * MIB, False, True), (2 * MIB, MIB, True, False), (3 * MIB, 5 * MIB, False, True)]
    copy = image.with_name("copy")
    run("nbdcopy", server.uri(), copy)
    assert copy.read_bytes() == image.read_bytes()
    assert os.stat(copy).st_blocks * 512 <= MIB + 65536
    copy.unlink()
