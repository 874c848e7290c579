"""Problems of which several samples were drawn, paired between two policies, and what is lost of a figure of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from posttrain.core.records import ItemResult
from posttrain.evaluation.monitors.evidence import MIN_SOURCES, UnmeasuredError, list_pairs
from posttrain.statistics.one_sided import OneSided, ratio_test
from posttrain.statistics.pairing import cluster_name

Samples = Sequence[ItemResult]
ReadSamples = Callable[[Samples], float | None]
"""What is read of a problem's samples; None where they do not say."""


@dataclass(frozen=True, slots=True)
class ProblemPair:
    """The samples of one problem that count on both sides, equally many, in the order of their numbers."""

    cluster: str
    before: Samples
    after: Samples


def group_samples(items: Sequence[ItemResult]) -> dict[str, list[ItemResult]]:
    """Return the samples of each problem that count, in the order of their numbers."""
    groups: dict[str, list[ItemResult]] = {}
    for item in sorted(items, key=lambda item: item.sample_index):
        if item.outcome.is_counted:
            groups.setdefault(item.item_id, []).append(item)
    return groups


def pair_problems(before: Sequence[ItemResult], after: Sequence[ItemResult]) -> list[ProblemPair]:
    """Return the problems of two policies with the samples that count on both sides.

    Raises:
        PairingError: The sides hold different items, or were measured under different tasks.
        UnmeasuredError: No problem has two samples that count: differences among samples need them.
    """
    groups: dict[str, tuple[list[ItemResult], list[ItemResult]]] = {}
    for first, second in sorted(list_pairs(before, after), key=lambda pair: pair[0].sample_index):
        sides = groups.setdefault(first.item_id, ([], []))
        sides[0].append(first)
        sides[1].append(second)
    pairs = [ProblemPair(cluster_name(first[0]), first, second) for first, second in groups.values() if len(first) >= 2]
    if not pairs:
        raise UnmeasuredError("no problem has two samples that count: set num_samples and a temperature")
    return pairs


def measure_relative_drop(pairs: Sequence[ProblemPair], read: ReadSamples, what: str, allowed: float) -> OneSided:
    """Return the test of whether the mean over problems falls by more than a share of the mean before.

    Args:
        pairs: Problems of both sides.
        read: The figure of a problem's samples, not below 0.
        what: Its name, for the reason where it cannot be tested.
        allowed: The share, in [0, 1).

    Raises:
        UnmeasuredError: Too few sources have the figure on both sides.
        DataError: The mean before is 0.
    """
    found = [(read(pair.before), read(pair.after), pair.cluster) for pair in pairs]
    kept = [(first, second, cluster) for first, second, cluster in found if first is not None and second is not None]
    clusters = [cluster for *_, cluster in kept]
    if len(set(clusters)) < MIN_SOURCES:
        raise UnmeasuredError(f"{len(set(clusters))} sources of {what} on both sides, where {MIN_SOURCES} are needed")
    before = [first for first, *_ in kept]
    return ratio_test([first - second for first, second, _ in kept], before, clusters, allowed)
