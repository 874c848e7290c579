"""The promise of what measures a policy on one task: it answers problems, and sums up what came of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from posttrain.core.records import ItemResult, Problem


class Answerer(Protocol):
    """Gets a policy's answers to problems, each judged as it comes."""

    @property
    def policy_hash(self) -> str:
        """The policy that answers."""

    @property
    def num_samples(self) -> int:
        """How many items each problem gives."""

    @property
    def metric_name(self) -> str:
        """What the mean value of the items is called."""

    def answer(self, problems: Sequence[Problem], task_hash: str) -> Iterator[list[ItemResult]]:
        """Yield items as they are judged, some at a time, in any order."""

    def summarise(self, items: Sequence[ItemResult]) -> list[dict[str, Any]]:
        """Return the task's metrics (see `figures.summarise_items`)."""
