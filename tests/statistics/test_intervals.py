"""Intervals against scipy, against numbers worked by hand, and against their promised coverage."""

import numpy as np
import pytest
from scipy.stats import binomtest, bootstrap

from posttrain.core.errors import DataError
from posttrain.statistics.intervals import bootstrap_interval, wilson_interval


def test_wilson_interval_equals_the_numbers_worked_by_hand():
    """8 of 10, z = 1.96: (0.8 + 0.19208 ± 1.96 sqrt(0.016 + 0.0096)) / 1.38416 = (0.4902, 0.9433)."""
    interval = wilson_interval(8, 10)
    assert interval.value == 0.8
    assert interval.low == pytest.approx(0.4902, abs=1e-4)
    assert interval.high == pytest.approx(0.9433, abs=1e-4)


@pytest.mark.parametrize(("successes", "items"), [(0, 1), (1, 1), (0, 50), (3, 7), (120, 200), (200, 200)])
@pytest.mark.parametrize("level", [0.8, 0.95, 0.999])
def test_wilson_interval_equals_scipy(successes, items, level):
    expected = binomtest(successes, items).proportion_ci(level, method="wilson")
    interval = wilson_interval(successes, items, level=level)
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_interval_ends_exactly_at_zero_and_one():
    assert wilson_interval(0, 30).low == 0.0
    assert wilson_interval(30, 30).high == 1.0
    assert wilson_interval(0, 30).high > 0.0


@pytest.mark.parametrize(("successes", "items"), [(0, 0), (3, 2), (-1, 5)])
def test_wilson_interval_refuses_impossible_counts(successes, items):
    with pytest.raises(DataError):
        wilson_interval(successes, items)


def test_a_level_outside_zero_and_one_is_refused():
    with pytest.raises(ValueError, match=r"1\.5"):
        wilson_interval(1, 2, level=1.5)


def test_bootstrap_interval_is_the_same_for_the_same_generator_and_moves_with_another():
    values = np.random.default_rng(0).normal(size=50)
    first = bootstrap_interval(values, np.random.default_rng(1))
    assert first == bootstrap_interval(values, np.random.default_rng(1))
    assert first != bootstrap_interval(values, np.random.default_rng(2))


def test_bootstrap_interval_agrees_with_scipy():
    values = np.random.default_rng(3).exponential(size=200)
    interval = bootstrap_interval(values, np.random.default_rng(4), num_resamples=8000)
    expected = bootstrap((values,), np.mean, method="percentile", n_resamples=8000, rng=np.random.default_rng(5))
    limits = expected.confidence_interval
    assert interval.value == pytest.approx(values.mean())
    assert (interval.low, interval.high) == pytest.approx((limits.low, limits.high), abs=0.01)


def test_bootstrap_interval_of_equal_values_has_no_width():
    interval = bootstrap_interval([0.5] * 9, np.random.default_rng(0))
    assert (interval.low, interval.value, interval.high) == (0.5, 0.5, 0.5)


def test_bootstrap_interval_covers_the_true_mean_about_as_often_as_promised():
    generator = np.random.default_rng(6)
    covered = 0
    for _ in range(300):
        interval = bootstrap_interval(generator.normal(size=60), generator, level=0.9, num_resamples=300)
        covered += interval.low <= 0.0 <= interval.high
    assert 0.84 <= covered / 300 <= 0.95


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [float("inf")]])
def test_bootstrap_interval_refuses_nothing_and_values_that_are_not_finite(values):
    with pytest.raises(DataError):
        bootstrap_interval(values, np.random.default_rng(0))
