"""What a study of best-of-n says of each score, in a line: the best n, the turn, the alarm. Nothing read is trusted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from posttrain.reports.numbers import NO_VALUE, format_compact, format_count
from posttrain.reports.raw_values import list_of, mapping_of, number_of, text_of

ALARM, SILENT = ("▲", "bad"), ("○", "quiet")
"""The sign of each state, which needs no colour, and its style, as monitors show them."""


@dataclass(frozen=True, slots=True)
class StudyRow:
    """One score: where gold is best and what it is there, where its fitted curve turns, and from which n gold falls.

    Limits are 95 %, empty where there are none. `sign` and `style` are the alarm's state.
    """

    name: str
    best_n: str
    best: str
    best_limits: str
    last: str
    last_limits: str
    alpha: str
    beta: str
    turn: str
    turn_limits: str
    alarm: str
    because: str
    sign: str
    style: str


@dataclass(frozen=True, slots=True)
class StudyView:
    """A study as the run's report shows it; `link` leads to its page, empty where there is none."""

    facts: list[tuple[str, str]]
    rows: list[StudyRow]
    says: list[tuple[str, str]]
    notes: list[str]
    last_n: str
    link: str


def build_study(values: Mapping[str, Any], link: str) -> StudyView | None:
    """Return the view of a best_of_n.json, None of an empty one."""
    if not values:
        return None
    ways = [mapping_of(way) for way in list_of(values.get("ways"))]
    facts = [
        ("judged by", text_of(values.get("gold"))),
        ("problems", format_count(number_of(values.get("num_problems")))),
        ("answers to each", format_count(number_of(values.get("num_samples")))),
    ]
    scores = [way for way in ways if list_of(way.get("own"))]
    says = [(text_of(way.get("name")), _join(text_of(way.get("says")), text_of(way.get("turn")))) for way in scores]
    return StudyView(
        facts,
        [build_row(way) for way in scores],
        says,
        [text_of(note) for note in list_of(values.get("notes"))],
        format_count(number_of(values.get("num_samples"))),
        link,
    )


def build_row(way: Mapping[str, Any]) -> StudyRow:
    """Return the line of one score."""
    points = [mapping_of(point) for point in list_of(way.get("points"))]
    known = [point for point in points if number_of(point.get("value")) is not None]
    best = max(known, key=lambda point: number_of(point.get("value")) or -math.inf, default={})
    last = known[-1] if known else {}
    fall, fitted = mapping_of(way.get("fall")), mapping_of(mapping_of(way.get("fitted")).get("fitted"))
    turn, turn_limits = _write_turn(mapping_of(way.get("fitted")))
    to_n, kl = number_of(fall.get("to_n")), number_of(fall.get("kl"))
    sign, style = SILENT if to_n is None else ALARM
    return StudyRow(
        name=text_of(way.get("name")),
        best_n=format_count(number_of(best.get("n"))),
        best=_write(best.get("value")),
        best_limits=_write_limits(best),
        last=_write(last.get("value")),
        last_limits=_write_limits(last),
        alpha=_write_coefficient(mapping_of(fitted.get("alpha"))),
        beta=_write_coefficient(mapping_of(fitted.get("beta"))),
        turn=turn,
        turn_limits=turn_limits,
        alarm="silent" if to_n is None else f"from n = {format_count(to_n)}",
        because="" if kl is None else f"√KL {math.sqrt(max(kl, 0.0)):.2f}, {kl:.2f} nats",
        sign=sign,
        style=style,
    )


def _write_turn(found: Mapping[str, Any]) -> tuple[str, str]:
    """Return the distance at which a fitted curve turns with its limits, or why there is none."""
    if not found:
        return "no curve", ""
    turn = mapping_of(mapping_of(found.get("fitted")).get("turn"))
    value = number_of(turn.get("value"))
    furthest = number_of(found.get("furthest"))
    if found.get("is_turn_shown") is True and value is not None:
        low, high = number_of(turn.get("low")), number_of(turn.get("high"))
        limits = "" if low is None or high is None else f"{low:.2f} to {high:.2f}"
        return f"{value:.2f}", limits
    bend = number_of(mapping_of(mapping_of(found.get("fitted")).get("beta")).get("low"))
    is_bent = bend is not None and bend > 0
    if is_bent and value is not None and furthest is not None and value > furthest:
        return "not shown", f"beyond {furthest:.2f}"
    return "not shown", ""


def _write(value: Any) -> str:
    number = number_of(value)
    return NO_VALUE if number is None else format_compact(number)


def _write_limits(found: Mapping[str, Any]) -> str:
    low, high = number_of(found.get("low")), number_of(found.get("high"))
    return "" if low is None or high is None else f"{format_compact(low)} to {format_compact(high)}"


def _write_coefficient(found: Mapping[str, Any]) -> str:
    limits = _write_limits(found)
    return (
        NO_VALUE if not found else f"{_write(found.get('value'))} ({limits})" if limits else _write(found.get("value"))
    )


def _join(*sentences: str) -> str:
    return " ".join(f"{sentence}." for sentence in sentences if sentence)
