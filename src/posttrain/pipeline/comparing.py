"""Two policies on the same items: from names that a user types to a record for the table and the page.

Names stand for what was measured (`measured_sides`), or, with a suite, for any model, measured as far as it was not.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from posttrain.core.errors import DataError
from posttrain.core.metrics import BITS_PER_BYTE, STOP_RATE, TOKEN_PROBABILITY, describe_metric
from posttrain.core.protocols import Progress
from posttrain.core.records import ItemResult
from posttrain.core.seeds import build_numpy_generator
from posttrain.evaluation.figures import STOPPED, summarise_items
from posttrain.evaluation.perplexity import read_sums, summarise_texts
from posttrain.pipeline.evaluating import EvaluationChoice, evaluate_model
from posttrain.pipeline.measured_sides import Side, find_side, read_side
from posttrain.reports.comparison import (
    ComparedMetric,
    ComparedPolicy,
    Comparison,
    Flip,
    MeasuredSide,
    TaskFlips,
    Verdict,
)
from posttrain.statistics.clusters import encode_clusters
from posttrain.statistics.intervals import Interval
from posttrain.statistics.multiplicity import adjust_holm
from posttrain.statistics.paired import PairedTest, compare_pairs
from posttrain.statistics.pairing import cluster_name, pair_items
from posttrain.statistics.ratios import compare_ratios
from posttrain.statistics.repeats import parse_repeated

LEVEL = 0.05
_BY_TOKEN = (TOKEN_PROBABILITY, "nats", "tokens")
"""Metrics of a text that two tokenizers do not share."""


def compare_models(
    names: tuple[str, str],
    choice: EvaluationChoice | None,
    progress: Progress,
    should_stop: Callable[[], bool],
    *,
    num_flips: int = 3,
) -> Comparison:
    """Return two policies compared on every task that both were measured on.

    Args:
        names: A and B; differences are B less A.
        choice: A suite to measure both on; None: what was measured before is compared.
        progress: Shows how far measuring has come.
        should_stop: Asked after every batch.
        num_flips: Examples of each kind and task: items that B lost, and that it gained.

    Raises:
        RecipeError: A name stands for nothing that was measured.
        DataError: Both were measured on no task in common, or were asked with different chat templates.
        StorageError: A file of what was measured is torn, or holds something else.
    """
    if choice is None:
        a, b = (find_side(name) for name in names)
    else:
        a, b = (_measure(name, choice, progress, should_stop) for name in names)
    return compare_sides(a, b, num_flips=num_flips)


def _measure(name: str, choice: EvaluationChoice, progress: Progress, should_stop: Callable[[], bool]) -> Side:
    evaluated = evaluate_model(name, choice, progress, should_stop)
    hashes = {task: one.hash for task, one in evaluated.measured.items()}
    side = read_side(name, evaluated.policy_hash, evaluated.folder, hashes, choice.seed)
    return replace(side, asked={task: one.problem_ids for task, one in evaluated.measured.items()})


def compare_sides(a: Side, b: Side, *, num_flips: int = 3, level: float = LEVEL) -> Comparison:
    """Return two sides compared on every task that both were measured on.

    Raises:
        DataError: There is none, or they were asked with different chat templates.
        StorageError: An item file is torn.
    """
    tasks = [task for task in a.cards if task in b.cards]
    if not tasks:
        raise DataError(
            f"no task in common: {', '.join(a.cards)} and {', '.join(b.cards)}",
            expected="the same tasks on both sides",
            cure="measure both on one suite: posttrain compare A B --suite NAME",
            place=f"{a.name}, {b.name}",
        )
    metrics: list[ComparedMetric] = []
    flips: list[TaskFlips] = []
    for task in tasks:
        _check_templates(task, a, b)
        before, after = a.read_items(task), b.read_items(task)
        metrics += _compare_task(task, a, b, before, after, level)
        if a.cards[task]["task_hash"] == b.cards[task]["task_hash"]:
            flips.append(_find_flips(task, before, after, num_flips))
    notes = [*a.notes, *b.notes]
    notes += [f"{side.name} was also measured on {task}" for side, other in ((a, b), (b, a))
             for task in side.cards if task not in other.cards]  # fmt: skip
    notes += [note for task in tasks for note in _note_windows(task, a, b)]
    first, second = (ComparedPolicy(side.name, side.policy_hash) for side in (a, b))
    return Comparison(first, second, _adjust(metrics, level), flips, level, notes)


def _note_windows(task: str, a: Side, b: Side) -> list[str]:
    """Return what a reader must know where texts were cut into windows of different lengths."""
    windows = [side.cards[task].get("context_tokens") for side in (a, b)]
    if a.cards[task]["metric"] != TOKEN_PROBABILITY or windows[0] == windows[1] or None in windows:
        return []
    return [f"texts of {task} were cut into windows of {windows[0]} tokens for A and {windows[1]} for B"]


def _check_templates(task: str, a: Side, b: Side) -> None:
    templates = [side.cards[task]["template"] for side in (a, b)]
    if templates[0] != templates[1]:
        raise DataError(
            f"task '{task}' was asked with different chat templates: {a.name} {templates[0][:12]}, "
            f"{b.name} {templates[1][:12]}",
            expected="one template for both, so that a difference is the policies'",
            cure="measure both with one: posttrain compare A B --suite NAME --template plain (or a .jinja file)",
            place=task,
        )


# many parameters: a task, its two sides with their items, and the level
def _compare_task(
    task: str, a: Side, b: Side, before: list[ItemResult], after: list[ItemResult], level: float
) -> Iterator[ComparedMetric]:
    card = a.cards[task]
    sides = [_summarise(side.cards[task], items) for side, items in ((a, before), (b, after))]
    main = card["metric"]
    for name in dict.fromkeys([*sides[0], *sides[1]]):
        found = [side.get(name, _NOTHING) for side in sides]
        known = describe_metric(name)
        empty = ComparedMetric(
            task=task, name=name, a=found[0], b=found[1], num_items=0, num_clusters=0, difference=None, low=None,
            high=None, p_value=None, verdict="unmeasured", reason="", num_better=0, num_worse=0, num_same=0,
            unit="fraction" if known is None else known.unit, task_hash=card["task_hash"],
            settings=card["settings"], lower_is_better=_find_direction(name, main),
        )  # fmt: skip
        tokenizers = [side.cards[task].get("tokenizer") for side in (a, b)]
        if main == TOKEN_PROBABILITY and name in _BY_TOKEN and None not in tokenizers and len(set(tokenizers)) > 1:
            yield replace(empty, reason="the two have different tokenizers, by which probabilities of tokens differ")
            continue
        unread = [side.name for side, one in zip((a, b), found, strict=True) if one.value is None]
        if unread:
            yield replace(empty, reason=f"no answer of {' or '.join(unread)} could be read")
            continue
        try:
            part = {main: None, STOP_RATE: STOPPED}.get(name, name)
            generator = build_numpy_generator("compare", card["task_hash"], a.policy_hash, b.policy_hash)
            pair = _pair_ratios if main == TOKEN_PROBABILITY and name == BITS_PER_BYTE else _pair
            yield pair(empty, before, after, part, level, generator)
        except DataError as error:
            yield replace(empty, reason=f"{error.found} (expected: {error.expected})")


def _find_direction(name: str, main: str) -> bool | None:
    """Return whether less of a metric is better, None where that is not declared.

    What a task's scorer says is a score, so that more is better unless its own declaration says otherwise.
    """
    if parse_repeated(name) is not None:
        name = main
    known = describe_metric(name)
    if known is None:
        return False if name == main else None
    return known.lower_is_better


_NOTHING = MeasuredSide(None, None, None)


def _summarise(card: dict[str, Any], items: list[ItemResult]) -> dict[str, MeasuredSide]:
    """Return every paired metric of one side; of the ratios of sums, bits per byte alone."""
    parts = [part for part in card["parts"] if parse_repeated(part) is None]
    repeated = [part for part in card["parts"] if parse_repeated(part) is not None]
    if card["metric"] == TOKEN_PROBABILITY:
        wanted = (TOKEN_PROBABILITY, *parts, BITS_PER_BYTE)
        found = [one for one in summarise_texts(card["task"], items, parts) if one["name"] in wanted]
    else:
        found = summarise_items(card["task"], card["metric"], items, parts, repeated)
    return {
        figures["name"]: MeasuredSide(
            figures["value"], figures["low"], figures["high"], figures["outcomes"], card["template"]
        )
        for figures in found
    }


# many parameters: what is known of the metric, its items, and how they are paired
def _pair(
    empty: ComparedMetric,
    before: Sequence[ItemResult],
    after: Sequence[ItemResult],
    part: str | None,
    level: float,
    generator: np.random.Generator,
) -> ComparedMetric:
    """Return a metric with the difference of its paired values.

    Raises:
        DataError: The items cannot be paired, or are of one source.
    """
    pairs = pair_items(before, after, part=part)
    found = compare_pairs(pairs, generator, level=1 - level)
    return _judge(
        empty,
        (found.difference, found.test),
        (found.num_pairs, found.num_clusters, found.num_better, found.num_worse),
        level,
        pairs.left_out,
    )


# many parameters: as `_pair`, which it stands in for
def _pair_ratios(
    empty: ComparedMetric,
    before: Sequence[ItemResult],
    after: Sequence[ItemResult],
    part: str | None,
    level: float,
    generator: np.random.Generator,
) -> ComparedMetric:
    """Return bits per byte with the difference of the two ratios.

    Raises:
        DataError: As `_pair`, or an item lacks what the ratio is made of.
    """
    pair_items(before, after)  # refuses what is not of the same items
    later = {item.item_id: item for item in after}
    both = [(x, later[x.item_id]) for x in before if x.outcome.is_counted and later[x.item_id].outcome.is_counted]
    sides = [
        (np.array(read_sums(items, "nats")) / math.log(2), np.array(read_sums(items, "bytes")))
        for items in ([pair[0] for pair in both], [pair[1] for pair in both])
    ]
    clusters = encode_clusters([cluster_name(pair[0]) for pair in both], len(both))
    found = compare_ratios(sides[0], sides[1], clusters, generator, level=1 - level)
    changes = sides[1][0] / sides[1][1] - sides[0][0] / sides[0][1]
    counts = (len(both), int(clusters.max()) + 1, int((changes > 0).sum()), int((changes < 0).sum()))
    left_out = {"not_counted": len(before) - len(both)} if len(both) < len(before) else {}
    return _judge(empty, found, counts, level, left_out)


def _judge(
    empty: ComparedMetric,
    found: tuple[Interval, PairedTest],
    counts: tuple[int, int, int, int],
    level: float,
    left_out: Mapping[str, int],
) -> ComparedMetric:
    """Return a metric with a verdict where the test and the interval of the difference agree that there is one.

    Args:
        empty: What is known of the metric.
        found: The difference with its interval at `1 - level`, and the test of none.
        counts: Pairs, sources, pairs that are higher after, and pairs that are lower.
        level: Of the test.
        left_out: Pairs that do not count, by reason.
    """
    (change, test), (num_pairs, num_clusters, num_higher, num_lower) = found, counts
    is_tested, is_apart = test.p_value <= level, change.low > 0 or change.high < 0
    reason = {
        (True, True): "",
        (False, False): "a difference is not shown",
        (True, False): "the test shows a difference and the interval does not exclude 0, so none is told of",
        (False, True): "the interval excludes 0 and the test does not show a difference, so none is told of",
    }[is_tested, is_apart]
    lower_is_better = empty.lower_is_better
    names: tuple[Verdict, Verdict] = ("higher", "lower") if lower_is_better is None else ("better", "worse")
    is_first = (change.value > 0) != bool(lower_is_better)
    return replace(
        empty,
        num_items=num_pairs,
        num_clusters=num_clusters,
        difference=change.value,
        low=change.low,
        high=change.high,
        p_value=test.p_value,
        verdict=names[0 if is_first else 1] if not reason else "undecided",
        reason=reason,
        num_better=num_lower if lower_is_better else num_higher,
        num_worse=num_higher if lower_is_better else num_lower,
        num_same=num_pairs - num_higher - num_lower,
        method=test.method,
        left_out=left_out,
    )


def _adjust(metrics: Sequence[ComparedMetric], level: float) -> list[ComparedMetric]:
    """Return the metrics with verdicts by Holm's correction over all that were tested."""
    tested = [index for index, metric in enumerate(metrics) if metric.p_value is not None]
    adjusted = adjust_holm([float(metrics[index].p_value or 0.0) for index in tested])
    found = list(metrics)
    for index, p_value in zip(tested, adjusted, strict=True):
        verdict = metrics[index].verdict if p_value <= level else "undecided"
        found[index] = replace(metrics[index], adjusted_p_value=p_value, adjusted_verdict=verdict)
    return found


def _find_flips(task: str, before: Sequence[ItemResult], after: Sequence[ItemResult], count: int) -> TaskFlips:
    """Return some of the items that changed, chosen by the hash of their names and not by charm."""
    later = {(item.item_id, item.sample_index): item for item in after}
    changed = [
        (item, later[key])
        for item in before
        if (key := (item.item_id, item.sample_index)) in later
        and item.outcome.is_counted
        and later[key].outcome.is_counted
        and item.outcome.value != later[key].outcome.value
    ]
    changed.sort(key=lambda pair: hashlib.sha256(f"{pair[0].item_id} {pair[0].sample_index}".encode()).digest())
    lost = [pair for pair in changed if pair[1].outcome.value < pair[0].outcome.value]
    gained = [pair for pair in changed if pair[1].outcome.value > pair[0].outcome.value]
    shown = [[_describe_flip(*pair) for pair in pairs[:count]] for pairs in (lost, gained)]
    return TaskFlips(task, len(lost), len(gained), *shown)


def _describe_flip(before: ItemResult, after: ItemResult) -> Flip:
    return Flip(
        before.item_id, before.prompt, before.reference, before.text, after.text, before.outcome.value,
        after.outcome.value,
    )  # fmt: skip
