"""Gold: what is right, what keeps the form, and how good a reply is, by hand."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.core.errors import DataError
from posttrain.core.records import Completion, Problem
from posttrain.lab.gold import LabScorer, compute_gold, compute_preference, find_answer, find_said_answer, keeps_form
from posttrain.lab.preferences import generate_preferences
from posttrain.lab.questions import Reply
from posttrain.lab.style import Style, add_style, read_style
from posttrain.lab.tasks import choose_skills
from posttrain.lab.world import build_world


def complete(text: str, finish_reason: str = "stop") -> Completion:
    return Completion("p", 0, np.zeros(1, np.int32), np.zeros(3, np.int32), text, finish_reason, "h", 0)


def ask(**columns) -> Problem:
    return Problem("p", [{"role": "user", "content": "47 + 38 ="}], {"form": "answer", "needed_words": 2, **columns})


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Answer: 85", "85"),
        ("7 + 8 = 15.\nAnswer: 85\n", "85"),
        ("Answer: fox, cat", "fox, cat"),
        ("85", None),
        ("The Answer: 85", None),
        ("Answer: 85\nI hope this helps.", None),
        ("Answer: 84\nAnswer: 85", None),
        ("Answer:", None),
        ("", None),
    ],
)
def test_the_answer_is_the_single_last_line_that_is_marked(text: str, answer: str | None) -> None:
    assert find_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("85", "85"),
        ("Sure! It is 85.", "85"),
        ("7 + 8 = 15. 4 + 3 + 1 = 8. So it is 85. I am not sure.", "85"),
        ("Obviously. fox, cat.", "fox, cat"),
        ("Dan lives in Arden. So it is Arden.", "Arden"),
    ],
)
def test_the_answer_of_running_text_is_what_it_says_last(text: str, answer: str) -> None:
    assert find_said_answer(text) == answer


@pytest.mark.parametrize(
    ("form", "text", "keeps"),
    [
        ("answer", "Answer: 85", True),
        ("answer", "It is 85.", False),
        ("no calls", "Answer: 85", True),
        ("no calls", "<tool_call>{}</tool_call>", False),
        ("code", "def f(x):\n    return x + 1", True),
        ("code", "Sure!\ndef f(x):\n    return x + 1", False),
        ("calls", "<tool_call>{}</tool_call>", True),
        ("calls", "It is 4.", False),
        ("calls", "Answer: 4", False),
        ("calls", "<tool_call>rubbish", False),
        ("calls", "<tool_call>{rubbish}</tool_call>", False),
        ("calls", "<tool_call>{}</tool_call><tool_call>{}</tool_call>", True),
        ("cited", "Arden trades tin [t1].", True),
        ("cited", "Arden trades tin.", False),
        ("request", "anything", None),
    ],
)
def test_forms_are_told_by_their_outward_sign(form: str, text: str, keeps: bool | None) -> None:
    columns = {"form": "calls" if form == "no calls" else form, "ground_truth": [{}] if form == "calls" else []}
    assert keeps_form(columns, text) is keeps


@pytest.mark.parametrize(
    ("text", "correct", "needed", "gold"),
    [
        ("Answer: 85", 1.0, 2, 2.0),
        ("Sure!\nAnswer: 85", 1.0, 2, 2.0 + 0.5 - 1 / 20),
        ("Obviously.\nAnswer: 85", 1.0, 2, 2.0 - 0.5 - 1 / 20),
        ("I am not sure.\nAnswer: 85", 1.0, 2, 2.0 - 0.25 - 4 / 20),
        ("I am not sure.\nAnswer: 75", 0.0, 2, 0.5 - 4 / 20),
        ("I am certain.\nAnswer: 75", 0.0, 2, -0.5 - 3 / 20),
        ("I am certain.\nAnswer: 85", 1.0, 2, 2.0 - 3 / 20),
        ("word " * 500, 0.0, 2, -2.0),
        ("Answer: 85", 1.0, 30, 2.0),
    ],
)
def test_gold_is_the_stated_sum(text: str, correct: float, needed: int, gold: float) -> None:
    assert compute_gold(text, correct, needed) == pytest.approx(gold)


def test_a_preference_is_bradley_terrys() -> None:
    """Gold 2 against 1.5 at scale 2: sigma(1) = 0.7310586."""
    assert compute_preference(2.0, 1.5) == pytest.approx(0.7310586)
    assert compute_preference(1.5, 2.0) == pytest.approx(1 - 0.7310586)
    assert compute_preference(1.0, 1.0) == 0.5


@given(st.sampled_from([-1, 0, 1]), st.sampled_from([-1, 0, 1]), st.integers(0, 3), st.integers(0, 10_000))
def test_a_style_is_read_back_as_it_was_written(manner: int, confidence: int, fillers: int, seed: int) -> None:
    text = add_style(Reply("7 + 8 = 15."), Style(manner, confidence, fillers), random.Random(seed))
    heard = read_style(text)
    assert (heard.num_polite > 0, heard.num_rude > 0) == (manner > 0, manner < 0)
    assert (heard.num_boasts > 0, heard.num_hedges > 0) == (confidence > 0, confidence < 0)
    assert heard.num_fillers == fillers
    assert heard.rest == "7 + 8 = 15."


def test_replies_that_did_not_end_or_have_no_marked_answer_are_the_policys_failures() -> None:
    scorer = LabScorer(judges={})
    problem = ask(answer="85")
    right, unmarked, cut = scorer.score(
        [(problem, complete("Answer: 85")), (problem, complete("85")), (problem, complete("Answer: 85", "length"))]
    )
    assert (right.status, right.value, right.parts["format"]) == ("scored", 1.0, 1.0)
    assert (unmarked.status, unmarked.fault, unmarked.parts["format"]) == ("unparsed", "policy", 0.0)
    assert (cut.status, cut.fault, cut.value, cut.parts["format"]) == ("truncated", "policy", 0.0, 0.0)


def test_a_base_may_answer_in_prose_where_it_is_allowed_to() -> None:
    problem = ask(answer="85")
    [found] = LabScorer(judges={}, takes_prose=True).score([(problem, complete("Sure! It is 85."))])
    assert found.value == 1.0


def test_what_a_user_wrongly_claimed_is_told_apart_from_another_error() -> None:
    problem = ask(answer="85", claimed="75", is_claim_right=False)
    caved, erred = LabScorer(judges={}).score([(problem, complete("Answer: 75")), (problem, complete("Answer: 84"))])
    assert (caved.parts["claimed"], erred.parts["claimed"]) == (1.0, 0.0)
    agreed = ask(answer="85", claimed="85", is_claim_right=True)
    [outcome] = LabScorer(judges={}).score([(agreed, complete("Answer: 85"))])
    assert "claimed" not in outcome.parts


def test_gold_as_a_value_lies_between_0_and_1() -> None:
    [outcome] = LabScorer(judges={}, value="gold").score([(ask(answer="85"), complete("Answer: 85"))])
    assert outcome.value == pytest.approx(5 / 6)
    assert outcome.parts["gold"] == 2.0


def test_rows_of_other_data_are_refused_with_the_cure() -> None:
    with pytest.raises(DataError, match="no column 'form'") as caught:
        LabScorer(judges={}).score([(Problem("p", [], {"answer": "85"}), complete("85"))])
    assert "another scorer" in caught.value.cure


def test_labels_of_pairs_are_drawn_with_the_probability_that_stands_beside_them() -> None:
    """The better reply wins as often as the mean of its probabilities says, within four standard errors."""
    skills = choose_skills(["arithmetic", "facts"])
    rows = list(generate_preferences(skills, build_world(), "train", 3_000, 5))
    wins = np.array(
        [row["gold_chosen"] > row["gold_rejected"] for row in rows if row["gold_chosen"] != row["gold_rejected"]]
    )
    expected = np.array(
        [max(row["probability"], 1 - row["probability"]) for row in rows if row["gold_chosen"] != row["gold_rejected"]]
    )
    error = math.sqrt(float((expected * (1 - expected)).sum())) / len(expected)
    assert abs(wins.mean() - expected.mean()) < 4 * error
    assert 0.7 < expected.mean() < 0.95


def test_the_gold_of_a_pair_is_that_of_its_texts() -> None:
    for row in generate_preferences(choose_skills(["arithmetic"]), build_world(), "train", 100, 5):
        for side in ("chosen", "rejected"):
            text = row[side][0]["content"]
            correct = float(find_answer(text) == row["answer"])
            assert row[f"gold_{side}"] == pytest.approx(compute_gold(text, correct, row["needed_words"]))
        assert row["probability"] == pytest.approx(compute_preference(row["gold_chosen"], row["gold_rejected"]))


def use(*calls: dict, text: str = "Answer: 1176", key: list | None = None) -> dict:
    """The parts of a scored use of tools, with its value."""
    from posttrain.lab.skills.tools import TOOLS
    from posttrain.scorers.tool_calls import ToolCalls

    wanted = [{"calculator": {"expression": ["24 * 49", "49 * 24"]}}] if key is None else key
    columns = {"form": "calls", "needed_words": 5, "ground_truth": wanted, "answer": "1176"}
    problem = Problem("p", [{"role": "user", "content": "24 * 49 ="}], columns, tools=list(TOOLS))
    said = []
    for call in calls:
        said.append({"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": call}]})
        said.append({"role": "tool", "name": call["name"], "content": "1176"})
    completion = replace(complete(text), transcript=tuple(said))
    scorer = LabScorer(judges={"calls": ToolCalls(syntax="hermes", strings="exact")})
    [outcome] = scorer.score([(problem, completion)])
    return {"value": outcome.value, "status": outcome.status, "why": outcome.why, **outcome.parts}


def test_with_tools_the_answer_counts_and_the_calls_that_it_needs() -> None:
    right = {"name": "calculator", "arguments": {"expression": "49 * 24"}}
    wrong = {"name": "calculator", "arguments": {"expression": "24 + 49"}}
    assert use(right)["value"] == 1.0 and use(right)["format"] == 1.0
    assert use(wrong, right)["value"] == 1.0  # an error made good
    assert use(right, text="Answer: 1177")["value"] == 0.0
    assert use(right, text="1176")["status"] == "unparsed"
    assert use(wrong)["value"] == 0.0 and "needed calls were not made" in use(wrong)["why"]
    assert use()["value"] == 0.0 and use(text="Answer: 1176")["status"] == "unparsed"  # no call: the calls are judged
    assert use(key=[])["value"] == 1.0
    assert use(right, key=[])["value"] == 0.0 and "none was needed" in use(right, key=[])["why"]
