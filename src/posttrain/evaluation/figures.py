"""Sums up items: every metric with its 95 % interval, the number of items and sources, and the outcomes by status."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from posttrain.core.errors import RefusedError
from posttrain.core.metrics import STOP_RATE, describe_metric
from posttrain.core.records import MAX_HARNESS_FAULT_FRACTION, ItemResult, Outcome
from posttrain.core.seeds import build_numpy_generator
from posttrain.statistics.clusters import encode_clusters
from posttrain.statistics.intervals import (
    bootstrap_interval,
    clustered_interval,
    korn_graubard_interval,
    wilson_interval,
)
from posttrain.statistics.pairing import cluster_name
from posttrain.statistics.repeats import FoldError, fold_samples

STOPPED = "stopped"
"""The part of a drawn completion's outcome that says whether it ended by itself (1) or was cut (0)."""
DRAWN_TOKENS = "drawn_tokens"
"""The part of a drawn completion's outcome that counts its tokens, the stop token included."""
DRAWN_NATS = "drawn_nats"
"""The part that is minus the log-likelihood of the drawn tokens, at temperature 1 and untruncated, where known."""
CHOSEN_SCORE, MEAN_SCORE = "chosen_score", "candidates_score"
"""The parts of an answer that was chosen among several: what its chooser gave it, and gave all in the mean."""
CUT_TOKENS = "cut_tokens"
"""The part that counts the tokens of a prompt that did not fit the model's context; absent where all did."""
UNREAD = "unread"
"""In place of an interval's method where no answer could be read: the metric has no value then."""

HARNESS = "harness"
"""In place of the method of pass@k or cons@k where the harness left too many problems with too few samples."""

_STATUSES = ("scored", "unparsed", "timed_out", "truncated", "errored", "not_applicable")


