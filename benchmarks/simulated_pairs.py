"""Pairs with a known true difference: 0/1 items and fractions, independent or in clusters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from posttrain.statistics.pairing import Pairs, build_pairs


@dataclass(frozen=True, slots=True)
class Cluster:
    """So many clusters of so many items; `correlation` is the share of a cluster's items that move together."""

    count: int
    size: int
    correlation: float

    def describe(self) -> str:
        """Return the clusters in words."""
        return f"{self.count} clusters of {self.size}, correlation {self.correlation:g}"


def draw_binary(
    generator: np.random.Generator, cluster: Cluster, change: float, discordance: float, base: float = 0.7
) -> Pairs:
    """Return 0/1 pairs of which a share differs, with a true difference `change`.

    An item copies its cluster's pair with probability sqrt(correlation), else it is drawn by itself, so that two
    items of a cluster are equal by copying with probability `correlation`.
    """
    better, worse = (discordance + change) / 2, (discordance - change) / 2
    chances = [better, worse, base - worse, 1 - base - better]
    names = np.repeat(np.arange(cluster.count), cluster.size)
    own = generator.choice(4, size=names.size, p=chances)
    shared = generator.choice(4, size=cluster.count, p=chances)[names]
    drawn = np.where(generator.random(names.size) < cluster.correlation**0.5, shared, own)
    return build_pairs(np.isin(drawn, (1, 2)), np.isin(drawn, (0, 2)), names)


def draw_fractions(generator: np.random.Generator, cluster: Cluster, change: float) -> Pairs:
    """Return pairs of scores in [0, 1]: a fifth of them drawn anew with another mean, the others equal.

    Scores are beta(2, 2) before; those drawn anew are beta with a mean that makes the whole difference `change`.
    """
    names = np.repeat(np.arange(cluster.count), cluster.size)
    before = generator.beta(2, 2, names.size)
    mean = 0.5 + change / 0.2
    strength = 4.0
    own = generator.beta(mean * strength, (1 - mean) * strength, names.size)
    shared = generator.beta(mean * strength, (1 - mean) * strength, cluster.count)[names]
    is_shared = generator.random(names.size) < cluster.correlation**0.5
    is_new = np.where(is_shared, generator.random(cluster.count)[names] < 0.2, generator.random(names.size) < 0.2)
    return build_pairs(before, np.where(is_new, np.where(is_shared, shared, own), before), names)
