"""Confidence intervals of a mean.

| items | independent | sharing sources |
| --- | --- | --- |
| right or wrong | Wilson; Clopper-Pearson where each limit must hold | Korn-Graubard (Clopper-Pearson, fewer items) |
| any values | bootstrap | cluster-robust with Student's t; cluster bootstrap |

Wilson's and the plain bootstrap's know nothing of clusters: items that share a source make the true interval wider.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from posttrain.core.errors import DataError
from posttrain.statistics.clusters import (
    Codes,
    check_several,
    compute_design_effect,
    encode_clusters,
    read_values,
    sum_by_cluster,
)
from posttrain.statistics.resamples import draw_resamples


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its confidence limits, all in the unit of the values."""

    value: float
    low: float
    high: float


def wilson_interval(num_successes: int, num_items: int, *, level: float = 0.95) -> Interval:
    """Return a proportion with Wilson's score interval.

    With p the proportion, n the items and z the normal quantile of (1 + level) / 2:
    `(p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n)`.
    It stays within [0, 1] and has a width at 0 and 1 too, unlike p ± z sqrt(p(1-p)/n).

    Args:
        num_successes: Items counted as right, in [0, num_items].
        num_items: Items measured, at least 1.
        level: Confidence, in (0, 1).

    Raises:
        DataError: There is nothing to measure, or the counts are impossible.

    Source: Wilson, Journal of the American Statistical Association 22 (1927), p. 209; without
    continuity correction.
    """
    if num_items < 1 or not 0 <= num_successes <= num_items:
        raise DataError(
            f"{num_successes} successes of {num_items} items",
            expected="at least one item, and no more successes than items",
            cure="evaluate at least one item",
        )
    z = _normal_quantile(level)
    proportion = num_successes / num_items
    centre = proportion + z * z / (2 * num_items)
    spread = z * math.sqrt(proportion * (1 - proportion) / num_items + z * z / (4 * num_items**2))
    scale = 1 + z * z / num_items
    # At 0 and at n successes the limit is exactly 0 or 1; the subtraction would leave a rounding error.
    low = 0.0 if num_successes == 0 else (centre - spread) / scale
    high = 1.0 if num_successes == num_items else (centre + spread) / scale
    return Interval(proportion, low, high)


def bootstrap_interval(
    values_N: Sequence[float] | npt.NDArray[np.float64],
    generator: np.random.Generator,
    *,
    level: float = 0.95,
    num_resamples: int = 2000,
) -> Interval:
    """Return a mean with its percentile bootstrap interval.

    The values are drawn N at a time with replacement, `num_resamples` times; the limits are the
    (1 - level) / 2 and (1 + level) / 2 quantiles of the resampled means (linear interpolation).

    Args:
        values_N: Finite values, N >= 1.
        generator: Draws the resamples; the same state gives the same interval.
        level: Confidence, in (0, 1).
        num_resamples: Resampled means, at least 1.

    Raises:
        DataError: There are no values, or one is not finite.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), section 13.3. For a few
    items it is narrower than it should be (by about sqrt((N - 1) / N)).
    """
    values = read_values(values_N)
    _normal_quantile(level)
    blocks = draw_resamples(values.size, generator, num_resamples)
    means = np.concatenate([values[chosen_RN].mean(axis=1) for chosen_RN in blocks])
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(values.mean()), float(low), float(high))


def clustered_interval(
    values_N: Sequence[float] | npt.NDArray[np.float64],
    clusters_N: Sequence[str] | Sequence[int] | Codes,
    *,
    level: float = 0.95,
) -> Interval:
    """Return a mean with its cluster-robust interval.

    With S_c the sum over cluster c of the deviations from the mean, C clusters and N items:
    `mean ± t sqrt(C / (C - 1) sum of S_c²) / N`, t Student's quantile with C - 1 degrees of freedom. Where every item
    is its own cluster it is the ordinary t interval.

    Args:
        values_N: Finite values, N >= 1.
        clusters_N: The name of each item's cluster.
        level: Confidence, in (0, 1).

    Raises:
        DataError: There are no values, one is not finite, or there are not two clusters.

    Source: Liang and Zeger, Biometrika 73 (1986), p. 13, with the correction C / (C - 1); Miller, "Adding Error Bars to
    Evals" (arXiv 2411.00640), section 2.2. Where all values are equal it has no width, and with few clusters of
    unequal size it is too narrow.
    """
    from scipy.special import stdtrit

    values = read_values(values_N)
    codes = encode_clusters(clusters_N, values.size)
    _normal_quantile(level)
    num_clusters = check_several(codes)
    if num_clusters < 2:
        raise DataError("one item has no spread", expected="items of at least two clusters", cure="evaluate more items")
    mean = float(values.mean())
    sums = sum_by_cluster(values - mean, codes)
    error = math.sqrt(num_clusters / (num_clusters - 1) * float(sums @ sums)) / values.size
    spread = float(stdtrit(num_clusters - 1, (1 + level) / 2)) * error
    return Interval(mean, mean - spread, mean + spread)


