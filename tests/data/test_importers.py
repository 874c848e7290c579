"""Rows of other projects: Alpaca, ShareGPT, verl, open-instruct, Schema-Guided Dialogue."""

from __future__ import annotations

import json
from typing import Any

import pytest

from posttrain.core.records import Example
from posttrain.data.rows import RowError
from posttrain.data.schemas import read_example
from posttrain.data.sources import DataSource
from tests.data.files import say


def read(values: dict[str, Any], format: Any = "auto") -> Example:
    return read_example(values, DataSource(source="x.jsonl", format=format), "x.jsonl:1")


def turn(speaker: str, value: Any) -> dict[str, Any]:
    return {"from": speaker, "value": value}


def call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def test_alpaca_puts_the_input_after_the_instruction_and_trains_the_output() -> None:
    example = read({"instruction": "Add.", "input": "2 and 2", "output": "4", "source": "me"})
    assert example.messages == [say("user", "Add.\n\n2 and 2"), say("assistant", "4")]
    assert (example.first_trained, example.columns) == (1, {"source": "me"})
    assert read({"instruction": "Add 2 and 2.", "input": "", "response": "4"}).messages[0]["content"] == "Add 2 and 2."


def test_alpaca_history_and_system_come_before_the_instruction_and_are_not_trained() -> None:
    row = {"instruction": "And 3?", "output": "5", "system": "Be brief.", "history": [["2+2?", "4"]]}
    example = read(row)
    assert [message["role"] for message in example.messages] == ["system", "user", "assistant", "user", "assistant"]
    assert example.first_trained == 4


def test_sharegpt_turns_become_messages() -> None:
    row = {"conversations": [turn("human", "2+2?"), turn("gpt", "4")], "system": "Be brief.", "id": "a"}
    example = read(row)
    assert example.messages == [say("system", "Be brief."), say("user", "2+2?"), say("assistant", "4")]
    assert (example.kind, example.first_trained, example.columns) == ("messages", 0, {"id": "a"})


def test_sharegpt_function_calls_and_observations_become_tool_calls_and_replies() -> None:
    tools = [{"name": "add", "description": "", "parameters": {}}]
    conversation = [
        turn("human", "2+2 and 3+3?"),
        turn("function_call", json.dumps([{"name": "add", "arguments": {"a": 2}}, {"name": "sum", "arguments": {}}])),
        turn("observation", "4"),
        turn("observation", "6"),
        turn("gpt", "4 and 6"),
    ]
    example = read({"conversations": conversation, "tools": json.dumps(tools)})
    assert example.messages[1] == say("assistant", None, tool_calls=[call("add", a=2), call("sum")])
    assert example.messages[2:4] == [say("tool", "4", name="add"), say("tool", "6", name="sum")]
    assert example.tools == [{"type": "function", "function": tools[0]}]


def test_sharegpt_words_before_a_call_share_its_message() -> None:
    conversation = [
        turn("human", "2+2?"),
        turn("gpt", "Let me see."),
        turn("function_call", '{"name": "add", "arguments": {}}'),
        turn("observation", "4"),
        turn("gpt", "4"),
    ]
    messages = read({"conversations": conversation}).messages
    assert messages[1] == say("assistant", "Let me see.", tool_calls=[call("add")])


def test_sharegpt_preferences_and_labels_are_understood() -> None:
    prompt = [turn("human", "2+2?")]
    pair = read({"conversations": prompt, "chosen": turn("gpt", "4"), "rejected": turn("gpt", "5")})
    assert (pair.kind, pair.chosen, pair.rejected) == ("preference", [say("assistant", "4")], [say("assistant", "5")])
    labelled = read({"conversations": [*prompt, turn("gpt", "5")], "label": False})
    assert (labelled.kind, labelled.label, labelled.first_trained) == ("unpaired", False, 1)


