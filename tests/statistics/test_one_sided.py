"""One-sided tests against a bound: numbers by hand, ties and clusters, and how often they reject what holds."""

from __future__ import annotations

import math

import numpy as np
import pytest

from posttrain.core.errors import DataError
from posttrain.core.seeds import build_numpy_generator
from posttrain.statistics.one_sided import gap_test, mean_test, ratio_test, rise_test
from posttrain.statistics.pairing import build_pairs


def names(count: int, start: str = "c") -> list[str]:
    return [f"{start}{index}" for index in range(count)]


def test_a_share_above_its_bound_is_tested_as_wilson_does() -> None:
    """12 of 100 against 0.05: T = 0.07 / sqrt(0.05 * 0.95 / 100) = 3.2118, P(Z > T) = 0.00066."""
    found = mean_test([1.0] * 12 + [0.0] * 88, names(100), 0.05)
    assert found.value == 0.12
    assert found.p_value == pytest.approx(0.5 * math.erfc(3.21182 / math.sqrt(2)), rel=1e-3)
    assert found.p_value == pytest.approx(0.00066, abs=1e-5)


def test_a_rise_of_right_or_wrong_items_is_tested_as_tango_does() -> None:
    """9 pairs up, 1 down of 20, bound 0: T = 8 / sqrt(10) = 2.5298, P(Z > T) = 0.0057; a drop is the mirror."""
    before, after = [0.0] * 9 + [1.0] + [1.0] * 10, [1.0] * 9 + [0.0] + [1.0] * 10
    found = rise_test(build_pairs(before, after), 0.0)
    assert found.value == pytest.approx(0.4)
    assert found.p_value == pytest.approx(0.5 * math.erfc(8 / math.sqrt(10) / math.sqrt(2)), rel=1e-6)
    assert rise_test(build_pairs(after, before), 0.0, is_drop=True) == found


def test_a_bound_that_no_rise_can_pass_is_never_passed() -> None:
    assert rise_test(build_pairs([0.0] * 30, [1.0] * 30), 1.5).p_value == 1.0


def test_a_ratio_against_its_bound_by_hand() -> None:
    """Values 1, 2, 3 against 1: t = 1 / (1 / sqrt 3), 2 degrees: P = 1/2 - t / (2 sqrt(2 + t²)) = 0.1127.

    The limits are 2 ± 4.302653 / sqrt 3.
    """
    found = ratio_test([1, 2, 3], [1, 1, 1], names(3), 1.0)
    assert found.value == 2
    assert found.p_value == pytest.approx(0.5 - math.sqrt(3) / (2 * math.sqrt(5)), abs=1e-12)
    assert (found.low, found.high) == pytest.approx((2 - 2.484138, 2 + 2.484138), abs=1e-5)


def test_items_of_one_source_count_together() -> None:
    """1, 1, 3, 3 in two sources: sums of deviations -2 and 2, error sqrt(2 * 8) / 4 = 1, t = 2 with one degree."""
    found = ratio_test([1, 1, 3, 3], [1, 1, 1, 1], ["a", "a", "b", "b"], 0.0)
    assert found.p_value == pytest.approx(0.5 - math.atan(2) / math.pi, abs=1e-12)
    assert found.num_clusters == 2


def test_a_ratio_is_one_of_sums_and_no_mean_of_ratios() -> None:
    """1 of 1 and 0 of 3: 1 / 4, where the mean of the ratios would be 1 / 2."""
    assert ratio_test([1, 0], [1, 3], names(2), 0.0).value == 0.25


def test_what_does_not_vary_is_certain_on_either_side_of_the_bound() -> None:
    values, ones = [1.2] * 30, [1.0] * 30
    assert ratio_test(values, ones, names(30), 1.1).p_value == 0.0
    assert ratio_test(values, ones, names(30), 1.2).p_value == 1.0
    assert ratio_test(values, ones, names(30), 1.3).p_value == 1.0


def test_a_gap_of_two_groups_by_hand() -> None:
    """1, 3 against 0, 0, 2, 2: gap 1; influences ±1/2 and ±1/4: sum of squares 3/4, times 6/5; t = 1 / sqrt 0.9.

    Degrees of freedom are those of the smaller side, 1: P = 1/2 - atan(t) / pi.
    """
    found = gap_test(([1, 3], ["a", "b"]), ([0, 0, 2, 2], ["c", "d", "e", "f"]), 0.0)
    assert found.value == 1
    assert found.p_value == pytest.approx(0.5 - math.atan(1 / math.sqrt(0.9)) / math.pi, abs=1e-12)


def test_sources_that_both_groups_share_cancel() -> None:
    found = gap_test(([1, 3], ["a", "b"]), ([1, 3], ["a", "b"]), 0.0)
    assert (found.value, found.low, found.high, found.p_value) == (0, 0, 0, 1)


def test_one_source_says_nothing_of_another() -> None:
    with pytest.raises(DataError, match="one source"):
        gap_test(([1, 3], ["a", "a"]), ([0, 0], ["c", "d"]), 0.0)
    with pytest.raises(DataError, match="1 sources"):
        ratio_test([1, 3], [1, 1], ["a", "a"], 0.0)


@pytest.mark.parametrize("source", ["ratio", "gap", "rise"])
def test_what_lies_at_its_bound_is_rejected_about_as_often_as_the_level_says(source: str) -> None:
    """2,000 draws at level 5 %: within 5 ± 1.6 % (three standard errors and the error of few clusters)."""
    generator = build_numpy_generator("size", source)
    rejected = 0
    for _ in range(2000):
        if source == "ratio":  # lengths with a long tail, in sources of two, that grow by a quarter on average
            before = np.repeat(generator.lognormal(3, 0.7, 60), 2)
            after = before * generator.uniform(1.0, 1.5, 120)
            test = ratio_test(after - before, before, [f"{n // 2}" for n in range(120)], 0.25)
        elif source == "gap":  # changes of right-or-wrong items, which gain 10 % and 5 %
            changes = [generator.choice([-1.0, 0.0, 1.0], 150, p=p) for p in ((0.1, 0.7, 0.2), (0.1, 0.75, 0.15))]
            test = gap_test((changes[0], names(150)), (changes[1], names(150, "d")), 0.05)
        else:
            changes = [generator.choice([-1.0, 0.0, 1.0], 150, p=(0.05, 0.85, 0.1))]
            test = rise_test(build_pairs((changes[0] < 0).astype(float), (changes[0] > 0).astype(float)), 0.05)
        rejected += test.p_value <= 0.05
    assert 0.034 <= rejected / 2000 <= 0.066
