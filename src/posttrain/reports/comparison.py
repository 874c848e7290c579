"""A comparison of two policies on the same items: its record, and the page that shows it.

Whoever paired the items fills the record; nothing is computed here but counts of verdicts. What a policy caused (an
answer that was cut off or could not be read) stays in every value, and its share stands beside it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from posttrain.core.durable import write_text
from posttrain.core.records import Message
from posttrain.reports.interval_plots import IntervalPlot, Scale, Tick, choose_scale, draw_interval, list_ticks
from posttrain.reports.measuring import Measuring, describe_settings
from posttrain.reports.numbers import NO_VALUE, format_change, format_count, format_figure, format_p_value
from posttrain.reports.raw_values import number_of
from posttrain.reports.rendering import render_page
from posttrain.reports.samples import MAX_ANSWER_CHARACTERS, Answer, Sample, mark_score, name_score, read_prompt
from posttrain.reports.tables import list_failures
from posttrain.reports.visible_text import cut_text

Verdict = Literal["better", "worse", "higher", "lower", "undecided", "unmeasured"]
VERDICTS: dict[str, str] = {
    "better": "good", "worse": "bad", "higher": "plain", "lower": "plain", "undecided": "plain", "unmeasured": "none",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class ComparedPolicy:
    """One of the two policies: the name that it was asked for under, and its hash."""

    name: str
    hash: str


@dataclass(frozen=True, slots=True)
class MeasuredSide:
    """What one policy scored: the mean with its 95 % limits (None: not measured), and items by outcome.

    `outcomes` counts `scored`, `unparsed`, `truncated`, `timed_out`, `errored`, `not_applicable` and `harness`;
    `template` is the hash of the chat template that it was asked with.
    """

    value: float | None
    low: float | None
    high: float | None
    outcomes: Mapping[str, int] = field(default_factory=dict)
    template: str = ""


@dataclass(frozen=True, slots=True)
class ComparedMetric:
    """One metric of one task on both sides; differences are B less A.

    `low` and `high` are the limits of the difference at 1 - `Comparison.level`. `verdict` says whether B is better, by
    `p_value` alone; `adjusted_verdict` by `adjusted_p_value`, after Holm's correction over all metrics of the
    comparison. Where `lower_is_better` is None, no direction is declared: verdicts are `higher` and `lower`, and
    `num_better` counts the pairs that are higher, `num_worse` those that are lower. Where the verdict is `unmeasured`,
    `reason` says why and no difference is shown, whatever stands here.
    `unit` is that of `core.metrics`; values of a `fraction` are shown in percent.

    Example: 200 pairs, A right on 38 and B on 110, 80 better and 8 worse: difference 0.36, verdict `better`.
    """

    task: str
    name: str
    a: MeasuredSide
    b: MeasuredSide
    num_items: int
    num_clusters: int
    difference: float | None
    low: float | None
    high: float | None
    p_value: float | None
    verdict: Verdict
    reason: str
    num_better: int
    num_worse: int
    num_same: int
    adjusted_p_value: float | None = None
    adjusted_verdict: Verdict | None = None
    unit: str = "fraction"
    method: str = ""
    task_hash: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)
    lower_is_better: bool | None = False


@dataclass(frozen=True, slots=True)
class Flip:
    """An item that the two policies did not score alike; `prompt` is text or a list of messages."""

    item_id: str
    prompt: str | Sequence[Message]
    reference: str
    text_a: str
    text_b: str
    score_a: float
    score_b: float


@dataclass(frozen=True, slots=True)
class TaskFlips:
    """How many items of a task B lost and gained, and some of them."""

    task: str
    num_lost: int
    num_gained: int
    lost: Sequence[Flip] = ()
    gained: Sequence[Flip] = ()


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two policies compared on every metric that both were measured on.

    Made by the pipeline from the items of both, read by the command line and whoever opens the page. `level` is the
    two-sided level of the verdicts; `notes` say what a reader must know beside the figures.

    Example: `Comparison(ComparedPolicy("base", "0f..."), ComparedPolicy("sft", "9a..."), metrics=[...])`.
    """

    a: ComparedPolicy
    b: ComparedPolicy
    metrics: Sequence[ComparedMetric]
    flips: Sequence[TaskFlips] = ()
    level: float = 0.05
    notes: Sequence[str] = ()

    @property
    def confidence(self) -> str:
        """What the limits of the differences cover, as text: `95 %`."""
        return f"{100 * (1 - self.level):.4g}\u00a0%"

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as JSON values; what is not finite is None."""
        plain: dict[str, Any] = _plain(dataclasses.asdict(self))
        return plain | {
            "verdicts": count_verdicts(self, adjusted=False),
            "adjusted": count_verdicts(self, adjusted=True),
        }


@dataclass(frozen=True, slots=True)
class SideTexts:
    """One side's value, 95 % interval, and the shares that could not be scored."""

    value: str
    interval: str
    failures: list[str]


