"""Groups of rewards: which of them teach anything, against counts made by hand and properties that must hold."""

from __future__ import annotations

import math

import numpy as np
import pytest

from posttrain.statistics.reward_groups import GroupFigures, compute_group_figures


def never(rewards: list[list[float | None]]) -> list[list[bool]]:
    """No completion of these groups was cut."""
    return [[False] * len(group) for group in rewards]


def test_the_figures_of_a_small_case_are_those_counted_by_hand() -> None:
    """Groups [1, 0], [1, 1], [None, 0]: the first differs, the second does not, the third has one reward left.

    Five rewards with a mean of 3 / 5; one of six completions was cut.
    """
    found = compute_group_figures([[1, 0], [1, 1], [None, 0]], [[True, False], [False, False], [False, False]])
    assert found == GroupFigures(2, 1, 1, 5, 6, 1, 0.6, 0.0, 1.0)
    assert found.informative_fraction == 0.5 and found.clipped_fraction == pytest.approx(1 / 6)
    assert not found.is_constant


def test_rewards_that_are_all_equal_are_constant_and_no_group_is_informative() -> None:
    rewards: list[list[float | None]] = [[0.25] * 4, [0.25] * 4]
    found = compute_group_figures(rewards, never(rewards))
    assert found.is_constant and found.num_informative == 0
    apart: list[list[float | None]] = [[0.0] * 4, [1.0] * 4]  # each group dead, and yet not one value for everything
    found = compute_group_figures(apart, never(apart))
    assert not found.is_constant and found.informative_fraction == 0.0


def test_a_difference_of_rounding_is_none_and_a_small_real_one_counts() -> None:
    rewards: list[list[float | None]] = [[0.1 + 0.2, 0.3], [0.3, 0.3001]]
    assert compute_group_figures(rewards, never(rewards)).num_informative == 1


def test_nothing_drawn_has_no_share_and_no_mean() -> None:
    found = compute_group_figures([], [])
    assert (found.informative_fraction, found.clipped_fraction, found.is_constant) == (0.0, 0.0, False)
    assert math.isnan(found.mean)
    alone = compute_group_figures([[None, None]], [[False, False]])
    assert alone.num_left_out == 1 and not alone.is_constant


def test_the_order_of_groups_and_of_completions_changes_nothing_and_neither_does_a_shift() -> None:
    generator = np.random.default_rng(3)
    rewards = [generator.integers(0, 3, size).astype(float).tolist() for size in (2, 3, 4, 5, 5, 6)]
    first = compute_group_figures(rewards, never(rewards))
    shuffled = [list(generator.permutation(group)) for group in rewards[::-1]]
    assert compute_group_figures(shuffled, never(shuffled)) == first
    shifted = [[reward + 7 for reward in group] for group in rewards]
    assert compute_group_figures(shifted, never(shifted)).num_informative == first.num_informative


def test_the_share_of_informative_groups_is_what_coin_tosses_would_give() -> None:
    """Of groups of 4 fair coins 2 / 16 are all equal, so that 7 / 8 inform; 4,000 groups miss that by under 3 %."""
    rewards = np.random.default_rng(5).integers(0, 2, (4000, 4)).astype(float).tolist()
    assert abs(compute_group_figures(rewards, never(rewards)).informative_fraction - 7 / 8) < 0.03


@pytest.mark.parametrize(
    ("rewards", "clipped"), [([[1.0, 0.0]], [[False]]), ([[1.0]], []), ([[math.nan, 0.0]], [[False, False]])]
)
def test_what_does_not_belong_together_or_is_no_number_is_an_error(
    rewards: list[list[float | None]], clipped: list[list[bool]]
) -> None:
    with pytest.raises(ValueError, match="reward"):
        compute_group_figures(rewards, clipped)
