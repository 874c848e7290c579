"""Rules of a gate as rows of a table: state, estimate with limits against the bound, counts, power, reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from posttrain.core.metrics import describe_metric
from posttrain.reports.field_reader import FieldReader, describe
from posttrain.reports.interval_plots import IntervalPlot, Scale, choose_scale, draw_interval
from posttrain.reports.numbers import NO_VALUE, format_change, format_count, format_figure, format_p_value
from posttrain.reports.raw_values import mapping_of, number_of, text_of

KINDS = ("improve", "keep", "floor", "ceiling")
STATES = {"passed": "good", "failed": "bad", "inconclusive": "warn", "unmeasured": "none"}
_BOUNDS = {"improve": "above", "keep": "above", "floor": "at least", "ceiling": "at most"}
_LEVELS = ("floor", "ceiling")
_KEYS = ("estimate", "low", "high", "bound")


@dataclass(frozen=True, slots=True)
class FigureTexts:
    """What a rule was decided on, as text.

    Example: a keep has estimate `-1.6 points`, limits `-4.4 to +1.0`, interval `96.7 %`, bound `above -8.0 points`,
    before_after `74.4 % to 72.8 %`, changed `18 / 27`.
    """

    estimate: str
    limits: str
    interval: str
    bound: str
    before_after: str
    p_value: str
    changed: str
    num_items: str
    clusters: str
    power: list[tuple[str, str]]
    needed: str
    left_out: str
    method: str
    plot: IntervalPlot | None
    ends: tuple[str, str]
    summary: str


@dataclass(frozen=True, slots=True)
class RuleView:
    """One rule's row; `figures` is None where nothing was measured, or where what is recorded cannot be read."""

    kind: str
    metric: str
    against: str
    state: str
    style: str
    reason: str
    figures: FigureTexts | None


@dataclass(frozen=True, slots=True)
class RuleScales:
    """One scale for all rules of a gate that can share it, by unit and by whether they compare two policies."""

    units: Mapping[str, str]
    scales: Mapping[tuple[str, bool], Scale] = field(default_factory=dict)

    def unit_of(self, metric: str) -> str:
        """Return a metric's unit; what is not declared is a fraction, as gates take all scores to be."""
        task, _, part = metric.partition("/")
        spec = describe_metric(part) if part else None
        return (spec.unit if spec else "" if part else self.units.get(task, "")) or "fraction"

    def find(self, unit: str, *, is_difference: bool) -> Scale:
        """Return the scale of a unit's differences or levels."""
        return self.scales.get((unit, is_difference)) or choose_scale([], unit, is_difference=is_difference)


def choose_rule_scales(results: Sequence[Any], units: Mapping[str, str]) -> RuleScales:
    """Return scales on which all measured results of a gate have a place, so that rows can be compared by eye."""
    bare = RuleScales(units)
    values: dict[tuple[str, bool], list[float]] = {}
    for result in map(mapping_of, results):
        if result.get("state") in ("passed", "failed", "inconclusive"):
            key = (bare.unit_of(text_of(result.get("metric"))), result.get("kind") not in _LEVELS)
            figures = mapping_of(result.get("figures"))
            numbers = [number_of(figures.get(name)) for name in _KEYS]
            values.setdefault(key, []).extend(number for number in numbers if number is not None)
    return RuleScales(units, {(u, d): choose_scale(found, u, is_difference=d) for (u, d), found in values.items()})


def build_rules(holder: Mapping[str, Any], reader: FieldReader, place: str, scales: RuleScales) -> list[RuleView]:
    """Return the rows of the `results` of a decision or a candidate."""
    return [
        _build_rule(result, reader, where, scales) for where, result in reader.read_records(holder, "results", place)
    ]


