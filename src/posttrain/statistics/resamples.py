"""Draws with replacement for bootstraps, as many at a time as fit into a little memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

_INDICES_AT_ONCE = 1 << 20


def draw_resamples(size: int, generator: np.random.Generator, num_resamples: int) -> Iterator[npt.NDArray[np.int64]]:
    """Yield `num_resamples` resamples of `size` items in blocks of rows: int64 [R, size], places in [0, size).

    Args:
        size: Items to draw from, and to draw, at least 1.
        generator: The same state gives the same resamples.
        num_resamples: Of all blocks together, at least 1.
    """
    rows = max(1, _INDICES_AT_ONCE // size)
    for start in range(0, num_resamples, rows):
        yield generator.integers(size, size=(min(rows, num_resamples - start), size))
