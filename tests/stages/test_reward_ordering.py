"""What is said of a reward model's order: accuracy, share of what is possible, attributes, members, and its warning."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from posttrain.core.errors import DataError
from posttrain.stages.reward_diagnosis import warn_of_length
from posttrain.stages.reward_ordering import (
    compare_members,
    compare_with_bayes,
    order_by_quality,
    order_by_ratings,
    tabulate_margins,
)
from posttrain.statistics.intervals import Interval, wilson_interval
from posttrain.statistics.length_bias import LengthBias


def test_the_share_of_what_is_possible_is_that_worked_out_by_hand() -> None:
    """Chances 0.9, 0.8, 0.4, 0.6; ordered as labelled in the first two, against the label in the third, a tie last:
    expected 0.9, 0.8, 0.6, 0.5, mean 0.7; best 0.9, 0.8, 0.6, 0.6, mean 0.725; (0.7 - 0.5) / 0.225 = 8/9."""
    found = compare_with_bayes(np.array([2.0, 1.0, -1.0, 0.0]), np.array([0.9, 0.8, 0.4, 0.6]))
    assert found["expected_accuracy"] == pytest.approx(0.7) and found["best_accuracy"] == pytest.approx(0.725)
    assert found["normalised_accuracy"] == pytest.approx(8 / 9)
    # What is left of each pair: 0.4 - 8/9 * 0.4 and so on, 2/45, 1/30, 1/90, -4/45; their mean is 0.
    rests = np.array([2 / 45, 1 / 30, 1 / 90, -4 / 45])
    reach = stats.t.ppf(0.975, 3) * np.sqrt((rests**2).sum() / 3 / 4) / 0.225
    assert found["normalised_limits"]["low"] == pytest.approx(8 / 9 - reach)
    assert found["normalised_limits"]["high"] == pytest.approx(8 / 9 + reach)


def test_where_labels_are_a_coins_nothing_can_be_reached() -> None:
    found = compare_with_bayes(np.array([1.0, -1.0]), np.array([0.5, 0.5]))
    assert found["normalised_accuracy"] == 0.0 and "normalised_limits" not in found
    with pytest.raises(DataError, match=r"probabilities from 0.5 to 1.5"):
        compare_with_bayes(np.array([1.0, -1.0]), np.array([0.5, 1.5]))


def test_limits_of_the_share_cover_it_as_often_as_they_say() -> None:
    """A model that orders 80 % of the pairs as the better label has it reaches 0.6 of what is possible."""
    generator = np.random.default_rng(3)
    covered = 0
    for _ in range(400):
        log_odds = generator.normal(0, 2, 300)
        gaps = np.where(generator.random(300) < 0.8, log_odds, -log_odds)
        limits = compare_with_bayes(gaps, 1 / (1 + np.exp(-log_odds)))["normalised_limits"]
        covered += limits["low"] <= 0.6 <= limits["high"]
    assert 0.915 <= covered / 400 <= 0.98


def test_the_better_one_is_told_from_the_worse_whichever_was_labelled_so() -> None:
    found = order_by_quality(np.array([1.0, -2.0, 3.0, 0.5]), np.array([2.0, -1.0, -1.0, 0.0]))
    assert found is not None and found["pairs"] == 3 and found["value"] == pytest.approx(2 / 3)
    assert order_by_quality(np.array([1.0]), np.array([0.0])) is None


def test_two_completions_of_a_prompt_are_ordered_by_their_ratings() -> None:
    """Prompts a: ratings 1, 0 with values 3, 2, right; b: 0, 1 with 1, 1, a tie; c: equal ratings; d: alone."""
    prompts = [b"a", b"b", b"a", b"c", b"b", b"c", b"d"]
    ratings, values = np.array([1.0, 0, 0, 2, 1, 2, 5]), np.array([3.0, 1, 2, 0, 1, 9, 7])
    found = order_by_ratings(values, ratings, prompts)
    wilson = wilson_interval(2, 2)  # one and a half hits, rounded as accuracies are
    assert found == {"pairs": 2, "prompts": 2, "value": 0.75, "low": wilson.low, "high": wilson.high}
    assert order_by_ratings(values, ratings, [bytes([n]) for n in range(7)]) is None


def test_pairs_of_one_prompt_widen_the_limits() -> None:
    """Six pairs of each of ten prompts, all right or all wrong: as uncertain as ten pairs, not as sixty."""
    prompts = [bytes([prompt]) for prompt in range(10) for _ in range(4)]
    ratings = np.tile([0.0, 1, 2, 3], 10)
    values = np.concatenate([np.arange(4.0) * (1 if prompt % 2 else -1) for prompt in range(10)])
    found = order_by_ratings(values, ratings, prompts)
    assert found is not None and found["pairs"] == 60 and found["value"] == 0.5
    assert found["high"] - found["low"] > 0.6 > 2 * (wilson_interval(30, 60).high - 0.5)


def test_what_the_mean_of_members_gains_is_paired_over_pairs() -> None:
    """Gaps of two members 3, -1 / -1, 2 / 1, 1: mean right in all three, each member in two; gains 1/2, 1/2, 0."""
    gaps = np.array([[3.0, -1.0, 1.0], [-1.0, 2.0, 1.0]])
    found = compare_members(gaps, None)
    gains = np.array([0.5, 0.5, 0.0])
    reach = stats.t.ppf(0.975, 2) * gains.std(ddof=1) / np.sqrt(3)
    assert found == pytest.approx({"value": 1 / 3, "low": 1 / 3 - reach, "high": 1 / 3 + reach})
    # Of labels drawn anew with 0.9, 0.6, 0.5: gains 0.4, 0.1, 0
    assert compare_members(gaps, np.array([0.9, 0.6, 0.5]))["value"] == pytest.approx(0.5 / 3)
    assert compare_members(gaps[:, :1], None) is None


def test_margins_are_told_in_bins_of_equally_many_pairs() -> None:
    table = tabulate_margins(np.array([0.1, -0.2, 3.0, 4.0, -0.05, 5.0, 6.0, 7.0, 8.0, -9.0]))
    assert [row["pairs"] for row in table] == [2] * 5
    assert [row["value"] for row in table] == [0.5, 0.5, 1.0, 1.0, 0.5]
    assert (table[0]["from"], table[0]["to"]) == (0.05, 0.1)


def bias(low: float, correlation: float) -> LengthBias:
    return LengthBias(Interval(0.1, low, 0.2), correlation, correlation, 0.01, 1.0, 1.0, 100)


def test_what_pays_for_length_is_warned_of_and_what_charges_for_it_is_not() -> None:
    [warning] = warn_of_length(bias(0.05, 0.5), "quality", 0.3)
    assert "one more token earns 0.1 (0.05 to 0.2) at equal quality" in warning and "length_penalty: fitted" in warning
    assert warn_of_length(bias(0.05, 0.3), "quality", 0.3) == []  # not over the bound
    assert warn_of_length(bias(-0.05, 0.5), "quality", 0.3) == []  # not shown to be above 0
    assert warn_of_length(LengthBias(Interval(-0.1, -0.2, -0.05), -0.5, -0.5, 0.0, 1.0, 1.0, 9), "label", 0.3) == []
