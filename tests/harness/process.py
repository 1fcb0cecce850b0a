# SPDX-License-Identifier: GPL-2.0
"""Programs that must not outlive us. Stdlib only."""
import ctypes
import signal

PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


def die_with_parent():
    """For Popen(preexec_fn=): SIGKILL when the thread that started it goes,
    however it goes. Start such programs from the main thread."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def end_with_parent():
    """For ourselves: SIGTERM when whoever started us goes."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


# The same as the first for a program that somebody else starts: Server(wrap=DIE_WITH_PARENT).
DIE_WITH_PARENT = ["setpriv", "--pdeathsig", "KILL"]
