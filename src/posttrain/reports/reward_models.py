"""What validation rows say of a reward model, as the report shows it: figures, reliability, accuracy by margin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from posttrain.core.run_folder import REWARD_REPORT
from posttrain.reports.curves import CurveChart, build_curves
from posttrain.reports.numbers import format_compact, format_count, format_figure
from posttrain.reports.raw_values import list_of, mapping_of, number_of, text_of


@dataclass(frozen=True, slots=True)
class RewardView:
    """A reward model's validation.

    `margins` are rows of (margin, accuracy, its limits, pairs), `attributes` of (attribute, correlation, ordered right,
    its limits, pairs); `remark` is a caution, `warnings` what the stage found wrong with it.
    """

    facts: list[tuple[str, str]]
    curves: list[CurveChart]
    margins: list[tuple[str, str, str, str]]
    remark: str
    warnings: list[str]
    attributes: list[tuple[str, str, str, str, str]]
    source: str = REWARD_REPORT


def build_reward(report: Mapping[str, Any]) -> RewardView | None:
    """Return the view of a validation.json, None of an empty one; nothing in it is trusted."""
    if not report:
        return None
    facts: list[tuple[str, str]] = []
    for label, key in (("pairs", "pairs"), ("steps", "steps"), ("rows", "rows")):
        if number_of(report.get(key)) is not None:
            facts.append((label, format_count(number_of(report.get(key)))))
    if interval := _write_interval(mapping_of(report.get("accuracy")), "fraction"):
        facts.append(("accuracy", interval))
    if (best := number_of(report.get("best_accuracy"))) is not None:
        facts.append(("best possible accuracy", format_figure(best, "fraction")))
    if (reached := number_of(report.get("normalised_accuracy"))) is not None:
        limits = mapping_of(report.get("normalised_limits"))
        interval = _write_interval({**limits, "value": reached}, "fraction")
        facts.append(("of what is possible", interval or format_figure(reached, "fraction")))
    if interval := _write_interval(mapping_of(report.get("quality_accuracy")), "fraction"):
        facts.append(("better one has the higher score", interval))
    if interval := _write_interval(mapping_of(report.get("ensemble_gain")), "fraction"):
        facts.append(("what the members' mean gains", interval))
    calibration, length = mapping_of(report.get("calibration")), mapping_of(report.get("length"))
    if interval := _write_interval(mapping_of(calibration.get("error")), "fraction"):
        chance = format_figure(number_of(calibration.get("error_if_calibrated")), "fraction")
        facts.append(("calibration error", f"{interval}; {chance} by chance alone"))
    if interval := _write_interval(mapping_of(length.get("slope")), "score/token"):
        facts.append((f"one more token at equal {text_of(length.get('at_equal'))}", interval))
    is_training = text_of(report.get("rows_are")) == "training"
    remark = "These are the rows that it was trained on: they show nothing of others." if is_training else ""
    return RewardView(
        facts,
        _build_reliability(calibration),
        _list_margins(report),
        remark,
        list_warnings(report),
        _list_attributes(report),
    )


def list_warnings(report: Mapping[str, Any]) -> list[str]:
    """Return what a stage found wrong with its reward model, a line each."""
    return [text for line in list_of(report.get("warnings")) if (text := text_of(line))]


def _list_attributes(report: Mapping[str, Any]) -> list[tuple[str, str, str, str, str]]:
    rows = []
    for name, found in mapping_of(report.get("attributes")).items():
        correlation = number_of(mapping_of(found).get("correlation"))
        if correlation is None:
            continue
        ordering = mapping_of(mapping_of(found).get("ordering"))
        value, low, high = (number_of(ordering.get(key)) for key in ("value", "low", "high"))
        share, limits, pairs = "", "", ""
        if value is not None and low is not None and high is not None:
            share = format_figure(value, "fraction")
            limits = f"{format_figure(low, 'fraction')} – {format_figure(high, 'fraction')}"
            pairs = format_count(number_of(ordering.get("pairs")))
        rows.append((text_of(name), f"{correlation:.2f}", share, limits, pairs))
    return rows


def _build_reliability(calibration: Mapping[str, Any]) -> list[CurveChart]:
    points = [
        [number_of(mapping_of(one).get("confidence")), number_of(mapping_of(one).get("accuracy"))]
        for one in list_of(calibration.get("bins"))
    ]
    axes = {"x_label": "predicted probability", "y_label": "share that came true"}
    return build_curves([("held-out rows", {"name": "Reliability", "points": points, **axes})])


def _list_margins(report: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    rows = []
    for one in map(mapping_of, list_of(report.get("accuracy_by_margin"))):
        ends = [number_of(one.get(key)) for key in ("from", "to", "value", "low", "high")]
        if any(end is None for end in ends):
            continue
        low, high, accuracy, least, most = (float(end or 0.0) for end in ends)
        limits = f"{format_figure(least, 'fraction')} – {format_figure(most, 'fraction')}"
        margin = f"{format_compact(low)} to {format_compact(high)}"
        pairs = format_count(number_of(one.get("pairs")))
        rows.append((margin, format_figure(accuracy, "fraction"), limits, pairs))
    return rows


def _write_interval(found: Mapping[str, Any], unit: str) -> str:
    """Return `72 % (69 % – 75 %)`, or an empty text where a number is missing."""
    value, low, high = (number_of(found.get(key)) for key in ("value", "low", "high"))
    if value is None or low is None or high is None:
        return ""
    return f"{format_figure(value, unit)} ({format_figure(low, unit)} – {format_figure(high, unit)})"
