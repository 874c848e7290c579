"""Items of one task and policy without their texts, column by column: some dozens of bytes each.

What figures are made of fits in memory however many items there are; an item is put together when it is read.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Sequence
from typing import Any, get_args, get_type_hints, overload

from posttrain.core.records import ItemResult, Outcome

_STATUSES: tuple[Any, ...] = get_args(get_type_hints(Outcome)["status"])
_FAULTS: tuple[Any, ...] = (None, "policy", "harness")
_ABSENT = -1


class ItemColumns(Sequence[ItemResult]):
    """The items of some problems, by place: problem after problem, and of each sample after sample.

    Prompt, text and reference are left out, and so is why an outcome is what it is, but of faults of the harness.

    Args:
        task_hash: The task of all of them.
        policy_hash: The policy of all of them.
        ids: The problems' ids.
        num_samples: Items of each problem.
    """

    def __init__(self, task_hash: str, policy_hash: str, ids: Sequence[str], num_samples: int) -> None:
        self._task_hash, self._policy_hash = task_hash, policy_hash
        self._ids, self._num_samples = ids, num_samples
        size = len(ids) * num_samples
        self._values = array("d", bytes(8 * size))
        self._statuses = array("b", [_ABSENT]) * size
        self._faults = array("b", bytes(size))
        self._texts: list[str] = []
        self._numbers: dict[str, int] = {}
        # Of each item the numbers of its cluster, its answer and its why among the texts.
        self._named = [array("i", [_ABSENT]) * size for _ in range(3)]
        self._parts: dict[str, array[float]] = {}

    def __len__(self) -> int:
        return len(self._values)

    @overload
    def __getitem__(self, index: int) -> ItemResult: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[ItemResult]: ...
    def __getitem__(self, index: int | slice) -> ItemResult | Sequence[ItemResult]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        if self._statuses[place] == _ABSENT:
            raise KeyError(f"item {place} is not there yet")
        cluster, answer, why = (None if n[place] == _ABSENT else self._texts[n[place]] for n in self._named)
        parts = {name: column[place] for name, column in self._parts.items() if not math.isnan(column[place])}
        outcome = Outcome(
            _STATUSES[self._statuses[place]],
            self._values[place],
            why or "",
            _FAULTS[self._faults[place]],
            parts,
            answer,
        )
        name, sample = self._ids[place // self._num_samples], place % self._num_samples
        return ItemResult(name, cluster or "", self._task_hash, sample, outcome, self._policy_hash)

    def put(self, place: int, item: ItemResult) -> None:
        """Keep an item."""
        outcome = item.outcome
        self._values[place] = outcome.value
        self._statuses[place] = _STATUSES.index(outcome.status)
        self._faults[place] = _FAULTS.index(outcome.fault)
        texts = (item.cluster_id, outcome.answer, outcome.why if outcome.fault == "harness" else "")
        for column, text in zip(self._named, texts, strict=True):
            column[place] = _ABSENT if text is None else self._number(text)
        for name, value in outcome.parts.items():
            if name not in self._parts:
                self._parts[name] = array("d", [math.nan]) * len(self)
            self._parts[name][place] = value

    def remove(self, place: int) -> None:
        """Forget an item."""
        self._statuses[place] = _ABSENT
        for column in self._parts.values():
            column[place] = math.nan

    def has(self, place: int) -> bool:
        """Return whether an item is there."""
        return self._statuses[place] != _ABSENT

    def present(self) -> Iterator[ItemResult]:
        """Yield the items that are there."""
        return (self[place] for place in range(len(self)) if self.has(place))

    def count_part(self, part: str) -> int:
        """Return how many items have a part."""
        return sum(not math.isnan(value) for value in self._parts.get(part, ()))

    def _number(self, text: str) -> int:
        number = self._numbers.get(text)
        if number is None:
            number = self._numbers[text] = len(self._texts)
            self._texts.append(text)
        return number
