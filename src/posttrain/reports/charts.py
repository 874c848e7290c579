"""Line charts as geometry: the template draws them as inline SVG, so that every label is escaped there.

Drawn at about one SVG unit to a CSS pixel on a phone, so that labels stay readable without zooming.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from posttrain.core.metrics import (
    CLIPPED_RATIO,
    COMPLETION_LENGTH,
    EFFECTIVE_PROBLEMS,
    EFFECTIVE_SAMPLE_SIZE,
    ENTROPY,
    GRAD_NORM,
    INFORMATIVE_FRACTION,
    KL,
    LEARNING_RATE,
    LEFT_OUT_FRACTION,
    LOGPS_CHOSEN,
    LOGPS_CHOSEN_CHANGE,
    LOGPS_REJECTED,
    LOGPS_REJECTED_CHANGE,
    LOSS,
    REWARD,
    REWARD_ACCURACY,
    REWARD_CHOSEN,
    REWARD_REJECTED,
    STALE_FRACTION,
    TOKENS_BY_DIFFICULTY,
    TOKENS_PER_SECOND,
    VALIDATION_LOSS,
    VALIDATION_REWARD_ACCURACY,
    WEIGHT_BY_DIFFICULTY,
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
    """One line of a chart: its label, its style, its path and its points' places.

    `first` is the accent; `band never` to `band always` are lines by difficulty, `area never` and so on areas.
    """

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


def _list_bands(keys: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple((key, band) for band, key in keys.items())


@dataclass(frozen=True, slots=True)
class _Plan:
    """A chart that a stage has where one of its metrics was logged: its title, and each key with its label.

    `by_difficulty` draws bands of pass rates, as lines or as the shares of a whole.
    """

    title: str
    parts: tuple[tuple[str, str], ...]
    from_zero: bool = True
    by_difficulty: Literal["lines", "shares"] | None = None


_SAMPLED = (
    _Plan("Reward", ((REWARD, "mean"),), from_zero=False),
    _Plan("Groups that teach", ((INFORMATIVE_FRACTION, "rewards differ"), (LEFT_OUT_FRACTION, "left out"))),
    _Plan("Length", ((COMPLETION_LENGTH, "mean of completions"),)),
    _Plan("Cut at the cap", ((CLIPPED_RATIO, "completions"),)),
    _Plan("Entropy", ((ENTROPY, "of the next token"),)),
    _Plan("KL from the reference", ((KL, "at drawn tokens"),)),
    _Plan("Drawn tokens by difficulty", _list_bands(TOKENS_BY_DIFFICULTY), by_difficulty="shares"),
    _Plan("Weight of problems by difficulty", _list_bands(WEIGHT_BY_DIFFICULTY), by_difficulty="lines"),
    _Plan("Problems in effect", ((EFFECTIVE_PROBLEMS, "share"),)),
    _Plan("Effective sample size", ((EFFECTIVE_SAMPLE_SIZE, "share of tokens"),)),
    _Plan("Tokens of earlier policies", ((STALE_FRACTION, "share"),)),
)
_COMPARED = (
    _Plan("Implicit rewards", ((REWARD_CHOSEN, "chosen"), (REWARD_REJECTED, "rejected"))),
    _Plan("Pairs told apart", ((REWARD_ACCURACY, "training"), (VALIDATION_REWARD_ACCURACY, "validation"))),
    _Plan("Log-probs by token", ((LOGPS_CHOSEN, "chosen"), (LOGPS_REJECTED, "rejected")), from_zero=False),
    _Plan("Log-probs since the start", ((LOGPS_CHOSEN_CHANGE, "chosen"), (LOGPS_REJECTED_CHANGE, "rejected"))),
)
_TRAINED = (
    _Plan("Loss", ((LOSS, "training"), (VALIDATION_LOSS, "validation")), from_zero=False),
    _Plan("Learning rate", ((LEARNING_RATE, "learning rate"),)),
    _Plan("Gradient norm", ((GRAD_NORM, "before clipping"),)),
    _Plan("Throughput", ((TOKENS_PER_SECOND, "tokens per second"),)),
)


def build_charts(stage: int, lines: Sequence[Mapping[str, Any]]) -> tuple[list[Chart], list[Chart]]:
    """Return the charts of training, those of sampling and of pairs before them, and those of all other metrics.

    How problems are weighed is among the others where all weigh the same.

    Args:
        stage: The stage's index, which makes the charts' names unique on the page.
        lines: The lines of metrics.jsonl, in order; a line without a step is left out.
    """
    columns, num_bad = _collect(lines)
    primary: list[Chart] = []
    shown: set[str] = set()
    for plan in (*_SAMPLED, *_COMPARED, *_TRAINED):
        known = [(label, key) for key, label in plan.parts if columns.get(key)]
        if not known or _is_idle(plan, columns):
            continue
        name = f"chart-{stage + 1}-{len(primary) + 1}"
        shown |= {key for _, key in known}
        if plan.by_difficulty == "shares":
            primary.append(_build_shares(name, plan.title, known, columns, num_bad))
        else:
            styles = [f"band {label}" for label, _ in known] if plan.by_difficulty else None
            primary.append(
                _build_chart(name, plan.title, known, columns, num_bad, from_zero=plan.from_zero, styles=styles)
            )
    others: list[Chart] = []
    for key in [key for key in columns if key not in shown and columns[key]][:MAX_OTHER_CHARTS]:
        name = f"chart-{stage + 1}-other-{len(others) + 1}"
        others.append(_build_chart(name, key, [(key, key)], columns, num_bad, from_zero=False))
    return primary, others


def _is_idle(plan: _Plan, columns: Mapping[str, list[Point]]) -> bool:
    """Whether a chart of a choice among problems would show that there was none."""
    if plan.parts[0][0] == EFFECTIVE_PROBLEMS:
        return all(value == 1 for _, value in columns[EFFECTIVE_PROBLEMS])
    return plan.by_difficulty == "lines" and all(
        abs(value - 1) < 1e-9 for key, _ in plan.parts for _, value in columns.get(key, ())
    )


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
    styles: Sequence[str] | None = None,
) -> Chart:
    values = [value for _, key in parts for _, value in columns[key]]
    steps = [step for _, key in parts for step, _ in columns[key]]
    x_low, x_high = widen(min(steps), max(steps), 0.0)
    y_low, y_high = widen(min(values), max(values), 0.06)
    if from_zero and min(values) >= 0:
        y_low = 0.0
    spec = describe_metric(parts[0][1])
    unit = spec.unit if spec else ""
    if unit == "fraction" and from_zero and 0.5 < max(values) <= 1:
        y_high = 1.0

    place = build_placer((x_low, x_high), (y_low, y_high))
    series, data = [], []
    for index, (label, key) in enumerate(parts):
        points = thin_points(columns[key])
        places = [place(point) for point in points]
        is_sparse = len(points) <= 24 and (index > 0 or len(points) == 1)
        series.append(
            Series(
                label=label,
                style=styles[index] if styles else "first" if index == 0 else "second",
                path=draw_path(places),
                dots=places if is_sparse else [],
                summary=_summarize(columns[key], unit),
            )
        )
        data.append({"label": label, "points": [[s, v, x, y] for (s, v), (x, y) in zip(points, places, strict=True)]})
    return Chart(
        identifier=identifier,
        title=title,
        keys=[key for _, key in parts],
        unit=unit,
        series=series,
        x_ticks=[Tick(place((x, y_low))[0], format_compact(x)) for x in choose_ticks(x_low, x_high) if x == round(x)],
        y_ticks=[Tick(place((x_low, y))[1], format_compact(y)) for y in choose_ticks(y_low, y_high)],
        note=_describe_bad(parts, num_bad),
        data={"unit": unit, "series": data},
    )


def _build_shares(
    identifier: str,
    title: str,
    parts: Sequence[tuple[str, str]],
    columns: Mapping[str, list[Point]],
    num_bad: Mapping[str, int],
) -> Chart:
    """Return a chart of what share of a whole each part has: areas on top of one another, the first at the bottom."""
    values = {label: dict(columns[key]) for label, key in parts}
    totals = {
        step: sum(part.get(step, 0.0) for part in values.values()) for _, key in parts for step, _ in columns[key]
    }
    steps = [step for step in sorted(totals) if totals[step] > 0] or [min(totals)]
    steps = steps[:: -(-len(steps) // MAX_POINTS)]
    place = build_placer(widen(steps[0], steps[-1], 0.0), (0.0, 1.0))
    low = dict.fromkeys(steps, 0.0)
    series, data = [], []
    for label, part in values.items():
        shares = [(step, part.get(step, 0.0) / (totals[step] or 1.0)) for step in steps]
        high = {step: min(1.0, low[step] + share) for step, share in shares}
        top = [place((step, high[step])) for step in steps]
        bottom = [place((step, low[step])) for step in reversed(steps)]
        series.append(
            Series(label, f"area {label}", draw_path([*top, *bottom]) + "Z", [], _summarize(shares, "fraction"))
        )
        data.append({"label": label, "points": [[*pair, *xy] for pair, xy in zip(shares, top, strict=True)]})
        low = high
    return Chart(
        identifier=identifier,
        title=title,
        keys=[key for _, key in parts],
        unit="fraction",
        series=series,
        x_ticks=[
            Tick(place((x, 0.0))[0], format_compact(x)) for x in choose_ticks(steps[0], steps[-1]) if x == round(x)
        ],
        y_ticks=[Tick(place((steps[0], y))[1], format_compact(y)) for y in choose_ticks(0.0, 1.0)],
        note=_describe_bad(parts, num_bad),
        data={"unit": "fraction", "series": data},
    )


def _describe_bad(parts: Sequence[tuple[str, str]], num_bad: Mapping[str, int]) -> str:
    bad = sum(num_bad.get(key, 0) for _, key in parts)
    return f"{bad} value{'s' * (bad != 1)} not finite, left out" if bad else ""


def _summarize(points: Sequence[Point], unit: str) -> str:
    """Return the first and last value, which say what a chart shows without a script or an eye."""
    first, last = points[0][1], points[-1][1]
    first_text, last_text = (format_figure(value, unit, with_unit=unit == "fraction") for value in (first, last))
    return first_text if len(points) == 1 else f"{first_text} → {last_text}"


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
