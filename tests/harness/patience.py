# SPDX-License-Identifier: GPL-2.0
"""How long is too long, and how to wait for something. Stdlib only.

Every deadline of the harness is written for a machine of one's own, and made with
deadline(): the tests, which may run on a slow and busy one, ask for several times
as long. What is waited for is waited for no longer than it takes.
"""
import time

_times = 1


def grant(times):
    """From now on every deadline is so many times as far away."""
    global _times
    _times = times


def granted(seconds):
    return seconds * _times


def deadline(seconds):
    """That far from now, as time.monotonic() will say it."""
    return time.monotonic() + granted(seconds)


def until(condition, seconds=20, what=None, every=0.02):
    """Wait until condition() is true; returns what it was. what: for a person, what
    there is instead; a function that says it, or something to print."""
    end = deadline(seconds)
    while True:
        late = time.monotonic() > end   # before the last look, not after it
        found = condition()
        if found:
            return found
        assert not late, f"not within {granted(seconds)} s: {what() if callable(what) else what}"
        time.sleep(every)
