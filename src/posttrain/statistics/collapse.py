"""Collapse: whether a policy finds less and less, though what it finds first may be right more often.

Headroom is what further samples add to the first, `pass@k - pass@1`: it is what a later stage can still learn from.
Shape letters: K samples of one problem, P problems, R rounds.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from posttrain.core.errors import DataError
from posttrain.statistics.clusters import Codes, encode_clusters
from posttrain.statistics.diversity import compute_expected_distinct
from posttrain.statistics.intervals import Interval, clustered_interval
from posttrain.statistics.pass_at_k import compute_pass_at_k


def compute_headroom(num_samples: int, num_right: int, k: int) -> float:
    """Return pass@k less pass@1 of one problem, both unbiased, in [0, 1).

    Raises:
        ValueError: The numbers do not fit (`pass_at_k`).
    """
    return compute_pass_at_k(num_samples, num_right, k) - compute_pass_at_k(num_samples, num_right, 1)


def compute_unique_accepted(
    solutions_K: Sequence[Hashable], is_accepted_K: Sequence[bool], num_samples: int | None = None
) -> float:
    """Return how many different accepted solutions `num_samples` of the K samples hold on average.

    Args:
        solutions_K: What each sample says, in a form in which equal solutions are equal.
        is_accepted_K: Whether each is right.
        num_samples: m, 1 to K (`diversity.compute_expected_distinct`); None: all.

    Raises:
        ValueError: m is out of range, or the two differ in length.
    """
    held = [[solution] if accepted else [] for solution, accepted in zip(solutions_K, is_accepted_K, strict=True)]
    return compute_expected_distinct(held, len(held) if num_samples is None else num_samples)


def predict_collision_diversity(start: float, num_drawn: int, num_rounds: int) -> float:
    """Return `E[1 - sum of p²]` after rounds of training on the policy's own samples alone.

    Each round that fits the frequencies of N samples leaves the share `1 - 1 / N`: `start (1 - 1 / N)^R`, whatever the
    distribution. What falls faster is sharpened by something else.

    Args:
        start: Before the first round, in [0, 1].
        num_drawn: N, samples a problem and round, at least 1.
        num_rounds: R, at least 0.

    Raises:
        ValueError: A number is out of range.

    Source: Wright, Genetics 16 (1931), p. 97 (drift), of which re-estimation from samples is the same chain.
    """
    if not 0 <= start <= 1 or num_drawn < 1 or num_rounds < 0:
        raise ValueError(f"a diversity of {start}, {num_drawn} samples, {num_rounds} rounds")
    return start * (1 - 1 / num_drawn) ** num_rounds


@dataclass(frozen=True, slots=True)
class Trend:
    """How a figure moves by round: the slope of the least-squares line, and the rounds until it meets a floor.

    `rounds_left` counts from the last round, along the line; None where the line does not fall, 0 where it is below.
    """

    slope: Interval
    rounds_left: float | None


def fit_trend(
    values_PR: npt.ArrayLike,
    *,
    clusters_P: Sequence[str] | Sequence[int] | Codes | None = None,
    floor: float = 0.0,
    level: float = 0.95,
) -> Trend:
    """Return the mean slope by round of the problems' own least-squares lines, with its cluster-robust interval.

    Args:
        values_PR: A figure (entropy by token, say) of each problem in each round, in order; R >= 2.
        clusters_P: The name of each problem's cluster; None: problems are independent.
        floor: What the mean's line is carried on to.
        level: Confidence, in (0, 1).

    Raises:
        DataError: There are not two rounds, not two clusters, or a value is not finite.
    """
    values = np.asarray(values_PR, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] < 2:
        raise DataError(
            f"values of shape {values.shape}",
            expected="one row a problem and at least two rounds",
            cure="measure the same problems after each round",
        )
    rounds = np.arange(values.shape[1], dtype=np.float64) - (values.shape[1] - 1) / 2
    slopes = values @ rounds / float(rounds @ rounds)
    codes = np.arange(len(values)) if clusters_P is None else encode_clusters(clusters_P, len(values))
    slope = clustered_interval(slopes, codes, level=level)
    last = float(values.mean()) + slope.value * float(rounds[-1])
    if last <= floor:
        return Trend(slope, 0.0)
    return Trend(slope, (last - floor) / -slope.value if slope.value < 0 else None)
