"""What a reward is made of, and what it pays for beside being right.

Shape letters: N items, C components.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from posttrain.core.errors import DataError
from posttrain.statistics.clusters import Codes, Floats, encode_clusters, read_values
from posttrain.statistics.intervals import Interval

Correlation = Literal["pearson", "spearman"]
_SAME = 1e-12


@dataclass(frozen=True, slots=True)
class VarianceShares:
    """The share of each component in the variance of the reward; with `rest` they sum to 1.

    A share is below 0 where a component works against the others. `rest` is what no component explains linearly:
    gates, clipping, what is not listed.
    """

    shares: dict[str, float]
    weights: dict[str, float]
    rest: float


def decompose_variance(rewards_N: Sequence[float] | Floats, components: dict[str, npt.ArrayLike]) -> VarianceShares:
    """Return `w_c Cov(x_c, R) / Var(R)` of each component, w the least-squares weights of R on the components.

    For a reward that is their weighted sum, w are its weights and the shares sum to 1. The sign of what two components
    share is split between them by their covariances.

    Args:
        rewards_N: The reward of each item, N >= 2.
        components: The values of each component for the same items.

    Raises:
        DataError: Values are not finite or of another length, or the reward is the same for all items.

    Source: Pratt, "Dividing the indivisible", 2nd Tampere Conference in Statistics (1987), p. 245.
    """
    rewards = read_values(rewards_N)
    columns = {name: read_values(np.asarray(values, dtype=np.float64)) for name, values in components.items()}
    if any(column.shape != rewards.shape for column in columns.values()):
        raise DataError("components of another length", expected="one value an item", cure="give all of the items'")
    centred = rewards - rewards.mean()
    variance = float(centred @ centred)
    if variance <= _SAME * max(1.0, float(rewards @ rewards)):
        raise DataError(
            "a reward that is the same for all items",
            expected="a reward that varies",
            cure="evaluate more items, or a reward that tells them apart",
        )
    if not columns:
        return VarianceShares({}, {}, 1.0)
    matrix_NC = np.stack([column - column.mean() for column in columns.values()], axis=1)
    weights_C, *_ = np.linalg.lstsq(matrix_NC, centred, rcond=None)
    shares_C = weights_C * (matrix_NC.T @ centred) / variance
    return VarianceShares(
        dict(zip(columns, shares_C.tolist(), strict=True)),
        dict(zip(columns, weights_C.tolist(), strict=True)),
        1.0 - float(shares_C.sum()),
    )


def compute_correlation(
    first_N: Sequence[float] | Floats,
    second_N: Sequence[float] | Floats,
    *,
    strata_N: Sequence[str] | Sequence[int] | Codes | None = None,
    kind: Correlation = "spearman",
) -> float | None:
    """Return the correlation of two columns, within strata where given; None where one does not vary within them.

    Within strata both columns are centred on their stratum's mean first (Spearman: the ranks over all items, middle
    ranks for ties), so that what differs between strata says nothing: with "right" and "wrong" as strata it is the
    correlation at equal correctness.

    Args:
        first_N: Finite values.
        second_N: Finite values of the same items.
        strata_N: The name of each item's stratum; None: one.
        kind: Of values, or of ranks.

    Raises:
        DataError: Values are not finite.
        ValueError: The columns differ in length.
    """
    columns = [read_values(first_N), read_values(second_N)]
    if columns[0].shape != columns[1].shape:
        raise ValueError(f"{columns[0].size} and {columns[1].size} values")
    codes = (
        np.zeros(columns[0].size, dtype=np.int64) if strata_N is None else encode_clusters(strata_N, columns[0].size)
    )
    first, second = (rank_values(column) if kind == "spearman" else column for column in columns)
    return _correlate(first, second, codes)


@dataclass(frozen=True, slots=True)
class CorrelationTest:
    """A correlation with its limits, and the one-sided p-value against one of at most the bound."""

    correlation: Interval
    p_value: float


# many parameters: two columns, their strata and sources, and how these are drawn again
def bootstrap_correlation(
    first_N: Sequence[float] | Floats,
    second_N: Sequence[float] | Floats,
    generator: np.random.Generator,
    *,
    strata_N: Sequence[str] | Sequence[int] | Codes | None = None,
    clusters_N: Sequence[str] | Sequence[int] | Codes | None = None,
    kind: Correlation = "spearman",
    bound: float = 0.0,
    level: float = 0.95,
    num_resamples: int = 2000,
) -> CorrelationTest | None:
    """Return the correlation with percentile bootstrap limits and test; None where it is not defined.

    Clusters are drawn as a whole; ranks are those among all items and are not formed anew. Resamples without a
    correlation are left out. The p-value is the share of resamples at or below the bound, (1 + count) / (1 + drawn).

    Args:
        first_N: Finite values.
        second_N: Finite values of the same items.
        generator: Draws the resamples.
        strata_N: As `compute_correlation`.
        clusters_N: The name of each item's cluster; None: items are independent.
        kind: Of values, or of ranks.
        bound: The correlation that is allowed.
        level: Confidence of the limits, in (0, 1).
        num_resamples: Resamples, at least 1.

    Raises:
        DataError: As `compute_correlation`, or all items share one cluster.

    Source: Davison and Hinkley, Bootstrap Methods and their Application (1997), sections 3.8 and 4.4.
    """
    value = compute_correlation(first_N, second_N, strata_N=strata_N, kind=kind)
    if value is None:
        return None
    columns = [read_values(column) for column in (first_N, second_N)]
    first, second = (rank_values(column) if kind == "spearman" else column for column in columns)
    strata = np.zeros(first.size, dtype=np.int64) if strata_N is None else encode_clusters(strata_N, first.size)
    codes = np.arange(first.size) if clusters_N is None else encode_clusters(clusters_N, first.size)
    size = int(codes.max()) + 1
    if size < 2:
        raise DataError("one cluster cannot be drawn again", expected="two clusters", cure="evaluate more sources")
    members = np.split(np.argsort(codes, kind="stable"), np.cumsum(np.bincount(codes))[:-1])
    drawn = []
    for _ in range(num_resamples):
        rows = np.concatenate([members[cluster] for cluster in generator.integers(size, size=size)])
        again = _correlate(first[rows], second[rows], strata[rows])
        drawn += [again] if again is not None else []
    if not drawn:
        return None
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2]).tolist()
    p_value = (1 + sum(one <= bound for one in drawn)) / (1 + len(drawn))
    return CorrelationTest(Interval(value, low, high), p_value)


def rank_values(values_N: Floats) -> Floats:
    """Return the rank of each value from 0, the middle one for equals."""
    _, codes, counts = np.unique(values_N, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - counts + (counts - 1) / 2)[codes].astype(np.float64)


def _correlate(first_N: Floats, second_N: Floats, strata_N: Codes) -> float | None:
    counts = np.maximum(1, np.bincount(strata_N))
    first, second = (
        column - (np.bincount(strata_N, weights=column) / counts)[strata_N] for column in (first_N, second_N)
    )
    squares = [
        (float(centred @ centred), _SAME * max(1.0, float(column @ column)))
        for centred, column in ((first, first_N), (second, second_N))
    ]
    if any(square <= least for square, least in squares):
        return None
    return float(first @ second) / float(np.sqrt(squares[0][0] * squares[1][0]))
