"""Calibration: whether what a policy says at confidence p comes true in a share p of cases.

Bins hold equally many items ("equal mass"); items of one confidence are never parted, so the order of the items does
not matter and there may be fewer bins than asked for. Shape letters: N items, B bins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from posttrain.core.errors import DataError
from posttrain.statistics.clusters import Codes, Floats, encode_clusters, read_values
from posttrain.statistics.intervals import Interval

Values = Sequence[float] | npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Items of like confidence: their lowest and highest confidence, the mean one, and the share that came true."""

    low: float
    high: float
    confidence: float
    accuracy: float
    num_items: int


@dataclass(frozen=True, slots=True)
class BrierScore:
    """The mean squared error of confidences, and what it is made of.

    `score = reliability - resolution + uncertainty + within_bins`, exactly: `reliability` is the squared gap between
    confidence and accuracy (0 is best), `resolution` how far the bins' accuracies lie apart, `uncertainty` the variance
    of the outcomes, `within_bins` what is lost by binning (0 where a bin holds one confidence).
    """

    score: float
    reliability: float
    resolution: float
    uncertainty: float
    within_bins: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """Expected calibration error and Brier score with bootstrap limits.

    `error_if_calibrated` is the expected calibration error that a perfectly calibrated policy with these confidences
    shows on average by chance alone: an error below it says nothing.
    """

    error: Interval
    error_if_calibrated: float
    brier: Interval
    bins: tuple[ReliabilityBin, ...]


@dataclass(frozen=True, slots=True)
class CalibrationRise:
    """How much worse calibrated a policy is than another on the same items.

    `rise` is the difference of the expected calibration errors, after less before. `p_value` is one-sided against a
    rise of at most the bound, `chance_p_value` against the later policy being calibrated: an error that chance explains
    is no rise.
    """

    before: float
    after: float
    rise: Interval
    p_value: float
    chance_p_value: float


def tabulate_reliability(confidences_N: Values, outcomes_N: Values, *, num_bins: int = 10) -> list[ReliabilityBin]:
    """Return the reliability table, in ascending confidence.

    Args:
        confidences_N: In [0, 1].
        outcomes_N: 0 or 1: whether it came true.
        num_bins: At most so many bins, at least 1.

    Raises:
        DataError: There is no item, a confidence is not in [0, 1], or an outcome is neither 0 nor 1.
    """
    confidences, outcomes = _read(confidences_N, outcomes_N)
    bins_N = _assign_bins(confidences, num_bins)
    table = []
    for number in np.unique(bins_N):
        chosen = bins_N == number
        inside = confidences[chosen]
        table.append(
            ReliabilityBin(
                float(inside.min()),
                float(inside.max()),
                float(inside.mean()),
                float(outcomes[chosen].mean()),
                int(chosen.sum()),
            )
        )
    return table


def compute_calibration_error(confidences_N: Values, outcomes_N: Values, *, num_bins: int = 10) -> float:
    """Return the expected calibration error: `sum over bins of n_b / N |accuracy_b - confidence_b|`.

    Arguments and errors as `tabulate_reliability`.

    Source: Naeini, Cooper and Hauskrecht, AAAI 2015, with equal-mass bins (Nguyen and O'Connor, arXiv 1508.05154). It
    is biased upwards for few items a bin; see `Calibration.error_if_calibrated`.
    """
    confidences, outcomes = _read(confidences_N, outcomes_N)
    return _compute_error(confidences, outcomes, num_bins)


def compute_brier_score(confidences_N: Values, outcomes_N: Values, *, num_bins: int = 10) -> BrierScore:
    """Return the Brier score, `mean of (confidence - outcome)²`, with its decomposition over equal-mass bins.

    Arguments and errors as `tabulate_reliability`.

    Source: Brier, Monthly Weather Review 78 (1950), p. 1; Murphy, Journal of Applied Meteorology 12 (1973), p. 595; the
    two terms within bins: Stephenson, Coelho and Jolliffe, Weather and Forecasting 23 (2008), p. 752.
    """
    confidences, outcomes = _read(confidences_N, outcomes_N)
    bins_N = _assign_bins(confidences, num_bins)
    _, codes, counts = np.unique(bins_N, return_inverse=True, return_counts=True)
    confidence_B, accuracy_B = (np.bincount(codes, weights=column) / counts for column in (confidences, outcomes))
    base_rate = float(outcomes.mean())
    weights = counts / confidences.size
    gap = confidences - confidence_B[codes]
    return BrierScore(
        score=float(((confidences - outcomes) ** 2).mean()),
        reliability=float(weights @ (confidence_B - accuracy_B) ** 2),
        resolution=float(weights @ (accuracy_B - base_rate) ** 2),
        uncertainty=base_rate * (1 - base_rate),
        within_bins=float((gap**2).mean() - 2 * (gap * (outcomes - accuracy_B[codes])).mean()),
    )


