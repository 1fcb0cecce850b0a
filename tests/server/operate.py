# SPDX-License-Identifier: GPL-2.0
"""What an operator does, for the tests."""
import json
import subprocess

from harness.patience import granted, until
from harness.server import binary


def ask(*argv, status=0):
    done = subprocess.run([binary(), *map(str, argv)], stdin=subprocess.DEVNULL, text=True, timeout=granted(30),
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert done.returncode == status, (done.stdout, done.stderr)
    return done.stdout if not status else done.stderr


def nobody_left(server):
    """Wait until it shows no connection any more."""
    until(lambda: not json.loads(ask("status", server.sock, "--json"))["connections"])


def configure(server, text):
    """Replace the sections of its exports."""
    whole = server.config_path.read_text()
    server.config_path.write_text(whole[:whole.index("\n[", 5) + 1] + text)
