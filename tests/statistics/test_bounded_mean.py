"""The score test against published figures, a numerical likelihood, Wilson's interval, and its promised size."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.stats import norm
from scipy.stats import t as student

from posttrain.core.errors import DataError
from posttrain.statistics import bounded_mean
from posttrain.statistics.bounded_mean import (
    BoundedMean,
    compute_interval,
    compute_score,
    compute_tango_score,
    critical_value,
    p_value_above,
    p_value_below,
    summarise_bounded,
)
from posttrain.statistics.intervals import wilson_interval
from posttrain.statistics.paired import difference_interval, non_inferiority_test, summarise_difference
from posttrain.statistics.pairing import Pairs, build_pairs


def table(better: int, worse: int, same: int) -> Pairs:
    return build_pairs([0] * better + [1] * (worse + same), [1] * better + [0] * worse + [1] * same)


def summarise(values: list[float], low: float = 0.0, high: float = 1.0) -> BoundedMean:
    return summarise_bounded(np.array(values), np.arange(len(values)), low=low, high=high)


def score_by_likelihood(sample: BoundedMean, mean0: float) -> float:
    """Return T by maximising the likelihood numerically, with no formula of the code under test."""
    points = np.unique([*sample.values_U, sample.low, sample.high])
    counts = np.array([sample.counts_U[sample.values_U == point].sum() for point in points])
    total = counts.sum()

    def loss(p: np.ndarray) -> float:
        return -float(sum(c * math.log(max(q, 1e-300)) for c, q in zip(counts, p, strict=True) if c))

    # A start with the right mean: some mass between the two ends.
    start = np.full(points.size, 0.02 / points.size)
    gap = mean0 - 0.02 / points.size * points.sum()
    start[-1] += (gap - 0.98 * points[0]) / (points[-1] - points[0])
    start[0] += 1 - start.sum()
    found = minimize(
        loss,
        start,
        bounds=[(0, 1)] * points.size,
        constraints=[{"type": "eq", "fun": lambda p: p.sum() - 1}, {"type": "eq", "fun": lambda p: p @ points - mean0}],
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    variance = found.x @ (points - mean0) ** 2
    return math.sqrt(total / variance) * (sample.mean - mean0)


def test_tangos_interval_equals_the_published_one() -> None:
    """1 better, 7 worse of 21: -0.517 to -0.026 (Fagerland, Lydersen and Laake, Statistics in Medicine 33 (2014))."""
    interval = difference_interval(table(1, 7, 13))
    assert (interval.low, interval.high) == pytest.approx((-0.517, -0.026), abs=5e-4)


def test_tangos_statistic_without_a_difference_by_hand() -> None:
    """No pair differs: q = 0.08, the variance is 0.08 (1 - 0.08) n, and T = sqrt(n 0.08 / 0.92)."""
    assert compute_tango_score(0, 0, 50, -0.08) == pytest.approx(math.sqrt(50 * 0.08 / 0.92))


def test_at_no_difference_tangos_statistic_is_mcnemars() -> None:
    assert compute_tango_score(9, 25, 80, 0.0) == pytest.approx((9 - 25) / math.sqrt(34))
    assert compute_tango_score(0, 0, 80, 0.0) == 0.0


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.sampled_from([-1.0, -0.6, -0.25, 0.0, 0.1, 0.5, 1.0]), min_size=1, max_size=12),
    st.sampled_from([-0.4, -0.08, 0.03, 0.3]),
)
def test_the_statistic_is_that_of_the_likeliest_distribution(values: list[float], mean0: float) -> None:
    sample = summarise(values, -1.0, 1.0)
    assert compute_score(sample, mean0) == pytest.approx(score_by_likelihood(sample, mean0), abs=2e-3)


@given(st.integers(0, 12), st.integers(0, 12), st.integers(0, 12), st.integers(-18, 18))
def test_the_closed_form_and_the_general_one_agree(better: int, worse: int, same: int, twentieths: int) -> None:
    mean0 = twentieths / 20
    if better + worse + same == 0:
        return
    sample = summarise_difference(table(better, worse, same))
    gaps = sample.values_U - mean0
    general = (
        bounded_mean._score_from_above(gaps, sample.counts_U, -1 - mean0)
        if sample.mean >= mean0
        else -bounded_mean._score_from_above(-gaps[::-1], sample.counts_U[::-1], mean0 - 1)
    )
    assert compute_score(sample, mean0) == pytest.approx(general, abs=1e-6)


@pytest.mark.parametrize(("successes", "items"), [(0, 5), (5, 5), (3, 7), (120, 200)])
def test_of_right_or_wrong_items_the_interval_is_wilsons(successes: int, items: int) -> None:
    ours = compute_interval(summarise([1.0] * successes + [0.0] * (items - successes)))
    wilson = wilson_interval(successes, items)
    assert (ours.low, ours.value, ours.high) == pytest.approx((wilson.low, wilson.value, wilson.high), abs=1e-9)


def test_values_that_differ_by_a_constant_factor_have_the_same_statistic() -> None:
    one = summarise([-0.5, 0.0, 0.2], -1.0, 1.0)
    other = summarise([-5.0, 0.0, 2.0], -10.0, 10.0)
    assert compute_score(one, -0.3) == pytest.approx(compute_score(other, -3.0))


def test_equal_values_have_an_interval_with_a_width() -> None:
    interval = compute_interval(summarise([0.5] * 20))
    assert interval.low < 0.45 < 0.5 < 0.55 < interval.high
    # With 400 times as many items it is 20 times narrower or better.
    assert compute_interval(summarise([0.5] * 8000)).low > 0.5 - (0.5 - interval.low) / 20


def test_one_item_says_next_to_nothing() -> None:
    interval = difference_interval(table(0, 1, 0))
    assert interval.low == -1 and interval.high > 0.5
    assert non_inferiority_test(table(0, 0, 1), 0.08).p_value > 0.3


def test_few_pairs_without_a_difference_do_not_rule_a_loss_out() -> None:
    """sqrt(n 0.08 / 0.92) passes 1.645 at n = 32: as many as it takes for 0.92^n to be near 5 %."""
    assert (
        non_inferiority_test(table(0, 0, 31), 0.08).p_value > 0.05 > non_inferiority_test(table(0, 0, 32), 0.08).p_value
    )


def test_clusters_divide_the_counts_and_bring_students_t() -> None:
    """Ten clusters of four that are right or wrong together, half of them lost."""
    before, after = np.ones(40), np.repeat([0.0, 1.0] * 5, 4)
    sample = summarise_difference(build_pairs(before, after, np.repeat(np.arange(10), 4)))
    # e = ±1/2, sums ±2, u = 1/2: (10/9 * 40 + 16/4) / (10 + 4/4) = 4.404
    assert sample.design_effect == pytest.approx((10 / 9 * 40 + 4) / 11)
    assert sample.degrees_of_freedom == 9
    score = compute_tango_score(0, 20 / sample.design_effect, 40 / sample.design_effect, -0.3)
    assert p_value_above(sample, -0.3) == pytest.approx(student.sf(score, 9))
    assert p_value_below(sample, -0.3) == pytest.approx(student.cdf(score, 9))


def test_where_nothing_moved_a_cluster_counts_as_one_item() -> None:
    clustered = summarise_difference(build_pairs(np.ones(200), np.ones(200), np.repeat(np.arange(20), 10)))
    assert clustered.design_effect == pytest.approx(10)
    assert compute_score(clustered, -0.08) == pytest.approx(compute_score(summarise_difference(table(0, 0, 20)), -0.08))


def test_critical_values_are_the_normals_and_students() -> None:
    assert critical_value(0.05) == pytest.approx(norm.isf(0.05))
    assert critical_value(0.05, 7.0) == pytest.approx(student.isf(0.05, 7))


def test_nothing_nan_values_out_of_range_and_one_cluster_are_refused() -> None:
    for values in ([], [0.5, float("nan")], [1.5], [-0.1]):
        with pytest.raises(DataError):
            summarise(values)
    with pytest.raises(DataError, match="one source"):
        summarise_bounded(np.zeros(3), np.zeros(3, dtype=np.int64), low=0, high=1)
    with pytest.raises(ValueError, match="outside"):
        compute_score(summarise([0.5]), 1.5)
    with pytest.raises(ValueError, match="level"):
        compute_interval(summarise([0.5]), level=1.0)


def test_the_size_of_the_non_inferiority_test_is_near_its_level() -> None:
    """4,000 tables with a loss of exactly the margin: 5 % ± 2.5 standard errors of 0.34 points, and half a point."""
    generator = np.random.default_rng(11)
    share, margin, pairs = 0.2, 0.08, 300
    chances = [(share - margin) / 2, (share + margin) / 2, 1 - share]
    drawn = generator.multinomial(pairs, chances, size=4000)
    passed = compute_tango_score(drawn[:, 0], drawn[:, 1], pairs, -margin) > critical_value(0.05)
    assert passed.mean() == pytest.approx(0.05, abs=0.0135)