def _build_rule(result: Mapping[str, Any], reader: FieldReader, place: str, scales: RuleScales) -> RuleView:
    kind = reader.read_word(result, "kind", KINDS, place)
    metric = reader.read_text(result, "metric", place)
    state = reader.read_word(result, "state", list(STATES), place)
    against = reader.read_text(result, "against", place)
    figures, texts = result.get("figures"), None
    if state == "unmeasured":
        if figures is not None:
            reader.note(place, "figures of a rule that is unmeasured; they are not shown.")
    elif isinstance(figures, dict):
        texts = _build_texts(figures, kind, scales.unit_of(metric), reader, f"{place}: figures", scales)
    else:
        reader.note(place, f"figures is {describe(figures)}, though the rule is {state or 'in no state'}.")
    return RuleView(
        kind=kind or "rule",
        metric=metric or "unknown",
        against=against,
        state=state if state in STATES else "unknown",
        style=STATES.get(state, "plain"),
        reason=reader.read_text(result, "reason", place),
        figures=texts,
    )


# many parameters: one rule's figures, what they mean, and where they stand
def _build_texts(
    figures: Mapping[str, Any], kind: str, unit: str, reader: FieldReader, place: str, scales: RuleScales
) -> FigureTexts:
    estimate, low, high, bound = (reader.read_number(figures, key, place) for key in _KEYS)
    value, level = reader.read_number(figures, "value", place), reader.read_number(figures, "level", place)
    reference = reader.read_number(figures, "reference", place)
    num_items, num_clusters = (reader.read_count(figures, key, place) for key in ("num_items", "num_clusters"))
    better, worse = (reader.read_count(figures, key, place) for key in ("num_better", "num_worse"))
    effect = reader.read_number(figures, "design_effect", place)
    is_difference = kind not in _LEVELS
    show = format_change if is_difference else format_figure
    scale = scales.find(unit, is_difference=is_difference)
    interval = NO_VALUE if level is None else f"{100 * (1 - 2 * level):.4g}\u00a0%"
    limits = f"{show(low, unit, with_unit=False)} to {show(high, unit, with_unit=False)}"
    bound_text = f"{_BOUNDS.get(kind, 'bound')} {show(bound, unit) if bound else 0 if bound == 0 else NO_VALUE}"
    return FigureTexts(
        estimate=show(estimate, unit),
        limits=limits,
        interval=interval,
        bound=bound_text,
        before_after=f"{format_figure(reference, unit)} → {format_figure(value, unit)}" if is_difference else "",
        p_value=format_p_value(reader.read_number(figures, "p_value", place)) if is_difference else "",
        changed=f"{format_count(better)} / {format_count(worse)}" if is_difference else "",
        num_items=format_count(num_items),
        clusters="" if num_clusters == num_items else _say_clusters(num_clusters, effect),
        power=[
            (words, format_figure(chance, "fraction"))
            for key, words in (("power_to_pass", "to pass"), ("power_to_catch", "to catch"))
            if (chance := reader.read_number(figures, key, place, is_optional=True)) is not None
        ],
        needed=_say_needed(reader.read_count(figures, "items_to_decide", place, is_optional=True)),
        left_out=_say_left_out(figures.get("left_out"), reader, place),
        method=reader.read_text(figures, "method", place).replace("_", " "),
        plot=None
        if estimate is None
        else draw_interval(scale, estimate, low, high, bound=bound, passes_above=kind != "ceiling"),
        ends=(scale.label(scale.low), scale.label(scale.high)),
        summary=f"{show(estimate, unit)}, {interval} interval {limits}; to pass: {bound_text}",
    )


def _say_clusters(num_clusters: int | None, effect: float | None) -> str:
    text = f"{format_count(num_clusters)} clusters"
    return text if effect is None else f"{text}, design effect {effect:.3g}"


def _say_needed(count: int | None) -> str:
    return "" if count is None else f"about {format_count(count)} items would decide"


def _say_left_out(value: Any, reader: FieldReader, place: str) -> str:
    if value is not None and not isinstance(value, dict):
        reader.note(place, f"left_out is {describe(value)}, not counts by reason.")
    counts = {reason: number_of(count) for reason, count in mapping_of(value).items()}
    return " · ".join(f"{reason.replace('_', ' ')} {format_count(count)}, left out" for reason, count in counts.items())
