"""Comparisons that never end, for the maths scorer's pool."""

from __future__ import annotations

from typing import Any


def hang(job: Any) -> bool:
    """Hold the interpreter in one C call where the gold answer asks for it; say yes otherwise."""
    if job["gold"][1] == ["root", ["num", "2"], ["num", "7"]]:
        5 ** (5**12)
    return True


def fail(job: Any) -> bool:
    """Raise what nobody expects."""
    raise KeyError("surprise")


def eat(job: Any) -> bool:
    """Ask for more memory than there may be."""
    return bool(bytearray(1 << 40))