@dataclass(frozen=True, slots=True)
class ComparedRow:
    """One metric as text, and as an interval on the scale of its forest (None where there is no difference).

    Only values in percent carry their unit; others are read under `unit`.
    """

    task: str
    name: str
    unit: str
    a: SideTexts
    b: SideTexts
    difference: str
    limits: str
    p_value: str
    adjusted_p_value: str
    verdict: str
    style: str
    adjusted: str
    is_settled: bool
    changed: str
    counted: str
    num_items: str
    clusters: str
    left_out: str
    method: str
    reason: str
    plot: IntervalPlot | None

    @property
    def summary(self) -> str:
        """The row in one sentence, for whoever cannot see the drawing."""
        said = f"{self.difference}, interval {self.limits}, " if self.plot else ""
        return f"{self.task} {self.label}: {said}{self.verdict}"

    @property
    def label(self) -> str:
        """The metric's name, with its unit where the values do not carry it."""
        return self.name if self.unit in ("fraction", "") else f"{self.name} ({self.unit})"


@dataclass(frozen=True, slots=True)
class Forest:
    """The differences of all metrics of one unit on one scale."""

    unit: str
    rows: list[ComparedRow]
    ticks: list[Tick]

    @property
    def is_settled(self) -> bool:
        """Whether Holm's correction leaves every verdict as it is."""
        return all(row.is_settled for row in self.rows)


@dataclass(frozen=True, slots=True)
class FlipCards:
    """Some items that B lost and gained, as cards."""

    task: str
    num_lost: int
    num_gained: int
    lost: list[Sample]
    gained: list[Sample]


def write_comparison(comparison: Comparison, path: Path) -> Path:
    """Write the page of a comparison, and return its path; the same record gives the same bytes.

    Raises:
        StorageError: The page cannot be written.
    """
    write_text(path, render_comparison(comparison))
    return path


def render_comparison(comparison: Comparison) -> str:
    """Return the self-contained page of a comparison."""
    rows, forests = build_rows(comparison.metrics)
    return render_page(
        "comparison.html",
        comparison=comparison,
        summary=describe_verdicts(comparison),
        forests=forests,
        rows=rows,
        measuring=_list_measuring(comparison.metrics),
        flips=[_build_cards(flips, comparison) for flips in comparison.flips],
    )


def count_verdicts(comparison: Comparison, *, adjusted: bool) -> dict[str, int]:
    """Return how many metrics have each verdict, by their own p-value or after Holm's correction."""
    found: list[str] = [
        metric.adjusted_verdict if adjusted and metric.adjusted_verdict is not None else metric.verdict
        for metric in comparison.metrics
    ]
    return {verdict: found.count(verdict) for verdict in VERDICTS}


def describe_verdicts(comparison: Comparison) -> list[str]:
    """Return what was found, in one sentence, and in a second one what Holm's correction leaves of it."""
    counts, corrected = (count_verdicts(comparison, adjusted=adjusted) for adjusted in (False, True))
    total = len(comparison.metrics)
    has_neutral = any(metric.lower_is_better is None for metric in comparison.metrics)
    neutral, left = (
        f", {one['higher']} higher and {one['lower']} lower where no direction is declared" if has_neutral else ""
        for one in (counts, corrected)
    )
    sentences = [
        f"Of {total} metric{'s' * (total != 1)}, B is better on {counts['better']} and worse on "
        f"{counts['worse']}{neutral}; {counts['undecided']} undecided, {counts['unmeasured']} unmeasured."
    ]
    if any(metric.adjusted_verdict is not None for metric in comparison.metrics):
        sentences.append(
            f"After Holm's correction for that many: better on {corrected['better']}, worse on "
            f"{corrected['worse']}{left}."
        )
    return sentences


def build_rows(metrics: Sequence[ComparedMetric]) -> tuple[list[ComparedRow], list[Forest]]:
    """Return the metrics as text in their order, and grouped by unit on a scale that each unit's differences share."""
    scales: dict[str, Scale] = {}
    for unit in dict.fromkeys(metric.unit for metric in metrics):
        numbers = [number_of(end) for metric in metrics if metric.unit == unit for end in _list_ends(metric)]
        scales[unit] = choose_scale([n for n in numbers if n is not None], unit, is_difference=True)
    rows = [_build_row(metric, scales[metric.unit]) for metric in metrics]
    forests = [
        Forest(unit, [row for row in rows if row.unit == unit], list_ticks(scale)) for unit, scale in scales.items()
    ]
    return rows, forests