# many parameters: two columns, their clusters, the generator, and three settings
def measure_calibration(
    confidences_N: Values,
    outcomes_N: Values,
    generator: np.random.Generator,
    *,
    clusters_N: Sequence[str] | Sequence[int] | Codes | None = None,
    num_bins: int = 10,
    level: float = 0.95,
    num_resamples: int = 1000,
) -> Calibration:
    """Return calibration error and Brier score with percentile bootstrap limits; clusters are drawn as a whole.

    Args:
        confidences_N: In [0, 1].
        outcomes_N: 0 or 1.
        generator: Draws the resamples, and outcomes for `error_if_calibrated` (each 1 with its confidence).
        clusters_N: The name of each item's cluster; None: items are independent.
        num_bins: At most so many bins.
        level: Confidence of the limits, in (0, 1).
        num_resamples: Resamples, at least 1.

    Raises:
        DataError: As `tabulate_reliability`, or all items share one cluster.

    Source: Bröcker and Smith, Weather and Forecasting 22 (2007), p. 651, for outcomes drawn from the confidences. The
    limits of the error are biased upwards as the error itself is, twice over: they do not cover an error near 0.
    """
    confidences, outcomes = _read(confidences_N, outcomes_N)
    if not 0 < level < 1:
        raise ValueError(f"confidence level {level} is not between 0 and 1")
    codes, members = _list_members(clusters_N, confidences.size)
    num_clusters = len(members)
    errors, briers, chance_errors = (np.empty(num_resamples) for _ in range(3))
    for index in range(num_resamples):
        drawn = generator.integers(num_clusters, size=num_clusters)
        rows = drawn if num_clusters == codes.size else np.concatenate([members[cluster] for cluster in drawn])
        errors[index] = _compute_error(confidences[rows], outcomes[rows], num_bins)
        briers[index] = ((confidences[rows] - outcomes[rows]) ** 2).mean()
        as_said = (generator.random(confidences.size) < confidences).astype(np.float64)
        chance_errors[index] = _compute_error(confidences, as_said, num_bins)
    tails = [(1 - level) / 2, (1 + level) / 2]
    error_limits, brier_limits = (np.quantile(values, tails).tolist() for values in (errors, briers))
    return Calibration(
        error=Interval(_compute_error(confidences, outcomes, num_bins), *error_limits),
        error_if_calibrated=float(chance_errors.mean()),
        brier=Interval(float(((confidences - outcomes) ** 2).mean()), *brier_limits),
        bins=tuple(tabulate_reliability(confidences, outcomes, num_bins=num_bins)),
    )


