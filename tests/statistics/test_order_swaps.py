"""Content and position of answers in both orders: numbers derived by hand, and the size of the tests."""

from __future__ import annotations

import math

import numpy as np
import pytest

from posttrain.core.errors import DataError
from posttrain.statistics.order_swaps import compare_labels, compare_orders


def test_an_answer_that_is_always_the_first_option_is_all_position() -> None:
    """Ten questions, A in both orders: matching where it stands first, never where last.

    matching (10 + 0) / 20 = 1/2, consistency 0, bias 1 - 0 = 1; a coin gives no same answer of ten with 2^-10.
    """
    found = compare_orders([1] * 10, [0] * 10, [False] * 10)
    assert (found.matching.value, found.consistency.value, found.position_bias.value) == (0.5, 0.0, 1.0)
    assert found.matching_if_consistent is None
    assert found.decided_by == "position"
    assert found.p_position == pytest.approx(2**-10)
    assert found.p_content == 1.0


def test_four_questions_by_hand() -> None:
    """One matches in both orders, three follow A: matching (4 + 1) / 8, bias (4 - 1) / 4, consistency 1 / 4.

    P(at least 1 of 4) = 15/16 and P(at most 1 of 4) = 5/16: nothing is decided.
    """
    found = compare_orders([1, 1, 1, 1], [1, 0, 0, 0], [True, False, False, False])
    assert found.matching.value == 0.625
    assert found.position_bias.value == 0.75
    assert found.consistency.value == 0.25
    assert found.matching_if_consistent is not None
    assert found.matching_if_consistent.value == 1.0
    assert (found.p_content, found.p_position) == (pytest.approx(15 / 16), pytest.approx(5 / 16))
    assert found.decided_by == "undecided"


def test_a_firm_policy_is_measured_though_it_matches_half_of_the_time() -> None:
    """Half of twenty questions are answered with the matching option in both orders, half with the other one."""
    match = [1] * 10 + [0] * 10
    found = compare_orders(match, match, [True] * 20)
    assert (found.matching.value, found.position_bias.value, found.decided_by) == (0.5, 0.0, "content")
    # Two answers of one question that always agree are worth one: Clopper and Pearson's interval of 10 of 20.
    assert found.matching.low < 0.272 + 1e-3
    assert found.matching.high > 0.728 - 1e-3


def test_with_three_options_an_answer_may_move_between_two_that_do_not_match() -> None:
    found = compare_orders([0, 0, 1], [0, 0, 1], [False, True, True])
    assert found.consistency.value == pytest.approx(2 / 3)
    assert found.matching.value == pytest.approx(1 / 3)
    assert found.position_bias.value == 0.0


def test_swapping_what_is_called_early_turns_the_bias_around_and_changes_nothing_else() -> None:
    early, late, same = [1, 1, 0, 1, 0], [0, 1, 0, 1, 1], [False, True, True, True, False]
    one, other = compare_orders(early, late, same), compare_orders(late, early, same)
    assert one.position_bias.value == -other.position_bias.value
    assert one.position_bias.low == pytest.approx(-other.position_bias.high)
    assert (one.matching, one.consistency, one.decided_by) == (other.matching, other.consistency, other.decided_by)


def test_a_coin_is_said_to_follow_content_or_position_in_at_most_one_of_twenty_cases_each() -> None:
    generator = np.random.default_rng(7)
    verdicts = []
    for _ in range(400):
        early, late = generator.integers(2, size=(2, 60))
        verdicts.append(compare_orders(early, late, early == late).decided_by)
    assert verdicts.count("content") <= 30
    assert verdicts.count("position") <= 30


def test_chance_is_one_of_the_options_by_hand() -> None:
    """Ten questions of four options, none kept: (3/4)^10; of two and four options chance is (1/2 + 1/4) / 2."""
    found = compare_orders([1] * 10, [0] * 10, [False] * 10, num_options_N=[4.0] * 10)
    assert (found.chance, found.p_position) == (0.25, pytest.approx(0.75**10))
    assert compare_orders([1] * 2, [0] * 2, [False] * 2, num_options_N=[2.0, 4.0]).chance == 0.375


def test_guessers_among_several_options_are_alarms_no_more_often_than_the_level() -> None:
    generator = np.random.default_rng(11)
    options = np.tile([3.0, 5.0], 30)
    verdicts = []
    for _ in range(400):
        same = generator.random(60) < 1 / options
        early = (same & (generator.random(60) < 0.5)).astype(float)
        verdicts.append(compare_orders(early, early, same, num_options_N=options.tolist()).decided_by)
    assert verdicts.count("position") <= 30
    assert verdicts.count("content") <= 30


def test_questions_that_share_a_source_do_not_make_an_alarm_likelier() -> None:
    """30 sources of six questions that are answered alike, by a coin for each source, at 1 %: at most 12 of 400."""
    generator = np.random.default_rng(12)
    codes = np.repeat(np.arange(30), 6)
    verdicts = []
    for _ in range(400):
        same = generator.integers(2, size=30)[codes].astype(bool)
        early = np.where(same, 1.0, 0.0)
        verdicts.append(compare_orders(early, early, same, clusters_N=codes, alpha=0.01).decided_by)
    assert verdicts.count("position") <= 12
    one, other = (compare_orders(early, early, same, clusters_N=given) for given in (codes, None))
    assert one.consistency.high - one.consistency.low > other.consistency.high - other.consistency.low
    assert one.num_clusters == 30


@pytest.mark.parametrize(
    ("early", "late", "same"),
    [([1], [1], [True]), ([1, 0], [1], [True, True]), ([1, 0.5], [1, 0.5], [True, True]), ([1, 1], [0, 1], [True] * 2)],
)
def test_columns_that_do_not_belong_together_are_refused(
    early: list[float], late: list[float], same: list[bool]
) -> None:
    with pytest.raises(DataError, match="in the other"):
        compare_orders(early, late, same)


def test_yes_to_everything_is_all_label() -> None:
    """Twelve statements of either label, Yes to all: 12 of 12 match and 0 of 12.

    Wilson's limits of 0 of n are 0 and z²/(n + z²); with n = 12 and z² = 3.8415 the upper one is 0.24249. The lower
    limit of the bias is 1 - sqrt(2) * 0.24249 = 0.65707.
    """
    found = compare_labels((12, 12), (0, 12))
    assert (found.matching.value, found.label_bias.value) == (0.5, 1.0)
    assert found.label_bias.low == pytest.approx(1 - math.sqrt(2) * 0.24249, abs=1e-5)
    assert found.label_bias.high == 1.0
    assert found.decided_by == "position"
    assert found.p_position == pytest.approx(2**-12)
    assert compare_labels((0, 12), (12, 12)).decided_by == "position"


def test_the_balanced_share_does_not_depend_on_how_many_statements_have_which_label() -> None:
    """Of 90 statements with Yes all match, of 10 with No half: (1 + 0.5) / 2, where 95 of 100 would be a plain mean."""
    found = compare_labels((90, 90), (5, 10))
    assert found.matching.value == 0.75
    assert found.label_bias.value == 0.5
    assert found.decided_by == "undecided"


def test_statements_of_both_labels_that_match_are_content() -> None:
    found = compare_labels((18, 20), (17, 20))
    assert found.decided_by == "content"
    assert compare_labels((2, 20), (3, 20)).decided_by == "content"
    assert compare_labels((10, 20), (11, 20)).decided_by == "undecided"


def test_a_label_without_a_statement_is_refused() -> None:
    with pytest.raises(DataError):
        compare_labels((3, 5), (0, 0))
