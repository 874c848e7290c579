"""Published preference and judge sets: hh-rlhf, PandaLM, FineGrainedRLHF, LLMBar, HHH, PRMBench, labelled messages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from posttrain.core.errors import DataError
from posttrain.core.records import Example
from posttrain.data.examples import load_examples
from posttrain.data.ledger import Ledger
from posttrain.data.rows import LeftOutError, RowError
from posttrain.data.schemas import read_example
from posttrain.data.sources import DataSource
from tests.data.files import say, write_lines

PANDALM = {
    "instruction": "Add.", "input": "2 and 2", "response1": "5", "response2": "4",
    "annotator1": 2, "annotator2": 0, "annotator3": 2, "idx": 7,
}  # fmt: skip
QUESTION = {
    "question": "Where?",
    "passages": [["Elm", "Elm\n\nElm is a town.", "It lies in the north."], ["Oak", "Oak is south."]],
    "prediction 1": "In the north.", "prediction 2": "In the south.", "prediction 3": "North.",
    "prediction 4": "Nowhere.",
    "preference": [1, 0, 1, 2, 1, 1],
    "gold": "North",
}  # fmt: skip
SOLUTION = {
    "modified_question": "2 + 2 + 1?", "modified_process": ["2 + 2 = 4", "4 + 1 = 6", "So 6"], "error_steps": [2, 3],
    "classification": "counterfactual",
}  # fmt: skip

LABELLED = {
    "labeler": "a", "timestamp": "2022", "generation": 1,
    "question": {"problem": "2 + 2 + 1?", "ground_truth_answer": "5"},
    "label": {"finish_reason": "solution", "steps": [
        {"completions": [{"text": "2 + 2 = 4", "rating": 1}], "human_completion": None, "chosen_completion": 0},
        {"completions": [{"text": "4 + 1 = 6", "rating": -1}, {"text": "4 + 1 is", "rating": None}],
         "human_completion": {"text": "4 + 1 = 5", "rating": None}, "chosen_completion": None},
        {"completions": [{"text": "Hm.", "rating": 0}, {"text": "So 5\n\n# Answer\n\n5", "rating": 1}],
         "human_completion": None, "chosen_completion": 1},
    ]},
}  # fmt: skip
AUTOJ = {"scenario": "sums", "prompt": "2+2?", "response 1": "5", "response 2": "4", "label": 1}


def read(values: dict[str, Any], format: Any = "auto") -> Example:
    return read_example(values, DataSource(source="x.jsonl", format=format), "x.jsonl:1")


def judge(instruction: str, response: str) -> str:
    return (
        f"###Task Description:\nAssess.\n\n###The instruction to evaluate:\n{instruction}\n\n"
        f"###Response to evaluate:\n{response}\n\n###Score Rubrics:\n[Is it good?]\n\n###Feedback: "
    )


def load(tmp_path: Path, *rows: dict[str, Any], **settings: Any) -> tuple[list[Example], Ledger]:
    write_lines(tmp_path / "x.jsonl", rows)
    return load_examples([DataSource(source="x.jsonl", **settings)], root=tmp_path)


def describe_drops(ledger: Ledger) -> dict[str, tuple[str, int]]:
    return {reason: (entry.kind, entry.rows) for reason, entry in ledger.dropped.items()}


def test_two_transcripts_are_the_prompt_they_share_and_the_last_answer_of_each() -> None:
    common = "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: 2+2?\n\nAssistant:"
    example = read({"chosen": f"{common} 4", "rejected": f"{common} 5\n\nor 6"})
    assert example.kind == "preference"
    assert example.messages == [say("user", "Hi"), say("assistant", "Hello."), say("user", "2+2?")]
    assert (example.chosen, example.rejected) == ([say("assistant", "4")], [say("assistant", "5\n\nor 6")])


def test_turns_of_one_speaker_in_a_row_are_one_and_an_inline_name_is_text() -> None:
    begin = "\n\nHuman: Hi\n\nAssistant:"
    example = read({"chosen": f"{begin} A  Human: B\n\nAssistant: C", "rejected": f"{begin} D"})
    assert example.chosen == [say("assistant", "A  Human: B\n\nC")]
    assert example.messages == [say("user", "Hi")]


def test_an_empty_last_answer_of_a_transcript_stays_an_empty_completion() -> None:
    example = read({"chosen": "\n\nHuman: Hi\n\nAssistant:", "rejected": "\n\nHuman: Hi\n\nAssistant: Yo"})
    assert example.chosen == [say("assistant", "")]


def test_texts_that_only_one_side_begins_like_a_transcript_are_no_transcripts() -> None:
    example = read({"chosen": "What is it? Human.", "rejected": "What is it? A dog."})
    assert (example.messages, example.chosen) == ([say("user", "What is it?")], [say("assistant", " Human.")])


def test_the_majority_of_annotators_decides_and_the_input_follows_the_instruction() -> None:
    example = read(PANDALM)
    assert example.messages == [say("user", "Add.\n\n2 and 2")]
    assert (example.chosen, example.rejected) == ([say("assistant", "4")], [say("assistant", "5")])
    assert example.columns == {"annotator1": 2, "annotator2": 0, "annotator3": 2, "idx": 7}
    other = read({**PANDALM, "annotator1": 1, "annotator2": 1, "input": ""})
    assert (other.chosen, other.messages) == ([say("assistant", "5")], [say("user", "Add.")])


def test_six_comparisons_of_four_predictions_are_six_rows_in_the_published_order(tmp_path: Path) -> None:
    """1-2: 1. 1-3: none. 1-4: 1. 2-3: 2, so 3 over 2. 2-4: 2 over 4. 3-4: 3 over 4."""
    examples, ledger = load(tmp_path, QUESTION, {"prompt": "2+2?", "chosen": "4", "rejected": "5"})
    assert [example.columns.get("pair") for example in examples] == [
        "1 over 2", "1 over 4", "3 over 2", "2 over 4", "3 over 4", None,
    ]  # fmt: skip
    assert examples[2].row_id == "x.jsonl:1#4"
    assert (examples[2].chosen, examples[2].rejected) == (
        [say("assistant", "North.")],
        [say("assistant", "In the south.")],
    )
    prompt = "Elm\nElm is a town. It lies in the north.\n\nOak\nOak is south.\n\nWhere?"
    assert examples[0].messages == [say("user", prompt)]
    assert (examples[0].columns["cluster_id"], examples[0].columns["gold"]) == ("Where?", "North")
    assert (ledger.rows_in, ledger.rows_trained, describe_drops(ledger)) == (7, 6, {"tie": ("left_out", 1)})


def test_a_range_of_a_set_with_several_rows_in_one_counts_pairs(tmp_path: Path) -> None:
    examples, ledger = load(tmp_path, QUESTION, format="finegrained_qa", skip=3, rows=2)
    assert [example.row_id for example in examples] == ["x.jsonl:1#4", "x.jsonl:1#5"]
    assert ledger.rows_in == 2


def test_a_judges_test_item_is_the_pair_that_its_label_says() -> None:
    row = {"input": "2+2?", "output_1": "5", "output_2": "4", "label": 2}
    example = read(row)
    assert (example.chosen, example.rejected) == ([say("assistant", "4")], [say("assistant", "5")])
    assert read({**row, "label": 1}).chosen == [say("assistant", "5")]
    assert (example.messages, example.columns) == ([say("user", "2+2?")], {})


def test_a_judges_prompt_is_taken_off_and_an_instruction_of_several_turns_becomes_messages() -> None:
    asked = "2+2?\n\nAssistant: What base?\n\nHuman: Ten"
    row = {"chosen_instruction": judge(asked, "4"), "rejected_instruction": judge(asked, "11"), "source": "helpful"}
    example = read(row)
    assert example.messages == [say("user", "2+2?"), say("assistant", "What base?"), say("user", "Ten")]
    assert (example.chosen, example.rejected) == ([say("assistant", "4")], [say("assistant", "11")])
    assert example.columns == {"source": "helpful"}


def test_error_steps_are_counted_from_1() -> None:
    example = read(SOLUTION)
    assert (example.kind, example.labels) == ("stepwise", [True, False, False])
    assert [message["content"] for message in example.messages] == ["2 + 2 + 1?", "2 + 2 = 4", "4 + 1 = 6", "So 6"]
    assert example.columns == {"classification": "counterfactual"}
    assert read({**SOLUTION, "error_steps": []}).labels == [True] * 3


def test_a_labelled_conversation_is_about_its_last_answer() -> None:
    messages = [say("user", "2+2?"), say("assistant", "?"), say("user", "2+2!"), say("assistant", "5")]
    example = read({"messages": messages, "label": False})
    assert (example.kind, example.label, example.first_trained) == ("unpaired", False, 3)
    assert example.messages == messages
    other = read({"messages": messages, "label": "spam"})  # a column for scorers
    assert (other.kind, other.columns) == ("messages", {"label": "spam"})
    assert read({"messages": messages, "label": True}, "trl").kind == "messages"


def test_a_labelled_solution_is_its_chosen_steps_and_a_row_for_each_other_rated_completion(tmp_path: Path) -> None:
    """The second step's chosen completion is a labeller's own; the one that nobody rated is in no row."""
    examples, ledger = load(tmp_path, LABELLED)
    rows = {
        example.row_id: (
            [message["content"] for message in example.messages[example.first_trained :]],
            list(example.labels),
        )
        for example in examples
    }
    assert rows == {
        "x.jsonl:1#1": (["2 + 2 = 4", "4 + 1 = 5", "So 5\n# Answer\n5"], [True, True, True]),
        "x.jsonl:1#2": (["2 + 2 = 4", "4 + 1 = 6"], [True, False]),
        "x.jsonl:1#3": (["2 + 2 = 4", "4 + 1 = 5", "Hm."], [True, True, True]),
    }
    assert (ledger.rows_in, ledger.rows_trained, describe_drops(ledger)) == (3, 3, {})
    assert {example.kind for example in examples} == {"stepwise"}
    assert {example.columns["cluster_id"] for example in examples} == {"2 + 2 + 1?"}
    assert examples[0].messages[0] == say("user", "2 + 2 + 1?")
    assert examples[0].columns["ground_truth"] == "5"


def test_a_labelled_solution_ends_where_no_step_was_chosen(tmp_path: Path) -> None:
    (first, second, _) = LABELLED["label"]["steps"]
    given_up = {"completions": second["completions"], "human_completion": None, "chosen_completion": None}
    examples, _ = load(tmp_path, {**LABELLED, "label": {"steps": [first, given_up, first]}}, format="prm800k")
    assert [list(example.labels) for example in examples] == [[True], [True, False]]
    nothing = {"completions": None, "human_completion": None, "chosen_completion": None}
    whole = {"prompt": "2+2?", "chosen": "4", "rejected": "5"}
    examples, ledger = load(tmp_path, {**LABELLED, "label": {"steps": [nothing]}}, whole)
    assert (len(examples), describe_drops(ledger)) == (1, {"no rated step": ("left_out", 1)})


def test_a_comparison_of_two_responses_is_the_pair_that_its_label_says() -> None:
    example = read(AUTOJ)
    assert (example.chosen, example.rejected) == ([say("assistant", "4")], [say("assistant", "5")])
    assert (example.kind, example.columns) == ("preference", {"scenario": "sums"})
    assert read({**AUTOJ, "label": 0}).chosen == [say("assistant", "5")]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({**AUTOJ, "label": 2}, "tie"),
        ({**AUTOJ, "response 1": "4"}, "same answers"),
        ({**PANDALM, "annotator1": 0}, "tie"),
        ({**PANDALM, "annotator1": 1}, "no majority"),
        ({**PANDALM, "response2": True}, "no text"),
        ({**PANDALM, "response2": "5"}, "same answers"),
        ({"input": "2+2?", "output_1": "4", "output_2": "4", "label": 2}, "same answers"),
        ({"chosen_instruction": judge("2+2?", "4"), "rejected_instruction": judge("2+2?", "4")}, "same answers"),
        ({"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: c\n\nAssistant: b"},
         "earlier turns differ"),
        ({**SOLUTION, "error_steps": [2, 4]}, "no such step"),
        ({**SOLUTION, "error_steps": [0]}, "no such step"),
    ],
)  # fmt: skip
def test_what_a_form_leaves_out_is_counted_and_stops_nothing(
    values: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(LeftOutError) as caught:
        read(values)
    assert caught.value.reason == reason
    whole = {"prompt": "2+2?", "chosen": "4", "rejected": "5"}
    examples, ledger = load(tmp_path, values, whole)
    assert (len(examples), ledger.rows_in, ledger.rows_bad) == (1, 2, 0)
    assert describe_drops(ledger) == {reason: ("left_out", 1)}


@pytest.mark.parametrize(
    ("values", "format", "reason"),
    [
        ({"chosen": "\n\nHuman: a", "rejected": "\n\nHuman: a"}, "auto", "wrong transcript"),
        ({"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "b"}, "hh", "wrong transcript"),
        ({"chosen": "\n\nAssistant: b", "rejected": "\n\nAssistant: c"}, "hh", "wrong transcript"),
        ({"chosen": "x\n\nHuman: a\n\nAssistant: b", "rejected": ""}, "hh", "wrong transcript"),
        ({"chosen": ["a"], "rejected": "b"}, "hh", "wrong type"),
        ({"rejected": "b"}, "hh", "missing column"),
        ({**PANDALM, "annotator3": 3}, "auto", "wrong label"),
        ({**PANDALM, "annotator3": True}, "auto", "wrong label"),
        ({**PANDALM, "annotator3": None}, "auto", "wrong label"),
        ({**PANDALM, "annotator3": [1]}, "auto", "wrong label"),
        ({**PANDALM, "instruction": 7}, "auto", "wrong type"),
        ({**PANDALM, "input": 7}, "auto", "wrong type"),
        ({"input": "a", "output_1": "b", "output_2": "c", "label": 0}, "auto", "wrong label"),
        ({"input": "a", "output_1": "b", "output_2": "c", "label": True}, "auto", "wrong label"),
        ({"input": "a", "output_1": 4, "output_2": "c", "label": 1}, "auto", "wrong type"),
        ({"chosen_instruction": "2+2?", "rejected_instruction": judge("2+2?", "4")}, "auto", "wrong form"),
        ({"chosen_instruction": judge("2+2?", "4"), "rejected_instruction": judge("2+3?", "5")}, "auto",
         "no shared prompt"),
        ({**AUTOJ, "label": 3}, "auto", "wrong label"),
        ({**AUTOJ, "label": True}, "auto", "wrong label"),
        ({**AUTOJ, "response 2": 4}, "auto", "wrong type"),
        ({**SOLUTION, "error_steps": ["2"]}, "auto", "wrong type"),
        ({**SOLUTION, "error_steps": [True]}, "auto", "wrong type"),
        ({**SOLUTION, "modified_process": "2 + 2"}, "auto", "wrong type"),
        ({**SOLUTION, "modified_process": [], "error_steps": []}, "auto", "wrong type"),
        ({"messages": [say("user", "2+2?")], "label": True}, "auto", "ends without an answer"),
        ({"messages": [say("assistant", "4")], "label": True}, "auto", "ends without an answer"),
        ({"messages": ["4", "5"], "label": True}, "auto", "ends without an answer"),
    ],
)  # fmt: skip
def test_a_row_that_is_not_of_its_form_is_refused_by_name(values: dict[str, Any], format: str, reason: str) -> None:
    with pytest.raises(RowError) as caught:
        read(values, format)
    assert (caught.value.reason, caught.value.kind) == (reason, "bad")


def label(step: dict[str, Any]) -> dict[str, Any]:
    """PRM800K's row with one step, changed."""
    return {**LABELLED, "label": {"steps": [{**LABELLED["label"]["steps"][0], **step}]}}


