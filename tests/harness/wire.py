# SPDX-License-Identifier: GPL-2.0
"""The protocol's numbers for tests, read from proto/nbd-wire.h, where they are.

    wire.NBD_REQUEST_MAGIC, wire.NBD_CMD_READ, ...
"""
import re
from pathlib import Path

HEADER = Path(__file__).resolve().parents[2] / "proto/nbd-wire.h"


def _numbers():
    for name, value in re.findall(r"^#define (NBD_\w+)[ \t]+([^/\n]+)", HEADER.read_text(), re.M):
        value = re.sub(r"\b(0x[0-9a-f]+|\d+)U?L*\b", r"\1", value.strip(), flags=re.I)
        if re.fullmatch(r"[0-9a-fx<()\s]+", value, re.I):
            yield name, eval(value)     # numbers, shifts and parentheses only


globals().update(_numbers())
