"""Line charts as geometry: the template draws them as inline SVG, so that every label is escaped there.

Drawn at about one SVG unit to a CSS pixel on a phone, so that labels stay readable without zooming.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from posttrain.core.metrics import (
    GRAD_NORM,
    LEARNING_RATE,
    LOSS,
    TOKENS_PER_SECOND,
    VALIDATION_LOSS,
    describe_metric,
)
from posttrain.reports.numbers import format_compact, format_figure
from posttrain.reports.raw_values import number_of

WIDTH, HEIGHT = 420, 248
LEFT, RIGHT, TOP, BOTTOM = 48, 412, 30, 204
MAX_POINTS = 320
"""Above this, each bin of steps keeps its lowest and highest value: no spike is lost."""

MAX_OTHER_CHARTS = 24
Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a chart: its label, its style (`first` is the accent), its path and its points' places."""

    label: str
    style: str
    path: str
    dots: list[Point]
    summary: str


@dataclass(frozen=True, slots=True)
class Tick:
    """A labelled position on an axis, in SVG units."""

    position: float
    label: str


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart ready to be drawn; `data` is what the page's script needs to answer a pointer."""

    identifier: str
    title: str
    keys: list[str]
    unit: str
    series: list[Series]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    note: str
    data: dict[str, Any]


_PRIMARY: tuple[tuple[str, tuple[tuple[str, str], ...], bool], ...] = (
    ("Loss", ((LOSS, "training"), (VALIDATION_LOSS, "validation")), False),
    ("Learning rate", ((LEARNING_RATE, "learning rate"),), True),
    ("Gradient norm", ((GRAD_NORM, "before clipping"),), True),
    ("Throughput", ((TOKENS_PER_SECOND, "tokens per second"),), True),
)


def build_charts(stage: int, lines: Sequence[Mapping[str, Any]]) -> tuple[list[Chart], list[Chart]]:
    """Return the charts that every training has, and those of all other metrics that were logged.

    Args:
        stage: The stage's index, which makes the charts' names unique on the page.
        lines: The lines of metrics.jsonl, in order; a line without a step is left out.
    """
    columns, num_bad = _collect(lines)
    primary: list[Chart] = []
    for title, parts, from_zero in _PRIMARY:
        known = [(label, key) for key, label in parts if columns.get(key)]
        if known:
            name = f"chart-{stage + 1}-{len(primary) + 1}"
            primary.append(_build_chart(name, title, known, columns, num_bad, from_zero=from_zero))
    shown = {key for _, parts, _ in _PRIMARY for key, _ in parts}
    others: list[Chart] = []
    for key in [key for key in columns if key not in shown and columns[key]][:MAX_OTHER_CHARTS]:
        name = f"chart-{stage + 1}-other-{len(others) + 1}"
        others.append(_build_chart(name, key, [(key, key)], columns, num_bad, from_zero=False))
    return primary, others


