"""The audit of a reward: shares that sum to 1, correlations by hand, and what strata take away."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.core.errors import DataError
from posttrain.core.seeds import build_numpy_generator
from posttrain.statistics.reward_audit import bootstrap_correlation, compute_correlation, decompose_variance


def test_shares_by_hand() -> None:
    """x = -1, -1, 1, 1 and y = -1, 1, -1, 1 are uncorrelated; of R = 3x + y, x has 9/10 of the variance."""
    x, y = np.array([-1, -1, 1, 1.0]), np.array([-1, 1, -1, 1.0])
    found = decompose_variance(3 * x + y, {"x": x, "y": y})
    assert found.shares == {"x": pytest.approx(0.9), "y": pytest.approx(0.1)}
    assert found.weights == {"x": pytest.approx(3), "y": pytest.approx(1)}
    assert found.rest == pytest.approx(0)


def test_what_is_not_listed_is_the_rest() -> None:
    x, y = np.array([-1, -1, 1, 1.0]), np.array([-1, 1, -1, 1.0])
    assert decompose_variance(3 * x + y, {"x": x}).rest == pytest.approx(0.1)
    assert decompose_variance(x, {}).rest == 1.0


@given(st.integers(0, 2**31))
def test_shares_of_a_weighted_sum_sum_to_1(seed: int) -> None:
    generator = np.random.default_rng(seed)
    columns = generator.normal(size=(3, 40))
    columns[1] += columns[0]
    found = decompose_variance(np.array([2.0, -1.0, 0.5]) @ columns, {str(i): columns[i] for i in range(3)})
    assert sum(found.shares.values()) == pytest.approx(1)
    assert found.weights["1"] == pytest.approx(-1)


def test_a_constant_reward_is_refused() -> None:
    with pytest.raises(DataError, match="the same for all items"):
        decompose_variance([1.0, 1.0], {"x": [0.0, 1.0]})
    with pytest.raises(DataError, match="another length"):
        decompose_variance([1.0, 2.0], {"x": [0.0]})


def test_correlations_by_hand() -> None:
    """1, 2, 3 with 1, 4, 9: ranks agree; Pearson 8 / sqrt(2 · 98/3) = 0.98974."""
    assert compute_correlation([1, 2, 3], [1, 4, 9]) == pytest.approx(1)
    assert compute_correlation([1, 2, 3], [1, 4, 9], kind="pearson") == pytest.approx(8 / np.sqrt(2 * 98 / 3))
    assert compute_correlation([1, 2, 3], [5, 5, 5]) is None


def test_equal_values_have_the_middle_rank() -> None:
    """1, 1, 2 have ranks 1/2, 1/2, 2; with 1, 2, 3: 1.5 / sqrt(1.5 · 2)."""
    assert compute_correlation([1, 1, 2], [1, 2, 3]) == pytest.approx(1.5 / np.sqrt(3))


def test_at_equal_correctness_by_hand() -> None:
    """Right answers are longer and better paid; within right and within wrong length does not pay: 1 becomes 0."""
    rewards, lengths, right = [0, 0, 1, 1.0], [1, 2, 8, 9.0], [0, 0, 1, 1]
    assert compute_correlation(rewards, lengths, kind="pearson") == pytest.approx(3.5 / np.sqrt(12.5), abs=1e-9)
    assert compute_correlation(rewards, lengths, strata_N=right) is None
    # Centred within strata: rewards -.5, .5, -.5, .5 and lengths -.5, .5, -.5, .5.
    assert compute_correlation([0, 1, 4, 5.0], lengths, strata_N=right, kind="pearson") == pytest.approx(1)
    assert compute_correlation([1, 0, 5, 4.0], lengths, strata_N=right, kind="pearson") == pytest.approx(-1)


def test_limits_are_drawn_by_cluster() -> None:
    generator = build_numpy_generator("audit", "clusters")
    first = np.repeat(generator.normal(size=15), 20)
    second = first + np.repeat(generator.normal(size=15), 20)
    names = np.repeat(np.arange(15), 20)
    alone = bootstrap_correlation(first, second, generator, num_resamples=300)
    shared = bootstrap_correlation(first, second, generator, clusters_N=names, num_resamples=300)
    assert alone is not None and shared is not None
    widths = [one.correlation.high - one.correlation.low for one in (alone, shared)]
    assert alone.correlation.value == shared.correlation.value
    assert widths[1] > 2 * widths[0]
    assert bootstrap_correlation([1, 1, 1], [1, 2, 3], generator) is None
    with pytest.raises(DataError, match="one cluster"):
        bootstrap_correlation([1, 2.0], [1, 2.0], generator, clusters_N=[0, 0])


def test_a_correlation_beyond_the_bound_is_shown_and_one_within_it_is_not() -> None:
    generator = build_numpy_generator("audit", "bound")
    first = generator.normal(size=400)
    second = first + generator.normal(size=400)  # a correlation of 0.71
    found = [bootstrap_correlation(first, second, generator, bound=bound, kind="pearson") for bound in (0.5, 0.75)]
    assert found[0] is not None and found[0].p_value < 0.01
    assert found[1] is not None and found[1].p_value > 0.05
