"""Over-optimisation: curves with known coefficients, turns by hand, and an alarm that keeps its level over looks."""

from __future__ import annotations

import math

import numpy as np
import pytest

from posttrain.core.errors import DataError
from posttrain.core.seeds import build_numpy_generator
from posttrain.statistics.over_optimisation import (
    bootstrap_gains,
    compute_best_of_n_kl,
    compute_drop_p,
    compute_look_level,
    compute_rise_p,
    find_divergence,
    fit_gains,
)
from posttrain.statistics.pairing import build_pairs

DISTANCES = np.array([0.5, 1.0, 1.5, 2.0, 3.0])


def test_the_kl_of_best_of_n_by_hand() -> None:
    """log 4 - 3/4."""
    assert compute_best_of_n_kl(4) == pytest.approx(1.386294 - 0.75, abs=1e-6)
    assert compute_best_of_n_kl(1) == 0
    with pytest.raises(ValueError, match="best of 0"):
        compute_best_of_n_kl(0)


def test_the_kl_of_best_of_n_is_that_of_the_exact_distribution() -> None:
    """Of m equally likely texts, ranked, the best of n is text i with (i/m)^n - ((i-1)/m)^n."""
    size, n = 20_000, 4
    chances = np.diff((np.arange(size + 1) / size) ** n)
    kl = float((chances * np.log(np.maximum(chances, 1e-300) * size)).sum())
    assert kl == pytest.approx(compute_best_of_n_kl(n), abs=1e-3)


def test_a_curve_of_best_of_n_is_found_again() -> None:
    """R = d (2 - 0.5 d) turns at d = 2 with a gain of 2."""
    fit = fit_gains(DISTANCES, DISTANCES * (2 - 0.5 * DISTANCES), "best_of_n")
    assert (fit.alpha, fit.beta, fit.turn) == (pytest.approx(2), pytest.approx(0.5), pytest.approx(2))
    assert fit.residual == pytest.approx(0, abs=1e-12)
    assert fit.compute_gain(2.0) == pytest.approx(2)


def test_a_curve_of_reinforcement_learning_is_found_again() -> None:
    """R = d (1 - log d) turns where 1 - log d - 1 = 0: at d = 1."""
    fit = fit_gains(DISTANCES, DISTANCES * (1 - np.log(DISTANCES)), "reinforcement_learning")
    assert (fit.alpha, fit.beta, fit.turn) == (pytest.approx(1), pytest.approx(1), pytest.approx(1))


def test_two_points_fit_by_hand() -> None:
    """Gains 1 at d = 1 and 1 at d = 2: alpha - beta = 1 and 2 alpha - 4 beta = 1, so alpha 1.5 and beta 0.5."""
    fit = fit_gains([1, 2], [1, 1], "best_of_n")
    assert (fit.alpha, fit.beta) == (pytest.approx(1.5), pytest.approx(0.5))


def test_what_rises_for_ever_does_not_turn() -> None:
    assert fit_gains(DISTANCES, DISTANCES, "best_of_n").turn is None
    assert fit_gains(DISTANCES, DISTANCES * (1 + np.log(DISTANCES)), "reinforcement_learning").turn is None


def test_points_that_fit_nothing_are_refused() -> None:
    for distances, gains in (([1.0], [1.0]), ([0.0, 1.0], [1.0, 1.0]), ([1.0, 1.0], [1.0, 2.0]), ([1.0, 2.0], [1.0])):
        with pytest.raises(DataError, match="distances"):
            fit_gains(distances, gains, "best_of_n")


def test_bootstrap_limits_hold_the_truth() -> None:
    generator = build_numpy_generator("over_optimisation", "bootstrap")
    truth = DISTANCES * (2 - 0.5 * DISTANCES)
    covered = 0
    for _ in range(40):
        gains = truth + generator.normal(0, 1, size=(200, 1)) + generator.normal(0, 1, size=(200, 5))
        found = bootstrap_gains(DISTANCES, gains, "best_of_n", generator, num_resamples=200)
        covered += found.turn is not None and found.turn.low <= 2 <= found.turn.high
        assert found.turning_fraction == 1.0
    assert covered >= 33  # 38 expected; below 33 with a chance of 0.2 %


