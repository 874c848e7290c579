"""Rows of public data sets, through the real renderer with the plain template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from posttrain.chat.rendering import Renderer
from posttrain.core.records import Example
from posttrain.data.examples import load_examples
from posttrain.data.sources import DataSource
from posttrain.data.tokenized import TokenizeSettings, load_token_rows
from posttrain.data.tokenizing import DataPlace
from tests.chat.formats import FORMS, build_renderer, build_tokenizer

pytestmark = pytest.mark.real_data

PLAIN = next(index for index, form in enumerate(FORMS) if form.name == "plain")
SETS: dict[str, tuple[str, dict[str, Any], int]] = {
    "GSM8K": ("math/gsm8k_train.jsonl.gz", {"columns": {"prompt": "question", "completion": "answer"}}, 7473),
    "glaive tool calls": ("instruct/glaive_toolcall_en_demo.json.gz", {}, 300),
    "ToolRL": ("tools/toolrl_rlla_sft.json.gz", {}, 400),
    "GPTeacher code": ("instruct/gpteacher_codegen.json.gz", {}, 4535),
    "GPTeacher roles": ("instruct/gpteacher_roleplay.json.gz", {}, 1923),
    "GPTeacher tools": ("instruct/gpteacher_toolformer_0.7.json.gz", {}, 3487),
    "ShareGPT": ("instruct/dummy_conversation.json", {}, 500),
    "reasoning with tools": ("instruct/reason_tool_use_demo_50.jsonl", {}, 50),
    "Dolly": ("instruct/dolly_hhrlhf_train_small.jsonl.gz", {"columns": {"completion": "response"}}, 1000),
    "schema-guided dialogues": ("sgd-dialogues/train_dialogues_003.json.gz", {}, 128),
    "documents": ("text/tinystories_1000.jsonl.gz", {}, 1000),
}


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return build_renderer(build_tokenizer("bytes", PLAIN), FORMS[PLAIN].template, {})


def read(real_data: Path, name: str) -> list[Example]:
    path, settings, num_rows = SETS[name]
    examples, ledger = load_examples([DataSource(source=path, **settings)], root=real_data)
    assert (ledger.rows_in, ledger.rows_trained, len(examples)) == (num_rows, num_rows, num_rows)
    return examples


@pytest.mark.parametrize("name", SETS)
def test_every_row_of_a_public_set_is_understood(name: str, real_data: Path) -> None:
    for example in read(real_data, name):
        assert example.text or example.messages[-1]["role"] == "assistant"


@pytest.mark.parametrize("name", SETS)
def test_its_first_rows_are_trained_on_exactly(name: str, real_data: Path, renderer: Renderer, tmp_path: Path) -> None:
    path, settings, _num_rows = SETS[name]
    source = DataSource(source=path, rows=40, **settings)
    hashes = TokenizeSettings(renderer_hash=renderer.format.hash, tokenizer_hash="bytes")
    data = load_token_rows([source], renderer, hashes, DataPlace(real_data, tmp_path))
    assert data.ledger.rows_trained == 40 == len(data.rows[0])
    examples, _ = load_examples([source], root=real_data)
    for index, example in enumerate(examples):
        row = data.rows[0].row(index)
        trained = renderer.tokenizer.decode(row.ids_T[row.is_trainable_T].tolist())
        answers = [m for m in example.messages[example.first_trained :] if m["role"] == "assistant"]
        assert trained.count("</s>") == max(1, len(answers))
        for message in answers:
            assert (message["content"] or "") in trained
        assert data.rows[0].row_ids[index] == example.row_id


def test_gsm8k_answers_end_in_their_number(real_data: Path) -> None:
    example = read(real_data, "GSM8K")[0]
    assert example.messages[0]["content"].startswith("Natalia sold clips")
    assert example.messages[1]["content"].endswith("#### 72")
    assert example.first_trained == 1


def test_glaive_calls_are_structured_and_answered_by_name(real_data: Path) -> None:
    examples = read(real_data, "glaive tool calls")
    calls = [call for e in examples for m in e.messages for call in m.get("tool_calls", [])]
    replies = [m for e in examples for m in e.messages if m["role"] == "tool"]
    assert (len(calls), len(replies)) == (211, 211)
    assert all(isinstance(call["function"]["arguments"], dict) for call in calls)
    assert sorted(call["function"]["name"] for call in calls) == sorted(reply["name"] for reply in replies)
    assert all(tool["type"] == "function" for e in examples for tool in e.tools or [])


def test_reasoning_rows_keep_thinking_and_calls_apart_from_the_answer(real_data: Path) -> None:
    messages = [m for e in read(real_data, "reasoning with tools") for m in e.messages if m["role"] == "assistant"]
    assert len(messages) == sum("reasoning_content" in message for message in messages) == 112
    assert sum(len(message.get("tool_calls", [])) for message in messages) == 68


def test_schema_guided_dialogues_call_their_services(real_data: Path) -> None:
    examples = read(real_data, "schema-guided dialogues")
    first = next(e for e in examples if any("tool_calls" in m for m in e.messages))
    index = next(i for i, m in enumerate(first.messages) if "tool_calls" in m)
    assert [m["role"] for m in first.messages[index - 1 : index + 3]] == ["user", "assistant", "tool", "assistant"]
    assert first.messages[index]["tool_calls"][0]["function"]["name"] == first.messages[index + 1]["name"]
    assert {"dialogue_id", "services"} <= set(first.columns)


def test_preferences_of_public_sets_are_pairs(real_data: Path) -> None:
    pairs = {"preference/hh_harmless_base_test.jsonl.gz": 2312, "preference/dpo_en_demo.json.gz": 300}
    for path, num_rows in pairs.items():
        examples, ledger = load_examples([DataSource(source=path)], root=real_data)
        assert ledger.rows_trained == num_rows
        assert all(e.kind == "preference" and e.messages and e.chosen != e.rejected for e in examples)
