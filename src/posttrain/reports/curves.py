"""Curves of monitors as geometry, one line a policy: reliability, a proxy and its gold along the way from the base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from posttrain.reports.charts import (
    BOTTOM,
    LEFT,
    RIGHT,
    TOP,
    Point,
    Series,
    Tick,
    build_placer,
    choose_ticks,
    draw_path,
    thin_points,
    widen,
)
from posttrain.reports.numbers import format_compact
from posttrain.reports.raw_values import list_of, number_of, text_of

MAX_LINES = 4
"""Of one curve by stage: the last so many are drawn, the last of all in colour."""
_ROOM = 0.06
"""Around the values, as a share of their range."""


@dataclass(frozen=True, slots=True)
class CurveChart:
    """A curve ready to be drawn, one line a policy.

    `diagonal` is the path of y = x where both axes are shares, empty elsewhere.
    """

    title: str
    x_label: str
    y_label: str
    lines: list[Series]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    diagonal: str


Key = tuple[str, str, str]


def build_curves(named: Sequence[tuple[str, Mapping[str, Any]]]) -> list[CurveChart]:
    """Return the curves as charts: those of one policy that share both axes in one, else one name over the policies.

    Args:
        named: Whose curve it is, and its record in run.json, in the order of the run.
    """
    groups: dict[Key, list[tuple[str, list[Point]]]] = {}
    for label, record in named:
        points = _read_points(record)
        if points:
            key = (text_of(record.get("name")), text_of(record.get("x_label")), text_of(record.get("y_label")))
            groups.setdefault(key, []).append((label, points))
    by_axes: dict[tuple[str, str], list[Key]] = {}
    for key in groups:
        by_axes.setdefault(key[1:], []).append(key)
    charts = []
    for axes, keys in by_axes.items():
        if len(keys) == 1:
            charts.append(_build_chart(keys[0], groups[keys[0]][-MAX_LINES:]))
            continue
        last = groups[keys[0]][-1][0]
        lines = [(key[0], groups[key][-1][1]) for key in reversed(keys[:MAX_LINES])]
        charts.append(_build_chart((f"{' and '.join(key[0] for key in keys[:MAX_LINES])}, {last}", *axes), lines))
    return charts


def _read_points(record: Mapping[str, Any]) -> list[Point]:
    found = []
    for pair in list_of(record.get("points")):
        numbers = [number_of(value) for value in list_of(pair)]
        if len(numbers) == 2 and numbers[0] is not None and numbers[1] is not None:
            found.append((numbers[0], numbers[1]))
    return thin_points(sorted(found), 120)


def _build_chart(key: tuple[str, str, str], lines: Sequence[tuple[str, list[Point]]]) -> CurveChart:
    title, x_label, y_label = key
    xs, ys = ([point[axis] for _, points in lines for point in points] for axis in (0, 1))
    is_share = min(*xs, *ys) >= 0 and max(*xs, *ys) <= 1 and "reliab" in title.lower()
    x_low, x_high = (0.0, 1.0) if is_share else widen(min(xs), max(xs), _ROOM)
    y_low, y_high = (0.0, 1.0) if is_share else widen(min(ys), max(ys), _ROOM)

    place = build_placer((x_low, x_high), (y_low, y_high))
    drawn = []
    for number, (label, points) in enumerate(lines):
        places = [place(point) for point in points]
        ends = " → ".join(format_compact(y) for _, y in (points[0], points[-1])[: len(points)])
        style = "first" if number == len(lines) - 1 else "second" if number == len(lines) - 2 else "faint"
        drawn.append(Series(label, style, draw_path(places), places if len(places) <= 24 else [], ends))
    return CurveChart(
        title=title,
        x_label=x_label,
        y_label=y_label,
        lines=drawn,
        x_ticks=[Tick(place((x, y_low))[0], format_compact(x)) for x in choose_ticks(x_low, x_high)],
        y_ticks=[Tick(place((x_low, y))[1], format_compact(y)) for y in choose_ticks(y_low, y_high)],
        diagonal=f"M{LEFT} {BOTTOM}L{RIGHT} {TOP}" if is_share else "",
    )
