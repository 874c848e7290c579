"""Items of two policies, paired by item and sample under one task.

What the harness failed on, or what does not apply, on either side is left out and counted. A failure of the policy's
(unparsed, truncated, timed out) keeps its declared value, so that nothing is gained by being unreadable.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from posttrain.core.errors import DataError
from posttrain.core.records import ItemResult
from posttrain.statistics.clusters import Codes, Floats, encode_clusters
from posttrain.statistics.repeats import fold_samples, parse_repeated

HARNESS = "harness"
NOT_APPLICABLE = "not_applicable"
WITHOUT_PART = "without_part"

Reason = Literal["empty", "repeated", "policies", "task_hash", "missing", "clusters", "unknown_part", "nothing_paired"]


class PairingError(DataError):
    """Two sets of items that cannot be compared; `reason` says why in a word a program may match on."""

    code = "E-PAIRING"

    def __init__(self, reason: Reason, found: str, *, expected: str, cure: str, place: str = "") -> None:
        super().__init__(found, expected=expected, cure=cure, place=place)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Pairs:
    """Values of the same items before and after.

    Made by `pair_items` and `build_pairs`, read by paired tests. `clusters_N` numbers the cluster of each pair from 0;
    items without a cluster id are clusters of their own, and samples of one item are always of one cluster.
    `left_out` counts pairs by reason.

    Example: right before and after, right before only: `before_N = [1, 1]`, `after_N = [1, 0]`.
    """

    before_N: Floats
    after_N: Floats
    clusters_N: Codes
    left_out: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.before_N.size

    @property
    def differences_N(self) -> Floats:
        """After less before."""
        return self.after_N - self.before_N

    @property
    def num_clusters(self) -> int:
        """How many clusters the pairs lie in."""
        return int(self.clusters_N.max()) + 1

    @property
    def is_clustered(self) -> bool:
        """Whether some cluster holds more than one pair."""
        return self.num_clusters < len(self)

    @property
    def is_binary(self) -> bool:
        """Whether every value is 0 or 1."""
        return bool(np.isin(self.before_N, (0.0, 1.0)).all() and np.isin(self.after_N, (0.0, 1.0)).all())

    @property
    def num_better(self) -> int:
        """Pairs with a higher value after."""
        return int((self.after_N > self.before_N).sum())

    @property
    def num_worse(self) -> int:
        """Pairs with a lower value after."""
        return int((self.after_N < self.before_N).sum())


def build_pairs(
    before_N: Sequence[float] | Floats,
    after_N: Sequence[float] | Floats,
    clusters_N: Sequence[str] | Sequence[int] | Codes | None = None,
    *,
    left_out: Mapping[str, int] | None = None,
) -> Pairs:
    """Return pairs of values given side by side.

    Args:
        before_N: Finite values of one policy.
        after_N: Finite values of the other for the same items, in the same order.
        clusters_N: The name of each item's cluster; None: every item is its own.
        left_out: Counts of what is not among them, by reason.

    Raises:
        PairingError: There is no pair, or another number on either side.
        DataError: A value is not finite.
    """
    before, after = np.asarray(before_N, dtype=np.float64), np.asarray(after_N, dtype=np.float64)
    if before.size == 0 or before.shape != after.shape:
        raise PairingError(
            "nothing_paired" if before.size == after.size else "missing",
            f"{before.size} values before and {after.size} after",
            expected="at least one pair, and as many values on either side",
            cure="evaluate the same items with both policies",
        )
    if not (np.isfinite(before).all() and np.isfinite(after).all()):
        raise DataError("a value that is not finite", expected="finite values", cure="mend the scorer")
    codes = np.arange(before.size) if clusters_N is None else encode_clusters(clusters_N, before.size)
    return Pairs(before, after, codes.astype(np.int64), dict(left_out or {}))


def pair_items(before: Sequence[ItemResult], after: Sequence[ItemResult], *, part: str | None = None) -> Pairs:
    """Return the pairs of two evaluations of one task.

    Args:
        before: All items of one policy.
        after: All items of the other.
        part: Compare this part of the outcomes; None compares their values. Where the policy failed and its outcome
            has no such part, the outcome's declared value stands for it; a scored outcome without it is left out.
            `pass@k` and `cons@k` compare one value of each item's samples (`repeats.fold_samples`).

    Raises:
        PairingError: A side is empty or holds items of several tasks or policies or one item twice; the sides were
            measured under different task hashes, cluster their items differently, or one lacks items of the other;
            no outcome has the part; or nothing is left to pair.
        DataError: A value is not finite.
    """
    by_key_before, by_key_after = _index_items(before, "before"), _index_items(after, "after")
    _check_same_task(before[0], after[0], by_key_before, by_key_after)
    if parse_repeated(part) is not None:
        before, after = fold_samples(before, str(part)), fold_samples(after, str(part))
        by_key_before, by_key_after, part = _index_items(before, "before"), _index_items(after, "after"), None
    left_out = Counter[str]()
    values: list[tuple[float, float]] = []
    clusters: list[str] = []
    for key, item in by_key_before.items():
        read = [read_value(item, part), read_value(by_key_after[key], part)]
        reasons = [one for one in read if isinstance(one, str)]
        if reasons:
            left_out[HARNESS if HARNESS in reasons else reasons[0]] += 1
            continue
        values.append((float(read[0]), float(read[1])))
        clusters.append(cluster_name(item))
    if not values:
        raise _nothing_left(part, left_out, [*before, *after])
    columns = np.array(values, dtype=np.float64)
    return build_pairs(columns[:, 0], columns[:, 1], clusters, left_out=left_out)


def cluster_name(item: ItemResult) -> str:
    """Return the cluster of an item: its own cluster id, else the item itself."""
    return f"cluster {item.cluster_id}" if item.cluster_id else f"item {item.item_id}"


def read_value(item: ItemResult, part: str | None) -> float | str:
    """Return what an item counts for, or the reason for which it does not count."""
    outcome = item.outcome
    if outcome.fault == HARNESS:
        return HARNESS
    if outcome.status == NOT_APPLICABLE:
        return NOT_APPLICABLE
    if part is None:
        return outcome.value
    if part in outcome.parts:
        return outcome.parts[part]
    return outcome.value if outcome.fault == "policy" else WITHOUT_PART


def list_parts(items: Sequence[ItemResult]) -> list[str]:
    """Return the names of all parts that the items' outcomes have, sorted."""
    return sorted({name for item in items for name in item.outcome.parts})


