"""Win rate at equal length: how often one policy's answer is better where both are equally long."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from posttrain.core.errors import DataError
from posttrain.statistics.clusters import Floats, encode_clusters, read_values
from posttrain.statistics.intervals import Interval

_PRECISION = 0.01
"""Of the normal prior on both coefficients: a standard deviation of 10, so that separated data have an estimate."""
_STEPS = 100


@dataclass(frozen=True, slots=True)
class LengthControlled:
    """A win rate as it is and at equal length, and what length does.

    `length_effect` is the coefficient of the length term: above 0 the longer answer wins more often.
    """

    win_rate: float
    controlled: Interval
    length_effect: float
    num_pairs: int


def compute_length_controlled_win_rate(
    wins_N: Sequence[float] | Floats, length_gaps_N: Sequence[float] | Floats, clusters_N: Sequence[str]
) -> LengthControlled:
    """Return the win rate that a logistic regression with a length term predicts at equal length.

        P(win) = sigma(theta + phi tanh(gap / s)),    controlled win rate = sigma(theta)

    with s the standard deviation of the length gaps. theta and phi have a wide normal prior (standard deviation
    10). The 95 % limits are sigma of theta's own, `theta ± 1.96` cluster-robust errors.

    Args:
        wins_N: 1 where the policy's answer is better than the other's, 0 where it is worse, 1/2 for a tie.
        length_gaps_N: Its length less the other's, in tokens.
        clusters_N: The name of each pair's cluster.

    Raises:
        DataError: No pairs, a win outside of [0, 1], or all of one cluster.

    Source: Dubois, Galambosi, Liang and Hashimoto, "Length-Controlled AlpacaEval" (arXiv 2404.04475).
    Known differences: their third term, the difficulty of each instruction, is estimated jointly for many models and
    is left out, as there are two policies here; wins are by a task's score and not by a judge; s is of these pairs.
    """
    wins, gaps = read_values(wins_N), read_values(length_gaps_N)
    codes = encode_clusters(clusters_N, wins.size)
    num_clusters = int(codes.max()) + 1
    if wins.min() < 0 or wins.max() > 1 or num_clusters < 2:
        raise DataError(
            f"wins from {wins.min():g} to {wins.max():g} of {num_clusters} sources",
            expected="wins in [0, 1] of pairs of at least two sources",
            cure="compare more items",
        )
    spread = float(gaps.std())
    terms_N2 = np.stack([np.ones(wins.size), np.tanh(gaps / spread) if spread > 0 else np.zeros(wins.size)], axis=1)
    weights = np.zeros(2)
    for _ in range(_STEPS):
        chances = expit(terms_N2 @ weights)
        curvature = (terms_N2.T * (chances * (1 - chances))) @ terms_N2 + _PRECISION * np.eye(2)
        step = np.linalg.solve(curvature, terms_N2.T @ (wins - chances) - _PRECISION * weights)
        # Far from the optimum Newton's step may overshoot where the curve is flat.
        weights = weights + step * min(1.0, 5.0 / max(5.0, float(np.abs(step).max())))
        if float(np.abs(step).max()) < 1e-10:
            break
    chances = expit(terms_N2 @ weights)
    inverse = np.linalg.inv((terms_N2.T * (chances * (1 - chances))) @ terms_N2 + _PRECISION * np.eye(2))
    scores = np.zeros((num_clusters, 2))
    np.add.at(scores, codes, terms_N2 * (wins - chances)[:, None])
    covariance = inverse @ (scores.T @ scores) @ inverse * (num_clusters / (num_clusters - 1))
    error = 1.959964 * math.sqrt(max(0.0, float(covariance[0, 0])))
    value, low, high = (float(expit(weights[0] + shift)) for shift in (0.0, -error, error))
    return LengthControlled(float(wins.mean()), Interval(value, low, high), float(weights[1]), int(wins.size))