def choose_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return round numbers (multiples of 1, 2 or 5 times a power of ten) in [low, high], `count` of them or so."""
    span = high - low
    if not (span > 0 and math.isfinite(span)):
        return [low]
    raw = span / max(count - 1, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next((m * power for m in (1, 2, 5) if m * power >= raw * 0.7), 10 * power)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def thin_points(points: Sequence[Point], limit: int = MAX_POINTS) -> list[Point]:
    """Return at most about `limit` points that keep the first, the last, and each bin's lowest and highest value."""
    if len(points) <= limit:
        return list(points)
    num_bins = limit // 2
    kept = {0, len(points) - 1}
    for index in range(num_bins):
        bin_ = range(index * len(points) // num_bins, (index + 1) * len(points) // num_bins)
        kept.add(min(bin_, key=lambda i: points[i][1]))
        kept.add(max(bin_, key=lambda i: points[i][1]))
    return [points[index] for index in sorted(kept)]


def _collect(lines: Iterable[Mapping[str, Any]]) -> tuple[dict[str, list[Point]], dict[str, int]]:
    """Return each metric's finite points by step (the last of equal steps wins), and how many were not finite."""
    columns: dict[str, dict[float, float]] = {}
    num_bad: dict[str, int] = {}
    for line in lines:
        step = number_of(line.get("step"))
        if step is None:
            continue
        for key, raw in line.items():
            value = number_of(raw)
            if key == "step":
                continue
            if value is None:
                num_bad[key] = num_bad.get(key, 0) + 1
            else:
                columns.setdefault(key, {})[step] = value
    return {key: sorted(points.items()) for key, points in columns.items()}, num_bad


def _build_chart(
    identifier: str,
    title: str,
    parts: Sequence[tuple[str, str]],
    columns: Mapping[str, list[Point]],
    num_bad: Mapping[str, int],
    *,
    from_zero: bool,
) -> Chart:
    values = [value for _, key in parts for _, value in columns[key]]
    steps = [step for _, key in parts for step, _ in columns[key]]
    x_low, x_high = widen(min(steps), max(steps), 0.0)
    y_low, y_high = widen(min(values), max(values), 0.06)
    if from_zero and min(values) >= 0:
        y_low = 0.0
    spec = describe_metric(parts[0][1])
    unit = spec.unit if spec else ""

    place = build_placer((x_low, x_high), (y_low, y_high))
    series, data = [], []
    for index, (label, key) in enumerate(parts):
        points = thin_points(columns[key])
        places = [place(point) for point in points]
        is_sparse = len(points) <= 24 and (index > 0 or len(points) == 1)
        series.append(
            Series(
                label=label,
                style="first" if index == 0 else "second",
                path=draw_path(places),
                dots=places if is_sparse else [],
                summary=_summarize(columns[key], unit),
            )
        )
        data.append({"label": label, "points": [[s, v, x, y] for (s, v), (x, y) in zip(points, places, strict=True)]})
    bad = sum(num_bad.get(key, 0) for _, key in parts)
    return Chart(
        identifier=identifier,
        title=title,
        keys=[key for _, key in parts],
        unit=unit,
        series=series,
        x_ticks=[Tick(place((x, y_low))[0], format_compact(x)) for x in choose_ticks(x_low, x_high) if x == round(x)],
        y_ticks=[Tick(place((x_low, y))[1], format_compact(y)) for y in choose_ticks(y_low, y_high)],
        note=f"{bad} value{'s' * (bad != 1)} not finite, left out" if bad else "",
        data={"unit": unit, "series": data},
    )


def _summarize(points: Sequence[Point], unit: str) -> str:
    """Return the first and last value, which say what a chart shows without a script or an eye."""
    first, last = points[0][1], points[-1][1]
    if len(points) == 1:
        return format_figure(first, unit, with_unit=False)
    return f"{format_figure(first, unit, with_unit=False)} → {format_figure(last, unit, with_unit=False)}"


def build_placer(x_range: Point, y_range: Point) -> Callable[[Point], Point]:
    """Return what maps values to SVG units, given the lowest and highest of each axis."""

    def place(point: Point) -> Point:
        x = LEFT + (point[0] - x_range[0]) / (x_range[1] - x_range[0]) * (RIGHT - LEFT)
        y = BOTTOM - (point[1] - y_range[0]) / (y_range[1] - y_range[0]) * (BOTTOM - TOP)
        return round(x, 1), round(y, 1)

    return place


def draw_path(places: Sequence[Point]) -> str:
    """Return the path through places, in SVG's words."""
    return "M" + "L".join(f"{x:g} {y:g}" for x, y in places)


def widen(low: float, high: float, share: float) -> Point:
    """Return a range that is never empty, with some room around the values."""
    if high > low:
        room = (high - low) * share
        return low - room, high + room
    room = abs(low) * 0.1 or 0.5
    return low - room, high + room
