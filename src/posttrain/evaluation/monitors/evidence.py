"""Values and pairs that monitors test, read out of items, or the reason for which they cannot be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from posttrain.core.config import suggest
from posttrain.core.errors import DataError
from posttrain.core.hashing import hash_text
from posttrain.core.records import MAX_HARNESS_FAULT_FRACTION, ItemResult
from posttrain.evaluation.monitors.reading import Example, Figure, Items
from posttrain.statistics.clusters import encode_clusters
from posttrain.statistics.intervals import Interval, clustered_interval, korn_graubard_interval, wilson_interval
from posttrain.statistics.pairing import Pairs, cluster_name, pair_items, read_value

MIN_SOURCES = 20
"""From fewer sources the spread of lengths, sums and gaps is not known."""
MIN_SHARE_SOURCES = 10
"""Of shares, whose score test takes values that were not seen into account, fewer will do: it is cautious with few."""
MIN_READABLE = 0.5
"""Below this share of answers that could be read, a parent's figures are no figures to hold a policy against."""
MAX_EXAMPLES = 5
_MAX_TEXT = 600

Pair = tuple[ItemResult, ItemResult]
"""The same item before (the parent's) and after (the policy's own)."""


class UnmeasuredError(DataError):
    """A test that cannot be made, because something is missing; the text says what."""

    code = "E-UNMEASURED"

    def __init__(self, found: str) -> None:
        super().__init__(found, expected="items to test", cure="measure more items of the task")


@dataclass(frozen=True, slots=True)
class Sample:
    """One number for each item, with its cluster's name."""

    values: list[float]
    clusters: list[str]

    @property
    def num_sources(self) -> int:
        """How many clusters there are."""
        return len(set(self.clusters))

    def check(self, what: str, needed: int = MIN_SHARE_SOURCES) -> Sample:
        """Return the sample if it is large enough to be tested.

        Raises:
            UnmeasuredError: It has too few sources.
        """
        if self.num_sources < needed:
            raise UnmeasuredError(f"{self.num_sources} sources of {what}, where {needed} are needed")
        return self


def take_items(items: Items | None, task: str, side: str = "the policy") -> list[ItemResult]:
    """Return the items of a task.

    Raises:
        UnmeasuredError: There are none, or the harness failed on over 1 % of them.
    """
    if items is None:
        raise UnmeasuredError(f"there is no {side.removeprefix('the ')} to hold the policy against")
    found = list(items.get(task, ()))
    if not found:
        hint = f" ({suggest(task, items)})" if task not in items and items else ""
        raise UnmeasuredError(f"{side} has no items of the task {task}{hint}")
    num_faults = sum(item.outcome.fault == "harness" for item in found)
    if num_faults > MAX_HARNESS_FAULT_FRACTION * len(found):
        raise UnmeasuredError(f"the harness failed on {num_faults} of {len(found)} items of {task} of {side}")
    return found


def read_sample(items: Sequence[ItemResult], read: Callable[[ItemResult], float | None]) -> Sample:
    """Return what is read of each item, leaving out those that say nothing (None)."""
    found = [(value, cluster_name(item)) for item in items if (value := read(item)) is not None]
    return Sample([value for value, _ in found], [cluster for _, cluster in found])


def read_part(part: str) -> Callable[[ItemResult], float | None]:
    """Return what reads a part of an item that counts; None where its outcome has none."""
    return lambda item: item.outcome.parts.get(part) if item.outcome.is_counted else None


def read_status(status: str) -> Callable[[ItemResult], float | None]:
    """Return what reads whether an item that counts has a status."""
    return lambda item: float(item.outcome.status == status) if item.outcome.is_counted else None


def has_part(items: Sequence[ItemResult], part: str) -> bool:
    """Return whether an outcome has a part."""
    return any(part in item.outcome.parts for item in items)


