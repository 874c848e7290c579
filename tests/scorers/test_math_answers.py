"""Finding the declared answer: which declaration decides, and what is never read."""

import pytest

from posttrain.scorers.math_answers import EXTRACTIONS, Found, NotFound, find_answer
from posttrain.scorers.reasoning import ReasoningBlock

DEFAULT = ("boxed", "hashes", "phrase")


def find(text, extraction=DEFAULT, **named):
    return find_answer(text, extraction, **named)


@pytest.mark.parametrize(
    ("text", "said", "how"),
    [
        ("so $\\boxed{\\frac{1}{2}}$.", "\\frac{1}{2}", "boxed"),
        ("so \\boxed {5}", "5", "boxed"),
        ("so \\boxed 5 here", "5", "boxed"),
        ("so \\fbox{5}", "5", "boxed"),
        ("a set \\boxed{\\{1, 2\\}}", "\\{1, 2\\}", "boxed"),
        ("6 * 7\n#### 42", "42", "hashes"),
        ("#### 1. Add\n#### 42 apples", "42 apples", "hashes"),
        ("The answer is 42.", "42", "phrase"),
        ("Answer: 3.5", "3.5", "phrase"),
        ("**Answer:** 3", "3", "phrase"),
        ("the final answer is: $x = 5$. Done.", "$x = 5$", "phrase"),
        ("The answer is\n42", "42", "phrase"),
        ("sum 40 + 2\nA: 42", "42", "phrase"),
        ("The answer is 41. No! The answer is 42.", "42", "phrase"),
    ],
)
def test_an_answer_is_found_where_it_is_declared(text, said, how):
    assert find(text) == Found(said, how)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("It is 42", "no answer declared"),
        ("<think>\\boxed{42}", "does not end"),
        ("<think>a</think>b<think>\\boxed{42}", "does not end"),
        ("<THINK>\\boxed{42}</THINK> so", "no answer declared"),
        ("\\boxed{4", "not closed"),
        ("\\boxed{}", "empty"),
        ("\\boxed", "empty"),
        ("\\boxed{4\\boxed{2}}", "box inside a box"),
        ("~~~\n\\boxed{42}\n~~~", "no answer declared"),
        ("```\n\\boxed{42}", "no answer declared"),
    ],
)
def test_what_is_not_declared_in_the_open_is_not_found_and_the_reason_says_so(text, word):
    found = find(text)
    assert isinstance(found, NotFound) and not found.is_hedge
    assert word in found.why


@pytest.mark.parametrize(
    "text",
    [
        "\\boxed{1}\n\n\\boxed{2}\n\n\\boxed{3}\n\n\\boxed{4}",
        "\\boxed{1} or \\boxed{2}",
        "$\\boxed{1}$, $\\boxed{2}$",
        "#### 1\n#### 2\n#### 3\n#### 4",
        "The answer is 5, or the answer is 7.",
        "Answer: 1\nAnswer: 2\nAnswer: 3\nAnswer: 4",
    ],
)
def test_several_answers_instead_of_one_are_a_hedge(text):
    found = find(text)
    assert isinstance(found, NotFound) and found.is_hedge


def test_the_same_box_again_is_no_spray():
    assert find("\\boxed{5} " * 9) == Found("5", "boxed")
    assert find("\\boxed{1}\nhm\n\n\\boxed{2}\nso\n\n\\boxed{3}") == Found("3", "boxed")


def test_the_first_kind_that_is_there_decides_alone():
    text = "\\boxed{1}\n#### 2\nThe answer is 3, or 4."
    assert [find(text, (how,)).text for how in EXTRACTIONS] == ["1", "2", "3, or 4", "4", text]
    assert find(text, ("hashes", "boxed")) == Found("2", "hashes")


@pytest.mark.parametrize(
    ("text", "number"),
    [("3 cats, 4 dogs", "4"), ("it costs $1,250.50.", "$1,250.50"), ("from 3 to -7", "-7"), ("2/3", "2/3")],
)  # fmt: skip
def test_the_last_number_is_read_where_that_is_asked_for(text, number):
    assert find(text, ("last_number",)) == Found(number, "last_number")


def test_reasoning_that_the_prompt_opened_must_be_closed_where_that_is_declared():
    assert isinstance(find("hm \\boxed{5}", reasoning=ReasoningBlock(is_opened_by_prompt=True)), NotFound)
    assert find("hm</think>\\boxed{5}", reasoning=ReasoningBlock(is_opened_by_prompt=True)) == Found("5", "boxed")


@pytest.mark.parametrize("piece", ["\\boxed{", "<think>", "answer is ", "```\n", "#### ", "{", "$", "A: 1\n", "1,"])
def test_a_long_text_of_one_piece_costs_no_more_than_its_length(piece):
    found = find(piece * (900_000 // len(piece)))
    assert isinstance(found, Found | NotFound)


def test_a_text_of_more_than_a_million_characters_is_not_read():
    assert "characters" in find("1" * 1_000_001).why
