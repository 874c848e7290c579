"""One-sided tests against a stated bound: whether a share, a rise, a ratio or a gap is shown to lie above it.

| what must lie above the bound to be rejected | values | statistic |
| --- | --- | --- |
| `mean_test`: a mean | between two ends | score test of a bounded mean |
| `rise_test`: a mean paired difference | between two ends | the same; of 0/1 items Tango's |
| `ratio_test`: a ratio of two sums | any | Student's t of `above - bound * below`, by cluster |
| `gap_test`: the difference of two means of different items | any | Student's t, by cluster |

The hypothesis is always that what is asked about is at most the bound, so a small p-value shows that it lies above.
Shape letters: N items, C clusters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr, stdtrit

from posttrain.core.errors import DataError
from posttrain.statistics.bounded_mean import BoundedMean, compute_interval, p_value_above, summarise_bounded
from posttrain.statistics.clusters import Floats, encode_clusters, read_values, sum_by_cluster
from posttrain.statistics.paired import score_method, summarise_difference
from posttrain.statistics.pairing import Pairs

_LEVEL = 0.95
_ROUNDING = 1e-12


@dataclass(frozen=True, slots=True)
class OneSided:
    """An estimate with its 95 % limits, and the chance of one so far above the bound where the bound holds.

    Made by the tests of this module, read by monitors. Example: 12 of 100 wrong claims are said too, bound 0.05:
    `value=0.12, low=0.07, high=0.198, p_value=0.00066`.
    """

    value: float
    low: float
    high: float
    p_value: float
    num_items: int
    num_clusters: int
    method: str


def mean_test(
    values_N: Sequence[float], clusters_N: Sequence[str], bound: float, *, value_range: tuple[float, float] = (0.0, 1.0)
) -> OneSided:
    """Return the score test of whether a mean lies above the bound (of independent 0/1 items: Wilson's statistic).

    Args:
        values_N: Finite values, N >= 1.
        clusters_N: The name of each item's cluster.
        bound: Within the range.
        value_range: Between what a value can lie.

    Raises:
        DataError: There is nothing, a value is not finite or out of range, or all items share one cluster.
    """
    values = read_values(values_N)
    codes = encode_clusters(clusters_N, values.size)
    sample = summarise_bounded(values, codes, low=value_range[0], high=value_range[1])
    return _conclude(sample, bound, "bounded_score" + ("_clustered" if sample.num_clusters < values.size else ""))


def rise_test(pairs: Pairs, bound: float, *, is_drop: bool = False) -> OneSided:
    """Return the score test of whether the mean of after less before lies above the bound.

    Args:
        pairs: Values before and after, in [0, 1] or wider.
        bound: The rise that is allowed, at least 0.
        is_drop: Ask about before less after in its place.

    Raises:
        DataError: All pairs share one cluster.

    Source: Tango, Statistics in Medicine 17 (1998), p. 891 (`bounded_mean`).
    """
    turned = Pairs(pairs.after_N, pairs.before_N, pairs.clusters_N, pairs.left_out) if is_drop else pairs
    return _conclude(summarise_difference(turned), bound, score_method(pairs))


def _conclude(sample: BoundedMean, bound: float, method: str) -> OneSided:
    interval = compute_interval(sample, level=_LEVEL)
    # Beyond the end of the range nothing can lie, so that nothing can be shown to.
    p_value = p_value_above(sample, bound) if bound <= sample.high else 1.0
    return OneSided(interval.value, interval.low, interval.high, p_value, sample.num_items, sample.num_clusters, method)


def ratio_test(
    above_N: Sequence[float] | Floats, below_N: Sequence[float] | Floats, clusters_N: Sequence[str], bound: float
) -> OneSided:
    """Return the test of whether a ratio of sums, R = sum(above) / sum(below), lies above the bound.

    With z = above - bound * below, R lies above the bound where the mean of z lies above 0: t is that mean over its
    cluster-robust error, referred to Student's t with C - 1 degrees of freedom (Fieller's argument). The limits are
    `R ± t sqrt(C / (C - 1) sum of E_c²) / sum(below)`, E_c the sums by cluster of above - R below.

    Args:
        above_N: Finite values.
        below_N: Finite values, not below 0, with a sum above 0; 1 each: R is the mean of `above`.
        clusters_N: The name of each item's cluster.
        bound: In the unit of the ratio.

    Raises:
        DataError: Fewer than two clusters, or a sum of `below` that is not above 0.

    Source: Fieller, Journal of the Royal Statistical Society B 16 (1954), p. 175; Liang and Zeger, Biometrika 73
    (1986), p. 13, with the correction C / (C - 1). It takes sums of clusters for normal: with few of them, or a few
    very long ones, it is near its level only. Where z does not vary at all it is certain of what it saw.
    """
    above, below = read_values(above_N), read_values(below_N)
    codes = encode_clusters(clusters_N, above.size)
    num_clusters = int(codes.max()) + 1
    total = float(below.sum())
    if num_clusters < 2 or total <= 0:
        raise DataError(
            f"{num_clusters} sources, and a sum of {total:g} to divide by",
            expected="items of at least two sources, and something to divide by",
            cure="evaluate more items",
        )
    ratio = float(above.sum()) / total
    freedom = num_clusters - 1
    gap = float((above - bound * below).mean())
    slack = _ROUNDING * float(np.abs(above).mean() + abs(bound) * np.abs(below).mean())
    p_value = _tail(gap, _cluster_error(above - bound * below, codes), freedom, slack)
    spread = float(stdtrit(freedom, (1 + _LEVEL) / 2)) * _cluster_error(above - ratio * below, codes)
    spread *= above.size / total
    return OneSided(ratio, ratio - spread, ratio + spread, p_value, above.size, num_clusters, "ratio_clustered_t")


def gap_test(
    first: tuple[Sequence[float] | Floats, Sequence[str]],
    second: tuple[Sequence[float] | Floats, Sequence[str]],
    bound: float,
) -> OneSided:
    """Return the test of whether the mean of the first items less that of the second lies above the bound.

    The items are not paired; a cluster may hold items of both. With S_c = sum over the first of cluster c of (v - mean)
    / N1, less the same of the second, the variance is `C / (C - 1) sum of S_c²`, and t has min(C1, C2) - 1 degrees of
    freedom. Of changes since a parent it is the difference in differences.

    Args:
        first: Values and cluster names.
        second: The same of the items that are subtracted.
        bound: In the unit of the values.

    Raises:
        DataError: A side has fewer than two clusters.

    Source: Cameron and Miller, Journal of Human Resources 50 (2015), p. 317, for the cluster-robust variance; the
    degrees of freedom are those of the smaller side, which is cautious (Welch's are never fewer).
    """
    values = [read_values(side[0]) for side in (first, second)]
    names = [list(side[1]) for side in (first, second)]
    freedom = min(len(set(side)) for side in names) - 1
    if freedom < 1:
        raise DataError(
            "all items of a side share one source",
            expected="items of at least two sources on either side",
            cure="evaluate items of more sources",
        )
    codes = encode_clusters([*names[0], *names[1]], sum(side.size for side in values))
    means = [float(side.mean()) for side in values]
    influences = [(side - mean) / side.size for side, mean in zip(values, means, strict=True)]
    sums = sum_by_cluster(np.concatenate([influences[0], -influences[1]]), codes)
    error = math.sqrt(sums.size / (sums.size - 1) * float(sums @ sums))
    gap = means[0] - means[1]
    p_value = _tail(gap - bound, error, freedom, _ROUNDING * (1 + abs(gap) + abs(bound)))
    spread = float(stdtrit(freedom, (1 + _LEVEL) / 2)) * error
    count = sum(side.size for side in values)
    return OneSided(gap, gap - spread, gap + spread, p_value, count, int(sums.size), "gap_clustered_t")


def _cluster_error(values_N: Floats, codes_N: np.ndarray) -> float:
    """Return the cluster-robust standard error of a mean."""
    sums = sum_by_cluster(values_N - values_N.mean(), codes_N)
    return math.sqrt(sums.size / (sums.size - 1) * float(sums @ sums)) / values_N.size


def _tail(excess: float, error: float, freedom: int, slack: float) -> float:
    """Return P(T >= excess / error); what is equal but for rounding shows nothing."""
    if excess <= slack and error <= slack:
        return 1.0
    if error <= slack:
        return 0.0
    return float(stdtr(freedom, -excess / error))