def _list_ends(metric: ComparedMetric) -> list[float | None]:
    is_measured = metric.verdict != "unmeasured"
    return [metric.difference, metric.low, metric.high] if is_measured else []


def _build_row(metric: ComparedMetric, scale: Scale) -> ComparedRow:
    unit = metric.unit
    difference, low, high = [number_of(end) for end in _list_ends(metric)] or [None, None, None]
    is_measured = metric.verdict != "unmeasured"
    is_adjusted = is_measured and metric.adjusted_verdict is not None
    limits = f"{format_change(low, unit, with_unit=False)} to {format_change(high, unit, with_unit=False)}"
    return ComparedRow(
        task=metric.task,
        name=metric.name,
        unit=unit,
        a=_build_side(metric.a, unit),
        b=_build_side(metric.b, unit),
        difference=format_change(difference, unit, with_unit=unit == "fraction"),
        limits=limits if is_measured else "",
        p_value=format_p_value(number_of(metric.p_value)) if is_measured else NO_VALUE,
        adjusted_p_value=format_p_value(number_of(metric.adjusted_p_value)) if is_adjusted else "",
        verdict=metric.verdict,
        style=VERDICTS.get(metric.verdict, "plain"),
        adjusted=metric.adjusted_verdict or "" if is_adjusted else "",
        is_settled=not is_adjusted or metric.adjusted_verdict == metric.verdict,
        changed=f"{metric.num_better} / {metric.num_worse} / {metric.num_same}" if is_measured else "",
        counted="higher, lower, same" if metric.lower_is_better is None else "better, worse, same",
        num_items=format_count(metric.num_items),
        clusters="" if metric.num_clusters == metric.num_items else f"{format_count(metric.num_clusters)} clusters",
        left_out=" · ".join(
            f"{reason.replace('_', ' ')} {count}, left out" for reason, count in metric.left_out.items()
        ),
        method=metric.method.replace("_", " "),
        reason=metric.reason,
        plot=None if difference is None else draw_interval(scale, difference, low, high),
    )


def _build_side(side: MeasuredSide, unit: str) -> SideTexts:
    low, high = number_of(side.low), number_of(side.high)
    ends = [format_figure(end, unit, with_unit=False) for end in (low, high)]
    return SideTexts(
        value=format_figure(number_of(side.value), unit, with_unit=unit == "fraction"),
        interval="" if low is None or high is None else " – ".join(ends),
        failures=list_failures(side.outcomes),
    )


def _list_measuring(metrics: Sequence[ComparedMetric]) -> list[Measuring]:
    """Return how the tasks were measured; where the sides were asked with two templates, each has a row."""
    rows: dict[Measuring, None] = {}
    for metric in metrics:
        sides = [("A", metric.a), ("B", metric.b)]
        templates = {name: side.template for name, side in sides if side.template or side.value is not None}
        if len(templates) == 2 and metric.a.template == metric.b.template:
            templates = {"A and B": metric.a.template}
        for name, template in templates.items():
            settings = describe_settings(metric.settings)
            rows[Measuring(metric.task, name, settings, template, metric.task_hash)] = None
    return list(rows)


def _build_cards(flips: TaskFlips, comparison: Comparison) -> FlipCards:
    lost, gained = ([_build_card(flip, comparison) for flip in group] for group in (flips.lost, flips.gained))
    return FlipCards(flips.task, flips.num_lost, flips.num_gained, lost, gained)


def _build_card(flip: Flip, comparison: Comparison) -> Sample:
    sides = (
        (f"A, {comparison.a.name}", flip.text_a, flip.score_a),
        (f"B, {comparison.b.name}", flip.text_b, flip.score_b),
    )
    answers = []
    for label, text, raw in sides:
        score = number_of(raw)
        verdict = "no score" if score is None else name_score(score)
        answers.append(Answer(label, *cut_text(text, MAX_ANSWER_CHARACTERS), verdict, "", mark_score(score)))
    prompt = flip.prompt if isinstance(flip.prompt, str) else list(flip.prompt)
    return Sample(flip.item_id, read_prompt(prompt), cut_text(flip.reference, MAX_ANSWER_CHARACTERS)[0], answers)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