def cluster_bootstrap_interval(
    values_N: Sequence[float] | npt.NDArray[np.float64],
    clusters_N: Sequence[str] | Sequence[int] | Codes,
    generator: np.random.Generator,
    *,
    level: float = 0.95,
    num_resamples: int = 2000,
) -> Interval:
    """Return a mean with its percentile bootstrap interval, whole clusters drawn with replacement.

    A resample's mean is its sum over its number of items.

    Args:
        values_N: Finite values, N >= 1.
        clusters_N: The name of each item's cluster.
        generator: Draws the resamples.
        level: Confidence, in (0, 1).
        num_resamples: Resampled means, at least 1.

    Raises:
        DataError: There are no values, one is not finite, or all are of one cluster.

    Source: Davison and Hinkley, Bootstrap Methods and their Application (1997), section 3.8. For a few clusters it is
    narrower than it should be (by about sqrt((C - 1) / C)).
    """
    values = read_values(values_N)
    codes = encode_clusters(clusters_N, values.size)
    _normal_quantile(level)
    check_several(codes)
    sums, sizes = sum_by_cluster(values, codes), np.bincount(codes).astype(np.float64)
    blocks = draw_resamples(sums.size, generator, num_resamples)
    means = np.concatenate([sums[chosen].sum(axis=1) / sizes[chosen].sum(axis=1) for chosen in blocks])
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(values.mean()), float(low), float(high))


def korn_graubard_interval(
    values_N: Sequence[float] | npt.NDArray[np.float64],
    clusters_N: Sequence[str] | Sequence[int] | Codes | None = None,
    *,
    level: float = 0.95,
) -> Interval:
    """Return a proportion with an interval of which each limit holds at (1 + level) / 2, also near 0 and 1.

    Clopper and Pearson's interval with `n* = n / design effect * (t_(n-1) / t_(C-1))²` items, of which p n* are
    successes. Where items are independent it is Clopper and Pearson's own.

    Args:
        values_N: 0 or 1 of each item.
        clusters_N: The name of each item's cluster; None: items are independent.
        level: Confidence, in (0, 1).

    Raises:
        DataError: There are no values, one is neither 0 nor 1, or all items share one cluster.

    Source: Clopper and Pearson, Biometrika 26 (1934), p. 404; Korn and Graubard, Survey Methodology 24 (1998), p. 193.
    The design effect is `clusters.compute_design_effect`, at least 1.
    """
    from scipy.special import betaincinv, stdtrit

    values = read_values(values_N)
    if not np.isin(values, (0.0, 1.0)).all():
        raise DataError("a value that is neither 0 nor 1", expected="right or wrong items", cure="use another interval")
    _normal_quantile(level)
    codes = np.arange(values.size) if clusters_N is None else encode_clusters(clusters_N, values.size)
    num_clusters = check_several(codes)
    num_items = float(values.size)
    if num_clusters < values.size:
        quantiles = [float(stdtrit(freedom, (1 + level) / 2)) for freedom in (num_items - 1, num_clusters - 1)]
        num_items *= (quantiles[0] / quantiles[1]) ** 2 / compute_design_effect(values, codes)
    proportion = float(values.mean())
    successes, failures = proportion * num_items, (1 - proportion) * num_items
    low = 0.0 if proportion == 0 else float(betaincinv(successes, failures + 1, (1 - level) / 2))
    high = 1.0 if proportion == 1 else float(betaincinv(successes + 1, failures, (1 + level) / 2))
    return Interval(proportion, low, high)


def _normal_quantile(level: float) -> float:
    if not 0 < level < 1:
        raise ValueError(f"confidence level {level} is not between 0 and 1")
    return NormalDist().inv_cdf((1 + level) / 2)
