"""Calibration by hand, against identities, and against what is known of calibrated forecasts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from posttrain.core.errors import DataError
from posttrain.core.seeds import build_numpy_generator
from posttrain.statistics.calibration import (
    compare_calibration,
    compute_brier_score,
    compute_calibration_error,
    measure_calibration,
    tabulate_reliability,
)


def test_the_error_by_hand() -> None:
    """Two bins of two: |0.5 - 0.15| / 2 + |1 - 0.75| / 2 = 0.3."""
    confidences, outcomes = [0.9, 0.1, 0.6, 0.2], [1, 0, 1, 1]
    assert compute_calibration_error(confidences, outcomes, num_bins=2) == pytest.approx(0.3)
    first, second = tabulate_reliability(confidences, outcomes, num_bins=2)
    assert (first.low, first.high, first.confidence, first.accuracy, first.num_items) == (
        0.1, 0.2, pytest.approx(0.15), 0.5, 2,
    )  # fmt: skip
    assert (second.accuracy, second.num_items) == (1.0, 2)


def test_one_bin_compares_the_means() -> None:
    assert compute_calibration_error([0.2, 0.4, 0.9], [1, 0, 0], num_bins=1) == pytest.approx(0.5 - 1 / 3)


def test_equal_confidences_are_never_parted() -> None:
    table = tabulate_reliability([0.7] * 10 + [0.9], [1] * 5 + [0] * 5 + [1], num_bins=10)
    assert [row.num_items for row in table] == [10, 1]
    assert table[0].accuracy == 0.5


def test_bins_hold_equally_many() -> None:
    table = tabulate_reliability(np.linspace(0, 1, 100), np.ones(100), num_bins=10)
    assert [row.num_items for row in table] == [10] * 10


@given(st.permutations(range(12)))
def test_the_order_of_the_items_does_not_matter(order: list[int]) -> None:
    confidences = np.array([0.1, 0.1, 0.2, 0.3, 0.3, 0.3, 0.5, 0.6, 0.8, 0.9, 0.9, 1.0])
    outcomes = np.array([0, 1, 0, 1, 0, 0, 1, 1, 1, 0, 1, 1])
    expected = compute_calibration_error(confidences, outcomes, num_bins=4)
    assert compute_calibration_error(confidences[order], outcomes[order], num_bins=4) == pytest.approx(expected)


@given(
    arrays.arrays(float, 20, elements=st.floats(0, 1)),
    arrays.arrays(float, 20, elements=st.sampled_from([0.0, 1.0])),
    st.integers(1, 25),
)
def test_the_brier_score_is_the_sum_of_its_parts(confidences: np.ndarray, outcomes: np.ndarray, num_bins: int) -> None:
    found = compute_brier_score(confidences, outcomes, num_bins=num_bins)
    assert found.score == pytest.approx(((confidences - outcomes) ** 2).mean())
    parts = found.reliability - found.resolution + found.uncertainty + found.within_bins
    assert found.score == pytest.approx(parts, abs=1e-12)
    assert min(found.reliability, found.resolution, found.uncertainty) >= 0


def test_the_brier_score_by_hand() -> None:
    """Confidences 0.8 (3 of 4 true) and 0.3 (1 of 4 true), base rate 1/2.

    reliability (0.05² + 0.05²) / 2, resolution 0.25², uncertainty 1/4, nothing within bins.
    """
    found = compute_brier_score([0.8] * 4 + [0.3] * 4, [1, 1, 1, 0, 1, 0, 0, 0])
    assert found.reliability == pytest.approx(0.0025)
    assert found.resolution == pytest.approx(0.0625)
    assert found.uncertainty == pytest.approx(0.25)
    assert found.within_bins == pytest.approx(0.0)
    assert found.score == pytest.approx((3 * 0.04 + 0.64 + 0.49 + 3 * 0.09) / 8)


def test_perfect_forecasts_have_no_error() -> None:
    assert compute_calibration_error([0, 1, 1], [0, 1, 1]) == 0.0
    assert compute_brier_score([0, 1, 1], [0, 1, 1]).score == 0.0


def test_a_calibrated_policy_shows_the_error_that_chance_alone_gives() -> None:
    generator = np.random.default_rng(1)
    confidences = generator.random(1000)
    outcomes = (generator.random(1000) < confidences).astype(float)
    found = measure_calibration(confidences, outcomes, generator, num_resamples=300)
    assert found.error.value < 1.6 * found.error_if_calibrated
    assert found.brier.low < 1 / 6 < found.brier.high  # the mean of p (1 - p) for uniform p
    boasting = measure_calibration(np.sqrt(confidences), outcomes, generator, num_resamples=300)
    assert boasting.error.low > 2 * boasting.error_if_calibrated
    assert boasting.error.low < boasting.error.value < boasting.error.high


def test_clusters_are_drawn_as_a_whole_and_widen_the_limits() -> None:
    generator = np.random.default_rng(2)
    confidences, outcomes = np.repeat(generator.random(30), 10), np.repeat(generator.integers(0, 2, 30), 10)
    codes = np.repeat(np.arange(30), 10)
    whole = measure_calibration(confidences, outcomes, np.random.default_rng(3), clusters_N=codes, num_resamples=200)
    parted = measure_calibration(confidences, outcomes, np.random.default_rng(3), num_resamples=200)
    assert whole.brier.high - whole.brier.low > 2 * (parted.brier.high - parted.brier.low)


def test_the_limits_come_from_the_generator_alone() -> None:
    arguments = ([0.1, 0.4, 0.8, 0.7], [0, 1, 1, 0])
    one, again, other = (
        measure_calibration(*arguments, np.random.default_rng(seed), num_resamples=50) for seed in (1, 1, 2)
    )
    assert one == again != other


@pytest.mark.parametrize(
    ("confidences", "outcomes"),
    [([], []), ([0.5], [0.5]), ([1.5], [1]), ([float("nan")], [1]), ([0.5, 0.6], [1]), ([0.5], [float("nan")])],
)
def test_what_is_no_confidence_or_outcome_is_refused(confidences: list[float], outcomes: list[float]) -> None:
    for compute in (compute_calibration_error, compute_brier_score, tabulate_reliability):
        with pytest.raises(DataError):
            compute(confidences, outcomes)


def test_one_cluster_no_bin_and_bad_levels_are_refused() -> None:
    generator = np.random.default_rng(0)
    with pytest.raises(DataError, match="cluster"):
        measure_calibration([0.5, 0.6], [0, 1], generator, clusters_N=["a", "a"])
    with pytest.raises(DataError, match="cluster"):
        measure_calibration([0.5], [1], generator)
    with pytest.raises(ValueError, match="bins"):
        compute_calibration_error([0.5], [1], num_bins=0)
    with pytest.raises(ValueError, match="level"):
        measure_calibration([0.5, 0.6], [0, 1], generator, level=1.0)


def _draw(generator: np.random.Generator, size: int, over: float) -> tuple[np.ndarray, np.ndarray]:
    """Outcomes that come true less often by `over` than the confidence says."""
    confidences = generator.uniform(0.5, 1, size)
    return confidences, (generator.random(size) < confidences - over).astype(float)


def test_a_rise_by_hand() -> None:
    """One bin: confidence 0.5 with outcomes 1, 0 errs by 0; 0.9 with the same outcomes by 0.4."""
    found = compare_calibration(
        ([0.5, 0.5], [1, 0]), ([0.9, 0.9], [1, 0]), build_numpy_generator("calibration", "hand"), num_bins=1
    )
    assert (found.before, found.after, found.rise.value) == (0, pytest.approx(0.4), pytest.approx(0.4))


def test_a_rise_beyond_the_bound_is_shown_and_one_within_it_is_not() -> None:
    generator = build_numpy_generator("calibration", "rise")
    before, after = _draw(generator, 600, 0.0), _draw(generator, 600, 0.3)
    assert compare_calibration(before, after, generator, bound=0.1).p_value < 0.01
    assert compare_calibration(before, after, generator, bound=0.1).chance_p_value < 0.01
    assert compare_calibration(before, after, generator, bound=0.35).p_value > 0.05


def test_a_calibrated_policy_is_explained_by_chance_as_often_as_the_level_says() -> None:
    """Of 100 calibrated policies at 10 %, at most 20 fall below (a chance of 0.2 %); the rise less often still."""
    generator = build_numpy_generator("calibration", "level")
    found = [
        compare_calibration(_draw(generator, 200, 0), _draw(generator, 200, 0), generator, num_resamples=99)
        for _ in range(100)
    ]
    assert sum(one.chance_p_value <= 0.1 for one in found) <= 20
    assert sum(max(one.p_value, one.chance_p_value) <= 0.1 for one in found) <= 12


def test_what_moves_by_the_cluster_is_not_taken_for_many_items() -> None:
    """20 sources of 10 equal items each, calibrated: counted alone, chance is refused at 10 % in most of 20 draws."""
    generator = build_numpy_generator("calibration", "by_cluster")
    names = np.repeat(np.arange(20), 10)
    refused = {"alone": 0, "shared": 0}
    for _ in range(20):
        confidences, outcomes = (np.repeat(column, 10) for column in _draw(generator, 20, 0))
        for side, clusters in (("alone", None), ("shared", names)):
            found = compare_calibration(
                (confidences, outcomes), (confidences, outcomes), generator, clusters_N=clusters, num_resamples=99
            )
            refused[side] += found.chance_p_value <= 0.1
    assert refused["alone"] >= 10
    assert refused["shared"] <= 6


def test_two_that_cannot_be_compared_are_refused() -> None:
    generator = build_numpy_generator("calibration", "refused")
    with pytest.raises(DataError, match="another number"):
        compare_calibration(([0.5, 0.5], [1, 0]), ([0.5], [1]), generator)
    with pytest.raises(DataError, match="one cluster"):
        compare_calibration(([0.5, 0.5], [1, 0]), ([0.5, 0.5], [1, 0]), generator, clusters_N=[0, 0])
