"""Reasoning taken off: what remains is what a reader sees, or nothing."""

from __future__ import annotations

import pytest

from posttrain.scorers.reasoning import ANSWER_ONLY, ReasoningBlock, strip_reasoning

STRICT = ReasoningBlock("think")
OPENED = ReasoningBlock("think", is_opened_by_prompt=True)


@pytest.mark.parametrize(
    ("text", "strict", "opened", "answer_only"),
    [
        ("a", "a", None, "a"),
        ("<think>x</think>a", "a", "a", "a"),
        (" \n<think>x</think>\na", "\na", "\na", "\na"),
        ("x</think>a", None, "a", "a"),
        ("<think>x", None, None, None),
        ("a <think>x", None, None, None),
        ("a <think>x</think> b", None, None, None),
        ("<think>x</think>a<think>y</think>b", None, None, None),
        ("<think>x</think>a</think>b", None, None, None),
        ("<think><think>x</think>a", None, None, None),
        ("</think>", None, "", ""),
        ("<Thinking>x</ THINKING >a", "a", "a", "a"),
        ("<thought>x</thought>a", "a", "a", "a"),
        ("<tool>x</tool>a", "<tool>x</tool>a", None, "<tool>x</tool>a"),
    ],
)
def test_one_block_at_the_start_is_taken_off(
    text: str, strict: str | None, opened: str | None, answer_only: str | None
) -> None:
    assert strip_reasoning(text, STRICT) == strict
    assert strip_reasoning(text, OPENED) == opened
    assert strip_reasoning(text, ANSWER_ONLY) == answer_only
    assert strip_reasoning(text, None) == text


def test_another_tag_is_another_block() -> None:
    block = ReasoningBlock("scratch-pad")
    assert strip_reasoning("<scratch-pad>x</scratch-pad>a", block) == "a"
    assert strip_reasoning("<think>x</think>a", block) == "<think>x</think>a"


@pytest.mark.parametrize("tag", ["", "<think>", "a b", "a.*"])
def test_a_tag_is_a_name(tag: str) -> None:
    with pytest.raises(ValueError, match="a reasoning tag is a name"):
        ReasoningBlock(tag)


def test_long_texts_of_tags_cost_their_length() -> None:
    assert strip_reasoning("<think>" * 100_000, STRICT) is None
    for text in ("<" * 1_000_000, "<" + " " * 1_000_000, "< / " * 300_000):
        assert strip_reasoning(text, STRICT) == text
