"""Paired tests and intervals: whether one policy is better than another on the same items, and by how much.

| question | 0/1 items | other values |
| --- | --- | --- |
| is there a difference? | McNemar's exact test; clustered: exact sign-flip test | sign-flip test of cluster sums |
| how large is it? | Tango's score interval | score interval of a bounded mean; `bootstrap_difference` |
| is a loss of the margin ruled out? | Tango's score test | score test of a bounded mean |

Clusters flip, and are drawn again, as a whole; the score statistic takes their design effect and Student's t
(`bounded_mean`). Shape letters: N pairs, C clusters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import bdtr

from posttrain.core.errors import DataError
from posttrain.statistics.bounded_mean import BoundedMean, compute_interval, p_value_above, summarise_bounded
from posttrain.statistics.clusters import Floats, sum_by_cluster
from posttrain.statistics.intervals import Interval
from posttrain.statistics.pairing import Pairs

Alternative = Literal["two-sided", "greater", "less"]

MAX_ENUMERATED = 16
"""Up to so many sums that are not 0, all signs are tried."""
MAX_SPAN = 200_000
"""Up to this sum of whole-number sums, their distribution is computed exactly."""


@dataclass(frozen=True, slots=True)
class PairedTest:
    """A p-value and how it was come by."""

    p_value: float
    method: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two policies on the same items.

    Made by `compare_pairs`, read by gates and tables. `difference` is after less before, with its limits.
    """

    before: float
    after: float
    difference: Interval
    test: PairedTest
    num_pairs: int
    num_clusters: int
    num_better: int
    num_worse: int
    design_effect: float
    interval_method: str


def sign_test(num_better: int, num_worse: int, *, alternative: Alternative = "two-sided") -> PairedTest:
    """Return the exact sign test of pairs that differ; of 0/1 items it is McNemar's exact test.

    Under the hypothesis the better ones are binomial(better + worse, 1/2); ties say nothing and are left out. The
    two-sided p-value is twice the smaller tail, at most 1; without a pair that differs it is 1.

    Args:
        num_better: Pairs with a higher value after, >= 0.
        num_worse: Pairs with a lower value after, >= 0.
        alternative: `greater`: better after.

    Raises:
        ValueError: A count is negative.

    Source: McNemar, Psychometrika 12 (1947), p. 153, in its exact form. It is conservative: its size is below the
    level, the more so the fewer pairs differ.
    """
    if num_better < 0 or num_worse < 0:
        raise ValueError(f"{num_better} better and {num_worse} worse pairs")
    total = num_better + num_worse
    if total == 0:
        return PairedTest(1.0, "mcnemar_exact")
    at_most_better, at_most_worse = float(bdtr(num_better, total, 0.5)), float(bdtr(num_worse, total, 0.5))
    # P(better >= observed) = P(worse <= observed).
    p_values = {"greater": at_most_worse, "less": at_most_better}
    p_values["two-sided"] = min(1.0, 2 * min(at_most_better, at_most_worse))
    return PairedTest(p_values[alternative], "mcnemar_exact")


def sign_flip_test(
    pairs: Pairs,
    generator: np.random.Generator,
    *,
    alternative: Alternative = "two-sided",
    num_permutations: int = 9999,
) -> PairedTest:
    """Return the permutation test of a mean difference: every cluster's sum is as likely with the other sign.

    Exact where the sums of clusters are whole numbers (the distribution of the signed sum is built up by convolution)
    or at most 16 of them are not 0 (all signs are tried). Otherwise signs are drawn, and p is
    (1 + as extreme) / (1 + drawn), which keeps the level.

    Args:
        pairs: Values before and after; clusters flip as a whole.
        generator: Draws the signs where they are drawn.
        alternative: `greater`: better after.
        num_permutations: Signs drawn, at least 1.

    Source: Fisher, The Design of Experiments (1935), section 21; Phipson and Smyth, Statistical Applications in
    Genetics and Molecular Biology 9 (2010), article 39, for the 1 + ... of drawn signs.
    """
    sums = sum_by_cluster(pairs.differences_N, pairs.clusters_N)
    sums = sums[sums != 0]
    if sums.size == 0:
        return PairedTest(1.0, "sign_flip_exact")
    magnitudes, observed = np.abs(sums), float(sums.sum())
    if np.array_equal(magnitudes, np.round(magnitudes)) and magnitudes.sum() <= MAX_SPAN:
        return PairedTest(_whole_tail(magnitudes.astype(np.int64), round(observed), alternative), "sign_flip_exact")
    # Sums of the same numbers in another order differ in the last digits, and count as equal.
    slack = 1e-9 * float(magnitudes.sum())
    if sums.size <= MAX_ENUMERATED:
        flipped = np.zeros(1)
        for magnitude in magnitudes:
            flipped = np.concatenate([flipped + magnitude, flipped - magnitude])
        return PairedTest(float(_is_extreme(flipped, observed, slack, alternative).mean()), "sign_flip_exact")
    count = 0
    for start in range(0, num_permutations, 256):
        size = min(256, num_permutations - start)
        signs = generator.integers(0, 2, size=(size, sums.size)) * 2 - 1
        count += int(_is_extreme(signs @ magnitudes, observed, slack, alternative).sum())
    return PairedTest((1 + count) / (1 + num_permutations), "sign_flip_drawn")


def _is_extreme(flipped: Floats, observed: float, slack: float, alternative: Alternative) -> np.ndarray:
    if alternative == "greater":
        return flipped >= observed - slack
    if alternative == "less":
        return flipped <= observed + slack
    return np.abs(flipped) >= abs(observed) - slack


