# SPDX-License-Identifier: GPL-2.0
"""nbdroot= as each build of the client reads it. The whole grammar is tested
in tests/unit/cmdline_test.c by the same table; this is the parser behind
another C library, and what comes out of the program."""
import random
import re
import shlex
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
OPTIONS = ("RO", "CONNS", "LOST", "HOLD", "TIMEOUT", "STATION", "OVERLAY", "PREFETCH")


def table():
    """grammar.txt as (command line, [what it says of it])."""
    cases = []
    for line in (HERE / "grammar.txt").read_bytes().splitlines():
        if not line or line.startswith(b"#"):
            continue
        line = re.sub(rb'\\x([0-9a-f]{2})|\\(.)', lambda m: bytes([int(m[1], 16)]) if m[1]
                      else {b"t": b"\t", b"n": b"\n"}.get(m[2], m[2]), line)
        if line.startswith(b"\t"):
            cases[-1][1].append(line[1:].decode())
        else:
            cases.append((line, []))
    return cases


def as_table(output):
    """What --parse prints, as the table writes it."""
    values = dict(word.split("=", 1) for word in shlex.split(output))
    said = values.pop("NB_DEVICE")
    partition = values.pop("NB_PARTITION")
    said += f"/{partition}" if partition else ""
    for number in range(1, int(values.pop("NB_SERVERS")) + 1):
        host, port, export = (values.pop(f"NB_{key}_{number}") for key in ("HOST", "PORT", "EXPORT"))
        said += f" {host}:{port}/{export}" if port else " DHCP"
    for option in OPTIONS:
        value = values.pop(f"NB_{option}")
        said += f" {option.lower()}={value}" if value else ""
    assert not values
    return said


def test_table(each):
    """Each line of the table, through the program."""
    cases = table()
    assert len(cases) > 150
    for line, (meaning, *parts) in cases:
        (each.root / "proc/cmdline").write_bytes(line + b"\n")
        result = each.run("--parse")
        if meaning in ("none", "!"):
            assert (result.returncode, result.stdout) == (3 if meaning == "none" else 2, ""), line
        else:
            assert result.returncode == 0, (line, result.stderr)
            assert as_table(result.stdout) == meaning.replace(" =", " "), line
        assert bool(result.stderr) == (meaning == "!" or "~" in [p[0] for p in parts]
                                       or "warning" in result.stderr), line
        for part in parts:
            if part.isascii():      # else it is shown with '?'
                assert part.removeprefix("~ ") in result.stderr, (line, result.stderr)


ODD = [
    ("nbdroot=nbd://h/it's%20%22x%22", [("h", "10809", "it's \"x\"")]),
    ("nbdroot=\"h/$(id) `id` \\\"", [("h", "10809", "$(id) `id` \\")]),
]


@pytest.mark.parametrize("line,servers", ODD)
def test_quotes(each, line, servers):
    """What a shell would take for its own is only text."""
    each.cmdline(line)
    values = dict(word.split("=", 1) for word in shlex.split(each.run("--parse").stdout))
    assert (values["NB_HOST_1"], values["NB_PORT_1"], values["NB_EXPORT_1"]) == servers[0]


def test_a_shell_may_eval_it(each):
    """Exports of odd bytes, as a hook takes them: the same bytes, and nothing run."""
    odd = random.Random(7)
    for _ in range(25):
        export = bytes(odd.choice(b"'\"\\$`;&|<>()*?~#!{}\n\t =a\xe9\x01\x7f") for _ in range(20))
        each.cmdline("nbdroot=nbd://h/" + "".join(f"%{byte:02x}" for byte in export))
        said = subprocess.run([each.binary, "--parse"], capture_output=True, check=True).stdout
        told = subprocess.run(["sh", "-c", 'eval "$1"; printf %s. "$NB_EXPORT_1"', "sh", said],
                              capture_output=True, check=True, env={"PATH": ""}, executable="/bin/sh")
        assert (told.stdout, told.stderr) == (export + b".", b"")


@pytest.mark.parametrize("line,quoted", [
    ("nbdroot=server1:12x4", 'nbdroot="server1:12x4": port "12x4"'),
    ("nbdroot=server1:1,root", 'there is no option "root"'),
    ("nbdroot=2001:db8::1", "needs brackets"),
    ("root=/dev/nb0", "nbdroot=server1:1234"),
])
@pytest.mark.parametrize("verb", ["--parse", "--boot"])
def test_bad(each, verb, line, quoted):
    each.cmdline(line)
    result = each.run(verb)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("nbd-client: ") and quoted in result.stderr
    assert result.stderr.count("\n") == 1


def test_not_our_boot(each):
    each.cmdline("root=/dev/sda1 quiet")
    assert each.run("--boot").returncode == 3


def test_unprintable_bytes_do_not_reach_the_console(each):
    (each.root / "proc/cmdline").write_bytes(b"nbdroot=a\x1b[2Jb\n")
    result = each.run("--boot")
    assert result.returncode == 2
    assert "\x1b" not in result.stderr and "a?[2Jb" in result.stderr


def test_another_file(each, tmp_path):
    (tmp_path / "line").write_text("nbdroot=elsewhere")
    assert "elsewhere" in each.run("--parse", "--cmdline", tmp_path / "line").stdout
    result = each.run("--parse", "--cmdline", tmp_path / "none")
    assert (result.returncode, result.stdout) == (1, "")
    assert str(tmp_path / "none") in result.stderr


@pytest.mark.parametrize("args", [
    (), ("h",), ("h", "1", "nb0", "x"), ("--unknown",), ("h", "0", "nb0"),
    ("h", "65536", "nb0"), ("h", "nbx"), ("h", "nb0", "-N"), ("-d",), ("-c", "sda"),
    ("-l",), ("-l", "a b"), ("--boot", "h"), ("-l", "h", "p"), ("-l", "[::1"),
])
def test_bad_arguments(each, args):
    result = each.run(*args)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("nbd-client: ")


def test_port_in_the_host(each):
    result = each.run("server1:1234", "nb0")
    assert result.returncode == 2
    assert '"server1:1234" is neither' in result.stderr
    assert "the port as a word of its own" in result.stderr


def test_help_and_version(each):
    assert "nbd-client HOST" in each.run("-h").stdout
    assert each.run("--version").stdout.startswith("nbd-client (nbdroot) ")