# many parameters: two policies, their items' sources, the generator, and four settings
def compare_calibration(
    before: tuple[Values, Values],
    after: tuple[Values, Values],
    generator: np.random.Generator,
    *,
    clusters_N: Sequence[str] | Sequence[int] | Codes | None = None,
    bound: float = 0.0,
    num_bins: int = 10,
    level: float = 0.95,
    num_resamples: int = 2000,
) -> CalibrationRise:
    """Return the rise of the calibration error with its paired percentile bootstrap, and both tests.

    The same clusters are drawn for both policies; `p_value` is the share of resamples whose rise is at most the bound,
    (1 + count) / (1 + drawn). For `chance_p_value` the gaps `outcome - confidence` of each cluster keep or change their
    sign together, which has the mean of a calibrated policy and the spread of what was seen, dependence included.

    Args:
        before: Confidences in [0, 1] and outcomes, 0 or 1, of one policy.
        after: Those of the other for the same items, in the same order.
        generator: Draws resamples and signs.
        clusters_N: The name of each item's cluster; None: items are independent.
        bound: The rise that is allowed.
        num_bins: At most so many bins.
        level: Confidence of the limits, in (0, 1).
        num_resamples: Resamples, at least 1.

    Raises:
        DataError: As `tabulate_reliability`, the two differ in length, or all items share one cluster.

    Source: Davison and Hinkley, Bootstrap Methods and their Application (1997), sections 3.8 and 4.4; the signs by
    cluster are Cameron, Gelbach and Miller's (Review of Economics and Statistics 90 (2008), p. 414). The error's upward
    bias is on both sides and falls out of the rise but for what the two differ in.
    """
    sides = [_read(*side) for side in (before, after)]
    size = sides[0][0].size
    if sides[1][0].size != size:
        raise DataError("items of another number", expected="the same items of both", cure="evaluate both on all items")
    codes, members = _list_members(clusters_N, size)
    num_clusters = len(members)
    errors = [_compute_error(*side, num_bins) for side in sides]
    gaps, bins = sides[1][1] - sides[1][0], _assign_bins(sides[1][0], num_bins)
    rises, by_chance = np.empty(num_resamples), np.empty(num_resamples)
    for index in range(num_resamples):
        drawn = generator.integers(num_clusters, size=num_clusters)
        rows = drawn if num_clusters == size else np.concatenate([members[cluster] for cluster in drawn])
        first, second = (_compute_error(confidences[rows], outcomes[rows], num_bins) for confidences, outcomes in sides)
        rises[index] = second - first
        signs = generator.integers(0, 2, size=num_clusters) * 2 - 1
        by_chance[index] = np.abs(np.bincount(bins, weights=gaps * signs[codes])).sum() / size
    slack = 1e-12
    low, high = np.quantile(rises, [(1 - level) / 2, (1 + level) / 2]).tolist()
    return CalibrationRise(
        errors[0],
        errors[1],
        Interval(errors[1] - errors[0], low, high),
        (1 + int((rises <= bound + slack).sum())) / (1 + num_resamples),
        (1 + int((by_chance >= errors[1] - slack).sum())) / (1 + num_resamples),
    )


def _list_members(
    clusters_N: Sequence[str] | Sequence[int] | Codes | None, size: int
) -> tuple[Codes, list[npt.NDArray[np.int64]]]:
    """Return the number of each item's cluster and the items of each cluster.

    Raises:
        DataError: All items share one cluster.
    """
    codes = np.arange(size) if clusters_N is None else encode_clusters(clusters_N, size)
    counts = np.bincount(codes)
    if counts.size == 1:
        raise DataError("one cluster cannot be drawn again", expected="two clusters", cure="evaluate more sources")
    return codes, np.split(np.argsort(codes, kind="stable"), np.cumsum(counts)[:-1])


def _read(confidences_N: Values, outcomes_N: Values) -> tuple[Floats, Floats]:
    confidences, outcomes = read_values(confidences_N), read_values(outcomes_N)
    in_range = bool(((confidences >= 0) & (confidences <= 1)).all()) and bool(np.isin(outcomes, (0.0, 1.0)).all())
    if confidences.shape != outcomes.shape or not in_range:
        raise DataError(
            f"{confidences.size} confidences and {outcomes.size} outcomes, or values out of range",
            expected="one confidence in [0, 1] and one outcome, 0 or 1, for each item",
            cure="correct what the items hold",
        )
    return confidences, outcomes


def _assign_bins(confidences_N: Floats, num_bins: int) -> npt.NDArray[np.int64]:
    """Return the bin of each item: by the middle rank of its confidence, so that equals stay together."""
    if num_bins < 1:
        raise ValueError(f"{num_bins} bins")
    _, codes, counts = np.unique(confidences_N, return_inverse=True, return_counts=True)
    first_rank = np.cumsum(counts) - counts
    middle_rank = first_rank + (counts - 1) / 2
    return np.floor(middle_rank[codes] * num_bins / confidences_N.size).astype(np.int64)


def _compute_error(confidences_N: Floats, outcomes_N: Floats, num_bins: int) -> float:
    gaps = np.bincount(_assign_bins(confidences_N, num_bins), weights=outcomes_N - confidences_N)
    return float(np.abs(gaps).sum() / confidences_N.size)
