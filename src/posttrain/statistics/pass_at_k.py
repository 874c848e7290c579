"""pass@k: the probability that at least one of k completions is right, from n >= k of each problem.

best@k is the same of scores: what the best of k completions scores on average.
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def compute_pass_at_k(num_samples: int, num_right: int, k: int) -> float:
    """Return the unbiased estimate 1 - C(n - c, k) / C(n, k) of one problem's pass@k.

    Args:
        num_samples: n, completions drawn independently, >= k.
        num_right: c, how many of them are right, 0 to n.
        k: Completions that one may look at, >= 1.

    Raises:
        ValueError: The numbers do not fit.

    Source: Chen et al. 2021, "Evaluating Large Language Models Trained on Code" (arXiv 2107.03374), equation 1, as the
    product that stays within a float.
    """
    if not 0 <= num_right <= num_samples or not 1 <= k <= num_samples:
        raise ValueError(f"pass@{k} of {num_right} right among {num_samples}: k lies between 1 and the number drawn")
    failing = 1.0
    for drawn in range(k):
        failing *= max(0, num_samples - num_right - drawn) / (num_samples - drawn)
    return 1.0 - failing


def compute_best_of_k(scores: Sequence[float], k: int) -> float:
    """Return the unbiased estimate of the expected best score of k completions, from n >= k of one problem.

    The mean of the maximum over all subsets of k: in ascending order, score i (from 1) is the largest of
    `C(i - 1, k - 1)` of the `C(n, k)` subsets. Of scores 0 and 1 it is pass@k.

    Args:
        scores: Of completions drawn independently, finite.
        k: Completions of which the best is taken, 1 to n.

    Raises:
        ValueError: The numbers do not fit.

    Source: the U-statistic of the maximum (Hoeffding, Annals of Mathematical Statistics 19 (1948), p. 293).
    """
    if not 1 <= k <= len(scores) or not all(map(math.isfinite, scores)):
        raise ValueError(f"the best of {k} among {len(scores)} scores: k lies between 1 and the number drawn")
    ordered = sorted(scores)
    total = 0.0
    weight = k / len(ordered)  # of the largest score: C(n - 1, k - 1) / C(n, k)
    for place in range(len(ordered), k - 1, -1):
        total += weight * ordered[place - 1]
        weight *= (place - k) / (place - 1) if place > 1 else 0.0
    return total


def average_pass_at_k(counts: Sequence[tuple[int, int]], k: int) -> float:
    """Return the mean of pass@k over problems, each given as (completions drawn, completions right).

    Raises:
        ValueError: There is no problem, or one has fewer than k completions.
    """
    if not counts:
        raise ValueError("pass@k of no problem")
    return sum(compute_pass_at_k(drawn, right, k) for drawn, right in counts) / len(counts)
