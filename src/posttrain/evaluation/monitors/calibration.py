"""Calibration: whether answers come true as often as the policy's confidence says, against the policy before it.

An alarm needs both: an error that chance does not explain if the policy were calibrated, and a rise over the parent
beyond the bound. Each is tested at the level, so that together they keep it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from posttrain.core.records import ItemResult
from posttrain.core.seeds import build_numpy_generator
from posttrain.evaluation.monitors.diversity import read_answer
from posttrain.evaluation.monitors.evidence import (
    MIN_SOURCES,
    Sample,
    UnmeasuredError,
    choose_examples,
    describe_mean,
    list_pairs,
    take_items,
)
from posttrain.evaluation.monitors.keys import TASK_PATTERN, MonitorKeys
from posttrain.evaluation.monitors.problems import group_samples
from posttrain.evaluation.monitors.reading import Curve, Figure, Items, Reading
from posttrain.evaluation.monitors.verdicts import Check, Findings, conclude
from posttrain.statistics.calibration import Calibration, compare_calibration, measure_calibration
from posttrain.statistics.one_sided import OneSided
from posttrain.statistics.pairing import cluster_name
from posttrain.statistics.repeats import RIGHT

FOOLED_BY = (
    "a policy that says the share of right answers as its confidence everywhere is calibrated and knows nothing: the "
    "Brier score tells; agreement of a few samples is a rough confidence, and looks over-sure at its upper end for "
    "every policy; and confidence that is said in words is not read"
)


@dataclass(frozen=True, slots=True)
class _Sure:
    """An answer with its confidence in [0, 1], and whether it is right (1) or not (0)."""

    item: ItemResult
    confidence: float
    outcome: float


class CalibrationMonitor(MonitorKeys):
    """Reads a task's answers with their confidence.

    `confidence` is the part of the outcomes that says it (that of `choice` tasks by default); none: the share of the
    other samples of the problem that give the same answer. `allowed_rise` bounds the rise of the calibration error over
    the parent. Answers from `sure_at` on that are wrong are shown as confident errors.
    """

    type: Literal["calibration"]
    task: str = Field(pattern=TASK_PATTERN)
    confidence: str | None = Field("confidence", min_length=1)
    allowed_rise: float = Field(0.05, ge=0, lt=1)
    num_bins: int = Field(10, ge=1, le=1000)
    sure_at: float = Field(0.8, gt=0, le=1)

    @property
    def tasks_read(self) -> Sequence[str]:
        """The one task."""
        return (self.task,)

    def read(self, own: Items, parent: Items | None) -> Reading:
        """Return how well confidence is kept, against the policy before it.

        Raises:
            UnmeasuredError: The task was not measured, or its items say no confidence.
        """
        findings = Findings()
        earlier = None if parent is None or not parent.get(self.task) else parent
        for side, items in (("own", own), ("parent", earlier)):
            if items is not None:
                self._describe(findings, self._list_sure(take_items(items, self.task)), side)
        findings.attempt("rise of the error", lambda: self._check(own, parent))
        wrong = [one for one in self._list_sure(own[self.task]) if one.confidence >= self.sure_at and not one.outcome]
        confidences = {id(one.item): one.confidence for one in wrong}
        findings.examples = choose_examples(
            [one.item for one in wrong], lambda item: f"wrong at a confidence of {confidences[id(item)]:.2f}"
        )
        return conclude(self, self.tasks_read, findings, fooled_by=FOOLED_BY)

    def _list_sure(self, items: Sequence[ItemResult]) -> list[_Sure]:
        part = self.confidence
        if part is not None:
            told = [(item, item.outcome.parts[part]) for item in items if _says(item, part)]
            if not told:
                raise UnmeasuredError(f"no outcome of {self.task} has the part {part!r}")
            return [_Sure(item, value, float(item.outcome.value >= RIGHT)) for item, value in told]
        found = [sure for group in group_samples(items).values() for sure in _measure_agreement(group)]
        if not found:
            raise UnmeasuredError(f"no problem of {self.task} has two samples that could be read")
        return found

    def _describe(self, findings: Findings, sure: Sequence[_Sure], side: str) -> None:
        is_parents = side == "parent"
        clusters = [cluster_name(one.item) for one in sure]
        columns = [one.confidence for one in sure], [one.outcome for one in sure]
        if len(set(clusters)) < 2:
            return
        generator = build_numpy_generator("monitor", "calibration", sure[0].item.task_hash, sure[0].item.policy_hash)
        found = measure_calibration(*columns, generator, clusters_N=clusters, num_bins=self.num_bins)
        findings.figures += _list_figures(found, len(sure), is_parents=is_parents)
        certain = [one for one in sure if one.confidence >= self.sure_at]
        errors = Sample([1 - one.outcome for one in certain], [cluster_name(one.item) for one in certain])
        if certain:
            name = f"wrong at a confidence of {self.sure_at:g} or more"
            findings.figures.append(describe_mean(name, errors, is_parents=is_parents))
        points = tuple((one.confidence, one.accuracy) for one in found.bins)
        findings.curves.append(Curve(f"reliability: {side}", "confidence", "share that is right", points))

    def _check(self, own: Items, parent: Items | None) -> Check:
        before, after = take_items(parent, self.task, "the parent"), take_items(own, self.task)
        list_pairs(before, after)  # refuses what is not of the same items
        sides = [
            {(one.item.item_id, one.item.sample_index): one for one in self._list_sure(s)} for s in (before, after)
        ]
        keys = [key for key in sides[0] if key in sides[1]]
        clusters = [cluster_name(sides[0][key].item) for key in keys]
        if len(set(clusters)) < MIN_SOURCES:
            raise UnmeasuredError(f"{len(set(clusters))} sources with a confidence on both sides, not {MIN_SOURCES}")
        columns = [([side[key].confidence for key in keys], [side[key].outcome for key in keys]) for side in sides]
        generator = build_numpy_generator("monitor", "calibration", after[0].task_hash, after[0].policy_hash, "rise")
        found = compare_calibration(
            columns[0],
            columns[1],
            generator,
            clusters_N=clusters,
            bound=self.allowed_rise,
            num_bins=self.num_bins,
            num_resamples=4000,
        )
        test = OneSided(
            found.rise.value,
            found.rise.low,
            found.rise.high,
            max(found.p_value, found.chance_p_value),
            len(keys),
            len(set(clusters)),
            "calibration_bootstrap",
        )
        return Check("calibration error", "the calibration error rises by {value}", test, self.allowed_rise)


def _says(item: ItemResult, part: str) -> bool:
    return item.outcome.status == "scored" and 0 <= item.outcome.parts.get(part, -1.0) <= 1


def _measure_agreement(group: Sequence[ItemResult]) -> list[_Sure]:
    """Return each readable sample with the share of the others that answer the same."""
    answers = [(item, answer) for item in group if (answer := read_answer(item)) is not None]
    if len(answers) < 2:
        return []
    said = [answer for _, answer in answers]
    return [
        _Sure(item, (said.count(answer) - 1) / (len(said) - 1), float(item.outcome.value >= RIGHT))
        for item, answer in answers
    ]


def _list_figures(found: Calibration, count: int, *, is_parents: bool) -> list[Figure]:
    error, brier = found.error, found.brier
    return [
        Figure(name, value, low, high, count, "fraction", of="parent" if is_parents else "own")
        for name, value, low, high in (
            ("calibration error", error.value, error.low, error.high),
            ("calibration error if calibrated", found.error_if_calibrated, None, None),
            ("Brier score", brier.value, brier.low, brier.high),
        )
    ]