def check_side(items: Sequence[ItemResult], side: str) -> None:
    """Check that items are one policy's evaluation of one task.

    Raises:
        PairingError: There are none, of several tasks or policies, or one twice.
    """
    _index_items(items, side)


def _index_items(items: Sequence[ItemResult], side: str) -> dict[tuple[str, int], ItemResult]:
    if not items:
        raise PairingError(
            "empty",
            f"no items {side}",
            expected="at least one evaluated item on either side",
            cure="evaluate the task with both policies",
        )
    for reason, name in (("task_hash", "task_hash"), ("policies", "policy_hash")):
        hashes = sorted({getattr(item, name) for item in items})
        if len(hashes) > 1:
            raise PairingError(
                "task_hash" if reason == "task_hash" else "policies",
                f"the items {side} are of {len(hashes)} {'tasks' if name == 'task_hash' else 'policies'}: "
                + ", ".join(hashes[:3]),
                expected="one policy's items of one task",
                cure="compare the items of one evaluation",
            )
    counts = Counter((item.item_id, item.sample_index) for item in items)
    repeated = [key for key, count in counts.items() if count > 1]
    if repeated:
        raise PairingError(
            "repeated",
            f"item {repeated[0][0]!r}, sample {repeated[0][1]}, stands {counts[repeated[0]]} times {side}",
            expected="every item and sample once",
            cure="delete the item file and evaluate the task anew",
        )
    return {(item.item_id, item.sample_index): item for item in items}


def _check_same_task(
    first: ItemResult,
    second: ItemResult,
    before: Mapping[tuple[str, int], ItemResult],
    after: Mapping[tuple[str, int], ItemResult],
) -> None:
    if first.task_hash != second.task_hash:
        raise PairingError(
            "task_hash",
            f"task {first.task_hash} before and {second.task_hash} after",
            expected="the same rows, settings and scorer on both sides",
            cure="evaluate both policies with the same task",
        )
    missing = [(key, "after") for key in before.keys() - after.keys()]
    missing += [(key, "before") for key in after.keys() - before.keys()]
    if missing:
        (item_id, sample_index), side = min(missing)
        raise PairingError(
            "missing",
            f"{len(missing)} items stand on one side alone; the first is {item_id!r}, sample {sample_index}, "
            f"which is missing {side}",
            expected="the same items on both sides",
            cure="run the evaluation that was cut short again: it goes on where it stopped",
        )
    moved = [key for key, item in before.items() if item.cluster_id != after[key].cluster_id]
    if moved:
        raise PairingError(
            "clusters",
            f"{len(moved)} items are of another cluster on the other side; the first is {min(moved)[0]!r}",
            expected="the same clusters on both sides",
            cure="evaluate both policies with the same rows",
        )


def _nothing_left(part: str | None, left_out: Mapping[str, int], items: Sequence[ItemResult]) -> PairingError:
    counted = ", ".join(f"{reason} {count}" for reason, count in sorted(left_out.items()))
    if part is not None and set(left_out) == {WITHOUT_PART}:
        return PairingError(
            "unknown_part",
            f"no outcome has the part {part!r}",
            expected="one of " + (", ".join(list_parts(items)) or "none: the outcomes have no parts"),
            cure="correct the metric's name",
        )
    return PairingError(
        "nothing_paired",
        f"no pair counts: {counted}",
        expected="at least one item that counts on both sides",
        cure="choose a scorer that applies to the task's rows, or mend what failed",
    )