def summarise_items(
    task_name: str,
    metric_name: str,
    items: Sequence[ItemResult],
    parts: Sequence[str] = (),
    repeated: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Return the metrics of a task's items.

    They are the mean value under `metric_name`, `stop_rate` where completions were drawn, the named parts, averaged
    over the items whose outcome has them, and `pass@k` and `cons@k`. Where no answer could be read there is no value
    (None, with the method `unread`), since a scorer that finds nothing to judge measures nothing. Nor has a part that
    `core.metrics` declares where no outcome has it: the bias of answers that name somebody, where none does.

    Intervals: right or wrong, Wilson's, of items that share sources Korn and Graubard's; other values, the bootstrap's,
    of items that share sources the cluster-robust one, within a metric's declared bounds; of one source none.

    Raises:
        RefusedError: Harness faults are more than 1 % of the items, the scorer applies to none, or no outcome has a
            part that is asked for and declared nowhere.
        DataError: Items have too few samples.
    """
    outcomes = _count_outcomes(task_name, metric_name, items)
    faulty: list[str] = []
    series = {metric_name: _read(items, lambda outcome: outcome.value)}
    drawn = _read_part(items, STOPPED)
    if drawn[0]:
        series[STOP_RATE] = drawn
    for part in parts:
        series[part] = _read_part(items, part)
        if not series[part][0] and describe_metric(part) is None:
            known = sorted({name for item in items if item.outcome.is_counted for name in item.outcome.parts})
            raise RefusedError(
                f"no outcome of {metric_name} has the part {part!r}",
                expected="one of " + ", ".join(known),
                cure="correct 'parts', or leave it out",
                place=task_name,
            )
    for name in repeated:
        try:
            folded = fold_samples(items, name)
        except FoldError:
            faulty.append(name)
            folded = []
        series[name] = _read(folded, lambda outcome: outcome.value)
    unread = (metric_name, *repeated) if outcomes["scored"] == 0 else ()
    seeds = (items[0].task_hash, items[0].policy_hash)
    return [
        {
            "task": task_name,
            "name": name,
            **(
                _say_nothing(clusters, HARNESS if name in faulty else UNREAD)
                if name in faulty or not values or name in unread
                else _clip(name, _estimate(values, clusters, *seeds))
            ),
            "outcomes": outcomes,
        }
        for name, (values, clusters) in series.items()
    ]


def _count_outcomes(task_name: str, metric_name: str, items: Sequence[ItemResult]) -> dict[str, int]:
    num_faults = sum(item.outcome.fault == HARNESS for item in items)
    num_counted = sum(item.outcome.is_counted for item in items)
    if not num_counted and not num_faults:
        raise RefusedError(
            f"{metric_name} applies to none of {len(items)} items",
            expected="a score, or a failure of the policy, for at least one item",
            cure="choose another scorer for the task, or rows with the columns that it reads",
            place=task_name,
        )
    if not num_counted or num_faults > MAX_HARNESS_FAULT_FRACTION * len(items):
        faults = Counter(item.outcome.why or item.outcome.status for item in items if item.outcome.fault == HARNESS)
        raise RefusedError(
            f"the harness failed on {num_faults} of {len(items)} items: "
            + "; ".join(f"{why} ({count})" for why, count in faults.most_common(3)),
            expected=f"at most {MAX_HARNESS_FAULT_FRACTION:.0%} of the items, so that what is left out cannot decide",
            cure="mend the scorer or the sandbox and run the same command again: only these items are evaluated anew",
            place=task_name,
        )
    statuses = Counter[str](item.outcome.status for item in items if item.outcome.fault != HARNESS)
    return {**{status: statuses[status] for status in _STATUSES}, "harness": num_faults}


Series = tuple[list[float], list[str]]


def _read(items: Iterable[ItemResult], value_of: Callable[[Outcome], float | None]) -> Series:
    """Return the values and clusters of the items that count and have a value."""
    values: list[float] = []
    clusters: list[str] = []
    for item in items:
        value = value_of(item.outcome) if item.outcome.is_counted else None
        if value is not None:
            values.append(value)
            clusters.append(cluster_name(item))
    return values, clusters


def _read_part(items: Iterable[ItemResult], part: str) -> Series:
    return _read(items, lambda outcome: outcome.parts.get(part))


def _say_nothing(clusters: Sequence[str], why: str) -> dict[str, Any]:
    known = {"n": len(clusters), "clusters": len(set(clusters)), "method": why}
    return {"value": None, "low": None, "high": None, **known}


def _clip(name: str, figures: dict[str, Any]) -> dict[str, Any]:
    """Return figures whose interval lies within what the metric can be, as far as that is declared."""
    spec = describe_metric(name)
    if spec is None or spec.bounds is None or figures["low"] is None:
        return figures
    least, most = spec.bounds
    return {**figures, "low": max(least, figures["low"]), "high": min(most, figures["high"])}


def _estimate(values: Sequence[float], clusters: Sequence[str], *seed_parts: str) -> dict[str, Any]:
    """Return a mean with its interval and how that was come by.

    Items that all share one source have no interval (`one_source`), since how another source would do cannot be told,
    and a single value that is not 0 or 1 has none either: drawing it again shows no spread. A single item that is right
    or wrong has Wilson's, which holds for one trial.
    """
    codes = encode_clusters(clusters, len(clusters))
    num_clusters = int(codes.max()) + 1
    is_binary, is_clustered = set(values) <= {0.0, 1.0}, num_clusters < len(values)
    known = {"n": len(values), "clusters": num_clusters}
    if num_clusters == 1 and (is_clustered or not is_binary):
        return {"value": float(np.mean(values)), "low": None, "high": None, **known, "method": "one_source"}
    if is_binary and not is_clustered:
        interval, method = wilson_interval(int(sum(values)), len(values)), "wilson"
    elif is_binary:
        interval, method = korn_graubard_interval(values, codes), "korn_graubard"
    elif is_clustered:
        interval, method = clustered_interval(values, codes), "clustered"
    else:
        generator = build_numpy_generator("evaluation", "bootstrap", *seed_parts)
        interval, method = bootstrap_interval(values, generator), "bootstrap"
    return {"value": interval.value, "low": interval.low, "high": interval.high, **known, "method": method}
