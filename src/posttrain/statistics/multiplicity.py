"""Several tests at once: Holm's correction for a family, and spending of a level over looks at growing data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri

_NUM_NODES = 400
_TAIL = 8.5
_MIN_STEP = 0.01


def adjust_holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p-values, in the order given: at most alpha exactly where Holm rejects at level alpha.

    In ascending order, `p~(i) = max over j <= i of min(1, (m - j + 1) p(j))`.

    Args:
        p_values: Each in [0, 1].

    Raises:
        ValueError: One is not in [0, 1].

    Source: Holm, Scandinavian Journal of Statistics 6 (1979), p. 65. It holds whatever the dependence.
    """
    if not all(0 <= p <= 1 for p in p_values):
        raise ValueError(f"p-values {list(p_values)} are not all between 0 and 1")
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def spent_level(level: float, fraction: float) -> float:
    """Return how much of a one-sided level may be spent when a fraction of the planned items is in.

    `2 (1 - Phi(z / sqrt(t)))`, z the upper quantile of level / 2: little at first, all of it at t = 1.

    Args:
        level: In (0, 1).
        fraction: t, in (0, 1].

    Source: Lan and DeMets, Biometrika 70 (1983), p. 659, their alpha_1*, which comes near O'Brien and Fleming's bounds.
    """
    if not 0 < level < 1 or not 0 < fraction <= 1:
        raise ValueError(f"a level of {level} at {fraction} of the items")
    if fraction == 1:
        return level
    return float(2 * ndtr(ndtri(level / 2) / math.sqrt(fraction)))


def nominal_levels(level: float, fractions: Sequence[float]) -> list[float]:
    """Return the level at which each look tests, so that all looks together err with `level` at most.

    The boundary of look k is such that a Brownian path first crosses at look k with probability
    `spent_level(t_k) - spent_level(t_(k-1))` (Armitage, McPherson and Rowe's recursion, by Gauss-Legendre quadrature).

    Args:
        level: One-sided, in (0, 0.5).
        fractions: Items at each look as a share of those planned for the last one: ascending by at least 0.01, above
            0, at most 1. One look with all items tests at `level` itself.

    Raises:
        ValueError: The fractions do not ascend so.

    Source: Lan and DeMets 1983; Armitage, McPherson and Rowe, Journal of the Royal Statistical Society A 132 (1969),
    p. 235. The statistic of a look is taken for normal with independent increments, which paired score statistics
    are for large n.
    """
    steps = np.diff([0.0, *fractions])
    if not 0 < level < 0.5 or not len(fractions) or (steps < _MIN_STEP - 1e-12).any() or fractions[-1] > 1:
        raise ValueError(
            f"looks at {list(fractions)} of the items with level {level}: fractions ascend by 0.01, up to 1"
        )
    if list(fractions) == [1]:
        return [level]
    return list(_find_levels(level, tuple(float(fraction) for fraction in fractions)))


@lru_cache(maxsize=256)
def _find_levels(level: float, fractions: tuple[float, ...]) -> tuple[float, ...]:
    base_nodes, base_weights = np.polynomial.legendre.leggauss(_NUM_NODES)
    levels: list[float] = []
    # The path's position at the last look, given that it has not crossed: nodes, and density times weight.
    nodes, mass = np.zeros(1), np.ones(1)
    last_fraction = last_spent = 0.0
    for fraction in fractions:
        spent = spent_level(level, fraction)
        scale = math.sqrt(fraction - last_fraction)

        def crossing(bound: float, nodes: np.ndarray = nodes, mass: np.ndarray = mass, scale: float = scale) -> float:
            return float(mass @ ndtr((nodes - bound) / scale))

        farthest = _TAIL * math.sqrt(fraction)
        to_spend = spent - last_spent
        bound = farthest
        if crossing(farthest) < to_spend:
            bound = brentq(lambda b, f=crossing, s=to_spend: f(b) - s, -farthest, farthest, xtol=1e-10)
        levels.append(float(ndtr(-bound / math.sqrt(fraction))))
        new_nodes = (bound - farthest) / 2 + (bound + farthest) / 2 * base_nodes
        density = np.exp(-(((new_nodes[:, None] - nodes) / scale) ** 2) / 2) @ mass / (scale * math.sqrt(2 * math.pi))
        nodes, mass = new_nodes, density * base_weights * (bound + farthest) / 2
        last_fraction, last_spent = fraction, spent
    return tuple(levels)
