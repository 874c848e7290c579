"""Questions under pressure: which variants there are, what is claimed in each, and that every wrong claim is wrong."""

from __future__ import annotations

import re
from typing import Any

import pytest

from posttrain.core.errors import DataError
from posttrain.core.records import Problem
from posttrain.core.seeds import build_numpy_generator
from posttrain.evaluation.monitors.pressure import Reply, build_variants, choose_wrong, read_answer


def ask(answer: Any = "42", **changes: Any) -> Problem:
    values = {"problem_id": "rows:1", "messages": [{"role": "user", "content": "6 times 7?"}]}
    return Problem(**{**values, **changes}, columns={"answer": answer, "level": 3})


def test_without_a_reply_every_kind_is_made_with_a_wrong_and_a_right_claim() -> None:
    rows = build_variants(ask(), "44", None, seed=0)
    assert [(row["pressure"], row["claimed"], row["is_claim_right"]) for row in rows] == [
        ("claim", "44", False), ("claim", "42", True), ("authority", "44", False), ("authority", "42", True),
        ("push_back", "44", False), ("push_back", "42", True),
    ]  # fmt: skip
    assert {row["cluster_id"] for row in rows} == {"rows:1"}
    assert {(row["answer"], row["level"], row["plain_prompt"]) for row in rows} == {("42", 3, "6 times 7?")}
    for row in rows:
        assert row["prompt"][0]["content"].startswith("6 times 7?")
        assert row["claimed"] in row["prompt"][-1]["content"]
    # What is contradicted is the opposite of the claim.
    assert [row["prompt"][1]["content"] for row in rows[4:]] == ["The answer is 42.", "The answer is 44."]


@pytest.mark.parametrize(("is_right", "claimed"), [(True, "44"), (False, "42")])
def test_an_own_reply_is_contradicted_wrongly_where_it_was_right_and_rightly_where_it_was_wrong(
    is_right: bool, claimed: str
) -> None:
    rows = build_variants(ask(), "44", Reply("So 42, or not.", is_right), seed=0)
    assert len(rows) == 5
    assert rows[-1]["prompt"][1] == {"role": "assistant", "content": "So 42, or not."}
    assert (rows[-1]["claimed"], rows[-1]["is_claim_right"]) == (claimed, not is_right)


def test_the_same_seed_makes_the_same_rows_and_another_other_words() -> None:
    first, again, other = (build_variants(ask(), "44", None, seed=seed) for seed in (0, 0, 1))
    assert first == again != other


@pytest.mark.parametrize(
    ("answer", "form"),
    [
        ("7", r"-?\d"),
        ("0", r"-?\d"),
        ("-3", r"-\d+"),
        ("1,250", r"1,2\d\d"),
        ("2.50", r"\d\.\d\d"),
        ("99999", r"\d{5,6}"),
    ],
)
def test_a_wrong_number_is_near_the_right_one_in_the_same_form(answer: str, form: str) -> None:
    for seed in range(40):
        wrong = choose_wrong(answer, [], build_numpy_generator("test", seed))
        assert wrong is not None and wrong != answer
        assert float(wrong.replace(",", "")) != float(answer.replace(",", ""))
        assert re.fullmatch(form, wrong), wrong


def test_a_wrong_text_is_the_answer_to_another_question_and_never_the_right_one() -> None:
    others = ["Paris", "paris", "Rome"]
    found = {choose_wrong("Paris", others, build_numpy_generator("test", seed)) for seed in range(20)}
    assert found == {"Rome"}
    assert choose_wrong("Paris", ["Paris"], build_numpy_generator("test")) is None


@pytest.mark.parametrize(
    ("answer", "read"),
    [("6 * 7 = 42\n#### 42", "42"), (42, "42"), (" x ", "x"), (None, None), (True, None), ("", None)],
)
def test_the_right_answer_is_read_of_texts_numbers_and_worked_answers(answer: Any, read: str | None) -> None:
    assert read_answer(ask(answer)) == read


def test_a_question_without_an_answer_is_refused() -> None:
    with pytest.raises(DataError, match="without a known answer"):
        build_variants(ask(None), "1", None, seed=0)
    with pytest.raises(DataError, match="does not end with the user"):
        build_variants(ask(messages=[{"role": "system", "content": "?"}]), "1", None, seed=0)
