"""From what was written to the rows of a suite: distinct, judged, balanced, and an account that balances.

    drafts = kept + dropped, summed over reasons

Rows are taken in the order in which they were written, so that a suite of more rows begins with one of fewer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from posttrain.core.errors import DataError
from posttrain.evaluation.behaviours.description import Behaviour
from posttrain.evaluation.behaviours.distinct import DistinctTexts
from posttrain.evaluation.behaviours.filtering import compute_separation, judge_row
from posttrain.evaluation.behaviours.rows import BehaviourRow
from posttrain.evaluation.behaviours.writing import Draft

NOT_NEEDED = "not needed"
"""Good rows of a label of which there are enough."""
MAX_LISTED = 20
"""Dropped texts that are listed for each reason."""

Judge = Callable[[Sequence[BehaviourRow]], list[float | None]]
"""Maps rows to a filter's confidence in their labels."""


@dataclass(slots=True)
class DroppedRows:
    """Rows that were dropped for one reason, the first texts listed."""

    rows: int = 0
    listed: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Account:
    """What became of everything that was written.

    Example: eleven drafts, one a repeat: `drafts=11, kept=10, dropped={"duplicate": 1 row}`.
    """

    drafts: int = 0
    kept: int = 0
    dropped: dict[str, DroppedRows] = field(default_factory=dict)

    def drop(self, reason: str, text: str) -> None:
        """Count one draft as dropped."""
        entry = self.dropped.setdefault(reason, DroppedRows())
        entry.rows += 1
        if len(entry.listed) < MAX_LISTED:
            entry.listed.append(text)

    def check_balance(self) -> None:
        """Check that nothing is unaccounted for.

        Raises:
            DataError: It is, which is an error of this program.
        """
        accounted = self.kept + sum(entry.rows for entry in self.dropped.values())
        if accounted != self.drafts:
            raise DataError(
                f"the account does not balance: {self.drafts:,} drafts, {accounted:,} accounted for",
                expected="every draft kept or dropped with a reason",
                cure="this is an error of posttrain, not of the writer: please report it",
            )

    def to_json(self) -> dict[str, Any]:
        """Return the account as JSON-like values, the commonest reasons first."""
        reasons = sorted(self.dropped.items(), key=lambda item: (-item[1].rows, item[0]))
        dropped = {reason: {"rows": entry.rows, "listed": entry.listed} for reason, entry in reasons}
        return {"drafts": self.drafts, "kept": self.kept, "dropped": dropped}

    def describe(self) -> list[str]:
        """Return the account as plain lines."""
        lines = [f"drafts: {self.drafts:,}, of which {self.kept:,} are kept"]
        reasons = sorted(self.dropped.items(), key=lambda item: (-item[1].rows, item[0]))
        return lines + [f"  {entry.rows:,} dropped: {reason}" for reason, entry in reasons]


@dataclass(slots=True)
class Selection:
    """Rows of a suite, as they are found.

    Args:
        behaviour: What they ask for.
        num_rows: How many are wanted.
        threshold: What a filter's confidence must exceed; without a filter nothing is held against it.
    """

    behaviour: Behaviour
    num_rows: int
    threshold: float
    account: Account = field(default_factory=Account)
    _kept: dict[int, list[BehaviourRow]] = field(default_factory=lambda: {0: [], 1: []})
    _judged: list[tuple[int, float]] = field(default_factory=list)
    _distinct: DistinctTexts = field(default_factory=DistinctTexts)

    @property
    def num_kept(self) -> int:
        """Rows that were found so far."""
        return sum(len(rows) for rows in self._kept.values())

    @property
    def is_complete(self) -> bool:
        """Whether there are as many as are wanted."""
        return self.num_kept == self.num_rows

    @property
    def separation(self) -> float | None:
        """How well the filter tells the labels apart (`filtering.compute_separation`)."""
        return compute_separation(self._judged)

    @property
    def mean_confidence(self) -> float | None:
        """The filter's mean confidence in the labels of all rows that it judged."""
        return sum(value for _, value in self._judged) / len(self._judged) if self._judged else None

    def add(self, drafts: Sequence[Draft], judge: Judge | None) -> int:
        """Take what is good among drafts, and return how many rows that are wanted were found."""
        before = self.num_kept
        self.account.drafts += len(drafts)
        candidates: list[tuple[BehaviourRow, str]] = []
        for draft in drafts:
            reason = draft.reason if draft.row is None else self._distinct.add(draft.row.text)
            if draft.row is None or reason:
                self.account.drop(reason, draft.text)
            else:
                candidates.append((draft.row, draft.text))
        confidences = judge([row for row, _ in candidates]) if judge is not None else [None] * len(candidates)
        for (row, text), confidence in zip(candidates, confidences, strict=True):
            self._take(row, text, confidence, is_judged=judge is not None)
        return self.num_kept - before

    def _take(self, row: BehaviourRow, text: str, confidence: float | None, *, is_judged: bool) -> None:
        kept: BehaviourRow | None = row
        reason = ""
        if is_judged:
            kept, reason = judge_row(row, confidence, self.threshold)
        if confidence is not None:
            self._judged.append((row.matching, confidence))
        if kept is not None and not self._is_wanted(row.matching):
            kept, reason = None, NOT_NEEDED
        if kept is None:
            self.account.drop(reason, text)
            return
        self._kept[row.matching].append(kept)
        self.account.kept += 1

    def _is_wanted(self, label: int) -> bool:
        if self.behaviour.form == "ab":  # whoever writes a question writes both options: the order is balanced below
            return self.num_kept < self.num_rows
        return len(self._kept[label]) < (self.num_rows + 1 - label) // 2

    def list_rows(self) -> list[BehaviourRow]:
        """Return the rows, labels in turn: Yes and No, or the matching option first and last."""
        if self.behaviour.form == "ab":
            rows = [row for same in self._kept.values() for row in same]
            return [row if number % 2 == 0 else _turn(row) for number, row in enumerate(rows)]
        first, second = self._kept[0], self._kept[1]
        return [same[n] for n in range(max(len(first), len(second))) for same in (first, second) if n < len(same)]


def _turn(row: BehaviourRow) -> BehaviourRow:
    return replace(row, options=row.options[::-1], matching=len(row.options) - 1 - row.matching)
