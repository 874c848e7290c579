"""Score test and interval of the mean of bounded values; for paired right-or-wrong items they are Tango's.

The statistic for a mean of m0 is `T = sqrt(n) (mean - m0) / sqrt(V)`, where V is the variance under the distribution
that is likeliest among those whose mean is m0 and whose values are the observed ones and the two ends of the range.
Admitting the ends although none was seen is what keeps few items honest: twenty pairs without a difference do not
show that none will ever differ. For differences of 0/1 items (-1, 0, 1) that distribution has Tango's closed form,
for 0/1 items the statistic is Wilson's.

Clustered items count as n / design effect (`clusters.compute_design_effect`) and T is referred to Student's t with
C - 1 degrees of freedom; independent ones to the normal.

Sources: Tango, Statistics in Medicine 17 (1998), p. 891, section 3; Owen, Empirical Likelihood (2001), section 2.9, for
the likelihood; Rao and Scott, Biometrics 48 (1992), p. 577, for counts divided by a design effect. Known difference:
Rao and Scott refer to the normal; with few clusters that is too narrow.

Shape letters: N items, U different values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri, stdtr, stdtrit

from posttrain.core.errors import DataError
from posttrain.statistics.clusters import Codes, Floats, check_several, compute_design_effect
from posttrain.statistics.intervals import Interval

_LARGE_SCORE = 1e6


@dataclass(frozen=True, slots=True)
class BoundedMean:
    """What the score test needs of a sample.

    Made by `summarise_bounded`, read by tests and gates. `counts_U` are items of each value divided by the design
    effect. `degrees_of_freedom` is infinite where items are independent.

    Example: differences 0, 0, 0, -1 of independent pairs: values -1, 0 with counts 1, 3, in the range -1 to 1.
    """

    values_U: Floats
    counts_U: Floats
    low: float
    high: float
    num_items: int
    num_clusters: int
    design_effect: float
    degrees_of_freedom: float

    @property
    def mean(self) -> float:
        """The mean of the values."""
        return float(self.values_U @ self.counts_U / self.counts_U.sum())

    @property
    def mean_square(self) -> float:
        """The mean squared value: of 0/1 pairs, the share that differ."""
        return float(self.values_U**2 @ self.counts_U / self.counts_U.sum())


def summarise_bounded(values_N: Floats, codes_N: Codes, *, low: float, high: float) -> BoundedMean:
    """Return the summary of values that lie in [low, high].

    Args:
        values_N: Finite values, N >= 1.
        codes_N: The cluster of each item, from 0.
        low: The least value that an item can have.
        high: The greatest.

    Raises:
        DataError: There is nothing, a value is not finite or out of range, or all items share one cluster.
    """
    if values_N.size == 0 or not np.isfinite(values_N).all() or values_N.min() < low or values_N.max() > high:
        raise DataError(
            f"no values, or values outside {low:g} to {high:g}",
            expected="at least one value, all of them finite and within the range",
            cure="evaluate at least one item, and state the range that values have",
        )
    num_clusters = check_several(codes_N)
    design_effect = compute_design_effect(values_N, codes_N)
    values, counts = np.unique(values_N, return_counts=True)
    is_clustered = num_clusters < values_N.size
    return BoundedMean(
        values_U=values,
        counts_U=counts / design_effect,
        low=low,
        high=high,
        num_items=int(values_N.size),
        num_clusters=num_clusters,
        design_effect=design_effect,
        degrees_of_freedom=float(num_clusters - 1) if is_clustered else math.inf,
    )


def compute_score(sample: BoundedMean, mean0: float) -> float:
    """Return T for the hypothesis that the mean is `mean0`: positive where the sample's mean is above it.

    Raises:
        ValueError: `mean0` is outside of the range.
    """
    if not sample.low <= mean0 <= sample.high:
        raise ValueError(f"a mean of {mean0} outside {sample.low:g} to {sample.high:g}")
    middle, half = (sample.low + sample.high) / 2, (sample.high - sample.low) / 2
    scaled = (sample.values_U - middle) / half
    if np.isin(scaled, (-1.0, 0.0, 1.0)).all():
        worse, better = (float(sample.counts_U[scaled == side].sum()) for side in (-1.0, 1.0))
        return float(compute_tango_score(better, worse, float(sample.counts_U.sum()), (mean0 - middle) / half))
    if sample.mean >= mean0:
        return _score_from_above(sample.values_U - mean0, sample.counts_U, sample.low - mean0)
    return -_score_from_above((mean0 - sample.values_U)[::-1], sample.counts_U[::-1], mean0 - sample.high)


def compute_tango_score(num_better: Any, num_worse: Any, num_pairs: float, difference0: float) -> Floats:
    """Return Tango's statistic for paired 0/1 items, elementwise.

    With b better, c worse, n pairs, d0 the difference under the hypothesis:
    `T = (b - c - n d0) / sqrt(n (2 q + d0 (1 - d0)))`, q the larger root of
    `2n q² + ((2n - b + c) d0 - b - c) q - c d0 (1 - d0) = 0`. Without variance T is 0, or infinite.

    Args:
        num_better: Pairs with 0 before and 1 after; a number or an array, not necessarily whole.
        num_worse: Pairs with 1 before and 0 after.
        num_pairs: All pairs, above 0.
        difference0: In [-1, 1].

    Source: Tango 1998, equations 10 to 12.
    """
    better, worse = np.asarray(num_better, dtype=np.float64), np.asarray(num_worse, dtype=np.float64)
    linear = (2 * num_pairs - better + worse) * difference0 - better - worse
    root = linear**2 + 8 * num_pairs * worse * difference0 * (1 - difference0)
    share_worse = (np.sqrt(np.maximum(root, 0.0)) - linear) / (4 * num_pairs)
    variance = num_pairs * (2 * share_worse + difference0 * (1 - difference0))
    excess = better - worse - num_pairs * difference0
    # A rounding error of the variance must not make a large number of what is no evidence at all.
    is_certain = variance <= 1e-12 * num_pairs
    excess = np.where(np.abs(excess) <= 1e-12 * num_pairs, 0.0, excess)
    with np.errstate(divide="ignore", invalid="ignore"):
        score = excess / np.sqrt(np.maximum(variance, 0.0))
    return np.where(is_certain, np.where(excess == 0, 0.0, np.copysign(np.inf, excess)), score)


def _score_from_above(gaps_U: Floats, counts_U: Floats, gap_low: float) -> float:
    """Return T where the mean lies at or above the hypothesis.

    Args:
        gaps_U: The values less the mean under the hypothesis, ascending.
        counts_U: How many of each.
        gap_low: The lower end of the range less that mean, at most 0.
    """
    total = float(counts_U.sum())
    excess = float(gaps_U @ counts_U) / total
    # The mean of equal values may differ from them in the last digit, which is no evidence.
    if excess <= 1e-12 * (abs(gap_low) + abs(float(gaps_U[-1]))):
        return 0.0
    if gap_low >= 0:
        return math.inf  # nothing but the end itself has that mean, and something else was seen

    def slope(tilt: float) -> float:
        return float((counts_U * gaps_U / (1 + tilt * gaps_U)).sum())

    # Weights are counts / (1 + tilt gap); they stay positive as long as the lower end would have one.
    steepest = -1 / gap_low
    largest = steepest * (1 - 1e-12)
    if slope(largest) >= 0:
        weights = counts_U / (total * (1 + steepest * gaps_U))
        unseen = float(weights @ gaps_U) / -gap_low  # the likeliest distribution puts the rest on the end
    else:
        tilt = brentq(slope, 0.0, largest, xtol=1e-14 * steepest, rtol=1e-12)
        weights, unseen = counts_U / (total * (1 + tilt * gaps_U)), 0.0
    variance = float(weights @ gaps_U**2) + unseen * gap_low**2
    return math.sqrt(total / variance) * excess


def compute_interval(sample: BoundedMean, *, level: float = 0.95) -> Interval:
    """Return the mean with the means that the two-sided score test at 1 - level does not reject.

    Each limit alone is a one-sided limit at (1 + level) / 2.

    Args:
        sample: The summary.
        level: Confidence, in (0, 1).
    """
    if not 0 < level < 1:
        raise ValueError(f"confidence level {level} is not between 0 and 1")
    quantile = critical_value((1 - level) / 2, sample.degrees_of_freedom)
    mean = sample.mean
    low = _find_limit(sample, mean, sample.low, quantile)
    high = _find_limit(sample, mean, sample.high, -quantile)
    return Interval(mean, low, high)


def _find_limit(sample: BoundedMean, mean: float, end: float, target: float) -> float:
    """Return where T equals the target, between the mean (T = 0) and an end of the range."""
    # Of an end with T short of the target every mean up to it is admitted.
    if mean == end or abs(compute_score(sample, end)) < abs(target):
        return end

    def excess(mean0: float) -> float:
        return min(abs(compute_score(sample, mean0)), _LARGE_SCORE) - abs(target)

    return float(brentq(excess, mean, end, xtol=1e-13 * (sample.high - sample.low)))


def p_value_above(sample: BoundedMean, mean0: float) -> float:
    """Return the one-sided p-value against a mean of at most `mean0`: small where the mean is shown to be above."""
    return _survival(compute_score(sample, mean0), sample.degrees_of_freedom)


def p_value_below(sample: BoundedMean, mean0: float) -> float:
    """Return the one-sided p-value against a mean of at least `mean0`."""
    return _survival(-compute_score(sample, mean0), sample.degrees_of_freedom)


def critical_value(level: float, degrees_of_freedom: float = math.inf) -> float:
    """Return what a statistic exceeds with probability `level`: normal, or Student's t."""
    if math.isinf(degrees_of_freedom):
        return float(-ndtri(level))
    return float(-stdtrit(degrees_of_freedom, level))


def _survival(score: float, degrees_of_freedom: float) -> float:
    return float(ndtr(-score)) if math.isinf(degrees_of_freedom) else float(stdtr(degrees_of_freedom, -score))
