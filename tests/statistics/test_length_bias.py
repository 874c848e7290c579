"""The slope of a score against length: by hand, against an independent fit, and at its stated level."""

from __future__ import annotations

import numpy as np
import pytest

from posttrain.core.errors import DataError
from posttrain.statistics.length_bias import measure_length_bias


def test_the_slope_is_the_one_worked_out_by_hand() -> None:
    """Lengths 1, -1, 2, -2 sum to 0, so that the label takes nothing out of them; scores 3, 1, 4, 0 less their mean 2:
    1, -1, 2, -2. The slope is (1 + 1 + 4 + 4)/10 = 1, nothing is left over, the correlation 1."""
    found = measure_length_bias([3.0, 1.0, 4.0, 0.0], [1.0, -1.0, 2.0, -2.0])
    assert found.slope.value == pytest.approx(1.0)
    assert found.correlation == pytest.approx(1.0)
    # Without the label: (3 - 1 + 8 - 0) / sqrt(26 * 10)
    assert found.raw_correlation == pytest.approx(10 / 260**0.5)


def test_it_is_the_coefficient_of_an_independent_least_squares_fit() -> None:
    generator = np.random.default_rng(5)
    lengths, qualities = generator.normal(size=200), generator.normal(size=200)
    lengths += qualities  # longer ones are better, so that raw correlation misleads
    scores = 2 * qualities + generator.normal(size=200)
    found = measure_length_bias(scores, lengths, qualities)
    expected = np.linalg.lstsq(np.stack([qualities, lengths], axis=1), scores, rcond=None)[0][1]
    assert found.slope.value == pytest.approx(expected, abs=1e-10)
    assert found.raw_correlation > 0.5
    assert found.slope.low < 0 < found.slope.high


def test_swapping_the_sides_of_pairs_changes_nothing_where_quality_is_known() -> None:
    generator = np.random.default_rng(6)
    scores, lengths, qualities = (generator.normal(size=50) for _ in range(3))
    signs = generator.choice([-1.0, 1.0], size=50)
    first = measure_length_bias(scores, lengths, qualities)
    second = measure_length_bias(signs * scores, signs * lengths, signs * qualities)
    assert second.slope.value == pytest.approx(first.slope.value)
    assert (second.slope.low, second.slope.high) == pytest.approx((first.slope.low, first.slope.high))


def test_the_interval_covers_and_the_test_holds_its_level_where_variances_differ() -> None:
    """400 repeats of 60 pairs without an effect, noise growing with length: at level 5 % 20 expected, 33 is 3 sigma."""
    generator = np.random.default_rng(7)
    calls = 0
    for _ in range(400):
        lengths, qualities = generator.normal(size=60), generator.normal(size=60)
        scores = qualities + generator.normal(size=60) * (0.5 + np.abs(lengths))
        found = measure_length_bias(scores, lengths, qualities)
        assert (found.p_value < 0.05) == (not found.slope.low < 0 < found.slope.high)
        calls += found.p_value < 0.05
    assert calls <= 33


def test_a_planted_bias_is_found() -> None:
    generator = np.random.default_rng(8)
    lengths, qualities = generator.normal(size=200) * 10, generator.normal(size=200)
    found = measure_length_bias(qualities + 0.05 * lengths + generator.normal(size=200), lengths, qualities)
    assert found.slope.low > 0.02 and found.slope.high < 0.08 and found.p_value < 1e-6


def test_clusters_widen_the_interval_where_pairs_repeat() -> None:
    generator = np.random.default_rng(9)
    lengths, scores = generator.normal(size=30), generator.normal(size=30)
    alone = measure_length_bias(scores, lengths)
    names = [str(number) for number in range(30)] * 4
    repeated = measure_length_bias(np.tile(scores, 4), np.tile(lengths, 4), clusters_N=names)
    blind = measure_length_bias(np.tile(scores, 4), np.tile(lengths, 4))
    width = repeated.slope.high - repeated.slope.low
    assert width == pytest.approx(alone.slope.high - alone.slope.low, rel=0.05)
    assert width > 1.8 * (blind.slope.high - blind.slope.low)


@pytest.mark.parametrize("lengths", [[2.0, 2.0, 2.0, 2.0], [0.0] * 4])
def test_lengths_that_differ_alike_say_nothing(lengths: list[float]) -> None:
    with pytest.raises(DataError, match="differ alike"):
        measure_length_bias([1.0, 2.0, 3.0, 4.0], lengths)
