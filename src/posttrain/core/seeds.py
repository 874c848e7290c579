"""Seeds are derived by name and passed on; no room reads or sets a global generator.

`derive_seed(17, "sft", "order", 3)` is the same number on every machine and in every process, and two
different names give independent streams.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy
    import torch


def derive_seed(*parts: int | str) -> int:
    """Return a seed in [0, 2**63) from a base seed and the names of what it is for."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def build_numpy_generator(*parts: int | str) -> numpy.random.Generator:
    """Return numpy's Philox generator for a named stream."""
    import numpy

    return numpy.random.Generator(numpy.random.Philox(derive_seed(*parts)))


def build_torch_generator(*parts: int | str, device: str = "cpu") -> torch.Generator:
    """Return a torch generator for a named stream."""
    import torch

    return torch.Generator(device=device).manual_seed(derive_seed(*parts))
