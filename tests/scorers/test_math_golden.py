"""The maths scorer on labelled answers of real models and real tasks."""

import pytest

from benchmarks.math_golden import judge_own
from benchmarks.math_rows import (
    CONTESTED,
    build_crossed,
    build_full_stops,
    build_rewrites,
    read_gsm8k,
    read_math500,
    read_math_samples,
)

pytestmark = pytest.mark.real_data


def count_mistakes(pairs):
    """Return (false negatives, right ones, false positives, wrong ones)."""
    said = judge_own(pairs).is_right
    right = [pair.is_right for pair in pairs]
    missed = sum(label and not verdict for label, verdict in zip(right, said, strict=True))
    passed = sum(verdict and not label for label, verdict in zip(right, said, strict=True))
    return missed, sum(right), passed, len(right) - sum(right)


@pytest.mark.parametrize("is_boxed", [False, True])
def test_labelled_gsm8k_solutions_are_judged_as_they_are_labelled(real_data, is_boxed):
    pairs = read_gsm8k(real_data, is_boxed=is_boxed)
    missed, num_right, passed, num_wrong = count_mistakes(pairs)
    assert (len(pairs), num_right, num_wrong) == (5276, 2001, 3275)
    assert missed <= 0.01 * num_right
    assert passed <= 0.001 * num_wrong


def test_sampled_solutions_of_math_are_judged_as_they_are_labelled_but_for_contested_labels(real_data):
    pairs = read_math_samples(real_data)
    said = judge_own(pairs).is_right
    contested = {pair.gold for pair, verdict in zip(pairs, said, strict=True) if verdict != pair.is_right}
    assert len(pairs) == 800
    assert contested == set(CONTESTED)


def test_every_gold_answer_of_math500_is_right_in_every_spelling(real_data):
    golds = read_math500(real_data)
    missed, num_right, _, _ = count_mistakes([*build_rewrites(golds), *build_full_stops(golds)])
    assert num_right > 1700
    assert missed == 0


@pytest.mark.invariants  # tens of seconds
def test_no_gold_answer_of_math500_is_right_for_another_problem_unless_it_is_equal(real_data):
    missed, _, passed, num_wrong = count_mistakes(build_crossed(read_math500(real_data)))
    assert num_wrong > 90_000
    assert (missed, passed) == (0, 0)
