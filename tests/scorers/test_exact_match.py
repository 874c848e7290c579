"""Exact match: the stated normalisation and no other, and whose failure a failure is."""

import numpy as np
import pytest

from posttrain.core.errors import DataError
from posttrain.core.records import Completion, Problem
from posttrain.scorers.exact_match import ExactMatch, normalise_text


def build_item(text, answer="RED, FOX", finish_reason="stop"):
    ids = np.arange(3, dtype=np.int32)
    columns = {} if answer is None else {"answer": answer}
    return Problem("row-1", [], columns), Completion("row-1", 0, ids, ids, text, finish_reason, "policy", 0)


def score(*arguments, **named):
    return ExactMatch().score([build_item(*arguments, **named)])[0]


@pytest.mark.parametrize("text", ["RED, FOX", "  RED,\n FOX\t", "RED,\u00a0FOX"])
def test_white_space_does_not_count(text):
    assert score(text).value == 1.0


def test_composed_and_decomposed_letters_are_equal():
    assert score("cafe\u0301", answer="caf\u00e9").value == 1.0


@pytest.mark.parametrize(
    "text",
    [
        "red, fox",
        "RED FOX",
        "RED, FOX.",
        "The answer is RED, FOX",
        "RED, FOX RED, FOX",
        "RED",
        "RED,FOX",
        "CAT, RED, FOX",
    ],
)
def test_any_other_difference_counts(text):
    outcome = score(text)
    assert (outcome.status, outcome.value, outcome.fault) == ("scored", 0.0, None)


@pytest.mark.parametrize(("answer", "text"), [(7, "7"), (2.5, " 2.5"), ("007", "007")])
def test_an_answer_may_be_a_number(answer, text):
    assert score(text, answer=answer).value == 1.0
    assert score("7.0", answer=7).value == 0.0


def test_a_truncated_completion_is_the_policys_failure_even_when_its_text_is_right():
    outcome = score("RED, FOX", finish_reason="length")
    assert (outcome.status, outcome.value, outcome.fault) == ("truncated", 0.0, "policy")


@pytest.mark.parametrize("text", ["", " \n\t"])
def test_an_empty_completion_is_unparsed_and_the_policys_failure(text):
    outcome = score(text)
    assert (outcome.status, outcome.value, outcome.fault) == ("unparsed", 0.0, "policy")


def test_a_cancelled_completion_is_the_harness_failure():
    assert score("RED, FOX", finish_reason="cancelled").fault == "harness"


def test_an_answer_that_a_content_filter_withheld_is_the_policys_failure_and_stays_in_the_denominator():
    outcome = score("RED, FOX", finish_reason="filtered")
    assert (outcome.status, outcome.value, outcome.fault) == ("truncated", 0.0, "policy")


@pytest.mark.parametrize("answer", [None, "", "  ", ["7"], True, {"a": 1}])
def test_a_problem_without_a_usable_answer_is_refused_with_its_row_and_the_cure(answer):
    with pytest.raises(DataError) as caught:
        score("7", answer=answer)
    assert caught.value.place == "row-1"
    assert "columns: {answer:" in caught.value.cure


def test_outcomes_keep_the_order_of_the_items():
    items = [build_item(text) for text in ("RED, FOX", "x", "", "RED, FOX")]
    assert [outcome.value for outcome in ExactMatch().score(items)] == [1.0, 0.0, 0.0, 1.0]
    assert ExactMatch().score([]) == []


def test_normalising_twice_changes_nothing():
    for text in ("", " a  b ", "e\u0301 \u00a0x", "A\r\nB"):
        assert normalise_text(normalise_text(text)) == normalise_text(text)
