"""pass@k against its definition: all subsets of the samples."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.statistics.pass_at_k import average_pass_at_k, compute_best_of_k, compute_pass_at_k


@given(st.integers(1, 9), st.data())
def test_it_is_the_share_of_all_subsets_of_k_that_hold_a_right_one(num_samples: int, data: st.DataObject) -> None:
    num_right = data.draw(st.integers(0, num_samples))
    k = data.draw(st.integers(1, num_samples))
    samples = [True] * num_right + [False] * (num_samples - num_right)
    subsets = list(itertools.combinations(samples, k))
    share = sum(any(subset) for subset in subsets) / len(subsets)
    assert compute_pass_at_k(num_samples, num_right, k) == pytest.approx(share, abs=1e-12)


def test_a_value_by_hand() -> None:
    """n = 5, c = 2, k = 2: 1 - C(3, 2) / C(5, 2) = 1 - 3/10."""
    assert compute_pass_at_k(5, 2, 2) == pytest.approx(0.7)


def test_many_samples_do_not_overflow() -> None:
    assert compute_pass_at_k(100_000, 1, 50_000) == pytest.approx(0.5)


def test_the_mean_is_over_problems_and_not_over_samples() -> None:
    """pass@1 of 1 in 1 and 0 in 99 is a half, whatever the samples say together."""
    assert average_pass_at_k([(1, 1), (99, 0)], 1) == pytest.approx(0.5)


@pytest.mark.parametrize("numbers", [(3, 4, 1), (3, -1, 1), (3, 1, 0), (3, 1, 4)])
def test_numbers_that_do_not_fit_are_refused(numbers: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="pass@"):
        compute_pass_at_k(*numbers)


def test_no_problem_has_no_mean() -> None:
    with pytest.raises(ValueError, match="no problem"):
        average_pass_at_k([], 1)


def test_the_best_of_k_by_hand() -> None:
    """Scores 1, 2, 4: of the pairs the maxima are 2, 4, 4."""
    assert compute_best_of_k([4, 1, 2], 2) == pytest.approx(10 / 3)
    assert compute_best_of_k([4, 1, 2], 1) == pytest.approx(7 / 3)
    assert compute_best_of_k([4, 1, 2], 3) == 4
    assert compute_best_of_k([-1.5], 1) == -1.5


@given(st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=9), st.integers(1, 9))
def test_the_best_of_k_of_right_and_wrong_is_pass_at_k(scores: list[float], k: int) -> None:
    k = min(k, len(scores))
    assert compute_best_of_k(scores, k) == pytest.approx(compute_pass_at_k(len(scores), int(sum(scores)), k))


@pytest.mark.parametrize(("scores", "k"), [([1.0], 2), ([1.0], 0), ([float("nan")], 1)])
def test_a_best_of_k_that_cannot_be_is_refused(scores: list[float], k: int) -> None:
    with pytest.raises(ValueError, match="the best of"):
        compute_best_of_k(scores, k)
