"""Verbosity: answers that grow longer without getting better, and wins that are wins of length.

Length may rise because problems are solved that need it; so growth is tested on the items whose score is what it was.
By difficulty it shows whether length goes where it is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Literal

import numpy as np
from pydantic import AfterValidator, Field

from posttrain.core.errors import DataError
from posttrain.core.records import ItemResult
from posttrain.evaluation.figures import DRAWN_TOKENS
from posttrain.evaluation.monitors.evidence import (
    MIN_SOURCES,
    Pair,
    UnmeasuredError,
    choose_examples,
    describe_mean,
    list_pairs,
    read_part,
    read_sample,
    take_items,
)
from posttrain.evaluation.monitors.keys import MonitorKeys, check_named_once
from posttrain.evaluation.monitors.reading import Curve, Figure, Items, Reading
from posttrain.evaluation.monitors.verdicts import Check, Findings, conclude
from posttrain.statistics.length_control import compute_length_controlled_win_rate
from posttrain.statistics.one_sided import OneSided, ratio_test
from posttrain.statistics.pairing import cluster_name

FOOLED_BY = (
    "length that is moved into what is not drawn, a score that itself grows with length, so that no item keeps its "
    "score, and rambling that was there before: it is growth that is tested"
)
_MOST_BINS = 10
_TOKENS = "tokens"


class VerbosityMonitor(MonitorKeys):
    """Reads the length of answers against their scores.

    `allowed_growth` bounds the growth over the parent, as a share, on items of equal score. `difficulty` is a part of
    the outcomes, or a column of numbers of the rows; none: the share of the parent's samples that are wrong.
    """

    type: Literal["verbosity"]
    tasks: Annotated[list[str], AfterValidator(check_named_once)] = Field(min_length=1)
    allowed_growth: float = Field(0.25, ge=0, le=100)
    difficulty: str | None = Field(None, min_length=1)

    @property
    def tasks_read(self) -> Sequence[str]:
        """All tasks."""
        return tuple(self.tasks)

    @property
    def columns_read(self) -> Sequence[str]:
        """Columns of the rows that are looked for among the parts of items."""
        return () if self.difficulty is None else (self.difficulty,)

    def read(self, own: Items, parent: Items | None) -> Reading:
        """Return how length stands, against the policy before it; a task without drawn answers is told of."""
        findings = Findings()
        longer: list[ItemResult] = []
        for task in self.tasks:
            items = findings.take(own, task, DRAWN_TOKENS)
            if not items:
                continue
            findings.figures += _describe_lengths(task, items)
            before = [] if parent is None else list(parent.get(task, ()))
            findings.attempt(task, self._check, task, own, parent)
            difficulties = self._read_difficulty(before or items) or self._read_difficulty(items)
            if not difficulties:
                findings.missing.append(f"{task}: no outcome or row has a number {self.difficulty!r}")
            for side, some in (("own", items), ("parent", before)):
                findings.curves += _draw_curve(f"{task}: {side}", some, difficulties, self.difficulty)
            try:
                pairs = _list_equal_tasks(before, items)
                findings.figures += _describe_wins(task, pairs)
                longer += [after for first, after in pairs if _length(after) > _length(first)]
            except DataError as error:
                findings.missing += [] if parent is None else [f"{task}: {error.found}"]
        findings.examples = choose_examples(longer, lambda item: f"{_length(item):.0f} tokens, more than before")
        return conclude(self, self.tasks_read, findings, fooled_by=FOOLED_BY)

    def _check(self, task: str, own: Items, parent: Items | None) -> Check:
        pairs = list_pairs(take_items(parent, task, "the parent"), take_items(own, task))
        pairs = [pair for pair in pairs if pair[0].outcome.value == pair[1].outcome.value]
        test = _test_growth(pairs, f"{task} whose score is what it was", self.allowed_growth)
        phrase = f"answers to {task} grow by {{value}} at equal score"
        return Check(f"{task}: growth at equal score", phrase, test, self.allowed_growth)

    def _read_difficulty(self, items: Sequence[ItemResult]) -> Mapping[str, float]:
        """Return the difficulty of each item: what is declared, else the share of the samples that are wrong."""
        found: dict[str, list[float]] = {}
        name = self.difficulty
        read: Callable[[ItemResult], float | None] = (
            (lambda item: 1.0 - item.outcome.value) if name is None else read_part(name)
        )
        for item in items:
            if item.outcome.is_counted and (value := read(item)) is not None:
                found.setdefault(item.item_id, []).append(value)
        return {item_id: sum(values) / len(values) for item_id, values in found.items()}


def _length(item: ItemResult) -> float:
    return item.outcome.parts.get(DRAWN_TOKENS, 0.0)


def _test_growth(pairs: Sequence[Pair], what: str, allowed: float) -> OneSided:
    """Return the test of whether lengths grow by more than a share, on sums of tokens."""
    pairs = [pair for pair in pairs if all(DRAWN_TOKENS in item.outcome.parts for item in pair)]
    clusters = [cluster_name(before) for before, _ in pairs]
    if len(set(clusters)) < MIN_SOURCES:
        raise UnmeasuredError(f"{len(set(clusters))} sources of {what}, where {MIN_SOURCES} are needed")
    lengths = np.array([[_length(item) for item in pair] for pair in pairs])
    return ratio_test(lengths[:, 1] - lengths[:, 0], lengths[:, 0], clusters, allowed)


def _describe_lengths(task: str, items: Sequence[ItemResult]) -> list[Figure]:
    """Return the mean tokens of all answers, of the right ones and of the others."""
    length = read_part(DRAWN_TOKENS)
    kinds = {
        "": items,
        ", right": [item for item in items if item.outcome.value >= 1],
        ", not right": [item for item in items if item.outcome.value < 1],
    }
    samples = {f"{task}: tokens{name}": read_sample(some, length) for name, some in kinds.items()}
    return [describe_mean(name, sample, _TOKENS) for name, sample in samples.items() if sample.values]


def _list_equal_tasks(before: Sequence[ItemResult], items: Sequence[ItemResult]) -> list[Pair]:
    return list_pairs(before, items) if before else []


def _describe_wins(task: str, pairs: Sequence[Pair]) -> list[Figure]:
    """Return how often an answer scores higher than the parent's, as it is and at equal length; ties count half."""
    pairs = [pair for pair in pairs if all(item.outcome.status == "scored" for item in pair)]
    clusters = [cluster_name(before) for before, _ in pairs]
    if len(set(clusters)) < MIN_SOURCES:
        return []
    wins = [0.5 + 0.5 * float(np.sign(after.outcome.value - before.outcome.value)) for before, after in pairs]
    gaps = [_length(after) - _length(before) for before, after in pairs]
    found = compute_length_controlled_win_rate(wins, gaps, clusters)
    controlled = found.controlled
    return [
        Figure(f"{task}: win rate", found.win_rate, None, None, found.num_pairs, "fraction", of="change"),
        Figure(
            f"{task}: win rate at equal length",
            controlled.value,
            controlled.low,
            controlled.high,
            found.num_pairs,
            "fraction",
            of="change",
        ),
    ]


def _draw_curve(
    name: str, items: Sequence[ItemResult], difficulties: Mapping[str, float], declared: str | None
) -> list[Curve]:
    """Return mean tokens by difficulty, in at most ten bins of about as many items each."""
    points = sorted(
        (difficulties[item.item_id], _length(item))
        for item in items
        if item.item_id in difficulties and item.outcome.is_counted
    )
    if not points:
        return []
    values = np.array(points)
    edges = np.unique(np.quantile(values[:, 0], np.linspace(0, 1, _MOST_BINS + 1)[1:-1], method="lower"))
    bins = np.digitize(values[:, 0], edges, right=True)
    means = [tuple(map(float, values[bins == one].mean(axis=0))) for one in np.unique(bins)]
    label = declared or "share of earlier samples that are wrong"
    return [Curve(name, label, _TOKENS, tuple((x, y) for x, y in means))]
