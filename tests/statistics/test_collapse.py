"""Headroom, unique accepted solutions and trends, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from posttrain.core.errors import DataError
from posttrain.core.seeds import build_numpy_generator
from posttrain.statistics.collapse import (
    compute_headroom,
    compute_unique_accepted,
    fit_trend,
    predict_collision_diversity,
)
from posttrain.statistics.diversity import compute_collision_diversity


def test_headroom_by_hand() -> None:
    """2 right of 4: pass@2 = 1 - (2·1)/(4·3) = 5/6, pass@1 = 1/2."""
    assert compute_headroom(4, 2, 2) == pytest.approx(5 / 6 - 1 / 2)
    assert compute_headroom(4, 4, 2) == 0
    assert compute_headroom(4, 0, 2) == 0


def test_unique_accepted_solutions_by_hand() -> None:
    """x, x, y accepted and z not: two of four samples; of two samples: x with 1 - 1/6, y with 1/2."""
    solutions, accepted = ["x", "x", "y", "z"], [True, True, True, False]
    assert compute_unique_accepted(solutions, accepted) == 2
    assert compute_unique_accepted(solutions, accepted, 2) == pytest.approx(5 / 6 + 1 / 2)
    assert compute_unique_accepted(solutions, [False] * 4) == 0


def test_diversity_of_self_training_shrinks_as_predicted() -> None:
    """1/2 after two rounds of 4 samples: 1/2 · (3/4)². Simulated over 4,000 chains it comes within four errors."""
    assert predict_collision_diversity(0.5, 4, 2) == pytest.approx(0.5 * 0.5625)
    generator = build_numpy_generator("collapse", "chain")
    shares = np.full((4000, 2), 0.5)
    for _ in range(2):
        first = generator.binomial(4, shares[:, 0]) / 4
        shares = np.stack([first, 1 - first], axis=1)
    left = 1 - (shares**2).sum(axis=1)
    assert abs(left.mean() - 0.5 * 0.5625) < 4 * left.std() / np.sqrt(4000)
    assert (
        compute_collision_diversity([0, 1]) == 1
    )  # the unbiased estimate of 1/2 from two unequal ones, not 1/2 itself


def test_a_trend_by_hand() -> None:
    """Problems fall by 1 and by 3 a round: the mean slope is -2, and from a last mean of 4 a floor of 1 is 1.5 off."""
    trend = fit_trend([[6, 5, 4], [10, 7, 4]], floor=1.0)
    assert trend.slope.value == pytest.approx(-2)
    assert trend.rounds_left == pytest.approx(1.5)
    # Slopes -1 and -3: t with one degree of freedom, 12.706, times sqrt(2 · 2) / 2 = 1.
    assert trend.slope.high == pytest.approx(-2 + 12.7062, abs=1e-3)


def test_a_trend_that_rises_meets_no_floor() -> None:
    assert fit_trend([[1, 2], [1, 3]]).rounds_left is None
    assert fit_trend([[1, 0.5], [1, -0.5]], floor=0.2).rounds_left == 0
    with pytest.raises(DataError, match="two rounds"):
        fit_trend([[1], [2]])
