"""The drawn pairs have the truth that the simulation tables take them to have."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.simulated_pairs import Cluster, draw_binary, draw_fractions
from benchmarks.statistics_coverage import count_sides, draw_proportion
from posttrain.statistics.intervals import Interval


def correlate(values: np.ndarray, cluster: Cluster) -> float:
    """Return the correlation of two items of one cluster."""
    table = values.reshape(cluster.count, cluster.size)
    return float(np.corrcoef(table[:, 0], table[:, 1])[0, 1])


@pytest.mark.parametrize("correlation", [0.0, 0.3])
def test_binary_pairs_have_their_difference_discordance_and_correlation(correlation: float) -> None:
    cluster = Cluster(40_000, 2, correlation)
    pairs = draw_binary(np.random.default_rng(1), cluster, -0.08, 0.2)
    assert pairs.differences_N.mean() == pytest.approx(-0.08, abs=0.006)
    assert np.abs(pairs.differences_N).mean() == pytest.approx(0.2, abs=0.006)
    assert pairs.before_N.mean() == pytest.approx(0.7, abs=0.01)
    assert correlate(pairs.differences_N, cluster) == pytest.approx(correlation, abs=0.03)


@pytest.mark.parametrize("change", [-0.08, 0.0, 0.05])
@pytest.mark.parametrize("correlation", [0.0, 0.3])
def test_fractions_have_their_difference(change: float, correlation: float) -> None:
    pairs = draw_fractions(np.random.default_rng(2), Cluster(30_000, 2, correlation), change)
    assert pairs.differences_N.mean() == pytest.approx(change, abs=0.006)
    assert pairs.before_N.min() >= 0 and pairs.after_N.max() <= 1


def test_proportions_have_their_mean_and_correlation() -> None:
    cluster = Cluster(40_000, 2, 0.3)
    values, names = draw_proportion(np.random.default_rng(3), 0.8, cluster)
    assert values.mean() == pytest.approx(0.8, abs=0.01)
    assert correlate(values, cluster) == pytest.approx(0.3, abs=0.03)
    assert np.bincount(names).tolist() == [2] * cluster.count


def test_the_truth_is_counted_on_the_side_where_it_lies() -> None:
    intervals = [Interval(0, -1, 1), Interval(2, 1, 3), Interval(-2, -3, -1), Interval(2, 1, 3)]
    assert count_sides(iter(intervals), 0.0) == (0.25, 0.5, 0.25)
