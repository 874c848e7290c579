"""Giving memory that was freed back to the system, so that a long evaluation takes what a short one takes."""

from __future__ import annotations

import ctypes
import os

PRIMITIVE_CACHE = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"


def release_freed_memory() -> None:
    """Have the C library return the free parts of its heap; does nothing where it has no such call.

    Passes over prompts allocate tensors of ever other sizes, between whose places the heap keeps gaps.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def limit_primitive_cache(capacity: int = 128) -> None:
    """Have oneDNN keep the code of fewer matrix products, unless the user said how many; for a process that only draws.

    It compiles one for every shape and keeps 1,024, some 100 kB each. Passes over prompts seldom have a shape twice;
    decode passes have a few dozen. Training has shapes that come again and is better off with all of them. It has no
    effect once oneDNN has run.
    """
    os.environ.setdefault(PRIMITIVE_CACHE, str(capacity))
