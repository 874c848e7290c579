"""What became of a metric between two policies: by how much it changed, and what may be said of that."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from posttrain.core.errors import DataError
from posttrain.core.metrics import BITS_PER_BYTE, NATS_PER_TOKEN, STOP_RATE, MetricSpec, describe_metric
from posttrain.core.seeds import build_numpy_generator
from posttrain.reports.item_tables import ItemTable, pair_tables
from posttrain.reports.numbers import format_change, format_count
from posttrain.reports.raw_values import number_of, text_of
from posttrain.reports.run_files import STOPPED
from posttrain.statistics.intervals import Interval
from posttrain.statistics.paired import difference_interval
from posttrain.statistics.pairing import Pairs, build_pairs
from posttrain.statistics.ratios import compare_ratios
from posttrain.statistics.repeats import parse_repeated

MARGIN = 0.05
"""A change whose interval holds 0 is `within` where a larger change than this is ruled out, either way: 5 points of a
fraction, 5 % of any other value. A gate's keep of the metric states its own margin, which then stands in its place."""

RATIOS = {
    NATS_PER_TOKEN: ("nats", "tokens", 1.0),
    BITS_PER_BYTE: ("nats", "bytes", 1 / math.log(2)),
}
"""Metrics that are a ratio of two sums of parts, and what the first is multiplied by."""
MAX_RATIOS = 20_000
"""Of more texts the two intervals are compared, which takes no drawing."""

WORDS = {
    "improved": ("▲", "good"),
    "worse": ("▼", "bad"),
    "within": ("≈", "level"),
    "undecided": ("?", "open"),
    "higher": ("↑", "level"),
    "lower": ("↓", "level"),
    "unchanged": ("=", "level"),
}
"""Of each word its sign, which needs no colour, and its style."""


@dataclass(frozen=True, slots=True)
class Change:
    """How a metric moved: `amount` with its sign, `limits` (empty where nothing could be paired), and a word for it.

    `evidence` says how it was come by; `value` and `interval` are the numbers behind the texts.
    """

    amount: str
    limits: str
    word: str
    sign: str
    style: str
    evidence: str
    value: float | None = None
    interval: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """One metric of one policy: its entry in run.json, the items behind it if they are there, and whose it is."""

    entry: Mapping[str, Any]
    table: ItemTable | None
    policy: str


def describe(name: str) -> MetricSpec | None:
    """Return a metric's declaration; pass@8 is declared as pass@k."""
    kind = parse_repeated(name)
    return describe_metric(f"{kind[0]}@k" if kind else name)


def find_unit(name: str, values: Iterable[float | None]) -> str:
    """Return a metric's unit; what is not declared is a fraction where all its values are."""
    spec = describe(name)
    known = [value for value in values if value is not None]
    return spec.unit if spec else "fraction" if known and all(0 <= value <= 1 for value in known) else ""


def find_direction(name: str, *, is_main: bool) -> bool | None:
    """Return whether less of a metric is better, None where that is not declared; a task's score is better higher."""
    spec = describe(name)
    return spec.lower_is_better if spec else False if is_main else None


