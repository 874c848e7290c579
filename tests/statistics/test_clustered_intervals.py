"""Clustered intervals against statsmodels' figures, scipy, and independent items; the design effect by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest
from scipy.stats import t as student

from posttrain.core.errors import DataError
from posttrain.statistics.clusters import compute_design_effect, encode_clusters
from posttrain.statistics.intervals import (
    bootstrap_interval,
    cluster_bootstrap_interval,
    clustered_interval,
    korn_graubard_interval,
)


def test_the_cluster_robust_interval_gives_the_figures_of_statsmodels() -> None:
    """statsmodels 0.15: OLS on a constant, cov_type='cluster', use_t=True: 3.1, -0.028956 to 6.228956."""
    values, clusters = [1, 2, 4, 3, 5, 9, 2, 1, 0, 4], list("aaabbcdddd")
    found = clustered_interval(values, clusters)
    assert (found.value, found.low, found.high) == pytest.approx((3.1, -0.028956, 6.228956), abs=1e-6)


def test_clusters_of_one_give_the_ordinary_t_interval() -> None:
    values = np.random.default_rng(1).normal(size=12)
    low, high = student.interval(0.9, 11, values.mean(), values.std(ddof=1) / 12**0.5)
    found = clustered_interval(values, np.arange(12), level=0.9)
    assert (found.low, found.high) == pytest.approx((low, high))


def test_copies_of_an_item_add_nothing() -> None:
    values = np.random.default_rng(2).normal(size=15)
    alone = clustered_interval(values, np.arange(15))
    copied = clustered_interval(np.repeat(values, 8), np.repeat(np.arange(15), 8))
    assert (copied.low, copied.high) == pytest.approx((alone.low, alone.high))


def test_the_cluster_bootstrap_of_single_items_is_the_bootstrap() -> None:
    values = np.random.default_rng(3).exponential(size=40)
    assert cluster_bootstrap_interval(values, np.arange(40), np.random.default_rng(4)) == bootstrap_interval(
        values, np.random.default_rng(4)
    )


def test_the_cluster_bootstrap_agrees_with_the_cluster_robust_interval_for_many_clusters() -> None:
    generator = np.random.default_rng(5)
    values = np.repeat(generator.normal(size=200), 5) + generator.normal(size=1000)
    robust = clustered_interval(values, np.repeat(np.arange(200), 5))
    drawn = cluster_bootstrap_interval(values, np.repeat(np.arange(200), 5), generator)
    assert (drawn.low, drawn.high) == pytest.approx((robust.low, robust.high), abs=0.02)


@pytest.mark.parametrize(("successes", "items"), [(0, 1), (1, 1), (3, 17), (0, 40), (40, 40)])
def test_of_independent_items_korn_and_graubards_interval_is_clopper_and_pearsons(successes: int, items: int) -> None:
    expected = binomtest(successes, items).proportion_ci(0.95, method="exact")
    found = korn_graubard_interval([1] * successes + [0] * (items - successes))
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_clusters_that_are_right_or_wrong_as_a_whole_count_as_few_items() -> None:
    values, clusters = np.repeat([1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0], 20), np.repeat(np.arange(8), 20)
    found = korn_graubard_interval(values, clusters)
    few = korn_graubard_interval(values[::20])
    assert found.low < few.low + 0.02 and found.high > few.high - 0.02
    assert found.high - found.low > 3 * (lambda i: i.high - i.low)(korn_graubard_interval(values))


def test_the_design_effect_by_hand() -> None:
    """Values 1, 1, 0, 0 in clusters of two: e = ±1/2, S = ±1, u = 1/2, m* = 2: (2 * 2 + 1) / (1 + 1/2) = 10/3."""
    assert compute_design_effect(np.array([1.0, 1, 0, 0]), np.array([0, 0, 1, 1])) == pytest.approx(10 / 3)


def test_the_design_effect_is_the_cluster_size_where_nothing_moves_and_1_for_single_items() -> None:
    assert compute_design_effect(np.zeros(30), np.repeat(np.arange(6), 5)) == pytest.approx(5)
    assert compute_design_effect(np.random.default_rng(0).random(30), np.arange(30)) == 1.0
    sizes = np.repeat([0, 1, 2], [1, 1, 4])  # an item lies in a cluster of (1 + 1 + 16) / 6 = 3 on average
    assert compute_design_effect(np.ones(6), sizes) == pytest.approx(3)


def test_the_design_effect_is_never_below_1_and_near_1_for_many_independent_items() -> None:
    alternating = np.tile([0.0, 1.0], 500)
    assert compute_design_effect(alternating, np.repeat(np.arange(500), 2)) == 1.0
    independent = (np.random.default_rng(1).random(4000) < 0.5).astype(float)
    assert compute_design_effect(independent, np.repeat(np.arange(1000), 4)) == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("interval", [clustered_interval, korn_graubard_interval])
def test_one_cluster_nothing_and_nan_are_refused(interval) -> None:
    for values, clusters in (([], []), ([1, 0, 1], ["a"] * 3), ([1.0, float("nan")], ["a", "b"])):
        with pytest.raises(DataError):
            interval(values, clusters)
        with pytest.raises(DataError):
            cluster_bootstrap_interval(values, clusters, np.random.default_rng(0))


def test_one_item_has_no_robust_interval_but_a_clopper_pearson_one() -> None:
    with pytest.raises(DataError, match="no spread"):
        clustered_interval([1.0], ["a"])
    assert korn_graubard_interval([1.0], ["a"]).low == pytest.approx(0.025)
    with pytest.raises(DataError, match="neither 0 nor 1"):
        korn_graubard_interval([0.5])
    with pytest.raises(ValueError, match="cluster names"):
        encode_clusters(["a"], 2)


def test_equal_values_have_a_robust_interval_without_width() -> None:
    found = clustered_interval([1.0] * 6, list("aabbcc"))
    assert (found.low, found.value, found.high) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("level", [0.0, 1.0, 1.5])
def test_levels_out_of_range_are_refused(level: float) -> None:
    with pytest.raises(ValueError, match="level"):
        clustered_interval([0.0, 1.0], ["a", "b"], level=level)
    with pytest.raises(ValueError, match="level"):
        korn_graubard_interval([0.0, 1.0], level=level)
