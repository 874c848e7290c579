"""Curves of chosen answers: two problems by hand, and limits that hold the truth."""

from __future__ import annotations

import numpy as np
import pytest

from posttrain.core.errors import DataError
from posttrain.core.seeds import build_numpy_generator
from posttrain.statistics.best_of_n import compute_best_of_n
from posttrain.statistics.over_optimisation import compute_best_of_n_kl
from posttrain.statistics.selection_curves import Choosing, list_powers, summarise_curve, trace_curve


def _generator() -> np.random.Generator:
    return build_numpy_generator("curves")


PROXY = [[1.0, 2.0, 3.0, 4.0], [4.0, 3.0, 2.0, 1.0]]
GOLD = [[0.0, 0.0, 1.0, 0.0], [1.0, 1.0, 0.0, 0.0]]


def test_what_a_proxy_takes_by_hand() -> None:
    """First problem: the best of two is place 4, 3 or 2 with 3/6, 2/6, 1/6, so gold 1/3; of four place 4, so 0.
    Second: places 1 and 2 with 3/6 and 2/6, so 5/6; of four place 1, so 1."""
    curve = trace_curve(Choosing("proxy", PROXY), {"gold": GOLD, "proxy": PROXY}, (1, 2, 4), _generator)
    assert curve.values_PK["gold"] == pytest.approx(np.array([[1 / 4, 1 / 3, 0], [1 / 2, 5 / 6, 1]]))
    assert curve.values_PK["proxy"] == pytest.approx(np.array([[2.5, 10 / 3, 4]] * 2))
    assert curve.gains_PK("gold")[:, 0].tolist() == [0, 0]
    # Scores that occur in both problems are levels of four texts that are equally likely.
    exact = compute_best_of_n([1 / 4] * 4, [1, 2, 3, 4], 2)
    assert curve.kls_PK[0, 1] == pytest.approx(float((exact * np.log(4 * exact)).sum()))


def test_a_vote_and_chance_by_hand() -> None:
    """a a b of three: gold of a is 1/2 in the mean, and the vote of three takes it."""
    judged = {"gold": [[1.0, 0.0, 3.0]]}
    vote = trace_curve(Choosing("majority", answers_P=[["a", "a", "b"]]), judged, (1, 3), _generator)
    assert vote.values_PK["gold"][0] == pytest.approx([4 / 3, 1 / 2])
    chance = trace_curve(Choosing("random"), judged, (1, 3), _generator)
    assert chance.values_PK["gold"][0] == pytest.approx([4 / 3, 4 / 3])
    assert chance.kls_PK.tolist() == [[0, 0]]


def test_without_ties_the_kl_is_the_bound() -> None:
    scores = build_numpy_generator("scores").normal(size=(5, 8)).tolist()
    curve = trace_curve(Choosing("reward", scores), {"gold": scores}, (1, 2, 8), _generator)
    assert curve.mean_kls_K == pytest.approx([compute_best_of_n_kl(n) for n in (1, 2, 8)])


def test_limits_of_a_gain_draw_the_problems_that_limits_of_a_value_draw() -> None:
    curve = trace_curve(Choosing("proxy", PROXY), {"gold": GOLD}, (1, 2), _generator)
    first, second = summarise_curve(curve, "gold", ["x", "y"], _generator)
    assert (first.gain, first.gain_low, first.gain_high) == (0, 0, 0)
    assert (second.value, second.low, second.high) == pytest.approx((7 / 12, 1 / 3, 5 / 6))
    assert (second.gain, second.gain_low, second.gain_high) == pytest.approx((5 / 24, 1 / 12, 1 / 3))


def test_what_is_right_on_every_problem_is_not_certain() -> None:
    """The best of two by gold itself is right on 20 of 20: Clopper and Pearson's lower limit is 0.025^(1/20)."""
    gold = [[0.0, 1.0]] * 20
    curve = trace_curve(Choosing("oracle", gold), {"gold": gold}, (1, 2), _generator)
    first, second = summarise_curve(curve, "gold", [str(place) for place in range(20)], _generator)
    assert (second.value, second.high) == (1, 1) and second.low == pytest.approx(0.8316, abs=1e-4)
    assert (first.value, first.low, first.high) == (0.5, 0.5, 0.5)
    assert (second.gain, second.gain_low) == (0.5, 0.5)


def test_problems_of_one_source_have_no_limits() -> None:
    curve = trace_curve(Choosing("proxy", PROXY), {"gold": GOLD}, (1, 2), _generator)
    assert summarise_curve(curve, "gold", ["x", "x"], _generator)[1].low is None


def test_too_few_samples_are_refused() -> None:
    with pytest.raises(DataError, match="3 samples of a problem"):
        trace_curve(Choosing("proxy", [[1, 2, 3]]), {"gold": [[1, 2, 3]]}, (1, 4), _generator)
    with pytest.raises(DataError, match="no problem"):
        trace_curve(Choosing("proxy", []), {"gold": []}, (1,), _generator)


def test_powers_end_with_the_most() -> None:
    assert list_powers(1) == (1,)
    assert list_powers(8) == (1, 2, 4, 8)
    assert list_powers(12) == (1, 2, 4, 8, 12)


@pytest.mark.invariants
def test_limits_hold_what_best_of_n_is_expected_to_give() -> None:
    """60 problems of which each text is worth what its own chance of four levels says; 95 % limits of gold at n = 8."""
    generator = build_numpy_generator("coverage")
    proxy_levels, gold_levels = np.arange(4.0), np.array([0.0, 1.0, 2.0, -3.0])
    # The mean over problems like these, which is what the limits are of.
    rows = build_numpy_generator("truth").dirichlet(np.full(4, 2.0), size=4000)
    truth = np.mean([compute_best_of_n(row, proxy_levels, 8) @ gold_levels for row in rows])
    held = 0
    for _ in range(60):
        chances = generator.dirichlet(np.full(4, 2.0), size=60)
        drawn = np.array([generator.choice(4, size=32, p=row) for row in chances])
        curve = trace_curve(
            Choosing("proxy", proxy_levels[drawn].tolist()), {"gold": gold_levels[drawn].tolist()}, (1, 8), _generator
        )
        names = [str(place) for place in range(60)]
        point = summarise_curve(curve, "gold", names, _generator, num_resamples=400)[1]
        assert point.low is not None and point.high is not None
        held += point.low <= truth <= point.high
    assert held >= 51  # 57 expected; below 51 with a chance of 0.5 %
