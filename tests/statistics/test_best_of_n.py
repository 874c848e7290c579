"""Best-of-n against its definition: all draws of a finite set, all subsets of the samples."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from posttrain.core.seeds import build_numpy_generator
from posttrain.statistics.best_of_n import (
    compute_best_of_n,
    compute_divergence,
    compute_exact_kl,
    estimate_best_kl,
    find_repeated,
    weigh_best,
)
from posttrain.statistics.over_optimisation import compute_best_of_n_kl
from posttrain.statistics.pass_at_k import compute_best_of_k

CHANCES = [0.5, 0.3, 0.2]
scores_lists = st.lists(st.sampled_from([0.0, 1.0, 2.5]), min_size=1, max_size=6)


def _enumerate(chances: list[float], scores: list[float], n: int) -> np.ndarray:
    """The chance of each text to be taken: over all draws of n, the first of those with the largest score."""
    taken = np.zeros(len(chances))
    for draw in itertools.product(range(len(chances)), repeat=n):
        best = max(draw, key=lambda text: scores[text])  # the first of equals
        taken[best] += math.prod(chances[text] for text in draw)
    return taken


def test_a_distribution_by_hand() -> None:
    """F is 0.5, 0.8, 1: the best of two is 0.25, 0.64 - 0.25 and 1 - 0.64."""
    assert compute_best_of_n(CHANCES, [1, 2, 3], 2) == pytest.approx([0.25, 0.39, 0.36])
    assert compute_best_of_n(CHANCES, [1, 2, 3], 1) == pytest.approx(CHANCES)


def test_texts_that_tie_share_their_level_as_the_sampler_does() -> None:
    """The upper level is taken with 1 - 0.25 and divided 3 to 2."""
    assert compute_best_of_n(CHANCES, [1, 2, 2], 2) == pytest.approx([0.25, 0.45, 0.30])
    assert compute_best_of_n(CHANCES, [7, 7, 7], 5) == pytest.approx(CHANCES)
    assert compute_best_of_n(CHANCES, [0.3, 0.1 + 0.2, 1], 2) == pytest.approx([0.64 * 5 / 8, 0.64 * 3 / 8, 0.36])


@given(scores_lists, st.integers(1, 4), st.integers(0, 99))
@settings(max_examples=40)
def test_it_is_the_share_of_all_draws(scores: list[float], n: int, seed: int) -> None:
    chances = build_numpy_generator("best_of_n", seed).dirichlet(np.ones(len(scores)))
    assert compute_best_of_n(chances, scores, n) == pytest.approx(_enumerate(chances.tolist(), scores, n))


def test_a_text_that_is_never_drawn_is_never_taken() -> None:
    assert compute_best_of_n([1.0, 0.0], [1, 2], 8).tolist() == [1, 0]
    assert compute_exact_kl([1.0, 0.0], [1, 2], 8) == 0


def test_the_kl_of_a_verifier_by_hand_and_where_it_ends() -> None:
    """Accepts 1/4: of two, 7/16 are accepted: 7/16 log(7/4) + 9/16 log(3/4); of many all are: log 4, and no more."""
    by_hand = 7 / 16 * math.log(7 / 4) + 9 / 16 * math.log(3 / 4)
    assert compute_exact_kl([0.25, 0.75], [1, 0], 2) == pytest.approx(by_hand)
    assert compute_exact_kl([0.25, 0.75], [1, 0], 10_000) == pytest.approx(math.log(4))
    assert compute_best_of_n_kl(10_000) > 8


@given(scores_lists, st.integers(1, 64), st.integers(0, 99))
def test_the_bound_holds_with_and_without_ties(scores: list[float], n: int, seed: int) -> None:
    chances = build_numpy_generator("best_of_n", seed).dirichlet(np.ones(len(scores)))
    assert compute_exact_kl(chances, scores, n) <= compute_best_of_n_kl(n) + 1e-12


def test_the_bound_is_reached_without_ties() -> None:
    size = 20_000
    assert compute_exact_kl(np.full(size, 1 / size), np.arange(size), 8) == pytest.approx(
        compute_best_of_n_kl(8), abs=1e-3
    )


@pytest.mark.parametrize("n", [2, 3])
def test_the_bound_holds_for_every_rule_that_takes_one_of_n(n: int) -> None:
    """Rules drawn at random: which place is taken of each draw, whatever it holds."""
    generator = build_numpy_generator("best_of_n", "rules", n)
    for _ in range(60):
        chances = generator.dirichlet(np.full(4, 0.5))
        taken = np.zeros(4)
        for draw in itertools.product(range(4), repeat=n):
            taken[draw[int(generator.integers(n))]] += math.prod(chances[text] for text in draw)
        assert compute_divergence(taken, chances) <= compute_best_of_n_kl(n)


def test_weights_by_hand() -> None:
    """Scores 1, 2, 2: a pair holds a 2 always. Gold 5, 1, 3 of what is taken: the mean of the last two."""
    weights = weigh_best([1, 2, 2], 3)
    assert weights[0] == pytest.approx([1 / 3] * 3)
    assert weights[1] == pytest.approx([0, 1 / 2, 1 / 2])
    assert (weights @ [5, 1, 3])[1:] == pytest.approx([2, 2])


@given(scores_lists, st.data())
def test_weights_are_the_share_of_all_subsets(scores: list[float], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(scores)))
    shares = np.zeros(len(scores))
    subsets = list(itertools.combinations(range(len(scores)), k))
    for subset in subsets:
        best = [place for place in subset if scores[place] == max(scores[other] for other in subset)]
        shares[best] += 1 / len(best) / len(subsets)
    weights = weigh_best(scores, len(scores))
    assert weights[k - 1] == pytest.approx(shares)
    assert weights[k - 1] @ scores == pytest.approx(compute_best_of_k(scores, k))


def test_gold_of_what_a_proxy_takes_is_estimated_without_bias() -> None:
    """Over all draws of four samples, the mean estimate at each k is the exact expectation of best-of-k."""
    proxy, gold = np.array([1.0, 2.0, 2.0]), np.array([0.5, -1.0, 4.0])
    mean = np.zeros(4)
    for draw in itertools.product(range(3), repeat=4):
        chance = math.prod(CHANCES[text] for text in draw)
        mean += chance * (weigh_best(proxy[list(draw)], 4) @ gold[list(draw)])
    assert mean == pytest.approx([compute_best_of_n(CHANCES, proxy, k) @ gold for k in (1, 2, 3, 4)])


def test_many_samples_do_not_overflow() -> None:
    weights = weigh_best(np.arange(1500), 1200)
    assert weights.sum(axis=1) == pytest.approx(np.ones(1200))
    assert weights[1199, -1] == pytest.approx(0.8)


def test_the_measured_kl_is_the_bound_where_nothing_ties() -> None:
    found = estimate_best_kl([3.0, 1.0, 2.0, 5.0], 4)
    assert found == pytest.approx([compute_best_of_n_kl(k) for k in (1, 2, 3, 4)])


def test_the_measured_kl_of_a_verifier_is_that_of_its_share() -> None:
    found = estimate_best_kl([1, 0, 0, 1, 0, 0, 0, 0], 8)
    assert found == pytest.approx([compute_exact_kl([0.25, 0.75], [1, 0], k) for k in range(1, 9)])
    assert estimate_best_kl([1.0, 1.0, 1.0], 3) == pytest.approx([0, 0, 0])


def test_a_score_that_ties_elsewhere_is_a_level_of_its_own() -> None:
    """One right of four, a 1 that other problems have too: the share of 1/4, and not a part of a continuum."""
    known = find_repeated([[1, 0, 0, 0], [1, 1, 0, 0.5]])
    assert known == {0.0, 1.0}
    assert estimate_best_kl([1, 0, 0, 0], 2, known)[1] == pytest.approx(compute_exact_kl([0.25, 0.75], [1, 0], 2))
    assert estimate_best_kl([1, 0, 0, 0], 2)[1] > compute_exact_kl([0.25, 0.75], [1, 0], 2)


def test_the_measured_kl_misses_by_what_its_documentation_says() -> None:
    """Over all counts of 64 samples, accepted with 0.1."""
    known = frozenset([0.0, 1.0])
    mean = sum(
        binom.pmf(count, 64, 0.1) * estimate_best_kl([1.0] * count + [0.0] * (64 - count), 16, known)
        for count in range(65)
    )
    assert (round(mean[7], 2), round(compute_exact_kl([0.1, 0.9], [1, 0], 8), 2)) == (0.64, 0.67)
    assert (round(mean[15], 2), round(compute_exact_kl([0.1, 0.9], [1, 0], 16), 2)) == (1.33, 1.42)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="chances that sum to"):
        compute_best_of_n([0.4, 0.5], [1, 2], 2)
    with pytest.raises(ValueError, match="best of 0"):
        compute_best_of_n([1.0], [1], 0)
    for scores, most in (([1.0, 2.0], 3), ([1.0], 0), ([math.nan], 1), ([], 1)):
        with pytest.raises(ValueError, match="the best of"):
            weigh_best(scores, most)
        with pytest.raises(ValueError, match="the best of"):
            estimate_best_kl(scores, most)
