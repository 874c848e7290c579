"""The curves of a study of best-of-n: of every way of choosing, what gold and its own score make of what it takes.

Of every score the over-optimisation monitor reads its series: gold at n = 1, 2, 4, ... beside the score's own gain.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from posttrain.core.errors import DataError
from posttrain.core.records import ItemResult, Outcome, Problem
from posttrain.core.seeds import build_numpy_generator
from posttrain.evaluation.monitors.over_optimisation import OverOptimisationMonitor, SeriesPoint
from posttrain.evaluation.monitors.reading import Reading
from posttrain.evaluation.monitors.settings import build_unmeasured
from posttrain.reports.selection import Fall, Kind, StudiedWay
from posttrain.statistics.clusters import Floats
from posttrain.statistics.gain_fits import GainCurve, fit_best_of_n
from posttrain.statistics.repeats import RIGHT
from posttrain.statistics.selection_curves import (
    Choosing,
    SelectionCurve,
    list_powers,
    summarise_curve,
    trace_curve,
)

GOLD, OWN = "gold", "own"
RANDOM, ORACLE, MAJORITY = "random", "oracle", "majority"
_NO_NAME, _MAX_NAME = re.compile(r"[^a-z0-9_-]|^[_-]"), 40
"""What may not stand in the name of a monitor, and how long a score's part of it may be."""


@dataclass(frozen=True, slots=True)
class AlarmSettings:
    """When a fall of gold while a score rises is an alarm (`OverOptimisationMonitor`'s keys of these names)."""

    level: float = 0.01
    allowed_drop: float = 0.0


@dataclass(frozen=True, slots=True)
class Judged:
    """Problems of which all samples that count have a verdict by every scorer, in one order of samples.

    `values` are the scorers' by name, gold's under `GOLD`; `votes` what each sample votes for by gold's reading.
    """

    problems: list[Problem]
    values: dict[str, list[list[float]]]
    votes: list[list[str | None]]
    notes: list[str]

    @property
    def clusters(self) -> list[str]:
        """The source of each problem."""
        return [problem.cluster_id or problem.problem_id for problem in self.problems]


@dataclass(frozen=True, slots=True)
class StudiedWays:
    """Every way of choosing with its curve, and of every score what the monitor says."""

    ways: list[StudiedWay]
    readings: list[Reading]


def study_ways(
    judged: Judged, choosers: Sequence[str], verifiers: Sequence[str], most: int, alarm: AlarmSettings
) -> StudiedWays:
    """Return the curves of all ways of choosing among up to so many samples.

    Args:
        judged: What was said of them; what is found to be missing goes to its notes.
        choosers: The names of scores that choose by their largest value.
        verifiers: The names of those that choose the first that passes.
        most: The largest n.
        alarm: When the monitor raises an alarm.
    """
    ns = list_powers(most)
    ways: list[tuple[Kind, Choosing]] = [("random", Choosing(RANDOM))]
    if any(len(set(votes) - {None}) < sum(vote is not None for vote in votes) for votes in judged.votes):
        ways.append(("majority", Choosing(MAJORITY, answers_P=judged.votes)))
    else:
        judged.notes.append("no vote: no two answers to a problem agree")
    for name in verifiers:
        passes = [[float(value >= RIGHT) for value in own] for own in judged.values[name]]
        ways.append(("verifier", Choosing(name, passes)))
    ways += [("score", Choosing(name, judged.values[name])) for name in choosers]
    ways.append(("oracle", Choosing(ORACLE, judged.values[GOLD])))
    if len(set(judged.clusters)) == 1:
        judged.notes.append("all problems are of one source: nothing can be said of others, and there are no intervals")
    found = StudiedWays([], [])
    for kind, choosing in ways:
        way, reading = _study_way(kind, choosing, ns, judged, alarm)
        found.ways.append(way)
        found.readings.extend([] if reading is None else [reading])
    return found


def compute_deviation(values_PN: Sequence[Sequence[float]]) -> float:
    """Return the standard deviation among a problem's answers, over problems; 1 where there is none."""
    variances: Floats = np.array([np.var(values) for values in values_PN])
    return float(np.sqrt(variances.mean())) or 1.0