# many parameters: two sides, and what is known of the metric
def compare_measured(
    before: Measured | None, after: Measured | None, name: str, *, is_main: bool, margin: float | None = None
) -> Change | None:
    """Return what became of a metric, None where a side has no value.

    Items of both are paired where they are the same ones of the same task; else the two intervals are compared, and
    what overlaps is undecided.

    Args:
        before: The metric of the policy that the other one was made from.
        after: The metric of the other one.
        name: Of the metric.
        is_main: Whether it is its task's score.
        margin: The loss that a gate had to rule out, if one did.
    """
    values = [number_of(side.entry.get("value")) if side else None for side in (before, after)]
    if before is None or after is None or values[0] is None or values[1] is None:
        return None
    unit, difference = find_unit(name, values), values[1] - values[0]
    lower_is_better = find_direction(name, is_main=is_main)
    if before.policy and before.policy == after.policy:
        return _say("unchanged", 0.0, None, unit, "the same policy")
    hashes = {text_of(side.entry.get("task_hash")) for side in (before, after) if side.entry.get("task_hash")}
    if len(hashes) > 1:
        return _say("undecided", difference, None, unit, "measured on other rows")
    paired = pair_metric(before, after, name, is_main=is_main)
    if paired is not None:
        pairs, interval = paired
        allowed = margin if margin is not None else MARGIN if unit in ("fraction", "") else MARGIN * abs(values[0])
        word = _judge((interval.low, interval.high), lower_is_better, allowed)
        evidence = f"{format_count(len(pairs))} pairs, {pairs.num_better} higher, {pairs.num_worse} lower"
        return _say(word, interval.value, (interval.low, interval.high), unit, evidence)
    ends = [[number_of(side.entry.get(end)) for end in ("low", "high")] for side in (before, after)]
    if any(end is None for side in ends for end in side):
        return _say("undecided", difference, None, unit, "no interval on one side")
    (low, high), (later_low, later_high) = [[end or 0.0 for end in side] for side in ends]
    if later_low > high or later_high < low:
        word = _judge((difference, difference), lower_is_better, 0.0)
        return _say(word, difference, None, unit, "the two intervals do not touch")
    return _say("undecided", difference, None, unit, "the two intervals overlap")


def pair_metric(before: Measured, after: Measured, name: str, *, is_main: bool) -> tuple[Pairs, Interval] | None:
    """Return the pairs of a metric that is a mean over items, with the interval of its change; None of any other."""
    if before.table is None or after.table is None:
        return None
    if name in RATIOS:
        return _pair_ratios(before.table, after.table, name)
    part = None if is_main else STOPPED if name == STOP_RATE else name
    known = before.table.parts.keys() & after.table.parts.keys()
    if part is not None and (part not in known or not before.table.has_part(part) or not after.table.has_part(part)):
        return None
    pairs = pair_tables(before.table, after.table, part)
    if pairs is None:
        return None
    try:
        return pairs, difference_interval(pairs)
    except DataError:  # all of one source: how another would do cannot be told
        return None


def _pair_ratios(before: ItemTable, after: ItemTable, name: str) -> tuple[Pairs, Interval] | None:
    """Return the texts of both sides, and the change of a ratio of sums over them."""
    above, below, factor = RATIOS[name]
    tables = (before, after)
    if not all(table.has_part(part) for table in tables for part in (above, below)) or len(before) > MAX_RATIOS:
        return None
    columns = [pair_tables(before, after, part) for part in (above, below)]
    pairs = pair_tables(before, after)
    if pairs is None or any(column is None or len(column) != len(pairs) for column in columns):
        return None
    [first, second] = [
        tuple(getattr(column, side) * scale for column, scale in zip(columns, (factor, 1.0), strict=True))
        for side in ("before_N", "after_N")
    ]
    if not (second[1] > 0).all() or not (first[1] > 0).all():
        return None
    try:
        found, _ = compare_ratios(first, second, pairs.clusters_N, build_numpy_generator("report", name))
    except DataError:  # all of one source
        return None
    by_item = build_pairs(first[0] / first[1], second[0] / second[1], pairs.clusters_N)
    return by_item, found


def _judge(ends: tuple[float, float], lower_is_better: bool | None, margin: float) -> str:
    low, high = ends
    if lower_is_better is None:
        return "higher" if low > 0 else "lower" if high < 0 else "undecided"
    if lower_is_better:
        low, high = -high, -low
    if low > 0:
        return "improved"
    if high < 0:
        return "worse"
    return "within" if -margin < low and high < margin else "undecided"


def _say(word: str, value: float, interval: tuple[float, float] | None, unit: str, evidence: str) -> Change:
    sign, style = WORDS[word]
    amount = format_change(value, unit, with_unit=False)
    limits = "" if interval is None else " to ".join(format_change(end, unit, with_unit=False) for end in interval)
    return Change(amount, limits, word, sign, style, evidence, value, interval)
