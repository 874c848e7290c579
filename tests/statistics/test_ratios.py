"""Differences of ratios: the value by hand, sources drawn whole, and how often a true difference of 0 is missed."""

import numpy as np
import pytest

from posttrain.core.errors import DataError
from posttrain.statistics.ratios import compare_ratios


def generator(seed=0):
    return np.random.Generator(np.random.Philox(seed))


def test_the_difference_is_that_of_sums_and_not_the_mean_of_ratios():
    ones, sizes = np.ones(4), np.array([1.0, 1.0, 1.0, 5.0])
    interval, _ = compare_ratios((ones, sizes), (3 * ones, sizes), np.arange(4), generator())
    assert interval.value == pytest.approx(12 / 8 - 4 / 8)


def test_copies_of_a_source_add_nothing():
    nats, later, sizes = generator(1).random(30), generator(2).random(30), np.ones(30)
    alone = compare_ratios((nats, sizes), (later, sizes), np.arange(30), generator())
    copied = [np.repeat(values, 9) for values in (nats, later, sizes)]
    copies = compare_ratios((copied[0], copied[2]), (copied[1], copied[2]), np.repeat(np.arange(30), 9), generator())
    assert (copies[0].low, copies[0].high) == pytest.approx((alone[0].low, alone[0].high))
    assert copies[1] == alone[1]


def test_without_a_difference_the_interval_holds_zero_about_as_often_as_it_says():
    missed = 0
    for seed in range(200):
        draws = generator(1000 + seed)
        sizes = draws.integers(20, 200, size=60).astype(float)
        sides = [(sizes * draws.normal(2.0, 0.3, size=60), sizes) for _ in range(2)]
        interval, test = compare_ratios(*sides, np.arange(60), draws, num_resamples=400)
        is_missed = interval.low > 0 or interval.high < 0
        assert abs(test.p_value - 0.05) < 0.03 or is_missed == (test.p_value <= 0.05)
        missed += is_missed
    assert 3 <= missed <= 22  # 10 expected, 3.1 standard deviations on the low side, 4 on the high side


def test_one_source_gives_no_interval():
    with pytest.raises(DataError, match="one source"):
        compare_ratios((np.ones(3), np.ones(3)), (np.ones(3), np.ones(3)), np.zeros(3, dtype=int), generator())
