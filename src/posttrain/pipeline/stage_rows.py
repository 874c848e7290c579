"""The rows that a stage trains on: what such stages have in common, whatever a row is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol, TypeVar

from posttrain.data.ledger import Ledger
from posttrain.data.sources import DataSource
from posttrain.data.truncation import TruncationPolicy
from posttrain.pipeline.stage_costs import TrainingConfig


class RowKeys(Protocol):
    """The keys of every stage that is trained on rows, and what is asked of a configuration with them."""

    @property
    def data(self) -> list[DataSource]:
        """What it trains on."""

    @property
    def validation(self) -> list[DataSource]:
        """What it is validated on."""

    @property
    def max_length(self) -> int | None:
        """Most tokens of a row, None for the model's own limit."""

    @property
    def truncation(self) -> TruncationPolicy:
        """What becomes of longer ones."""

    @property
    def max_affected_fraction(self) -> float:
        """How many may be longer."""

    @property
    def steps(self) -> int | None:
        """Optimizer steps, None where `epochs` says."""

    @property
    def epochs(self) -> float | None:
        """Passes over the rows, None where `steps` says."""

    def identity(self) -> dict[str, Any]:
        """Return what decides the stage's result."""


class RowConfig(RowKeys, TrainingConfig, Protocol):
    """A configuration of a stage that moves weights on rows."""


class Rows(Protocol):
    """Tokenized rows of some sources."""

    @property
    def ledger(self) -> Ledger:
        """What became of every row."""

    @property
    def ledgers(self) -> list[Ledger]:
        """The same, one a source."""

    @property
    def num_tokenized(self) -> int:
        """How many rows were tokenized now rather than read from the store."""


T = TypeVar("T", bound=Rows)


@dataclass(frozen=True)  # with slots, StageRows[T](...) would fail: typing sets an attribute on what it makes
class StageRows(Generic[T]):
    """The tokenized rows of a stage: what it trains on and what it validates on."""

    train: T
    validation: T | None

    def list_ledgers(self) -> list[Ledger]:
        """Return what became of the rows of each source."""
        return [*self.train.ledgers, *(self.validation.ledgers if self.validation is not None else [])]


def describe_reading(data: StageRows[T], noun: Literal["rows", "pairs"]) -> str:
    """Return what became of the rows of a stage, in a line."""
    ledger, total = data.train.ledger, data.train.num_tokenized
    text = f"{ledger.rows_trained:,} of {ledger.rows_in:,} {noun}, {ledger.tokens_trained:,} trained tokens"
    reasons = "; ".join(f"{entry.rows:,} dropped: {reason}" for reason, entry in ledger.dropped.items())
    return f"{text}; {total:,} {noun} tokenized now" + (f"; {reasons}" if reasons else "")