def list_pairs(parent: Sequence[ItemResult], own: Sequence[ItemResult]) -> list[Pair]:
    """Return the items of both sides that count on either, before and after.

    Raises:
        PairingError: The sides hold different items, or were measured under different tasks.
    """
    pair_items(parent, own)  # refuses what is not of the same items
    later = {(item.item_id, item.sample_index): item for item in own}
    both = [(item, later[item.item_id, item.sample_index]) for item in parent]
    return [pair for pair in both if all(not isinstance(read_value(item, None), str) for item in pair)]


def pair_values(pairs: Sequence[Pair], read: Callable[[ItemResult], float | None], what: str) -> Pairs:
    """Return the pairs of a share's 0 and 1, or of another number in a range, that both sides have.

    Raises:
        UnmeasuredError: They are of too few sources.
    """
    found = [(read(before), read(after), cluster_name(before)) for before, after in pairs]
    kept = [(x, y, cluster) for x, y, cluster in found if x is not None and y is not None]
    clusters = [cluster for *_, cluster in kept]
    found_sources = len(set(clusters))
    if found_sources < MIN_SHARE_SOURCES:
        raise UnmeasuredError(f"{found_sources} sources of {what} on both sides, where {MIN_SHARE_SOURCES} are needed")
    values = np.array([[x, y] for x, y, _ in kept], dtype=np.float64)
    return Pairs(values[:, 0], values[:, 1], encode_clusters(clusters, len(clusters)))


def check_readable(items: Sequence[ItemResult], side: str) -> None:
    """Refuse a side most of whose answers could not be read: what it scores says nothing of what it knows.

    Raises:
        UnmeasuredError: See above.
    """
    counted = [item for item in items if item.outcome.is_counted]
    num_read = sum(item.outcome.status == "scored" for item in counted)
    if not counted or num_read < MIN_READABLE * len(counted):
        raise UnmeasuredError(f"{num_read} of {len(counted)} answers of {side} could be read, where half are needed")


def describe_mean(name: str, sample: Sample, unit: str = "fraction", *, is_parents: bool = False) -> Figure:
    """Return a mean as a figure, with its interval where its items have more than one source."""
    values, clusters = np.array(sample.values, dtype=np.float64), sample.clusters
    interval = Interval(float(values.mean()), float("nan"), float("nan")) if values.size else None
    is_clustered = sample.num_sources < values.size
    if interval is not None and np.isin(values, (0.0, 1.0)).all() and not is_clustered:
        interval = wilson_interval(int(values.sum()), values.size)
    elif sample.num_sources >= 2:
        is_binary = np.isin(values, (0.0, 1.0)).all()
        interval = (korn_graubard_interval if is_binary else clustered_interval)(values, clusters)
    has_limits = interval is not None and interval.low == interval.low  # a number is equal to itself, nan is not
    return Figure(
        name=name,
        value=None if interval is None else interval.value,
        low=interval.low if interval is not None and has_limits else None,
        high=interval.high if interval is not None and has_limits else None,
        n=values.size,
        unit=unit,
        of="parent" if is_parents else "own",
    )


def choose_examples(
    items: Sequence[ItemResult], why: Callable[[ItemResult], str], count: int = MAX_EXAMPLES
) -> tuple[Example, ...]:
    """Return some items as texts, chosen by the hash of their names and not by how bad they are."""
    ordered = sorted(items, key=lambda item: hash_text("monitor", item.item_id, str(item.sample_index)))
    return tuple(Example(item.item_id, _write_prompt(item), _shorten(item.text), why(item)) for item in ordered[:count])


def _write_prompt(item: ItemResult) -> str:
    if not item.prompt:
        return _shorten(item.reference)
    return _shorten("\n".join(f"{one.get('role', '')}: {one.get('content') or ''}" for one in item.prompt))


def _shorten(text: str) -> str:
    return text if len(text) <= _MAX_TEXT else text[: _MAX_TEXT // 2] + " [...] " + text[-_MAX_TEXT // 2 :]