@pytest.mark.parametrize(
    "values",
    [
        {**LABELLED, "label": "good"},
        {**LABELLED, "label": {"steps": ["2 + 2 = 4"]}},
        {**LABELLED, "question": {"problem": 4}},
        label({"chosen_completion": 1}),
        label({"chosen_completion": True}),
        label({"completions": [{"text": "4", "rating": 2}]}),
        label({"completions": [{"text": 4, "rating": 1}]}),
        label({"completions": ["4"]}),
    ],
)
def test_a_labelled_solution_that_is_not_of_its_form_is_one_bad_row(values: dict[str, Any], tmp_path: Path) -> None:
    whole = {"prompt": "2+2?", "chosen": "4", "rejected": "5"}
    examples, ledger = load(tmp_path, values, whole, max_bad_fraction=0.5)
    assert (len(examples), ledger.rows_in, ledger.rows_bad) == (1, 2, 1)


@pytest.mark.parametrize(
    "values",
    [
        {**QUESTION, "preference": [1, 0, 1]},
        {**QUESTION, "preference": [1, 0, 1, 2, 1, 3]},
        {**QUESTION, "preference": "100000"},
        {**QUESTION, "prediction 2": None},
        {**QUESTION, "passages": ["Elm"]},
        {**QUESTION, "passages": [[]]},
    ],
)
def test_a_row_of_several_that_is_not_of_its_form_is_one_bad_row(values: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(DataError):
        load(tmp_path, values, format="finegrained_qa")
    whole = {"prompt": "2+2?", "chosen": "4", "rejected": "5"}
    examples, ledger = load(tmp_path, values, whole, max_bad_fraction=0.5)
    assert (len(examples), ledger.rows_in, ledger.rows_bad) == (1, 2, 1)
