"""Charts of selection curves as geometry: lines with their limits as bands, over n or over sqrt(KL)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from posttrain.reports.charts import Point, Tick, build_placer, choose_ticks, draw_path, widen
from posttrain.reports.numbers import format_compact, format_count
from posttrain.statistics.gain_fits import GainCurve
from posttrain.statistics.over_optimisation import compute_best_of_n_kl
from posttrain.statistics.selection_curves import CurvePoint

_ROOM = 0.06
_STYLES = {"random": "plain", "oracle": "oracle", "majority": "majority", "verifier": "verifier"}
_SCORES = tuple(f"score-{number}" for number in range(1, 11))
_STEPS = 40
ROOT_KL = "√KL, nats"


@dataclass(frozen=True, slots=True)
class Line:
    """One line: its places, and the outline of its limits, empty where there are none."""

    label: str
    style: str
    path: str
    dots: list[Point]
    band: str
    summary: str


@dataclass(frozen=True, slots=True)
class LineChart:
    """A chart ready to be drawn."""

    title: str
    x_label: str
    y_label: str
    lines: list[Line]
    x_ticks: list[Tick]
    y_ticks: list[Tick]


class Way(Protocol):
    """What charts read of a way of choosing (`selection.StudiedWay`)."""

    @property
    def name(self) -> str:
        """How it is called."""

    @property
    def kind(self) -> str:
        """What it goes by."""

    @property
    def points(self) -> Sequence[CurvePoint]:
        """What gold gives."""

    @property
    def own(self) -> Sequence[CurvePoint]:
        """What its own score gives."""

    @property
    def fitted(self) -> GainCurve | None:
        """The curve of gold's gains."""


@dataclass(frozen=True, slots=True)
class _Drawn:
    """A line before it has places: each point with its limits."""

    label: str
    style: str
    points: Sequence[tuple[float, float, float | None, float | None]]
    has_dots: bool = True


def chart_by_n(ways: Sequence[Way], gold: str) -> LineChart:
    """Return what gold gives the chosen answer, by n on a scale of doublings."""
    drawn = [
        _Drawn(way.name, style, [(math.log2(p.n), p.value, p.low, p.high) for p in way.points])
        for way, style in _style(ways)
    ]
    return _build(f"{gold} of the chosen answer", "n", gold, drawn, x_ticks=_list_sizes(ways))


def chart_by_kl(ways: Sequence[Way], gold: str) -> LineChart:
    """Return the same by the root of the measured KL, where ways of choosing are as far from the policy."""
    drawn = [
        _Drawn(way.name, style, sorted((math.sqrt(p.kl), p.value, p.low, p.high) for p in way.points))
        for way, style in _style(ways)
        if way.kind != "random"
    ]
    return _build(f"{gold} by distance from the policy", ROOT_KL, gold, drawn)


def chart_kl(ways: Sequence[Way]) -> LineChart:
    """Return the root of the measured KL by n, below the bound that holds for every rule."""
    sizes = [point.n for point in ways[0].points]
    drawn = [
        _Drawn(way.name, style, [(math.log2(p.n), math.sqrt(p.kl), None, None) for p in way.points])
        for way, style in _style(ways)
        if way.kind != "random"
    ]
    bound = [(math.log2(n), math.sqrt(compute_best_of_n_kl(n)), None, None) for n in sizes]
    drawn.append(_Drawn("bound: log n − (n − 1) / n", "bound", bound, has_dots=False))
    return _build("Distance from the policy", "n", ROOT_KL, drawn, x_ticks=_list_sizes(ways))


def chart_over_optimisation(way: Way, gold_unit: float, own_unit: float) -> LineChart:
    """Return the gains of a score and of gold by distance, each in standard deviations of a problem's answers.

    Args:
        way: A way that chooses by a score of its own.
        gold_unit: The standard deviation of gold, above 0.
        own_unit: That of the score.
    """
    drawn = [
        _Drawn(label, style, [_scale(point, unit) for point in points])
        for label, style, points, unit in (
            (f"{way.name}, which chooses", "score-1", way.own, own_unit),
            ("gold", "oracle", way.points, gold_unit),
        )
    ]
    if way.fitted is not None:
        curve = _trace_fit(way.fitted, gold_unit)
        drawn.append(_Drawn("gold, fitted: d (α − β d)", "bound", curve, has_dots=False))
    return _build(f"Gains when {way.name} chooses", ROOT_KL, "standard deviations", drawn)


