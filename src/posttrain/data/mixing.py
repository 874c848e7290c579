"""Which rows each optimizer step takes: a pure function of the seed and the step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from posttrain.core.errors import DataError
from posttrain.core.seeds import build_numpy_generator


class RowOrder:
    """The order of rows over all steps and epochs, for one source or a mixture.

    Without proportions an epoch is a permutation of all rows of all sources. With proportions an epoch
    has as many rows as all sources together, and source s gives `counts[s]` of them: its share, rounded
    so that the counts add up (largest remainders first, ties to the earlier source). A source that gives
    fewer than it has goes on in the next epoch where it stopped; one that gives more begins again. Each
    pass over a source is a permutation of it, so its rows are seen equally often, give or take one.

    The last step of an epoch may have fewer rows; no step spans two epochs. `rows_of_step` needs no
    state: a process that starts at step s gets the rows that an uninterrupted one gets there.

    Args:
        lengths: Rows of each source.
        proportions: A weight for each source (their sum need not be 1), or None for all of them.
        seed: Of the order.
        batch_size: Rows of a step.

    Raises:
        DataError: A source without rows, proportions for some sources only, or so small that no row comes of it.

    Example: lengths 90 and 10 with proportions 1 and 1 give epochs of 50 and 50 rows: the first source
    is seen once in 1.8 epochs, the second five times an epoch.
    """

    def __init__(
        self, lengths: Sequence[int], proportions: Sequence[float | None] | None, seed: int, batch_size: int
    ) -> None:
        if not lengths or min(lengths) < 1:
            raise DataError("a source without rows", expected="at least one row in every source")
        if batch_size < 1:
            raise DataError(f"a batch of {batch_size} rows", expected="at least 1", place="batch_size")
        self.lengths = [int(length) for length in lengths]
        self.batch_size = batch_size
        self.counts = count_rows(self.lengths, proportions)
        self._seed = seed
        self._epoch = -1
        self._rows_of_epoch: npt.NDArray[np.int64] = np.empty((0, 2), np.int64)

    @property
    def rows_per_epoch(self) -> int:
        """Rows of an epoch."""
        return sum(self.counts)

    @property
    def steps_per_epoch(self) -> int:
        """Steps of an epoch, the last one perhaps smaller."""
        return -(-self.rows_per_epoch // self.batch_size)

    def rows_of_step(self, step: int) -> list[tuple[int, int]]:
        """Return (source, row) for each row of a step, counted from 0."""
        if step < 0:
            raise ValueError(f"steps count from 0, found {step}")
        epoch, index = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._rows_of_epoch, self._epoch = self._order_epoch(epoch), epoch
        part = self._rows_of_epoch[index * self.batch_size : (index + 1) * self.batch_size]
        return [(int(source), int(row)) for source, row in part]

    def rows_of_steps(self, num_steps: int) -> list[tuple[int, int]]:
        """Return every (source, row) that some of the first steps takes, once, sorted."""
        found: set[tuple[int, int]] = set()
        for step in range(num_steps):
            found.update(self.rows_of_step(step))
            if len(found) == sum(self.lengths):
                break
        return sorted(found)

    def _order_epoch(self, epoch: int) -> npt.NDArray[np.int64]:
        parts = []
        for source, (length, count) in enumerate(zip(self.lengths, self.counts, strict=True)):
            first, last = epoch * count, (epoch + 1) * count
            passes = range(first // length, (last - 1) // length + 1)
            order = np.concatenate([_permute(length, self._seed, "source", source, index) for index in passes])
            rows = order[first - passes.start * length :][:count]
            parts.append(np.stack([np.full(count, source), rows], axis=1))
        return np.concatenate(parts)[_permute(self.rows_per_epoch, self._seed, "epoch", epoch)]


def count_rows(lengths: Sequence[int], proportions: Sequence[float | None] | None) -> list[int]:
    """Return how many rows each source gives to an epoch.

    Raises:
        DataError: Proportions for some sources only, not above 0, or too small to give a row.
    """
    given = [proportion for proportion in proportions or [] if proportion is not None]
    if not given:
        return list(lengths)
    if len(given) != len(lengths):
        raise DataError(
            f"a proportion for {len(given)} of {len(lengths)} sources",
            expected="one for every source or for none",
            cure="add 'proportion' to the others; without any, all rows are taken once an epoch",
            place="proportion",
        )
    if min(given) <= 0 or not np.isfinite(given).all():
        raise DataError(f"proportions {given}", expected="numbers above 0", place="proportion")
    total = sum(lengths)
    exact = [proportion * total / sum(given) for proportion in given]
    counts = [int(share) for share in exact]
    by_remainder = sorted(range(len(exact)), key=lambda index: (counts[index] - exact[index], index))
    for index in by_remainder[: total - sum(counts)]:
        counts[index] += 1
    if min(counts) == 0:
        raise DataError(
            f"source {counts.index(0) + 1} would give no row to an epoch of {total:,}",
            expected="a proportion that gives every source at least one row an epoch",
            cure="raise its proportion or leave the source out",
            place="proportion",
        )
    return counts


def _permute(length: int, *name: int | str) -> npt.NDArray[np.int64]:
    """Return a permutation from a named stream; raw bits, because numpy pins those and not its shuffles."""
    bits = build_numpy_generator("row order", *name).bit_generator.random_raw(length)
    return np.argsort(bits, kind="stable")
