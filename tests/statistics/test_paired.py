"""Paired tests against scipy, statsmodels' figures, all sign patterns, and numbers by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, bootstrap, permutation_test

from posttrain.core.errors import DataError
from posttrain.statistics.paired import (
    bootstrap_difference,
    compare_pairs,
    difference_interval,
    difference_test,
    non_inferiority_test,
    sign_flip_test,
    sign_test,
)
from posttrain.statistics.pairing import Pairs, build_pairs


def table(better: int, worse: int, same: int) -> Pairs:
    before = [0] * better + [1] * worse + [1] * same
    return build_pairs(before, [1] * better + [0] * worse + [1] * same)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize(("better", "worse"), [(0, 1), (5, 0), (1, 7), (3, 14), (59, 121), (40, 40)])
@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
def test_the_sign_test_is_scipys_binomial_test(better: int, worse: int, alternative: str) -> None:
    expected = binomtest(better, better + worse, 0.5, alternative=alternative).pvalue
    assert sign_test(better, worse, alternative=alternative).p_value == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("better", "worse", "p_value"),
    [(59, 121, 4.4344492637551645e-06), (7, 1, 0.0703125), (14, 3, 0.012725830078125)],
)
def test_mcnemars_exact_test_gives_the_figures_of_statsmodels(better: int, worse: int, p_value: float) -> None:
    """statsmodels 0.15, contingency_tables.mcnemar(exact=True)."""
    assert difference_test(table(better, worse, 30), rng()).p_value == pytest.approx(p_value, rel=1e-9)


def test_mcnemar_by_hand() -> None:
    """1 better, 4 worse: 2 (C(5,0) + C(5,1)) / 2^5 = 12/32."""
    assert sign_test(1, 4).p_value == pytest.approx(12 / 32)
    assert sign_test(1, 4, alternative="less").p_value == pytest.approx(6 / 32)
    assert sign_test(1, 4, alternative="greater").p_value == pytest.approx(31 / 32)


def test_ties_alone_show_nothing() -> None:
    assert sign_test(0, 0).p_value == 1.0
    for pairs in (table(0, 0, 5), build_pairs([0.3, 0.7], [0.3, 0.7]), build_pairs([1], [1])):
        assert difference_test(pairs, rng()).p_value == 1.0


def test_negative_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="-1 better"):
        sign_test(-1, 2)


@given(
    st.lists(st.sampled_from([-1, -0.5, -0.25, 0, 0.1, 0.5, 1]), min_size=1, max_size=9),
    st.sampled_from(["two-sided", "greater", "less"]),
)
def test_the_sign_flip_test_counts_all_sign_patterns(differences: list[float], alternative: str) -> None:
    pairs = build_pairs([0.0] * len(differences), differences)
    observed = sum(differences)
    sums = [
        sum(s * d for s, d in zip(signs, differences, strict=True))
        for signs in itertools.product((-1, 1), repeat=len(differences))
    ]
    extreme = {
        "two-sided": [abs(s) >= abs(observed) - 1e-9 for s in sums],
        "greater": [s >= observed - 1e-9 for s in sums],
        "less": [s <= observed + 1e-9 for s in sums],
    }[alternative]
    result = sign_flip_test(pairs, rng(), alternative=alternative)
    assert result.p_value == pytest.approx(sum(extreme) / len(extreme))
    assert result.method == "sign_flip_exact"


def test_of_independent_right_or_wrong_items_the_sign_flip_test_is_mcnemars() -> None:
    for better, worse in ((0, 6), (5, 9), (60, 41)):
        flipped = sign_flip_test(table(better, worse, 20), rng())
        assert flipped.p_value == pytest.approx(sign_test(better, worse).p_value)
        assert flipped.method == "sign_flip_exact"


def test_clusters_flip_as_a_whole() -> None:
    """Sums of clusters 3, 2, -1: of the 8 sign patterns |sum| >= 4 in ±(3+2+1), ±(3+2-1): p = 4/8."""
    differences = [1, 1, 1, 1, 1, 0, -1]
    clusters = ["a", "a", "a", "b", "b", "b", "c"]
    before = [0 if difference >= 0 else 1 for difference in differences]
    after = [b + d for b, d in zip(before, differences, strict=True)]
    pairs = build_pairs(before, after, clusters)
    assert difference_test(pairs, rng()).p_value == pytest.approx(4 / 8)
    assert difference_test(build_pairs(before, after), rng()).p_value == pytest.approx(2 * 7 / 64)


def test_one_cluster_can_show_nothing() -> None:
    assert difference_test(build_pairs([0] * 50, [1] * 50, ["a"] * 50), rng()).p_value == 1.0


def test_drawn_signs_agree_with_scipys_permutation_test() -> None:
    generator = rng(5)
    before = generator.random(40)
    after = before + generator.normal(0.06, 0.2, 40)
    ours = sign_flip_test(build_pairs(before, after), generator, num_permutations=20_000)
    theirs = permutation_test(
        (after, before),
        lambda x, y, axis: np.mean(x - y, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=20_000,
        rng=rng(6),
    )
    assert ours.method == "sign_flip_drawn"
    assert ours.p_value == pytest.approx(theirs.pvalue, abs=0.01)


def test_drawn_signs_come_from_the_generator_alone_and_p_is_never_0() -> None:
    pairs = build_pairs(np.zeros(40), np.linspace(0.5, 0.9, 40))
    results = [sign_flip_test(pairs, rng(seed), num_permutations=999).p_value for seed in (1, 1, 2)]
    assert results[0] == results[1] == pytest.approx(1 / 1000)
    noisy = build_pairs(np.zeros(40), rng(3).normal(0.02, 0.2, 40))
    assert sign_flip_test(noisy, rng(1)).p_value == sign_flip_test(noisy, rng(1)).p_value
    assert sign_flip_test(noisy, rng(1)).p_value != sign_flip_test(noisy, rng(2)).p_value


@settings(max_examples=50)
@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 60))
def test_exchanging_the_policies_turns_the_interval_round(better: int, worse: int, same: int) -> None:
    if better + worse + same == 0:
        return
    one, other = difference_interval(table(better, worse, same)), difference_interval(table(worse, better, same))
    assert (one.low, one.value, one.high) == pytest.approx((-other.high, -other.value, -other.low), abs=1e-9)
    assert -1 <= one.low <= one.value <= one.high <= 1


def test_the_interval_holds_what_the_non_inferiority_test_does_not_reject() -> None:
    pairs = table(20, 33, 300)
    interval = difference_interval(pairs, level=0.9)
    assert non_inferiority_test(pairs, -interval.low).p_value == pytest.approx(0.05, abs=1e-9)
    assert non_inferiority_test(pairs, -interval.low + 0.01).p_value < 0.05
    assert non_inferiority_test(pairs, -interval.low - 0.01).p_value > 0.05


def test_a_gain_is_shown_by_a_negative_margin() -> None:
    pairs = table(80, 10, 200)
    assert non_inferiority_test(pairs, -0.1).p_value < 1e-5
    assert non_inferiority_test(pairs, -0.3).p_value > 0.9


def test_the_bootstrap_agrees_with_scipy() -> None:
    generator = rng(7)
    before, after = generator.random(150), generator.random(150)
    ours = bootstrap_difference(build_pairs(before, after), generator, num_resamples=8000)
    theirs = bootstrap((after - before,), np.mean, method="percentile", n_resamples=8000, rng=rng(8))
    limits = theirs.confidence_interval
    assert (ours.low, ours.high) == pytest.approx((limits.low, limits.high), abs=0.005)
    assert ours.value == pytest.approx((after - before).mean())


def test_clusters_are_drawn_again_as_a_whole() -> None:
    """20 clusters of 10 equal items say what 20 items say: about sqrt(10) times the width of 200."""
    sums = rng(9).normal(0, 0.2, 20)
    copied = np.repeat(sums, 10)
    whole = bootstrap_difference(build_pairs(np.zeros(200), copied, np.repeat(np.arange(20), 10)), rng(1))
    parted = bootstrap_difference(build_pairs(np.zeros(200), copied), rng(1))
    alone = bootstrap_difference(build_pairs(np.zeros(20), sums), rng(1))
    assert (whole.low, whole.high) == pytest.approx((alone.low, alone.high))
    assert (whole.high - whole.low) / (parted.high - parted.low) == pytest.approx(10**0.5, rel=0.15)


def test_one_cluster_has_no_interval() -> None:
    pairs = build_pairs([0, 1], [1, 1], ["a", "a"])
    with pytest.raises(DataError):
        bootstrap_difference(pairs, rng())
    with pytest.raises(DataError, match="one source"):
        difference_interval(pairs)


def test_a_comparison_holds_all_figures() -> None:
    found = compare_pairs(table(7, 1, 13), rng())
    assert (found.before, found.after) == pytest.approx((14 / 21, 20 / 21))
    assert (found.num_better, found.num_worse, found.num_pairs, found.num_clusters) == (7, 1, 21, 21)
    assert found.test.p_value == pytest.approx(0.0703125)
    assert (found.interval_method, found.design_effect) == ("tango", 1.0)


def test_two_evaluations_of_one_policy_are_called_different_in_at_most_18_of_200_repeats() -> None:
    """Each item is right with its own probability, drawn anew with either seed."""
    generator = rng(2026)
    chances = generator.beta(0.5, 0.5, 550)
    called = 0
    for _ in range(200):
        before, after = (generator.random(550) < chances for _ in range(2))
        called += compare_pairs(build_pairs(before, after), generator).test.p_value < 0.05
    assert called <= 18