def chart_gold_gains(ways: Sequence[Way], gold_unit: float) -> LineChart:
    """Return gold's gains by distance, a line for each score that chooses, with its fitted curve in the same colour.

    Args:
        ways: Ways that choose by a score of their own.
        gold_unit: The standard deviation of gold, above 0.
    """
    drawn = []
    for way, style in _style(ways):
        drawn.append(_Drawn(way.name, style, _list_gains(way.points, gold_unit)))
        if way.fitted is not None:
            drawn.append(_Drawn("", f"{style} fitted", _trace_fit(way.fitted, gold_unit), has_dots=False))
    return _build("What gold gains", ROOT_KL, "standard deviations", drawn)


def chart_own_gains(ways: Sequence[Way], units: Mapping[str, float]) -> LineChart:
    """Return by distance what each score itself gains by choosing, in its own standard deviations."""
    drawn = [_Drawn(way.name, style, _list_gains(way.own, units[way.name])) for way, style in _style(ways)]
    return _build("What each score itself gains", ROOT_KL, "standard deviations", drawn)


def _list_gains(points: Sequence[CurvePoint], unit: float) -> list[tuple[float, float, float | None, float | None]]:
    """Return gains without their limits: bands of several lines would hide one another."""
    return [(x, y, None, None) for x, y, _, _ in (_scale(point, unit) for point in points)]


def _trace_fit(fitted: GainCurve, unit: float) -> list[tuple[float, float, float | None, float | None]]:
    distances = [fitted.furthest * step / _STEPS for step in range(_STEPS + 1)]
    return [(d, fitted.fitted.fit.compute_gain(d) / unit, None, None) for d in distances]


def _scale(point: CurvePoint, unit: float) -> tuple[float, float, float | None, float | None]:
    low, high = (None if limit is None else limit / unit for limit in (point.gain_low, point.gain_high))
    return math.sqrt(point.kl), point.gain / unit, low, high


def _style(ways: Sequence[Way]) -> list[tuple[Way, str]]:
    styled, num_scores = [], 0
    for way in ways:
        style = _STYLES.get(way.kind, _SCORES[num_scores % len(_SCORES)])
        num_scores += way.kind == "score"
        styled.append((way, style))
    return styled


def _list_sizes(ways: Sequence[Way]) -> list[tuple[float, str]]:
    return [(math.log2(point.n), format_count(point.n)) for point in ways[0].points]


# many parameters: a chart's words, its lines and its ticks
def _build(
    title: str,
    x_label: str,
    y_label: str,
    drawn: Sequence[_Drawn],
    *,
    x_ticks: Sequence[tuple[float, str]] | None = None,
) -> LineChart:
    xs = [x for line in drawn for x, *_ in line.points]
    ys = [y for line in drawn for _, *values in line.points for y in values if y is not None]
    x_low, x_high = widen(min(xs, default=0.0), max(xs, default=1.0), 0.0)
    y_low, y_high = widen(min(ys, default=0.0), max(ys, default=1.0), _ROOM)
    place = build_placer((x_low, x_high), (y_low, y_high))
    ticks = x_ticks or [(x, format_compact(x)) for x in choose_ticks(x_low, x_high)]
    return LineChart(
        title=title,
        x_label=x_label,
        y_label=y_label,
        lines=[_place(line, place) for line in drawn if line.points],
        x_ticks=[Tick(place((x, y_low))[0], label) for x, label in ticks],
        y_ticks=[Tick(place((x_low, y))[1], format_compact(y)) for y in choose_ticks(y_low, y_high)],
    )


def _place(line: _Drawn, place: Callable[[Point], Point]) -> Line:
    places = [place((x, y)) for x, y, _, _ in line.points]
    upper = [place((x, high)) for x, _, _, high in line.points if high is not None]
    lower = [place((x, low)) for x, _, low, _ in line.points if low is not None]
    band = draw_path([*upper, *reversed(lower)]) + "Z" if upper and len(upper) == len(lower) else ""
    ends = (line.points[0][1], line.points[-1][1])
    return Line(
        line.label,
        line.style,
        draw_path(places),
        places if line.has_dots else [],
        band,
        " → ".join(format_compact(y) for y in ends[: len(places)]),
    )
