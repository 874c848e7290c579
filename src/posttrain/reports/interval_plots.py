"""Intervals as geometry, in percent of a drawing's width: one drawing fits a phone and a desk without being stretched.

The templates draw them as inline SVG, so that every label is escaped there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from posttrain.reports.charts import choose_ticks
from posttrain.reports.numbers import format_compact

_MARGIN = 3.0  # percent on either side: a point at the end of the scale is drawn whole


@dataclass(frozen=True, slots=True)
class Scale:
    """The values at the left and right end of a drawing; `is_difference` says whether 0 means no change."""

    low: float
    high: float
    unit: str
    is_difference: bool

    def place(self, value: float) -> float:
        """Return where a value lies, in percent of the width; a value beyond an end lies at the end."""
        share = (value - self.low) / (self.high - self.low)
        return round(_MARGIN + min(1.0, max(0.0, share)) * (100 - 2 * _MARGIN), 2)

    def label(self, value: float) -> str:
        """Return a value of this scale in a few characters: `-8`, `0`, `85 %`."""
        number = 100 * value if self.unit == "fraction" else value
        if not self.is_difference:
            return format_compact(number) + ("\u00a0%" if self.unit == "fraction" else "")
        sign = "" if abs(number) < 1e-9 else "+" if number > 0 else "−"
        return sign + format_compact(abs(number) if sign else 0.0)


@dataclass(frozen=True, slots=True)
class Tick:
    """A labelled place on a scale, in percent."""

    place: float
    label: str
    is_zero: bool


@dataclass(frozen=True, slots=True)
class IntervalPlot:
    """An interval with its point, in percent of the width.

    `bound` is the line that it is held against and `shade` (start, width) the side on which it passes; `zero` is the
    place of no change, None where the scale has none. `low` and `high` are None where a limit is not known.
    """

    low: float | None
    point: float
    high: float | None
    bound: float | None
    shade: tuple[float, float] | None
    zero: float | None


def choose_scale(values: Iterable[float], unit: str, *, is_difference: bool) -> Scale:
    """Return a scale that holds all values, with room at both ends.

    A scale of differences holds 0; one of fractions that are no differences is 0 to 1.
    """
    found = [*values, *([0.0] if is_difference else [])] or [0.0, 1.0]
    low, high = min(found), max(found)
    if unit == "fraction" and not is_difference and low >= 0 and high <= 1:
        return Scale(0.0, 1.0, unit, is_difference)
    room = 0.06 * (high - low) or abs(high) * 0.1 or 0.05
    return Scale(low - room, high + room, unit, is_difference)


def draw_interval(
    scale: Scale,
    point: float,
    low: float | None,
    high: float | None,
    *,
    bound: float | None = None,
    passes_above: bool = True,
) -> IntervalPlot:
    """Return an interval on a scale.

    Args:
        scale: What the ends of the drawing stand for.
        point: The estimate.
        low: The lower limit, if known.
        high: The upper limit, if known.
        bound: What the interval is held against.
        passes_above: Whether it must lie above the bound, else below.
    """
    at = None if bound is None else scale.place(bound)
    shade = None
    if at is not None:
        shade = (at, round(100 - at, 2)) if passes_above else (0.0, at)
    return IntervalPlot(
        low=None if low is None else scale.place(low),
        point=scale.place(point),
        high=None if high is None else scale.place(high),
        bound=at,
        shade=shade,
        zero=scale.place(0.0) if scale.is_difference else None,
    )


def list_ticks(scale: Scale, count: int = 5) -> list[Tick]:
    """Return round values along a scale, `count` of them or so."""
    factor = 100.0 if scale.unit == "fraction" else 1.0  # round in percent, as they are shown
    values = [value / factor for value in choose_ticks(scale.low * factor, scale.high * factor, count)]
    return [Tick(scale.place(value), scale.label(value), abs(value) < 1e-12) for value in values]