def _whole_tail(magnitudes: np.ndarray, observed: int, alternative: Alternative) -> float:
    """Return the tail probability of the signed sum of whole numbers."""
    span = int(magnitudes.sum())
    chances = np.zeros(2 * span + 1)  # of the sums -span to span
    chances[span] = 1.0
    reach = 0
    for magnitude in magnitudes:
        inner = chances[span - reach : span + reach + 1] / 2
        reach += int(magnitude)
        spread = np.zeros(2 * reach + 1)
        spread[: inner.size] += inner
        spread[spread.size - inner.size :] += inner
        chances[span - reach : span + reach + 1] = spread
    sums = np.arange(-span, span + 1, dtype=np.float64)
    return min(1.0, float(chances[_is_extreme(sums, observed, 0.0, alternative)].sum()))


def difference_test(
    pairs: Pairs, generator: np.random.Generator, *, alternative: Alternative = "two-sided"
) -> PairedTest:
    """Return the test of no difference that suits the pairs: McNemar's, or the sign-flip test."""
    if pairs.is_binary and not pairs.is_clustered:
        return sign_test(pairs.num_better, pairs.num_worse, alternative=alternative)
    return sign_flip_test(pairs, generator, alternative=alternative)


def summarise_difference(pairs: Pairs, *, value_range: tuple[float, float] = (0.0, 1.0)) -> BoundedMean:
    """Return what the score test needs of paired differences.

    Args:
        pairs: Values before and after.
        value_range: Between what a value can lie; it is widened to what was seen.

    Raises:
        DataError: All pairs share one cluster.
    """
    low = min(value_range[0], float(pairs.before_N.min()), float(pairs.after_N.min()))
    high = max(value_range[1], float(pairs.before_N.max()), float(pairs.after_N.max()))
    width = high - low
    return summarise_bounded(pairs.differences_N, pairs.clusters_N, low=-width, high=width)


def non_inferiority_test(pairs: Pairs, margin: float) -> PairedTest:
    """Return the one-sided test against a loss of `margin` or more: small where such a loss is ruled out.

    The hypothesis is `after - before <= -margin`, tested by the score statistic (Tango's for 0/1 items).

    Args:
        pairs: Values before and after.
        margin: The loss that must be ruled out, in the unit of the values, above 0; or, below 0, the gain that
            must be shown.

    Raises:
        DataError: All pairs share one cluster.
        ValueError: The margin is as wide as the range of the values.

    Source: Tango 1998, section 3; Liu, Hsueh, Hsieh and Chen, Statistics in Medicine 21 (2002), p. 231, find its size
    near the level from about 30 pairs.
    """
    return PairedTest(p_value_above(summarise_difference(pairs), -margin), score_method(pairs))


def difference_interval(pairs: Pairs, *, level: float = 0.95) -> Interval:
    """Return the mean difference with the score interval, which holds what `non_inferiority_test` does not reject.

    Raises:
        DataError: All pairs share one cluster.
    """
    return compute_interval(summarise_difference(pairs), level=level)


def score_method(pairs: Pairs) -> str:
    """Return the name of the score statistic that suits the pairs."""
    return ("tango" if pairs.is_binary else "bounded_score") + ("_clustered" if pairs.is_clustered else "")


def bootstrap_difference(
    pairs: Pairs, generator: np.random.Generator, *, level: float = 0.95, num_resamples: int = 2000
) -> Interval:
    """Return the mean difference with its percentile bootstrap interval; clusters are drawn as a whole.

    Each resample's difference is its sum over its number of pairs.

    Args:
        pairs: Values before and after.
        generator: Draws the resamples.
        level: Confidence, in (0, 1).
        num_resamples: Resamples, at least 1.

    Raises:
        DataError: All pairs share one cluster.

    Source: Davison and Hinkley, Bootstrap Methods and their Application (1997), section 3.8. With few clusters, or
    few pairs that differ, it is too narrow (and without width where none differs): for a decision use the score
    interval.
    """
    sums = sum_by_cluster(pairs.differences_N, pairs.clusters_N)
    sizes = np.bincount(pairs.clusters_N).astype(np.float64)
    if sums.size == 1:
        raise DataError(
            "one cluster cannot be drawn again",
            expected="pairs of at least two clusters",
            cure="evaluate items of more sources",
        )
    if not 0 < level < 1:
        raise ValueError(f"confidence level {level} is not between 0 and 1")
    means = []
    for start in range(0, num_resamples, 256):
        chosen = generator.integers(sums.size, size=(min(256, num_resamples - start), sums.size))
        means.append(sums[chosen].sum(axis=1) / sizes[chosen].sum(axis=1))
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(pairs.differences_N.mean()), float(low), float(high))


def compare_pairs(pairs: Pairs, generator: np.random.Generator, *, level: float = 0.95) -> Comparison:
    """Return the two-sided comparison: both means, the difference with its score interval, and the test of none.

    Raises:
        DataError: All pairs share one cluster.
    """
    sample = summarise_difference(pairs)
    return Comparison(
        before=float(pairs.before_N.mean()),
        after=float(pairs.after_N.mean()),
        difference=compute_interval(sample, level=level),
        test=difference_test(pairs, generator),
        num_pairs=len(pairs),
        num_clusters=pairs.num_clusters,
        num_better=pairs.num_better,
        num_worse=pairs.num_worse,
        design_effect=sample.design_effect,
        interval_method=score_method(pairs),
    )
