"""Collapse: whether a policy finds less and less, while what it finds first may be right more often.

Entropy by token is how open the policy is; unique accepted solutions are what a later stage can still learn from. Both
are held against the parent, and against the base where a bound is given: six rounds that each keep 80 % keep 26 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from posttrain.core.records import ItemResult
from posttrain.evaluation.monitors.diversity import read_collisions, read_entropy
from posttrain.evaluation.monitors.evidence import MIN_SOURCES, Sample, choose_examples, describe_mean, take_items
from posttrain.evaluation.monitors.keys import TASK_PATTERN, MonitorKeys
from posttrain.evaluation.monitors.problems import (
    ReadSamples,
    Samples,
    group_samples,
    measure_relative_drop,
    pair_problems,
)
from posttrain.evaluation.monitors.reading import Curve, Figure, Items, Reading
from posttrain.evaluation.monitors.verdicts import Check, Findings, conclude
from posttrain.statistics.collapse import compute_headroom, compute_unique_accepted, fit_trend
from posttrain.statistics.pairing import cluster_name
from posttrain.statistics.repeats import RIGHT

FOOLED_BY = (
    "a policy that loses the skill finds fewer solutions too (pass@1 stands beside); filler that makes one solution "
    "look like many; a temperature other than 1, at which drawn likelihoods are no entropy; and collapse elsewhere"
)
ENTROPY, UNIQUE = "entropy", "unique accepted solutions"


class CollapseMonitor(MonitorKeys):
    """Reads a task of which several samples are drawn at temperature 1.

    `allowed_drop` bounds the loss of entropy and of unique accepted solutions, as a share of the parent's;
    `allowed_drop_from_base` that from the base.
    """

    type: Literal["collapse"]
    task: str = Field(pattern=TASK_PATTERN)
    allowed_drop: float = Field(0.3, ge=0, lt=1)
    allowed_drop_from_base: float | None = Field(None, ge=0, lt=1)

    @property
    def tasks_read(self) -> Sequence[str]:
        """The one task."""
        return (self.task,)

    def read(self, own: Items, parent: Items | None) -> Reading:
        """Return what is left of the parent's entropy and solutions."""
        return self.read_beside_base(own, parent, None)

    def read_beside_base(self, own: Items, parent: Items | None, base: Items | None) -> Reading:
        """Return what is left of the parent's entropy and solutions, and of the base's.

        Raises:
            UnmeasuredError: The task was not measured.
        """
        findings = Findings()
        items = take_items(own, self.task)
        for name, read in _TESTED.items():
            findings.attempt(name, lambda n=name, r=read: self._check(n, r, own, parent, self.allowed_drop, "parent"))
            if (bound := self.allowed_drop_from_base) is not None and base is not None:
                findings.attempt(name, lambda n=name, r=read, b=bound: self._check(n, r, own, base, b, "base"))
        earlier = [] if parent is None else list(parent.get(self.task, ()))
        findings.figures += _describe_side(items, is_parents=False)
        findings.figures += _describe_side(earlier, is_parents=True) if earlier else []
        self._add_trend(findings, [side for side in (base, parent, own) if side is not None and side.get(self.task)])
        findings.examples = choose_examples(_list_single(items), lambda item: "the only accepted solution found")
        return conclude(self, self.tasks_read, findings, fooled_by=FOOLED_BY)

    # many parameters: what is read, both sides, and how much may be lost against which
    def _check(
        self, name: str, read: ReadSamples, own: Items, reference: Items | None, allowed: float, side: str
    ) -> Check:
        pairs = pair_problems(take_items(reference, self.task, f"the {side}"), take_items(own, self.task))
        test = measure_relative_drop(pairs, read, name, allowed)
        return Check(
            f"{name}: change by the {side}'s", f"{{value}} of the {side}'s {name} lost", test, allowed, sign=-1
        )

    def _add_trend(self, findings: Findings, stages: Sequence[Items]) -> None:
        """Add the line of the entropy through base, parent and policy, where these are three policies."""
        groups = [group_samples(stage[self.task]) for stage in stages]
        policies = [next(iter(stage[self.task])).policy_hash for stage in stages]
        names = [name for name in groups[0] if all(name in group for group in groups)] if groups else []
        if len(set(policies)) < 3 or len(names) < MIN_SOURCES:
            return
        read = [[read_entropy(group[name]) for group in groups] for name in names]
        values = [[value for value in row if value is not None] for row in read]
        kept = [
            (row, cluster_name(groups[0][name][0])) for row, name in zip(values, names, strict=True) if len(row) == 3
        ]
        if len({cluster for _, cluster in kept}) < MIN_SOURCES:
            return
        trend = fit_trend([row for row, _ in kept], clusters_P=[cluster for _, cluster in kept])
        slope = trend.slope
        findings.figures.append(
            Figure("entropy by stage", slope.value, slope.low, slope.high, len(kept), "nats/token", of="change")
        )
        means = [sum(row[stage] for row, _ in kept) / len(kept) for stage in range(3)]
        points = tuple((float(stage), mean) for stage, mean in enumerate(means))
        findings.curves.append(Curve("entropy", "base, parent, policy", "nats/token", points))


def _count_unique(samples: Samples) -> float:
    solutions = [" ".join(item.text.split()) for item in samples]
    return compute_unique_accepted(solutions, [item.outcome.value >= RIGHT for item in samples])


def _count_right(samples: Samples) -> int:
    return sum(item.outcome.value >= RIGHT for item in samples)


def _read_first(samples: Samples) -> float:
    return _count_right(samples) / len(samples)


def _read_headroom(samples: Samples) -> float:
    return compute_headroom(len(samples), _count_right(samples), len(samples))


_TESTED: dict[str, ReadSamples] = {ENTROPY: read_entropy, UNIQUE: _count_unique}
_FIGURES: tuple[tuple[str, str, ReadSamples], ...] = (
    (ENTROPY, "nats/token", read_entropy),
    (UNIQUE, "solutions", _count_unique),
    ("pass@1", "fraction", _read_first),
    ("headroom: pass@n - pass@1", "fraction", _read_headroom),
    ("samples that differ", "fraction", read_collisions),
)


def _describe_side(items: Sequence[ItemResult], *, is_parents: bool) -> list[Figure]:
    groups = [group for group in group_samples(items).values() if len(group) >= 2]
    figures = []
    for name, unit, read in _FIGURES:
        found = [(value, cluster_name(group[0])) for group in groups if (value := read(group)) is not None]
        sample = Sample([value for value, _ in found], [cluster for _, cluster in found])
        figures.append(describe_mean(name, sample, unit, is_parents=is_parents))
    return figures


def _list_single(items: Sequence[ItemResult]) -> list[ItemResult]:
    """Return an accepted sample of each problem of which all accepted ones say the same."""
    found = []
    for group in group_samples(items).values():
        accepted = [item for item in group if item.outcome.value >= RIGHT]
        if len(accepted) >= 2 and _count_unique(accepted) == 1:
            found.append(accepted[0])
    return found
