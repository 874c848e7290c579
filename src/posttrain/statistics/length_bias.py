"""Whether a score pays for length: the part of a score's difference that length explains at equal quality.

For pairs of completions of one prompt, with s the difference of scores, l that of lengths and q that of qualities,

    s = a q + b l + noise          b: the score that one more token earns at equal quality

by least squares. Where no quality is known, the label stands in its place: the differences are taken as chosen less
rejected and q = 1. Then b is what length explains among pairs with the same label. Shape letter: N pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr, stdtrit

from posttrain.core.errors import DataError
from posttrain.statistics.clusters import Codes, Floats, encode_clusters, read_values, sum_by_cluster
from posttrain.statistics.intervals import Interval

Values = Sequence[float] | Floats


@dataclass(frozen=True, slots=True)
class LengthBias:
    """What length does to a score at equal quality.

    `slope` is in score per token, with its limits; `correlation` the partial correlation of score and length; `p_value`
    two-sided against a slope of 0. `raw_correlation` leaves quality out of account. `score_spread` and `length_spread`
    are the standard deviations of the differences, so that `slope * length_spread / score_spread` says how much of the
    score's spread one standard deviation of length moves.
    """

    slope: Interval
    correlation: float
    raw_correlation: float
    p_value: float
    score_spread: float
    length_spread: float
    num_pairs: int


def measure_length_bias(
    score_gaps_N: Values,
    length_gaps_N: Values,
    quality_gaps_N: Values | None = None,
    *,
    clusters_N: Sequence[str] | None = None,
    level: float = 0.95,
) -> LengthBias:
    """Return the slope of score against length at equal quality.

    Args:
        score_gaps_N: Score of one completion less that of the other.
        length_gaps_N: Its length less the other's, in tokens.
        quality_gaps_N: Its true quality less the other's; None: the first is the one that was preferred.
        clusters_N: The name of each pair's cluster; None: pairs are independent.
        level: Confidence of the limits, in (0, 1).

    Raises:
        DataError: Fewer than 3 clusters, or all lengths differ alike once quality is taken into account.

    Source: Frisch and Waugh, Econometrica 1 (1933), p. 387 (partial regression); the errors are the jackknife's over
    clusters, robust to unequal variances (CR3: Bell and McCaffrey, Survey Methodology 28 (2002), p. 169), with
    Student's t on the number of clusters less one.
    """
    scores, lengths = read_values(score_gaps_N), read_values(length_gaps_N)
    qualities = np.ones(scores.size) if quality_gaps_N is None else read_values(quality_gaps_N)
    if not scores.size == lengths.size == qualities.size:
        raise ValueError(f"{scores.size} scores, {lengths.size} lengths and {qualities.size} qualities")
    codes = np.arange(scores.size) if clusters_N is None else encode_clusters(clusters_N, scores.size)
    num_clusters = int(codes.max()) + 1
    total = float(qualities @ qualities)

    def take_out_quality(values: Floats) -> Floats:
        return values - qualities * (qualities @ values / total) if total > 0 else values

    rest_scores, rest_lengths = take_out_quality(scores), take_out_quality(lengths)
    spread = float(rest_lengths @ rest_lengths)
    if num_clusters < 3 or spread <= 1e-9 * max(1.0, float(lengths @ lengths)):
        raise DataError(
            f"{scores.size} pairs of {num_clusters} sources, whose lengths differ alike",
            expected="pairs of at least 3 sources whose completions differ in length",
            cure="validate on more pairs",
        )
    slope = float(rest_lengths @ rest_scores / spread)
    without_C = _leave_out(scores, lengths, qualities, codes)
    error = float(np.sqrt((num_clusters - 1) / num_clusters * ((without_C - slope) ** 2).sum()))
    reach = float(stdtrit(num_clusters - 1, (1 + level) / 2)) * error
    tail = float(stdtr(num_clusters - 1, -abs(slope) / error)) if error > 0 else 0.0
    return LengthBias(
        slope=Interval(slope, slope - reach, slope + reach),
        correlation=_correlate(rest_scores, rest_lengths),
        raw_correlation=_correlate(scores, lengths),
        p_value=min(1.0, 2 * tail),
        score_spread=float(scores.std()),
        length_spread=float(lengths.std()),
        num_pairs=scores.size,
    )


def _leave_out(scores: Floats, lengths: Floats, qualities: Floats, codes: Codes) -> Floats:
    """Return the slope without each cluster in turn; without one that alone tells length from quality, 0."""
    products = (
        (qualities, qualities),
        (qualities, lengths),
        (lengths, lengths),
        (qualities, scores),
        (lengths, scores),
    )
    sums = [sum_by_cluster(first * second, codes) for first, second in products]
    qq, ql, ll, qs, ls = (part.sum() - part for part in sums)
    if not (qualities @ qualities) > 0:
        return np.divide(ls, ll, out=np.zeros_like(ls), where=ll > 0)
    determinant = qq * ll - ql * ql
    slopes: Floats = np.divide(
        qq * ls - ql * qs, determinant, out=np.zeros_like(ls), where=determinant > 1e-12 * (qq * ll)
    )
    return slopes


def _correlate(first: Floats, second: Floats) -> float:
    """Return the cosine of two columns, their correlation about 0; 0 where one of them is constant at 0."""
    norm = float(np.sqrt((first @ first) * (second @ second)))
    return float(first @ second) / norm if norm > 0 else 0.0
