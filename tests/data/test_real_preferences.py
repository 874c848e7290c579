"""Counts of public preference and judge sets as they are read, beside counts of the published files by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from posttrain.core.records import Example
from posttrain.data.examples import load_examples
from posttrain.data.ledger import Ledger
from posttrain.data.sources import DataSource

pytestmark = pytest.mark.real_data

# file: rows in, and what is left out of them. By hand: PandaLM's annotators agree by two on 0 in 105 rows, and 6 others
# have a response that is the JSON value true; 384 of the 6 x 500 comparisons are 0; one pair of LLMEval2 is twice the
# same text, and one of Auto-J's that is no tie; 100 rows of PRMBench name a step beyond their process; the 6 solutions
# of PRM800K have 6 chains of chosen steps and 31 other rated completions.
SETS: dict[str, tuple[int, dict[str, int]]] = {
    "preference/hh_harmless_base_test.jsonl.gz": (2312, {}),
    "preference/pandalm_testset_v1.json": (999, {"tie": 105, "no text": 6}),
    "preference/finegrained_qa_feedback_dev.json.gz": (3000, {"tie": 384}),
    "preference/dpo_en_demo.json.gz": (300, {}),
    "preference/kto_en_demo.json.gz": (300, {}),
    "judge/llmbar/LLMBar_Natural.json": (100, {}),
    "judge/llmbar/LLMBar_Adversarial_GPTInst.json": (92, {}),
    "judge/llmbar/LLMBar_Adversarial_GPTOut.json": (47, {}),
    "judge/llmbar/LLMBar_Adversarial_Manual.json": (46, {}),
    "judge/llmbar/LLMBar_Adversarial_Neighbor.json": (134, {}),
    "judge/llmbar/Processed_FairEval.json": (66, {}),
    "judge/llmbar/Processed_LLMEval2.json": (200, {"same answers": 1}),
    "judge/llmbar/Processed_MT-Bench.json": (200, {}),
    "judge/hhh_alignment_eval.json": (221, {}),
    "judge/autoj_pairwise.jsonl.gz": (1392, {"tie": 373, "same answers": 1}),
    "prm/prmbench.jsonl.gz": (6216, {"no such step": 100}),
    "prm/prm800k_samples.jsonl": (37, {}),
}


def read(real_data: Path, path: str) -> tuple[list[Example], Ledger]:
    return load_examples([DataSource(source=path)], root=real_data)


@pytest.mark.parametrize("path", SETS)
def test_every_row_of_a_published_set_is_read_or_left_out_for_its_reason(path: str, real_data: Path) -> None:
    num_rows, left_out = SETS[path]
    examples, ledger = read(real_data, path)
    assert {reason: entry.rows for reason, entry in ledger.dropped.items()} == left_out
    assert all(entry.kind == "left_out" for entry in ledger.dropped.values())
    assert ledger.rows_in == num_rows
    assert len(examples) == ledger.rows_trained == num_rows - sum(left_out.values())
    for example in examples:
        if example.kind == "preference":
            assert example.chosen != example.rejected
            assert [message["role"] for message in example.chosen + example.rejected] == ["assistant"] * 2
            assert example.messages[-1]["role"] == "user"


def test_transcripts_are_put_together_again_word_for_word(real_data: Path) -> None:
    """Of 2,312 rows the 2,303 in which speakers take turns; 4 chosen answers are empty."""
    path = "preference/hh_harmless_base_test.jsonl.gz"
    examples, _ = read(real_data, path)
    raw, _ = load_examples([DataSource(source=path, format="trl")], root=real_data)
    names = {"user": "Human", "assistant": "Assistant"}
    same = 0
    for example, row in zip(examples, raw, strict=True):
        written = row.messages[0]["content"] + row.chosen[0]["content"]
        turns = [f"{names[message['role']]}: {message['content']}" for message in example.messages + example.chosen]
        same += "".join(written.split()) == "".join("".join(turns).split())
    assert same >= 2303
    assert sum(not example.chosen[0]["content"] for example in examples) == 4
    assert sum(not example.rejected[0]["content"] for example in examples) == 0


def test_labels_of_steps_and_of_completions_are_the_published_ones(real_data: Path) -> None:
    """PRMBench: 165 solutions, those with several ways, have no error. LLaMA-Factory: as many thumbs up as down."""
    steps, _ = read(real_data, "prm/prmbench.jsonl.gz")
    right = [example for example in steps if all(example.labels)]
    assert len(right) == 165 and {example.columns["classification"] for example in right} == {"multi_solutions"}
    labelled, _ = read(real_data, "preference/kto_en_demo.json.gz")
    assert [sum(example.label is label for example in labelled) for label in (True, False)] == [150, 150]
    assert sum(example.first_trained > 1 for example in labelled) == 77