def test_verl_rows_are_prompts_with_their_ground_truth() -> None:
    row = {
        "data_source": "gsm8k",
        "prompt": [say("user", "2+2?")],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": "4"},
        "extra_info": {"index": 0},
    }
    example = read(row)
    assert (example.kind, example.messages) == ("prompt", [say("user", "2+2?")])
    assert (example.columns["ground_truth"], example.columns["data_source"]) == ("4", "gsm8k")


def test_open_instruct_rows_are_prompts_and_an_answer_at_the_end_is_the_completion() -> None:
    row = {"messages": [say("user", "2+2?")], "ground_truth": "4", "dataset": "gsm8k"}
    example = read(row)
    assert (example.kind, example.columns) == ("prompt", {"ground_truth": "4", "dataset": "gsm8k"})
    answered = read({**row, "messages": [say("user", "2+2?"), say("assistant", "4")]})
    assert (answered.kind, answered.first_trained) == ("messages", 1)


def test_a_schema_guided_dialogue_calls_its_service_before_the_utterance() -> None:
    frames = [{"service": "Media", "service_call": {"method": "Find", "parameters": {"genre": "Comedy"}},
               "service_results": [{"title": "Family"}]}]  # fmt: skip
    row = {
        "dialogue_id": "1",
        "services": ["Media"],
        "turns": [
            {"speaker": "USER", "utterance": "A film?", "frames": [{"service": "Media"}]},
            {"speaker": "SYSTEM", "utterance": "Family.", "frames": frames},
        ],
    }
    example = read(row)
    assert example.messages == [
        say("user", "A film?"),
        say("assistant", None, tool_calls=[call("Find", genre="Comedy")]),
        say("tool", '[{"title": "Family"}]', name="Find"),
        say("assistant", "Family."),
    ]
    assert example.columns == {"dialogue_id": "1", "services": ["Media"]}
    assert read(row, "sgd") == example


@pytest.mark.parametrize(
    ("values", "format", "reason"),
    [
        ({"instruction": "Add.", "output": 4}, "alpaca", "wrong type"),
        ({"instruction": 4, "output": "4"}, "auto", "wrong type"),
        ({"instruction": "Add.", "output": "4", "history": ["2+2?"]}, "auto", "wrong type"),
        ({"text": "2+2?"}, "alpaca", "missing column"),
        ({"conversations": "2+2?"}, "auto", "wrong type"),
        ({"conversations": []}, "auto", "empty messages"),
        ({"conversations": ["2+2?"]}, "auto", "wrong type"),
        ({"conversations": [turn("narrator", "2+2?")]}, "auto", "unknown role"),
        ({"conversations": [turn("human", "2+2?"), turn("function_call", "{")]}, "auto", "wrong type"),
        ({"conversations": [turn("human", "2+2?"), turn("function_call", "7")]}, "auto", "wrong type"),
        ({"conversations": [turn("human", "2+2?"), turn("observation", "4"), turn("gpt", "4")]}, "auto",
         "tool reply without a call"),
        ({"data_source": "x", "prompt": [say("user", "2")], "reward_model": {"style": "rule"}}, "auto",
         "missing column"),
        ({"data_source": "x", "prompt": "2+2?", "reward_model": {"ground_truth": "4"}}, "auto", "wrong type"),
        ({"ground_truth": "4", "dataset": "x"}, "open_instruct", "missing column"),
        ({"turns": [{"speaker": "GOD", "utterance": "Hi"}]}, "sgd", "unknown role"),
        ({"turns": [{"speaker": "USER", "utterance": None}]}, "sgd", "no content"),
        ({"turns": [{"speaker": "USER", "utterance": "a", "frames": [{"service_call": 7}]}]}, "sgd", "wrong type"),
    ],
)  # fmt: skip
def test_a_row_that_is_not_of_its_form_is_refused_by_name(values: dict[str, Any], format: str, reason: str) -> None:
    with pytest.raises(RowError) as caught:
        read(values, format)
    assert caught.value.reason == reason
