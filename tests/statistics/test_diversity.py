"""Diversity by hand: subsets counted one by one, BLEU from its parts, and identities of the estimators."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.statistics.diversity import (
    compute_bleu,
    compute_collision_diversity,
    compute_distinct_n,
    compute_expected_distinct,
    compute_self_bleu,
    compute_token_entropy,
)


def test_distinct_answers_of_two_samples_by_hand() -> None:
    """a, a, b: of the pairs aa, ab, ab one holds one answer and two hold two: 5 / 3."""
    assert compute_expected_distinct([["a"], ["a"], ["b"]], 2) == pytest.approx(5 / 3)
    assert compute_expected_distinct([["a"], ["a"], ["b"]], 1) == 1
    assert compute_expected_distinct([["a"], ["a"], ["b"]], 3) == 2


@given(st.lists(st.lists(st.integers(0, 4), max_size=4), min_size=1, max_size=6), st.integers(1, 6))
def test_distinct_things_are_the_mean_over_all_subsets(groups: list[list[int]], chosen: int) -> None:
    chosen = min(chosen, len(groups))
    counts = [len(set().union(*subset)) for subset in itertools.combinations(map(set, groups), chosen)]
    assert compute_expected_distinct(groups, chosen) == pytest.approx(sum(counts) / len(counts))


def test_what_holds_more_samples_is_not_more_diverse_for_it() -> None:
    """Two equally likely answers: 8 samples hold 2, 2 samples of them 1 + 4 / 7 on average, as 2 drawn alone 1.5."""
    eight = [["a"]] * 4 + [["b"]] * 4
    assert compute_expected_distinct(eight, 8) == 2
    assert compute_expected_distinct(eight, 2) == pytest.approx(1 + 4 / 7)


def test_distinct_n_by_hand() -> None:
    """a b a b and a c: bigrams ab, ba, ab, ac: 3 different of 4; unigrams 3 of 6."""
    samples = [list("abab"), list("ac")]
    assert compute_distinct_n(samples, 2) == pytest.approx(3 / 4)
    assert compute_distinct_n(samples, 1) == pytest.approx(3 / 6)
    assert compute_distinct_n(samples, 9) is None
    # One sample alone: (2 + 1) / 2 different bigrams of 4 / 2.
    assert compute_distinct_n(samples, 2, num_samples=1) == pytest.approx(1.5 / 2)


def test_bleu_by_hand() -> None:
    """a b c d against a b c e: precisions 3/4, (2 + 1)/(3 + 1), (1 + 1)/(2 + 1), (0 + 1)/(1 + 1)."""
    expected = (3 / 4 * 3 / 4 * 2 / 3 * 1 / 2) ** (1 / 4)
    assert compute_bleu(list("abcd"), [list("abce")]) == pytest.approx(expected)


def test_bleu_clips_and_penalises_the_short() -> None:
    """a a a against a b: one a counts of three. a b against a b c d: all n-grams match, exp(1 - 4/2) remains."""
    assert compute_bleu(["a"] * 3, [["a", "b"]], max_order=1) == pytest.approx(1 / 3)
    assert compute_bleu(["a", "b"], [list("abcd")]) == pytest.approx(math.exp(-1))
    assert compute_bleu(["a", "b"], [list("abcd"), ["x", "y"]]) == pytest.approx(1.0)  # the nearest is as long


def test_bleu_without_a_common_token_is_0() -> None:
    assert compute_bleu(["a"], [["b"]]) == 0
    assert compute_bleu([], [["b"]]) == 0
    with pytest.raises(ValueError, match="0 references"):
        compute_bleu(["a"], [])


def test_self_bleu_by_hand() -> None:
    """Two equal texts of three tokens are 1 each; with a third, unlike one, which scores 0, it is 2 / 3."""
    same = list("abc")
    assert compute_self_bleu([same, same]) == pytest.approx(1)
    assert compute_self_bleu([same, same, list("xyz")]) == pytest.approx(2 / 3)
    # Two that say nothing are alike, one alone is like none.
    assert compute_self_bleu([[], []]) == 1
    assert compute_self_bleu([[], [], same, list("xyz")]) == pytest.approx(2 / 4)
    assert compute_self_bleu([[], same]) == 0
    with pytest.raises(ValueError, match="1 samples"):
        compute_self_bleu([same])


def test_two_samples_differ_as_often_as_pairs_do() -> None:
    """a, a, b: two of three pairs differ."""
    assert compute_collision_diversity(["a", "a", "b"]) == pytest.approx(2 / 3)
    assert compute_collision_diversity(["a"] * 5) == 0
    assert compute_collision_diversity(["a", "b", "c"]) == 1


@given(st.lists(st.sampled_from("abc"), min_size=2, max_size=8))
def test_pairs_that_differ_are_what_two_samples_hold_beyond_one(answers: list[str]) -> None:
    held = compute_expected_distinct([[answer] for answer in answers], 2)
    assert compute_collision_diversity(answers) == pytest.approx(held - 1)


def test_entropy_divides_once() -> None:
    """3 nats of 2 tokens and 1 nat of 6: 4 / 8, and not the mean of 1.5 and 1/6."""
    assert compute_token_entropy([3, 1], [2, 6]) == 0.5
    with pytest.raises(ValueError, match="no token"):
        compute_token_entropy([], [])
