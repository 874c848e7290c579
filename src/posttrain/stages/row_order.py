"""Which rows each step of a stage trains on."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from typing import TYPE_CHECKING, Protocol

from posttrain.core.errors import RefusedError
from posttrain.data.sources import DataSource

if TYPE_CHECKING:
    from posttrain.data.mixing import RowOrder


class Mixed(Protocol):
    """A configuration that says how sources are mixed into steps."""

    @property
    def data(self) -> list[DataSource]:
        """The sources; each may have a proportion."""

    @property
    def batch_size(self) -> int:
        """Rows of a step, over all ranks."""


def order_rows(config: Mixed, sources: Sequence[Sized], seed: int, *, noun: str, expected: str) -> RowOrder:
    """Return which rows each step trains on: a pure function of the seed and the step.

    Args:
        config: Says how sources are mixed.
        sources: The rows of each.
        seed: The stage's seed.
        noun: What a row is called.
        expected: What there must be at least one of.

    Raises:
        RefusedError: There is no row.
    """
    from posttrain.data.mixing import RowOrder

    lengths = [len(rows) for rows in sources]
    if not any(lengths):
        raise RefusedError(
            f"no {noun} is left to train on",
            expected=expected,
            cure="see the ledger for why rows were dropped ('posttrain data show', 'posttrain data check')",
            place="data",
        )
    return RowOrder(lengths, [source.proportion for source in config.data], seed, config.batch_size)
