# SPDX-License-Identifier: GPL-2.0
"""The rig itself: that it hears what a kernel complains of."""
import pytest

from conftest import complaints_in


@pytest.mark.parametrize("line", [
    "WARNING: CPU: 0 PID: 1 at kernel/locking/lockdep.c:4876 check_flags+0x1/0x2",
    "INFO: lockdep is turned off.",
    "INFO: trying to register non-static key.",
    "WARNING: possible circular locking dependency detected",
    "[ BUG: Invalid wait context ]",
    "BUG: sleeping function called from invalid context at kernel/locking/mutex.c:580",
    "BUG: KASAN: slab-use-after-free in nb_send+0x1/0x2 [nb]",
    "INFO: task dd:99 blocked for more than 120 seconds.",
    "rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",
    "Oops: general protection fault, probably for non-canonical address",
    "Oops: 0000 [#1] PREEMPT SMP KASAN",
    "UBSAN: shift-out-of-bounds in nb.c:1:1",
    "ODEBUG: free active (active state 0) object: 1 object type: work_struct hint: nb_ctl_work",
    "refcount_t: underflow; use-after-free.",
])
def test_a_complaint_is_one(line):
    assert complaints_in(f"1.000000 {line}")


@pytest.mark.parametrize("line", [
    "nb: nb0: 10.0.2.2:1234: connection lost: closed by the server; 3 requests in flight",
    "FAULT_INJECTION: forcing a failure.",
    " fd_install+0x1a/0x2f0",
    " ? lockdep_hardirqs_on_prepare+0x1/0x2",
    "EXT4-fs (nb0): mounted filesystem without journal. Quota mode: disabled.",
])
def test_what_is_none_is_none(line):
    assert not complaints_in(f"1.000000 {line}")
