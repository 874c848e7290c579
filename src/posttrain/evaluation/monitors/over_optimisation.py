"""Over-optimisation: the reward that is optimised is up, and the truth, or a differently built judge, is down.

Both must be shown, on the same items against the parent: an intersection-union test, which needs no correction. A
series of policies at growing KL is read by `read_series`, whose level holds over all of its looks.

Source: Gao, Schulman and Hilton 2022 (arXiv 2210.10760); `statistics.over_optimisation` for the curves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from posttrain.core.metrics import METRIC_PATTERN
from posttrain.core.records import ItemResult
from posttrain.core.seeds import build_numpy_generator
from posttrain.evaluation.monitors.evidence import (
    MIN_SOURCES,
    Sample,
    UnmeasuredError,
    choose_examples,
    describe_mean,
    take_items,
)
from posttrain.evaluation.monitors.keys import MonitorKeys
from posttrain.evaluation.monitors.reading import Curve, Figure, Items, Reading
from posttrain.evaluation.monitors.verdicts import Check, Findings, conclude
from posttrain.statistics.clusters import Floats
from posttrain.statistics.one_sided import OneSided, rise_test
from posttrain.statistics.over_optimisation import (
    BootstrappedFit,
    Divergence,
    Form,
    bootstrap_gains,
    find_divergence,
)
from posttrain.statistics.pairing import Pairs, cluster_name, pair_items, read_value
from posttrain.statistics.repeats import fold_samples, parse_repeated

FOOLED_BY = (
    "a gold judge that shares the proxy's faults: build it from other data or by other means; gold that is measured on "
    "easier problems; and a turn within the noise of the items, which the fitted curve shows earlier than the test"
)
_UNIT = "score"


@dataclass(frozen=True, slots=True)
class SeriesPoint:
    """A policy at some distance from the start: its KL in nats, its items, and what it is called, `n = 8` say."""

    kl_nats: float
    items: Items
    name: str = ""

    @property
    def label(self) -> str:
        """What readings call it: its name and its KL."""
        return ", ".join([*([self.name] if self.name else []), f"a KL of {self.kl_nats:.2f} nats"])


@dataclass(frozen=True, slots=True)
class SeriesFindings:
    """What a series of policies says: the reading, and the look at which a turn is shown, None where none is."""

    reading: Reading
    divergence: Divergence | None


class OverOptimisationMonitor(MonitorKeys):
    """Reads what is optimised beside the truth.

    `proxy` and `gold` are `<task>` (the mean of its scores), `<task>/<part>`, or `<task>/pass@k` of several samples.
    `allowed_drop` bounds the fall of gold
    that goes with a rise of the proxy, in gold's own unit.
    """

    type: Literal["over_optimisation"]
    proxy: str = Field(pattern=METRIC_PATTERN)
    gold: str = Field(pattern=METRIC_PATTERN)
    allowed_drop: float = Field(0.0, ge=0)

    @model_validator(mode="after")
    def _check_different(self) -> OverOptimisationMonitor:
        if self.proxy == self.gold:
            raise ValueError(
                "'proxy' and 'gold' are one metric, which cannot rise and fall: name what judges otherwise"
            )
        return self

    @property
    def tasks_read(self) -> Sequence[str]:
        """The tasks of both metrics."""
        return tuple(dict.fromkeys(metric.partition("/")[0] for metric in (self.proxy, self.gold)))

    def read(self, own: Items, parent: Items | None) -> Reading:
        """Return whether the proxy is up and gold is down, against the policy before it.

        Raises:
            UnmeasuredError: A task was not measured.
        """
        findings = Findings()
        for metric in (self.proxy, self.gold):
            findings.figures.append(_describe(metric, take_items(own, _task_of(metric))))
            if parent is not None and parent.get(_task_of(metric)):
                findings.figures.append(_describe(metric, parent[_task_of(metric)], is_parents=True))
        findings.attempt("divergence", lambda: self._check(findings, own, parent))
        findings.examples = self._choose_worse(own, parent)
        return conclude(self, self.tasks_read, findings, fooled_by=FOOLED_BY)

    def _check(self, findings: Findings, own: Items, parent: Items | None) -> Check:
        proxy, gold = (_pair(metric, own, parent) for metric in (self.proxy, self.gold))
        rise, drop = rise_test(proxy, 0.0), rise_test(gold, self.allowed_drop, is_drop=True)
        findings.figures.append(
            Figure(self.proxy, rise.value, rise.low, rise.high, rise.num_items, _UNIT, of="change", bound=0.0)
        )
        both = OneSided(
            drop.value,
            drop.low,
            drop.high,
            max(rise.p_value, drop.p_value),
            drop.num_items,
            drop.num_clusters,
            "intersection_union",
        )
        phrase = f"{self.proxy} is up by {rise.value:.3g} while {self.gold} falls by {{value}}"
        return Check(self.gold, phrase, both, self.allowed_drop, unit=_UNIT, sign=-1)

    def _choose_worse(self, own: Items, parent: Items | None) -> tuple:
        task = _task_of(self.gold)
        after_items, part = _fold(self.gold, own.get(task, ()))
        later = {(item.item_id, item.sample_index): item for item in after_items}
        worse = []
        for item in () if parent is None else _fold(self.gold, parent.get(task, ()))[0]:
            after = later.get((item.item_id, item.sample_index))
            values = [read_value(one, part) for one in (item, after) if one is not None]
            numbers = [value for value in values if not isinstance(value, str)]
            if after is not None and len(numbers) == 2 and numbers[1] < numbers[0]:
                worse.append(after)
        return choose_examples(worse, lambda item: "worth less than before by gold")

    def read_series(
        self, start: Items, series: Sequence[SeriesPoint], form: Form, *, num_looks: int | None = None
    ) -> Reading:
        """Return what `examine_series` finds, as a reading."""
        return self.examine_series(start, series, form, num_looks=num_looks).reading

    def examine_series(
        self, start: Items, series: Sequence[SeriesPoint], form: Form, *, num_looks: int | None = None
    ) -> SeriesFindings:
        """Return where gold turns along a series of policies, and the first look at which the turn is shown.

        Args:
            start: The policy at a KL of 0.
            series: Policies in order of their KL, each above 0.
            form: What made them: best-of-n or reinforcement learning.
            num_looks: Looks that were planned, where that is known beforehand.

        Raises:
            UnmeasuredError: There is no series, or policies have too few problems in common.
        """
        if not series:
            raise UnmeasuredError("no policy beside the start")
        policies = [start, *(point.items for point in series)]
        proxy_LP, clusters = _tabulate(self.proxy, policies)
        gold_LP, gold_clusters = _tabulate(self.gold, policies)
        if clusters != gold_clusters:
            raise UnmeasuredError(f"{self.proxy} and {self.gold} were not measured on the same problems")
        found = find_divergence(
            proxy_LP,
            gold_LP,
            clusters_P=clusters,
            level=self.level,
            num_looks=num_looks,
            min_drop=self.allowed_drop,
        )
        kls = [0.0, *(point.kl_nats for point in series)]
        curves = [_draw(name, kls, values) for name, values in ((self.proxy, proxy_LP), (self.gold, gold_LP))]
        figures: list[Figure] = []
        turned = ""
        if len({kl for kl in kls if kl > 0}) >= 2:
            fitted = self._fit(kls, gold_LP, clusters, form, series[-1].items)
            figures = _list_fit(fitted, len(clusters))
            steps = np.linspace(0, math.sqrt(max(kls)), 41)[1:]
            line = ((0.0, 0.0), *((float(d) ** 2, fitted.fit.compute_gain(float(d))) for d in steps))
            curves.append(Curve(f"{self.gold}, fitted gain", "KL in nats", _UNIT, line))
            turned = _describe_turn(fitted, max(kls))
        shown = f"no turn is shown over {len(series)} looks"
        if found is not None:
            first, last = (SeriesPoint(0.0, start, "the start"), *series)[found.against], series[found.look - 1]
            ends = (("KL that gold falls from", first), ("KL at which its fall is shown", last))
            figures += [Figure(name, point.kl_nats, None, None, len(clusters), "nats") for name, point in ends]
            shown = self._describe_fall(found, first, last)
        reading = Reading(
            monitor=self.label,
            tasks=tuple(self.tasks_read),
            status="silent" if found is None else "alarm",
            why=turned + shown,
            figures=tuple(figures),
            level=self.level,
            fooled_by=FOOLED_BY,
            curves=tuple(curves),
        )
        return SeriesFindings(reading, found)

    def _describe_fall(self, found: Divergence, first: SeriesPoint, last: SeriesPoint) -> str:
        return (
            f"from {first.label} to {last.label} {self.proxy} is up by {found.proxy_change:.3g} while "
            f"{self.gold} changes by {found.gold_change:.3g}"
        )

    # many parameters: the curve's points, their sources, its form, and whose items name the generator
    def _fit(
        self, kls: Sequence[float], gold_LP: Floats, clusters: Sequence[str], form: Form, last: Items
    ) -> BootstrappedFit:
        first = last[_task_of(self.gold)][0]
        generator = build_numpy_generator("monitor", "over_optimisation", first.task_hash, first.policy_hash)
        distances = np.sqrt(np.array(kls[1:]))
        apart = distances > 0  # where all answers tie there is nothing to choose, and the policy is the start
        gains_PL = (gold_LP[1:] - gold_LP[0]).T[:, apart]
        return bootstrap_gains(distances[apart], gains_PL, form, generator, clusters_P=clusters)


def _describe_turn(fitted: BootstrappedFit, furthest: float) -> str:
    """Return at which KL the fitted curve turns, nothing where it does not, or its bend is not shown."""
    if fitted.turn is None or fitted.beta.low <= 0:
        return ""
    kl = fitted.turn.value**2
    where = f", beyond the last of {furthest:.2f}" if kl > furthest else ""
    return f"the fitted curve turns at a KL of {kl:.2f} nats{where}; "


def _split(metric: str) -> tuple[str, str | None]:
    task, _, part = metric.partition("/")
    return task, part or None


def _fold(metric: str, items: Sequence[ItemResult]) -> tuple[Sequence[ItemResult], str | None]:
    """Return the items that a metric is read of, and its part: of pass@k one item a problem, and its value.

    Raises:
        DataError: A problem has fewer than k samples.
    """
    part = _split(metric)[1]
    return (items, part) if part is None or parse_repeated(part) is None else (fold_samples(items, part), None)


def _task_of(metric: str) -> str:
    return metric.partition("/")[0]


def _pair(metric: str, own: Items, parent: Items | None) -> Pairs:
    task, part = _split(metric)
    pairs = pair_items(take_items(parent, task, "the parent"), take_items(own, task), part=part)
    if pairs.num_clusters < MIN_SOURCES:
        raise UnmeasuredError(f"{pairs.num_clusters} sources of {metric}, where {MIN_SOURCES} are needed")
    return pairs


def _describe(metric: str, items: Sequence[ItemResult], *, is_parents: bool = False) -> Figure:
    items, part = _fold(metric, items)
    found = [(value, cluster_name(item)) for item in items if not isinstance(value := read_value(item, part), str)]
    sample = Sample([value for value, _ in found], [cluster for _, cluster in found])
    return describe_mean(metric, sample, _UNIT, is_parents=is_parents)


def _tabulate(metric: str, policies: Sequence[Items]) -> tuple[Floats, list[str]]:
    """Return the mean value of each problem under each policy, of problems that all have, and their clusters."""
    task = _task_of(metric)
    columns: list[dict[str, list[float]]] = []
    clusters: dict[str, str] = {}
    for policy in policies:
        column: dict[str, list[float]] = {}
        items, part = _fold(metric, take_items(policy, task, "a policy of the series"))
        for item in items:
            value = read_value(item, part)
            if not isinstance(value, str):
                column.setdefault(item.item_id, []).append(value)
                clusters[item.item_id] = cluster_name(item)
        columns.append(column)
    shared = sorted(set.intersection(*(set(column) for column in columns)))
    if len({clusters[name] for name in shared}) < MIN_SOURCES:
        raise UnmeasuredError(f"{len(shared)} problems of {metric} that all policies answered, not {MIN_SOURCES}")
    means = [[sum(column[name]) / len(column[name]) for name in shared] for column in columns]
    return np.array(means), [clusters[name] for name in shared]


def _draw(name: str, kls: Sequence[float], values_LP: Floats) -> Curve:
    means = values_LP.mean(axis=1).tolist()
    return Curve(name, "KL in nats", _UNIT, tuple(zip(kls, means, strict=True)))


def _list_fit(fitted: BootstrappedFit, count: int) -> list[Figure]:
    found = [("alpha", fitted.alpha, _UNIT), ("beta", fitted.beta, _UNIT)]
    figures = [Figure(name, one.value, one.low, one.high, count, unit) for name, one, unit in found]
    if (turn := fitted.turn) is not None:
        figures.append(Figure("KL at the turn", turn.value**2, turn.low**2, turn.high**2, count, "nats"))
    figures.append(Figure("resamples that turn", fitted.turning_fraction, None, None, count, "fraction"))
    return figures
