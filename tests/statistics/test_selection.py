"""What a reward selects: correlations and capital by hand, a level that holds over all looks, and what is noticed."""

from __future__ import annotations

import math

import numpy as np
import pytest

from posttrain.core.seeds import build_numpy_generator
from posttrain.statistics.selection import (
    BETS,
    Means,
    Selection,
    compute_evidence,
    compute_fall_p,
    compute_selection,
    weigh_selections,
)


def draw_looks(
    generator: np.random.Generator, num_looks: int, slope: float, *, turns_at: int = 0
) -> list[list[Selection]]:
    """Looks at 8 problems of 6 completions; judgements go with `slope` times the reward, before a look against it."""
    looks = []
    for look in range(num_looks):
        rewards = generator.standard_exponential((8, 6))
        noise = generator.standard_normal((8, 6))
        judged = noise + (slope if look >= turns_at else -slope) * rewards
        looks.append([compute_selection(*pair) for pair in zip(rewards, judged, strict=True)])
    return looks


def test_correlations_of_one_problem_by_hand() -> None:
    """Deviations (-1, 0, 1) and (7/3, -2/3, -5/3): -4 / sqrt(2 * 26/3) = -0.9608; ranks run opposite ways."""
    found = compute_selection([0, 1, 2], [4, 1, 0])
    assert found.ranks == pytest.approx(-1.0) and found.values == pytest.approx(-4 / math.sqrt(52 / 3))
    assert found.spread == pytest.approx(math.sqrt(2 / 3))


def test_units_do_not_count_and_what_does_not_vary_selects_nothing() -> None:
    one, other = compute_selection([0, 1, 5], [2, 0, 1]), compute_selection([3, 5, 13], [40, 20, 30])
    assert (one.ranks, one.values) == pytest.approx((other.ranks, other.values))
    assert compute_selection([1, 1, 1], [0, 1, 2]).values == 0 == compute_selection([0, 1], [2, 2]).ranks
    assert compute_selection([3], [4]) == Selection(0.0, 0.0, 0.0) == compute_selection([], [])
    with pytest.raises(ValueError, match="2 rewards and 1 judgements"):
        compute_selection([1, 2], [1])


def test_a_problem_counts_by_how_far_its_rewards_were_apart_among_those_before() -> None:
    """Of the first look the largest spread is full; then the 80 % quantile of 1 and 4, which is 3.4."""
    looks = [
        [Selection(0.5, 0.8, 1.0), Selection(-1.0, -0.8, 4.0)],
        [Selection(0.1, 1.0, 1.7), Selection(0.1, 1.0, 9.0)],
    ]
    (ranks, weighed), (_, later) = weigh_selections(looks)
    assert ranks.tolist() == [0.5, -1.0] and weighed == pytest.approx([0.2, -0.8])
    assert later == pytest.approx([0.5, 1.0])


def test_the_capital_of_two_looks_by_hand() -> None:
    """One problem a look, both of full stake, x = -1/2 each, two looks planned, so both columns are alike.

    A part that began at the first look has grown by (1 + b/2)^2, one that began at the second by 1 + b/2.
    """
    looks = [[Selection(-0.5, -0.5, 1.0)], [Selection(-0.5, -0.5, 1.0)]]
    wanted = np.mean([[(1 + bet / 2) ** 2, 1 + bet / 2] for bet in BETS])
    found = compute_evidence(looks, 2)
    assert found.log_capital == pytest.approx(math.log(wanted)) and found.since == 0
    assert found.mean == -0.5
    # Before the second look its part is still whole.
    assert compute_evidence(looks[:1], 2).log_capital == pytest.approx(
        math.log(np.mean([[1 + bet / 2, 1.0] for bet in BETS]))
    )
    with pytest.raises(ValueError, match="3 looks of 2"):
        compute_evidence([*looks, looks[0]], 2)


def test_looks_without_problems_change_nothing() -> None:
    looks = draw_looks(build_numpy_generator("gaps"), 3, -1.0)
    whole = compute_evidence([*looks, []], 4)
    assert whole.log_capital == pytest.approx(compute_evidence(looks, 4).log_capital)
    assert compute_evidence([[]], 4).log_capital == pytest.approx(0.0)


@pytest.mark.invariants
def test_a_reward_that_pays_without_regard_raises_an_alarm_at_any_look_no_more_often_than_the_level() -> None:
    """400 series of 20 looks at a level of 10 %: at most 40 expected, 52 with a chance of 97.5 %."""
    alarms = 0
    for number in range(400):
        looks = draw_looks(build_numpy_generator("level", number), 20, 0.0)
        alarms += any(compute_evidence(looks[: k + 1], 20).log_capital >= math.log(10) for k in range(20))
    assert alarms <= 52


@pytest.mark.parametrize("turns_at", [0, 15])
def test_a_reward_that_works_against_the_audit_is_noticed_soon_after_it_turns(turns_at: int) -> None:
    """A correlation of about -0.5 within problems, at a level of 0.5 %: within 10 looks of 8 problems, not before."""
    for number in range(10):
        looks = draw_looks(build_numpy_generator("power", number), 30, -0.6, turns_at=turns_at)
        values = [compute_evidence(looks[: k + 1], 30) for k in range(30)]
        first = next(k for k, one in enumerate(values) if one.log_capital >= math.log(200))
        assert turns_at <= first < turns_at + 10
        assert abs(values[first].since - turns_at) <= 3 and values[first].mean < -0.15


def test_a_reward_for_what_the_audit_likes_is_never_held_against_it() -> None:
    looks = draw_looks(build_numpy_generator("honest"), 60, 0.5)
    assert max(compute_evidence(looks[: k + 1], 60).log_capital for k in range(60)) < math.log(2)


def make_means(generator: np.random.Generator, reward: float, judged: float, prefix: str) -> Means:
    noise = generator.standard_normal((2, 80))
    return Means(reward + noise[0], judged + noise[1], [f"{prefix}{number}" for number in range(80)])


def test_a_fall_needs_both_the_reward_up_and_the_judgement_down_by_more_than_is_allowed() -> None:
    generator = build_numpy_generator("fall")
    first = make_means(generator, 0.0, 0.0, "a")
    both, up, down = (
        make_means(generator, reward, judged, "b") for reward, judged in ((1.5, -1.5), (1.5, 0.3), (-0.3, -1.5))
    )
    assert compute_fall_p(first, both) < 1e-6
    assert min(compute_fall_p(first, up), compute_fall_p(first, down)) > 0.5
    assert compute_fall_p(first, both, allowed_drop=1.6) > 0.1
