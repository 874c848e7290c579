"""IFEval as a score: strict and loose, by prompt and by instruction, and whose failure a failure is."""

import json

import pytest

from posttrain.core.errors import DataError
from posttrain.scorers.instructions import InstructionFollowing, compute_accuracies, list_variants, read_instructions
from posttrain.scorers.reasoning import ReasoningBlock
from tests.scorers.form_items import build_item, score_everywhere, score_one

TWO = {
    "key": 7,
    "prompt": "Write at least 3 words without commas.",
    "instruction_id_list": ["punctuation:no_comma", "length_constraints:number_words"],
    "kwargs": [{"num_words": None}, {"num_words": 3, "relation": "at least"}],
}
QUOTED = {"instruction_id_list": ["startend:quotation"], "kwargs": [{}]}


def test_a_prompt_is_followed_if_each_instruction_is():
    outcome = score_one(InstructionFollowing(), "three plain words", TWO)
    assert (outcome.value, outcome.parts["followed_strict"], outcome.parts["instructions"]) == (1.0, 2.0, 2.0)
    half = score_one(InstructionFollowing(), "three, plain words", TWO)
    assert (half.value, half.parts["0:punctuation:no_comma"], half.parts["followed_strict"]) == (0.0, 0.0, 1.0)
    assert "a comma" in half.why


@pytest.mark.parametrize(
    ("value", "expected"),
    [("prompt_strict", 0.0), ("prompt_loose", 1.0), ("instruction_strict", 0.0), ("instruction_loose", 1.0)],
)
def test_the_loose_reading_forgives_a_line_before_the_answer_and_the_strict_one_does_not(value, expected):
    outcome = score_one(InstructionFollowing(value=value), 'Sure:\n"All of it."', QUOTED)
    assert outcome.value == expected
    assert outcome.parts["0:startend:quotation"] == 0.5


def test_the_loose_variants_are_the_eight_of_the_paper_less_those_that_say_nothing():
    assert list_variants("a\n*b*\nc") == ["*b*\nc", "a\n*b*", "*b*", "a\nb\nc", "b\nc", "a\nb", "b"]
    assert list_variants("one line") == []


def test_accuracies_divide_instructions_by_instructions_and_not_by_prompts():
    """One prompt follows 2 of 2, another 0 of 1: by prompt 1/2, by instruction 2/3."""
    scorer = InstructionFollowing()
    outcomes = scorer.score([build_item("three plain words", TWO), build_item("no marks", QUOTED)])
    assert compute_accuracies(outcomes) == pytest.approx(
        {"prompt_strict": 1 / 2, "prompt_loose": 1 / 2, "instruction_strict": 2 / 3, "instruction_loose": 2 / 3}
    )


@pytest.mark.parametrize("text", ["", " \n", "...", "?!", "\u200b\u200b", "***"])
def test_a_reply_without_a_letter_follows_nothing_and_its_instructions_still_count(text):
    columns = {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
    outcome = score_one(InstructionFollowing(), text, columns)
    assert (outcome.status, outcome.value, outcome.fault) == ("unparsed", 0.0, "policy")
    assert (outcome.parts["instructions"], outcome.parts["followed_loose"]) == (1.0, 0.0)


@pytest.mark.parametrize("change", [str, str.upper, lambda text: f'"{text}"', lambda text: text.replace(" ", "  ")])
def test_the_prompt_again_is_no_answer_to_it(change):
    outcome = score_one(InstructionFollowing(), change(TWO["prompt"]), TWO)
    assert (outcome.status, outcome.value, outcome.fault) == ("unparsed", 0.0, "policy")


def test_a_truncated_reply_follows_nothing_even_where_it_would():
    outcome = score_one(InstructionFollowing(), "three plain words", TWO, finish_reason="length")
    assert (outcome.status, outcome.value, outcome.parts["followed_strict"]) == ("truncated", 0.0, 0.0)


def test_a_cancelled_reply_is_the_harnesses_failure_and_counts_nowhere():
    outcome = score_one(InstructionFollowing(), "x", TWO, finish_reason="cancelled")
    assert outcome.fault == "harness"
    with pytest.raises(ValueError, match="no outcome counts"):
        compute_accuracies([outcome])


def test_the_reasoning_is_taken_off_where_the_setting_says_so_and_judged_where_not():
    text = "<think>well, yes</think>three plain words"
    assert score_one(InstructionFollowing(), text, TWO).value == 0.0
    assert score_one(InstructionFollowing(reasoning=ReasoningBlock("think")), text, TWO).value == 1.0


@pytest.mark.parametrize("text", ["<think>on and on", "a</think>b", "<think>a</think>b<think>c</think>"])
def test_reasoning_that_does_not_end_once_is_unparsed(text):
    outcome = score_one(InstructionFollowing(reasoning=ReasoningBlock("think")), text, TWO)
    assert (outcome.status, outcome.fault, outcome.parts["instructions"]) == ("unparsed", "policy", 2.0)


def test_an_unknown_instruction_is_an_error_of_the_data_that_names_it():
    with pytest.raises(DataError, match="'count:keywords_multiple'") as caught:
        score_one(
            InstructionFollowing(), "x", {"instruction_id_list": ["count:keywords_multiple"], "kwargs": [{}], "key": 3}
        )
    assert caught.value.place == "row-1 (key 3)"


@pytest.mark.parametrize(
    "columns",
    [
        {},
        {"instruction_id_list": [], "kwargs": []},
        {"instruction_id_list": ["punctuation:no_comma"]},
        {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}, {}]},
        {"instruction_id_list": ["punctuation:no_comma"], "kwargs": ["{}"]},
        {"instruction_id_list": "punctuation:no_comma", "kwargs": [{}]},
    ],
)
def test_columns_that_are_missing_or_do_not_fit_are_an_error_of_the_data(columns):
    with pytest.raises(DataError, match="instruction_id_list"):
        score_one(InstructionFollowing(), "", columns)


def test_an_unknown_setting_is_refused():
    with pytest.raises(ValueError, match="prompt_strict"):
        InstructionFollowing(value="strict")


def test_outcomes_are_the_same_from_a_thread_a_forked_process_and_an_event_loop():
    columns = {"instruction_id_list": ["language:response_language"], "kwargs": [{"language": "de"}]}
    texts = ["Guten Morgen, wie geht es Ihnen heute?", "Good morning everyone", "hola amigos"]
    items = [build_item(text, columns) for text in texts] + [build_item("three plain words", TWO)]
    first, *others = score_everywhere(InstructionFollowing(), items)
    assert [outcome.value for outcome in first] == [1.0, 0.0, 0.0, 1.0]
    assert others == [first] * 3


@pytest.mark.real_data
def test_all_prompts_of_ifeval_can_be_judged(real_data):
    from posttrain.core.records import Problem

    rows = [json.loads(line) for line in (real_data / "ifeval" / "ifeval_input_data.jsonl").open(encoding="utf-8")]
    instructions = [read_instructions(Problem(str(row["key"]), [], row)) for row in rows]
    assert (len(rows), sum(map(len, instructions))) == (541, 834)
    assert len({x.instruction_id for one in instructions for x in one}) == 25
