"""Reads a rule's values out of items, or says why they cannot be read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from posttrain.core.config import suggest
from posttrain.core.errors import DataError
from posttrain.core.records import MAX_HARNESS_FAULT_FRACTION, ItemResult
from posttrain.gates.results import Items
from posttrain.gates.rules import split_metric
from posttrain.statistics.clusters import Floats
from posttrain.statistics.pairing import Pairs, check_side, cluster_name, list_parts, pair_items, read_value
from posttrain.statistics.repeats import fold_samples, parse_repeated


class UnmeasuredError(Exception):
    """A rule that cannot be decided because something was not measured; the text says what, for a person."""


@dataclass(frozen=True, slots=True)
class Values:
    """A metric of one policy: a value and a cluster name for each item that counts, and what was left out."""

    values_N: Floats
    clusters_N: list[str]
    left_out: Mapping[str, int]


def find_items(items: Items, metric: str, side: str) -> Sequence[ItemResult]:
    """Return the items of a metric's task.

    Raises:
        UnmeasuredError: The task was not measured on this side, or the harness failed on over 1 % of it.
    """
    task, _ = split_metric(metric)
    found = items.get(task, ())
    if not found:
        known = [name for name, some in items.items() if some]
        hint = f" ({suggest(task, known)})" if task not in items else ""
        raise UnmeasuredError(f"{side} has no items of task {task!r}{hint}")
    num_faults = sum(item.outcome.fault == "harness" for item in found)
    if num_faults > MAX_HARNESS_FAULT_FRACTION * len(found):
        raise UnmeasuredError(
            f"the harness failed on {num_faults} of {len(found)} items of {side}: "
            f"more than {MAX_HARNESS_FAULT_FRACTION:.0%}, so that what is left out could decide"
        )
    return found


def read_pairs(metric: str, before: Items, after: Items, *, reference: str, may_be_unread: bool = False) -> Pairs:
    """Return the pairs of a metric.

    Args:
        metric: `<task>` or `<task>/<part>`.
        before: The reference's items.
        after: The stage's.
        reference: What the reference is called, for reasons.
        may_be_unread: Whether a reference of which no answer could be read counts its declared values: something can
            be gained over it, and nothing lost.

    Raises:
        UnmeasuredError: They cannot be compared, or no answer of the reference could be read.
    """
    before_items, after_items = find_items(before, metric, reference), find_items(after, metric, "the stage")
    try:
        pairs = pair_items(before_items, after_items, part=split_metric(metric)[1])
    except DataError as error:
        raise UnmeasuredError(_say(error)) from error
    if not may_be_unread and not any(item.outcome.status == "scored" for item in before_items):
        raise UnmeasuredError(f"no answer of {reference} could be read: {count_statuses(before_items)}")
    return pairs


def read_values(metric: str, items: Items) -> Values:
    """Return a metric of the stage alone.

    Raises:
        UnmeasuredError: There is nothing that counts, no answer could be read, or a value is not finite.
    """
    found = find_items(items, metric, "the stage")
    part = split_metric(metric)[1]
    try:
        check_side(found, "of the stage")
        if parse_repeated(part) is not None:
            found, part = fold_samples(found, str(part)), None
    except DataError as error:
        raise UnmeasuredError(_say(error)) from error
    if not any(item.outcome.status == "scored" for item in found):
        raise UnmeasuredError(f"no answer of the stage could be read: {count_statuses(found)}")
    read = [(item, read_value(item, part)) for item in found]
    left_out = Counter(value for _, value in read if isinstance(value, str))
    values = np.array([value for _, value in read if not isinstance(value, str)], dtype=np.float64)
    if not values.size:
        raise UnmeasuredError(f"no item has the part {part!r} ({suggest(str(part), list_parts(found))})")
    if not np.isfinite(values).all():
        raise UnmeasuredError("a value is not finite")
    return Values(values, [cluster_name(item) for item, value in read if not isinstance(value, str)], left_out)


def is_same_policy(metric: str, before: Items, after: Items) -> bool:
    """Return whether both sides' items come from one policy."""
    task, _ = split_metric(metric)
    return before[task][0].policy_hash == after[task][0].policy_hash


def count_unread(metric: str, items: Items, side: str = "the stage") -> str:
    """Return a remark on a side's answers if not one of them could be read, else nothing."""
    found = items[split_metric(metric)[0]]
    if any(item.outcome.status == "scored" for item in found):
        return ""
    return f"; not one answer of {side} could be read: {count_statuses(found)}"


def count_statuses(items: Sequence[ItemResult]) -> str:
    """Return how many items have each status, in words."""
    counts = Counter(item.outcome.status for item in items)
    return ", ".join(f"{status} {count}" for status, count in counts.most_common())


def _say(error: DataError) -> str:
    return error.found + (f" (expected: {error.expected})" if error.expected else "")
