"""How many threads a program may start, where the kernel counts those of its user.

The kernel bounds the processes and threads of a user in a user namespace together, so a bound is fair only where
nobody else is counted: under a user id of the server's own (root can choose one), or in a user namespace of its own.
An ordinary user who may make neither shares the count with all it runs; there the bound follows the count.
"""

from __future__ import annotations

import contextlib
import os
import time

from posttrain.sandbox.syscalls import call

MAX_THREADS = 64
"""Threads of one program, the few processes around it included."""
SHARED_SLACK = 512
"""Threads beyond those that the user has, where the count is shared: others may start some meanwhile."""
_NEW_USER_NAMESPACE = 0x10000000
_REFRESH_SECONDS = 1.0


def enter_user_namespace() -> bool:
    """Give this process a user namespace in which it is who it was; return whether that is allowed here."""
    user, group = os.geteuid(), os.getegid()
    try:
        call("unshare", _NEW_USER_NAMESPACE)
    except OSError:
        return False
    for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(text)
    return True


def count_tasks(user: int) -> int:
    """Return how many threads a user runs on this machine, as far as `/proc` shows them."""
    count = 0
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError), open(f"/proc/{name}/status", "rb") as file:
                text = file.read()
                if int(text.split(b"\nUid:", 1)[1].split(None, 1)[0]) == user:
                    count += int(text.split(b"\nThreads:", 1)[1].split(None, 1)[0])
    return count


class TaskBound:
    """The bound on a child's user: fixed where the count is its own, else following it.

    Args:
        is_shared: Whether all that the user runs is counted.
    """

    def __init__(self, *, is_shared: bool) -> None:
        self.is_shared = is_shared
        self._bound = MAX_THREADS
        self._counted = -_REFRESH_SECONDS

    def find(self) -> int:
        """Return the bound for a child that is made next."""
        if self.is_shared and time.monotonic() - self._counted >= _REFRESH_SECONDS:
            self._bound = count_tasks(os.getuid()) + SHARED_SLACK
            self._counted = time.monotonic()
        return self._bound
