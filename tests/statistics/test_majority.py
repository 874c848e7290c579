"""The vote of k against its definition: all subsets of the samples, all draws of the shares."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.core.seeds import build_numpy_generator
from posttrain.statistics.best_of_n import compute_divergence
from posttrain.statistics.majority import estimate_majority_kl, weigh_majority
from posttrain.statistics.over_optimisation import compute_best_of_n_kl

answers_lists = st.lists(st.sampled_from([None, "a", "b", "c"]), min_size=1, max_size=7)


def _count(answers: list[str | None], groups: Iterable[tuple[int, ...]]) -> np.ndarray:
    """The share of groups that take each sample, leading answers and their samples being drawn fairly."""
    shares, number = np.zeros(len(answers)), 0
    for group in groups:
        number += 1
        counts = Counter(answers[place] for place in group if answers[place] is not None)
        leading = [name for name in counts if counts[name] == max(counts.values())] or [None]
        for name in leading:
            places = [place for place in group if answers[place] == name]
            for place in places:
                shares[place] += 1 / len(leading) / len(places)
    return shares / number


def test_weights_by_hand() -> None:
    """a, a, b: one sample is any; of two, aa says a and ab ties in two of three pairs; of three a wins."""
    weights = weigh_majority(["a", "a", "b"], 3)
    assert weights[0] == pytest.approx([1 / 3] * 3)
    assert weights[1] == pytest.approx([1 / 3] * 3)  # b: 2/3 · 1/2; a: 1/3 + 2/3 · 1/2, over two samples
    assert weights[2] == pytest.approx([1 / 2, 1 / 2, 0])


def test_what_gives_no_answer_wins_where_nothing_votes() -> None:
    """Of four with one vote, half of the pairs hold it."""
    weights = weigh_majority(["a", None, None, None], 2)
    assert weights[1] == pytest.approx([1 / 2, 1 / 6, 1 / 6, 1 / 6])
    assert weigh_majority([None, None], 2) == pytest.approx(np.full((2, 2), 0.5))


@given(answers_lists, st.data())
@settings(max_examples=60)
def test_weights_are_the_share_of_all_subsets(answers: list[str | None], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(answers)))
    subsets = itertools.combinations(range(len(answers)), k)
    assert weigh_majority(answers, len(answers))[k - 1] == pytest.approx(_count(answers, subsets))


def test_the_value_of_a_vote_is_estimated_without_bias() -> None:
    """Over all draws of four samples of three answers, the mean estimate at k = 3 is the vote's exact value."""
    chances, gold = {"a": 0.5, "b": 0.3, None: 0.2}, {"a": 1.0, "b": -2.0, None: 0.25}
    names = list(chances)
    exact = sum(
        math.prod(chances[name] for name in draw) * (_count(list(draw), [(0, 1, 2)]) @ [gold[name] for name in draw])
        for draw in itertools.product(names, repeat=3)
    )
    mean = sum(
        math.prod(chances[name] for name in draw) * (weigh_majority(draw, 3)[2] @ [gold[name] for name in draw])
        for draw in itertools.product(names, repeat=4)
    )
    assert mean == pytest.approx(exact)


def test_many_samples_sum_to_one() -> None:
    answers = [str(place % 7) if place % 3 else None for place in range(400)]
    weights = weigh_majority(answers, 64)
    assert weights.sum(axis=1) == pytest.approx(np.ones(64))
    assert (weights >= 0).all()


def test_the_kl_of_a_vote_by_hand() -> None:
    """Shares 3/4 and 1/4: the vote of three says the first with 27/64 + 3 · 9/64 = 54/64."""
    by_hand = 54 / 64 * math.log(54 / 64 * 4 / 3) + 10 / 64 * math.log(10 / 64 * 4)
    found = estimate_majority_kl(["a", "a", "a", "b"], [1, 3], build_numpy_generator("vote"), num_draws=200_000)
    assert found == pytest.approx([0, by_hand], abs=2e-3)


@given(answers_lists, st.integers(1, 4))
@settings(max_examples=15, deadline=None)
def test_the_kl_of_a_vote_is_that_of_all_draws_and_below_the_bound(answers: list[str | None], k: int) -> None:
    places = range(len(answers))
    won = _count(answers, itertools.product(places, repeat=min(k, 3)))
    chosen = np.array([won[[place for place in places if answers[place] == name]].sum() for name in set(answers)])
    drawn = np.array([answers.count(name) / len(answers) for name in set(answers)])
    [found] = estimate_majority_kl(answers, [min(k, 3)], build_numpy_generator("votes"), num_draws=40_000)
    assert found == pytest.approx(compute_divergence(chosen, drawn), abs=0.02)
    assert found <= compute_best_of_n_kl(k) + 0.02


def test_what_does_not_fit_is_refused() -> None:
    for answers, most in ((["a"], 2), (["a"], 0), ([], 1)):
        with pytest.raises(ValueError, match="the vote of"):
            weigh_majority(answers, most)
    with pytest.raises(ValueError, match="the votes of"):
        estimate_majority_kl(["a"], [0], build_numpy_generator("vote"))