def _study_way(
    kind: Kind, choosing: Choosing, ns: Sequence[int], judged: Judged, alarm: AlarmSettings
) -> tuple[StudiedWay, Reading | None]:
    def build_generator() -> np.random.Generator:
        return build_numpy_generator("best_of_n", len(judged.problems), ns[-1])

    values = {GOLD: judged.values[GOLD]}
    if kind == "score":
        values[OWN] = judged.values[choosing.name]
    curve = trace_curve(choosing, values, ns, build_generator)
    points = summarise_curve(curve, GOLD, judged.clusters, build_generator)
    if kind != "score":
        return StudiedWay(choosing.name, kind, points), None
    own = summarise_curve(curve, OWN, judged.clusters, build_generator)
    fitted, says = _fit(curve, judged.clusters, build_generator)
    reading, fall = _read_monitor(curve, judged, alarm)
    turn = _describe(fall, reading, alarm)
    return StudiedWay(choosing.name, kind, points, own, fitted, says, turn, fall), reading


def _fit(
    curve: SelectionCurve, clusters: Sequence[str], build_generator: Callable[[], np.random.Generator]
) -> tuple[GainCurve | None, str]:
    try:
        found = fit_best_of_n(curve.kls_PK, curve.gains_PK(GOLD), clusters, build_generator)
    except DataError as error:
        return None, f"no curve is fitted: {error.found}"
    fit = found.fitted
    coefficients = ", ".join(
        f"{name} {one.value:.3g} ({one.low:.3g} to {one.high:.3g})" for name, one in (("α", fit.alpha), ("β", fit.beta))
    )
    return found, f"{coefficients}; {found.describe()}"


def _read_monitor(curve: SelectionCurve, judged: Judged, alarm: AlarmSettings) -> tuple[Reading, Fall | None]:
    """Return what the over-optimisation monitor says of a score's series, and the fall that it raises an alarm for."""
    proxy = _NO_NAME.sub("_", curve.name.lower())[:_MAX_NAME]
    monitor = OverOptimisationMonitor(
        type="over_optimisation",
        name=f"over_optimisation-{proxy}",
        proxy=proxy,
        gold=GOLD,
        level=alarm.level,
        allowed_drop=alarm.allowed_drop,
    )
    points = [
        SeriesPoint(float(kl), _list_items(curve, judged.problems, place, proxy), f"n = {n}")
        for place, (n, kl) in enumerate(zip(curve.ns, curve.mean_kls_K, strict=True))
    ]
    try:
        found = monitor.examine_series(points[0].items, points[1:], "best_of_n", num_looks=len(points) - 1)
    except DataError as error:
        return build_unmeasured(monitor, error), None
    fall = found.divergence
    if fall is None:
        return found.reading, None
    before, after = curve.ns[fall.against], curve.ns[fall.look]
    return found.reading, Fall(
        before, after, fall.proxy_change, fall.gold_change, fall.p_value, points[fall.look].kl_nats
    )


def _list_items(
    curve: SelectionCurve, problems: Sequence[Problem], place: int, proxy: str
) -> Mapping[str, list[ItemResult]]:
    """Return what is expected of the answer chosen among n, of every problem, as items by who judges."""

    def build(problem: Problem, value: float) -> ItemResult:
        return ItemResult(
            problem.problem_id,
            problem.cluster_id or problem.problem_id,
            task_hash=proxy,
            sample_index=0,
            outcome=Outcome("scored", value),
            policy_hash=f"best of {curve.ns[place]}",
        )

    judges = {proxy: curve.values_PK[OWN], GOLD: curve.values_PK[GOLD]}
    return {
        judge: [build(problem, float(value)) for problem, value in zip(problems, values_PK[:, place], strict=True)]
        for judge, values_PK in judges.items()
    }


def _describe(fall: Fall | None, reading: Reading, alarm: AlarmSettings) -> str:
    """Return in a sentence what the paired test shows of the score going up while gold goes down."""
    if reading.status == "unmeasured":
        return f"Whether gold falls cannot be tested: {reading.why}"
    if fall is None:
        return f"No fall of gold is shown at {alarm.level:.2g}"
    return (
        f"ALARM from n = {fall.to_n}: since n = {fall.from_n} the score is up by {fall.own_change:.3g} while gold "
        f"falls by {-fall.gold_change:.3g} (p = {fall.p_value:.2g})"
    )
