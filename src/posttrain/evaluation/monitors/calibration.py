"""Calibration: whether answers come true as often as the policy's confidence says, against the policy before it.

Two things are tested: the calibration error, which counts every gap and is upwards biased for few items, and
over-confidence, the mean of confidence less truth, which finds the common failure with far fewer. Each must be shown to
have risen over the parent by more than the bound, and to be there: an error that chance does not explain if the policy
were calibrated, a mean above 0. Both halves are tested at the level, so that together they keep it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
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
from posttrain.evaluation.monitors.verdicts import Check, Findings, conclude, count_resamples
from posttrain.statistics.calibration import Calibration, compare_calibration, measure_calibration
from posttrain.statistics.one_sided import OneSided, mean_test, rise_test
from posttrain.statistics.pairing import build_pairs, cluster_name
from posttrain.statistics.repeats import RIGHT

FOOLED_BY = (
    "a policy that says the share of right answers as its confidence everywhere is calibrated and knows nothing: the "
    "Brier score tells; agreement of a few samples is a rough confidence, and looks over-sure at its upper end for "
    "every policy; and confidence that is said in words is read by the scorer or not at all"
)


OVER_CONFIDENCE = "over-confidence"
_NUM_TESTS = 2


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
        findings.attempt("rise of the error", lambda: self._check_error(own, parent))
        findings.attempt(OVER_CONFIDENCE, lambda: self._check_over_confidence(own, parent))
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
        gaps = Sample([one.confidence - one.outcome for one in sure], clusters)
        findings.figures.append(describe_mean(OVER_CONFIDENCE, gaps, is_parents=is_parents))
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

    def _pair(self, own: Items, parent: Items | None) -> list[tuple[_Sure, _Sure]]:
        """Return the answers that have a confidence on both sides, before and after.

        Raises:
            UnmeasuredError: They are of too few sources.
        """
        before, after = take_items(parent, self.task, "the parent"), take_items(own, self.task)
        list_pairs(before, after)  # refuses what is not of the same items
        later = {(one.item.item_id, one.item.sample_index): one for one in self._list_sure(after)}
        earlier = [(one, (one.item.item_id, one.item.sample_index)) for one in self._list_sure(before)]
        pairs = [(one, later[key]) for one, key in earlier if key in later]
        num_sources = len({cluster_name(one.item) for one, _ in pairs})
        if num_sources < MIN_SOURCES:
            raise UnmeasuredError(f"{num_sources} sources with a confidence on both sides, not {MIN_SOURCES}")
        return pairs

    def _check_error(self, own: Items, parent: Items | None) -> Check:
        pairs = self._pair(own, parent)
        clusters = [cluster_name(one.item) for one, _ in pairs]
        sides = [([pair[k].confidence for pair in pairs], [pair[k].outcome for pair in pairs]) for k in range(2)]
        last = pairs[0][1].item
        found = compare_calibration(
            sides[0],
            sides[1],
            build_numpy_generator("monitor", "calibration", last.task_hash, last.policy_hash, "rise"),
            clusters_N=clusters,
            bound=self.allowed_rise,
            num_bins=self.num_bins,
            num_resamples=count_resamples(self.level, _NUM_TESTS),
        )
        rise, p_value = found.rise, max(found.p_value, found.chance_p_value)
        num_sources = len(set(clusters))
        test = OneSided(rise.value, rise.low, rise.high, p_value, len(pairs), num_sources, "calibration_bootstrap")
        return Check("calibration error", "the calibration error rises by {value}", test, self.allowed_rise)

    def _check_over_confidence(self, own: Items, parent: Items | None) -> Check:
        """Test whether confidence outruns the truth, and does so by more than before: both must be shown."""
        pairs = self._pair(own, parent)
        clusters = [cluster_name(one.item) for one, _ in pairs]
        before, after = ([pair[k].confidence - pair[k].outcome for pair in pairs] for k in range(2))
        rise = rise_test(build_pairs(before, after, clusters), self.allowed_rise)
        level = mean_test(after, clusters, 0.0, value_range=(-1.0, 1.0))
        test = replace(rise, p_value=max(rise.p_value, level.p_value), method="intersection_union")
        return Check(OVER_CONFIDENCE, "confidence outruns the truth, and by {value} more", test, self.allowed_rise)


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
