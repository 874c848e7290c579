"""Jobs that sandboxed workers do in the tests: one obedient, the others each break one limit."""

from __future__ import annotations

import os
import sys
import time
from typing import Any


def do(job: Any) -> Any:
    """Do what the job's `act` says."""
    return ACTS[job["act"]](job)


def multiply(factor: int) -> Any:
    """Return the job function of a pool with an initial value."""
    return lambda job: factor * job


def refuse_to_start(initial: Any) -> Any:
    raise RuntimeError(f"cannot start with {initial}")


not_a_function = 3


def _spin(job: Any) -> None:
    while True:
        pass


def _hold_the_interpreter(job: Any) -> None:
    5 ** (5**12)  # one C call: no thread, no Python signal handler runs meanwhile


def _fork_and_hang(job: Any) -> None:
    if os.fork() == 0:
        time.sleep(600)
    time.sleep(600)


ACTS: dict[str, Any] = {
    "echo": lambda job: job["value"],
    "pid": lambda job: os.getpid(),
    "environment": lambda job: sorted(os.environ),
    "cpu": lambda job: sum(range(job["count"])),
    "spin": _spin,
    "hold": _hold_the_interpreter,
    "sleep": lambda job: time.sleep(600),
    "fork": _fork_and_hang,
    "eat": lambda job: len(b"x" * job["bytes"]),
    "grow": lambda job: [bytearray(1 << 20) for _ in range(1 << 20)] and None,
    "flood": lambda job: "x" * job["bytes"],
    "print": lambda job: [print("noise " * 1000, flush=True), sys.stdout.flush()] and "quiet",
    "raise": lambda job: {}["missing"],
    "exit": lambda job: sys.exit(3),
    "die": lambda job: os._exit(7),
    "unwritable": lambda job: object(),
}
