"""Confidence intervals of a mean: Wilson's for right-or-wrong items, the bootstrap's for any values.

Neither knows about clusters: items that share a source make the true interval wider than these.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from posttrain.core.errors import DataError


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
    values = np.asarray(values_N, dtype=np.float64)
    if values.size == 0 or not np.isfinite(values).all():
        raise DataError(
            "no values, or a value that is not finite",
            expected="at least one value, all of them finite",
            cure="evaluate at least one item",
        )
    _normal_quantile(level)
    # One resample at a time: N x num_resamples indices at once would not fit for large N.
    means = np.array([values[generator.integers(values.size, size=values.size)].mean() for _ in range(num_resamples)])
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(values.mean()), float(low), float(high))


def _normal_quantile(level: float) -> float:
    if not 0 < level < 1:
        raise ValueError(f"confidence level {level} is not between 0 and 1")
    return NormalDist().inv_cdf((1 + level) / 2)
