"""Contamination as it shows in scores: what is gained on the rows themselves and not on the same skill rewritten.

    gap = (own - parent on the original rows) - (own - parent on the perturbed rows)

A stage that learns the skill gains on both; one that learns the rows gains on the original alone. The difference in
differences leaves out how much harder the perturbed rows are, which the parent's own drop tells. Whether evaluation
rows stand in training data is looked for by `posttrain data contamination`.

Source: Zhang et al. 2024, "A Careful Examination of Large Language Model Performance on Grade School Arithmetic"
(arXiv 2405.00332), for the drop to rewritten rows as the sign; the parent as control is this project's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from posttrain.core.records import ItemResult
from posttrain.evaluation.monitors.evidence import (
    MIN_SOURCES,
    Pair,
    Sample,
    check_readable,
    choose_examples,
    describe_mean,
    list_pairs,
    read_sample,
    take_items,
)
from posttrain.evaluation.monitors.keys import TASK_PATTERN, MonitorKeys
from posttrain.evaluation.monitors.reading import Items, Reading
from posttrain.evaluation.monitors.verdicts import Check, Findings, conclude
from posttrain.statistics.one_sided import gap_test
from posttrain.statistics.pairing import cluster_name

FOOLED_BY = (
    "training on the perturbed rows too, on paraphrases of both, or a stage that lifts every score to its ceiling, "
    "where no gap is left to see; and by rows the parent knew already, whose gain was an earlier stage's"
)


class ContaminationMonitor(MonitorKeys):
    """Reads a task and the same skill on rewritten rows; `allowed_gap` bounds what is gained on the first alone."""

    type: Literal["contamination"]
    original: str = Field(pattern=TASK_PATTERN)
    perturbed: str = Field(pattern=TASK_PATTERN)
    allowed_gap: float = Field(0.05, ge=0, lt=1)

    @model_validator(mode="after")
    def _check_different(self) -> ContaminationMonitor:
        if self.original == self.perturbed:
            raise ValueError("'original' and 'perturbed' are one task: nothing could be gained on one alone")
        return self

    @property
    def tasks_read(self) -> Sequence[str]:
        """Both tasks."""
        return (self.original, self.perturbed)

    def read(self, own: Items, parent: Items | None) -> Reading:
        """Return what was gained on the original rows beyond what was gained on the perturbed ones.

        Raises:
            UnmeasuredError: A task was not measured.
        """
        findings = Findings()
        for task in self.tasks_read:
            findings.figures.append(describe_mean(task, read_sample(take_items(own, task), _read_value)))
            if parent is not None and parent.get(task):
                earlier = read_sample(parent[task], _read_value)
                findings.figures.append(describe_mean(task, earlier, is_parents=True))
        findings.attempt("gap", self._check, own, parent)
        if parent is not None and parent.get(self.original):
            pairs = list_pairs(parent[self.original], own[self.original])
            gained = [after for before, after in pairs if after.outcome.value > before.outcome.value]
            findings.examples = choose_examples(gained, lambda item: "gained on the original rows")
        return conclude(self, self.tasks_read, findings, fooled_by=FOOLED_BY)

    def _check(self, own: Items, parent: Items | None) -> Check:
        sides = []
        for task in self.tasks_read:
            before = take_items(parent, task, "the parent")
            check_readable(before, f"the parent to {task}")
            sides.append(_read_changes(list_pairs(before, take_items(own, task))).check(task, MIN_SOURCES))
        first, second = ((np.array(side.values), side.clusters) for side in sides)
        phrase = f"{{value}} is gained on {self.original} beyond what is gained on {self.perturbed}"
        return Check(
            "gained on the original alone", phrase, gap_test(first, second, self.allowed_gap), self.allowed_gap
        )


def _read_value(item: ItemResult) -> float | None:
    return item.outcome.value if item.outcome.is_counted else None


def _read_changes(pairs: Sequence[Pair]) -> Sample:
    return Sample(
        [after.outcome.value - before.outcome.value for before, after in pairs],
        [cluster_name(before) for before, _ in pairs],
    )
