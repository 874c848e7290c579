"""Optima that are known by formula, as log-probs of all completions. Shape letters: see the package.

Values are given for each completion of each prompt; probabilities of prompts, where they matter, are even.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import scipy.optimize
import torch

from tests.oracles.enumeration import compute_expectation


def compute_tilted(reference_XY: torch.Tensor, rewards_XY: torch.Tensor, beta: float) -> torch.Tensor:
    """Return the maximiser of E[r] - beta KL(pi || ref): pi* = ref exp(r / beta) / Z (arXiv 2305.18290, eq. 4)."""
    return (reference_XY + rewards_XY / beta).log_softmax(-1)


def compute_conditioned(reference_XY: torch.Tensor, is_accepted_XY: torch.Tensor) -> torch.Tensor:
    """Return ref(y | accepted); -inf of what is not. Its reverse KL from ref is -log of the share that is accepted."""
    return reference_XY.masked_fill(~is_accepted_XY, -math.inf).log_softmax(-1)


def compute_preference_probabilities(rewards_XY: torch.Tensor) -> torch.Tensor:
    """Return Bradley-Terry's p(y preferred to y') = sigmoid(r(y) - r(y')), [X, Y, Y]."""
    return torch.sigmoid(rewards_XY[:, :, None] - rewards_XY[:, None, :])


def compute_best_of_n(reference_XY: torch.Tensor, scores_XY: torch.Tensor, n: int) -> torch.Tensor:
    """Return the distribution of the best-scored of n independent draws; of equally good ones the first drawn.

    With F(y) the probability of a score at most that of y and F-(y) of one below it, a level of equal scores is best
    with probability F^n - F-^n, and within it draws are distributed as they were: ref(y) / (F - F-) of that. Where all
    scores differ this is F(y)^n - F-(y)^n.
    """
    reference = reference_XY.exp()
    is_below_XYY = scores_XY[:, None, :] < scores_XY[:, :, None]
    is_equal_XYY = scores_XY[:, None, :] == scores_XY[:, :, None]
    below_XY = (is_below_XYY * reference[:, None, :]).sum(-1)
    level_XY = (is_equal_XYY * reference[:, None, :]).sum(-1)
    return (reference / level_XY * ((below_XY + level_XY) ** n - below_XY**n)).log()


def compute_best_of_n_bound(n: int) -> float:
    """Return log n - (n - 1) / n, which KL(best of n || ref) never exceeds (arXiv 2401.01879); never equals, if ref
    has atoms."""
    return math.log(n) - (n - 1) / n


@dataclass(frozen=True)
class ConstrainedOptimum:
    """The maximiser of E[r] - beta KL among policies with E[cost] <= limit, and what one unit of limit is worth."""

    logprobs_XY: torch.Tensor
    multiplier: float


class InfeasibleError(Exception):
    """No policy on the reference's support keeps the limit."""


def solve_constrained(
    reference_XY: torch.Tensor, rewards_XY: torch.Tensor, costs_XY: torch.Tensor, *, limit: float, beta: float
) -> ConstrainedOptimum:
    """Return the constrained optimum: pi = ref exp((r - m c) / beta) / Z with the multiplier m of the exact dual.

    The dual is g(m) = beta E_x log Z(m) + m limit, convex, with slope limit - E[c]: m is where that is 0, or 0 if the
    constraint is slack there. The expected cost, over prompts too, falls as m grows.

    Raises:
        InfeasibleError: The limit is not above the least expected cost.
    """

    def compute_policy(multiplier: float) -> torch.Tensor:
        return compute_tilted(reference_XY, rewards_XY - multiplier * costs_XY, beta)

    def compute_excess(multiplier: float) -> float:
        return float(compute_expectation(compute_policy(multiplier), costs_XY).mean()) - limit

    if compute_excess(0.0) <= 0:
        return ConstrainedOptimum(compute_policy(0.0), 0.0)
    if limit <= float(costs_XY.min(-1).values.mean()):
        raise InfeasibleError(f"an expected cost of at most {limit}, where the least is above or equal to it")
    high = 1.0
    while compute_excess(high) > 0:
        high *= 2
    multiplier = float(scipy.optimize.brentq(compute_excess, 0.0, high, xtol=1e-13, rtol=1e-14))
    return ConstrainedOptimum(compute_policy(multiplier), multiplier)


def compute_dual(
    reference_XY: torch.Tensor,
    rewards_XY: torch.Tensor,
    costs_XY: torch.Tensor,
    *,
    limit: float,
    beta: float,
    multiplier: float,
) -> float:
    """Return the dual function g(m) = beta E_x log Z(m) + m limit, whose least value is the constrained optimum's."""
    log_totals_X = (reference_XY + (rewards_XY - multiplier * costs_XY) / beta).logsumexp(-1)
    return float(beta * log_totals_X.mean() + multiplier * limit)
