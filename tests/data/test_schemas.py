"""TRL's dataset types, standard and conversational, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from posttrain.core.records import Example
from posttrain.data.rows import RowError
from posttrain.data.schemas import read_example
from posttrain.data.sources import DataSource
from tests.data.files import say

USER, ANSWER = say("user", "2+2?"), say("assistant", "4")


def read(values: dict[str, Any], **settings: Any) -> Example:
    return read_example(values, DataSource(source="x.jsonl", **settings), "x.jsonl:1")


def test_language_modelling_text_is_a_document() -> None:
    example = read({"text": "Once upon a time", "year": 1900})
    assert (example.kind, example.text, example.columns) == ("text", "Once upon a time", {"year": 1900})


def test_language_modelling_messages_train_every_answer() -> None:
    example = read({"messages": [say("system", "Be brief."), USER, ANSWER, USER, ANSWER]})
    assert (example.kind, example.first_trained, len(example.messages)) == ("messages", 0, 5)


def test_prompt_only_standard_and_conversational_are_the_same() -> None:
    standard, conversational = read({"prompt": "2+2?", "answer": 4}), read({"prompt": [USER], "answer": 4})
    assert standard == conversational
    assert (standard.kind, standard.messages, standard.columns) == ("prompt", [USER], {"answer": 4})


def test_prompt_completion_standard_and_conversational_are_the_same_and_train_the_completion_only() -> None:
    standard = read({"prompt": "2+2?", "completion": "4"})
    conversational = read({"prompt": [USER], "completion": [ANSWER]})
    assert standard == conversational
    assert (standard.kind, standard.messages, standard.first_trained) == ("messages", [USER, ANSWER], 1)
    later = read({"prompt": [USER, ANSWER, USER], "completion": [ANSWER]})
    assert later.first_trained == 3


def test_preference_standard_and_conversational_are_the_same() -> None:
    standard = read({"prompt": "2+2?", "chosen": "4", "rejected": "5"})
    conversational = read({"prompt": [USER], "chosen": [ANSWER], "rejected": [say("assistant", "5")]})
    assert standard == conversational
    assert (standard.kind, standard.messages) == ("preference", [USER])
    assert (standard.chosen, standard.rejected) == ([ANSWER], [say("assistant", "5")])


def test_a_preference_whose_branches_repeat_the_prompt_is_freed_of_it() -> None:
    example = read({"prompt": "2+2?", "chosen": [USER, ANSWER], "rejected": [USER, say("assistant", "5")]})
    assert (example.messages, example.chosen, example.rejected) == ([USER], [ANSWER], [say("assistant", "5")])


def test_the_prompt_of_an_implicit_preference_is_what_both_branches_begin_with() -> None:
    conversational = read({"chosen": [USER, ANSWER], "rejected": [USER, say("assistant", "5")]})
    assert (conversational.messages, conversational.chosen) == ([USER], [ANSWER])
    standard = read({"chosen": "The sky is blue.", "rejected": "The sky is black."})
    assert standard.messages == [say("user", "The sky is")]
    assert standard.chosen == [say("assistant", " blue.")]
    assert standard.rejected == [say("assistant", " black.")]


def test_an_implicit_preference_that_shares_its_first_answer_keeps_the_prompt_before_it() -> None:
    shared = [USER, ANSWER]
    example = read({"chosen": [*shared, USER, ANSWER], "rejected": [*shared, USER, say("assistant", "5")]})
    assert (example.messages, example.chosen) == ([USER, ANSWER, USER], [ANSWER])


def test_unpaired_preference_standard_and_conversational_are_the_same() -> None:
    standard = read({"prompt": "2+2?", "completion": "5", "label": False})
    conversational = read({"prompt": [USER], "completion": [say("assistant", "5")], "label": False})
    assert standard == conversational
    assert (standard.kind, standard.label, standard.first_trained) == ("unpaired", False, 1)


def test_stepwise_supervision_has_one_message_and_one_label_a_step() -> None:
    example = read({"prompt": "2+2+2?", "completions": ["2+2=4", "4+2=7"], "labels": [True, False]})
    assert (example.kind, example.labels, example.first_trained) == ("stepwise", [True, False], 1)
    assert [message["content"] for message in example.messages] == ["2+2+2?", "2+2=4", "4+2=7"]
    conversational = read(
        {"prompt": [say("user", "2+2+2?")], "completions": ["2+2=4", "4+2=7"], "labels": [True, False]}
    )
    assert conversational == example


def test_tools_travel_as_schemas_whether_bare_wrapped_or_text() -> None:
    bare = {"name": "add", "parameters": {"type": "object"}}
    wrapped = {"type": "function", "function": bare}
    for tools in ([bare], [wrapped], '[{"name": "add", "parameters": {"type": "object"}}]'):
        assert read({"prompt": "2+2?", "tools": tools}).tools == [wrapped]
    for nothing in (None, [], "", "[]"):
        assert read({"prompt": "2+2?", "tools": nothing}).tools is None


def test_tool_calls_and_replies_are_brought_into_one_form() -> None:
    calls = [
        {"type": "function", "function": {"name": "add", "arguments": '{"a": 2}'}},
        {"name": "add", "arguments": {"a": 2}},
        {"function": {"name": "add", "arguments": {"a": 2}}},
    ]
    for call in calls:
        conversation = [USER, say("assistant", None, tool_calls=[call]), say("tool", {"sum": 4}, name="add"), ANSWER]
        messages = read({"messages": conversation}).messages
        assert messages[1]["tool_calls"] == [{"type": "function", "function": {"name": "add", "arguments": {"a": 2}}}]
        assert messages[2] == say("tool", '{"sum": 4}', name="add")


def test_arguments_that_are_not_json_reach_the_template_as_they_are() -> None:
    call = {"name": "run", "arguments": "print(1)"}
    messages = read({"messages": [USER, say("assistant", "", tool_calls=[call]), say("tool", "1"), ANSWER]}).messages
    assert messages[1]["tool_calls"][0]["function"]["arguments"] == "print(1)"


def test_content_parts_of_text_and_reasoning_are_joined_under_either_key() -> None:
    parts = [
        {"type": "reasoning", "value": "2 and 2"},
        {"type": "text", "text": "It is "},
        {"type": "text", "value": "4"},
    ]
    message = read({"messages": [USER, say("assistant", parts)]}).messages[1]
    assert message == {"role": "assistant", "content": "It is 4", "reasoning_content": "2 and 2"}


def test_thinking_is_found_under_each_of_its_names() -> None:
    for key in ("reasoning_content", "reasoning", "thinking"):
        messages = read({"messages": [USER, say("assistant", "4", **{key: "hm"})]}).messages
        assert messages[1] == say("assistant", "4", reasoning_content="hm")


def test_columns_are_renamed_and_the_others_travel() -> None:
    columns = {"prompt": "question", "completion": "answer"}
    example = read({"question": "2+2?", "answer": "4", "level": 1}, columns=columns)
    assert (example.messages, example.columns) == ([USER, ANSWER], {"level": 1})


def test_two_columns_may_be_swapped() -> None:
    columns = {"prompt": "completion", "completion": "prompt"}
    assert read({"prompt": "4", "completion": "2+2?"}, columns=columns).messages == [USER, ANSWER]


def test_messages_win_over_a_prompt_and_preferences_over_messages() -> None:
    assert read({"prompt": "2+2?", "messages": [USER, ANSWER]}).kind == "messages"
    both = {"prompt": "2+2?", "messages": [USER, ANSWER], "chosen": "4", "rejected": "5", "score": 9.0}
    assert read(both).kind == "preference"


def test_empty_answers_and_leading_answers_are_allowed() -> None:
    assert read({"prompt": "2+2?", "completion": ""}).messages[1] == say("assistant", "")
    assert read({"messages": [say("assistant", "Hello!"), USER, ANSWER]}).kind == "messages"


BAD_ROWS: list[tuple[dict[str, Any], str]] = [
    ({"question": "2+2?"}, "unknown columns"),
    ({}, "unknown columns"),
    ({"prompt": None}, "unknown columns"),
    ({"chosen": "4"}, "missing column"),
    ({"completion": "4"}, "missing column"),
    ({"prompt": "2+2?", "completions": ["4"]}, "missing column"),
    ({"prompt": 4}, "wrong type"),
    ({"text": ["4"]}, "wrong type"),
    ({"messages": "2+2?"}, "wrong type"),
    ({"messages": [1]}, "wrong type"),
    ({"messages": [say("user", 4), ANSWER]}, "wrong type"),
    ({"messages": [say("user", [{"type": "image", "url": "x"}]), ANSWER]}, "wrong type"),
    ({"messages": [USER, say("assistant", "", tool_calls=[{"arguments": {}}])]}, "wrong type"),
    ({"messages": [say("user", "2+2?", tool_calls=[{"name": "add"}]), ANSWER]}, "wrong type"),
    ({"messages": []}, "empty messages"),
    ({"messages": [say("narrator", "2+2?"), ANSWER]}, "unknown role"),
    ({"messages": [{"content": "2+2?"}, ANSWER]}, "unknown role"),
    ({"messages": [USER, say("assistant", None)]}, "no content"),
    ({"messages": [say("system", "Be brief.")]}, "no user message"),
    ({"messages": [say("system", "a"), say("system", "b"), USER, ANSWER]}, "misplaced system message"),
    ({"messages": [USER, say("system", "a"), ANSWER]}, "misplaced system message"),
    ({"messages": [USER]}, "ends without an answer"),
    ({"messages": [USER, ANSWER, USER]}, "ends without an answer"),
    ({"messages": [USER, say("tool", "4"), ANSWER]}, "tool reply without a call"),
    ({"messages": [USER, say("assistant", "4", weight=0)]}, "message weight"),
    ({"prompt": [USER, ANSWER]}, "prompt ends with an answer"),
    ({"prompt": [USER], "completion": [USER]}, "wrong completion"),
    ({"prompt": "2+2?", "completion": "4", "label": 1}, "wrong type"),
    ({"prompt": "2+2?", "completions": ["4"], "labels": [1]}, "wrong type"),
    ({"prompt": "2+2?", "completions": ["4"], "labels": []}, "labels do not match"),
    ({"prompt": "2+2?", "chosen": "4", "rejected": "4"}, "no preference"),
    ({"prompt": [USER], "chosen": [say("user", "3+3?"), ANSWER], "rejected": [ANSWER]}, "prompt is no prefix"),
    ({"chosen": "Yes.", "rejected": "No."}, "no shared prompt"),
    ({"chosen": "Yes.", "rejected": [ANSWER]}, "wrong type"),
    ({"prompt": "2+2?", "tools": "{"}, "wrong type"),
    ({"prompt": "2+2?", "tools": [{"parameters": {}}]}, "wrong type"),
]


@pytest.mark.parametrize(("values", "reason"), BAD_ROWS)
def test_a_row_that_means_nothing_is_refused_by_name(values: dict[str, Any], reason: str) -> None:
    with pytest.raises(RowError) as caught:
        read(values)
    assert caught.value.reason == reason
    assert caught.value.detail


def test_an_unknown_role_is_met_with_a_suggestion() -> None:
    with pytest.raises(RowError, match="asistant") as caught:
        read({"messages": [USER, say("asistant", "4")]})
    assert caught.value.cure == "did you mean 'assistant'?"


def test_a_column_that_the_mapping_names_and_the_row_lacks_is_shown_with_those_it_has() -> None:
    with pytest.raises(RowError, match=r"no 'question'.*has: prompt, solution"):
        read({"prompt": "2+2?", "solution": "4"}, columns={"prompt": "question"})