def test_clusters_widen_the_limits() -> None:
    generator = build_numpy_generator("over_optimisation", "clusters")
    gains = np.repeat(generator.normal(1, 1, size=(20, 5)), 10, axis=0)
    names = np.repeat(np.arange(20), 10)
    alone = bootstrap_gains(DISTANCES, gains, "best_of_n", generator, num_resamples=300)
    shared = bootstrap_gains(DISTANCES, gains, "best_of_n", generator, clusters_P=names, num_resamples=300)
    assert shared.alpha.high - shared.alpha.low > 2 * (alone.alpha.high - alone.alpha.low)
    with pytest.raises(DataError, match="one source"):
        bootstrap_gains(DISTANCES, gains, "best_of_n", generator, clusters_P=[0] * 200)


def test_levels_of_looks_sum_to_the_level() -> None:
    """Known: 0.01 / 5 each. Not known: 0.01 · 6 / pi² = 0.006079 at the first, a quarter of it at the second."""
    assert compute_look_level(0.01, 3, num_looks=5) == pytest.approx(0.002)
    assert compute_look_level(0.01, 1) == pytest.approx(0.0060793, abs=1e-7)
    assert compute_look_level(0.01, 2) == pytest.approx(0.0060793 / 4, abs=1e-7)
    assert math.fsum(compute_look_level(0.01, k) for k in range(1, 5000)) == pytest.approx(0.01, abs=2e-6)


def _series(gold_means: list[float], generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A proxy that rises by a point a look, and 0/1 gold with the given means, over 300 problems of even difficulty."""
    threshold = generator.random(300)
    gold = np.array([(threshold + generator.normal(0, 0.05, 300) < mean) for mean in gold_means], dtype=float)
    proxy = np.arange(len(gold_means))[:, None] + generator.normal(0, 1, size=gold.shape)
    return proxy, gold


def test_an_alarm_names_the_turn() -> None:
    """Gold rises to 0.7 at look 2 and falls to 0.5: above the start's 0.4, so only the comparison with look 2 tells."""
    proxy, gold = _series([0.4, 0.6, 0.7, 0.5], build_numpy_generator("over_optimisation", "turn"))
    found = find_divergence(proxy, gold, num_looks=3)
    assert found is not None
    assert (found.look, found.against) == (3, 2)
    assert found.gold_change < 0 < found.proxy_change
    assert found.p_value <= found.level == pytest.approx(0.01 / 3 / 3)


def test_a_proxy_that_does_not_rise_is_no_over_optimisation() -> None:
    proxy, gold = _series([0.7, 0.4], build_numpy_generator("over_optimisation", "flat"))
    assert find_divergence(proxy, gold) is not None
    assert find_divergence(np.zeros_like(proxy), gold) is None
    assert find_divergence(proxy, gold, min_drop=0.5) is None


def test_the_level_holds_over_looks() -> None:
    """Gold that never moves, ten looks, level 20 %: at most 29 of 100 series alarm (a chance of 1 %)."""
    generator = build_numpy_generator("over_optimisation", "level")
    alarms = sum(find_divergence(*_series([0.5] * 11, generator), level=0.2) is not None for _ in range(100))
    assert alarms <= 29


def test_a_series_of_one_is_refused() -> None:
    with pytest.raises(DataError, match="one look or more"):
        find_divergence([[1.0, 2.0]], [[1.0, 2.0]])


def test_a_turn_far_beyond_the_last_distance_is_none() -> None:
    """R = d (2 - 0.01 d) turns at d = 100; of RL with alpha 600 times beta at exp(599), whose square is no float."""
    assert fit_gains(DISTANCES, DISTANCES * (2 - 0.01 * DISTANCES), "best_of_n").turn == pytest.approx(100)
    assert fit_gains(DISTANCES, DISTANCES * (2 - 0.001 * DISTANCES), "best_of_n").turn is None
    straight = DISTANCES * (600 - np.log(DISTANCES))
    assert fit_gains(DISTANCES, straight, "reinforcement_learning").turn is None


def test_a_change_beyond_the_range_cannot_be_shown() -> None:
    """Of 0 and 1 nothing falls or rises by more than 1."""
    pairs = build_pairs([1.0] * 40, [0.0] * 40)
    assert compute_drop_p(pairs, 1.5) == 1.0
    assert compute_drop_p(pairs, 0.5) < 1e-3
    assert compute_rise_p(pairs, 1.5) == 1.0
