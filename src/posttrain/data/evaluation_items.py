"""What a check for contamination compares: an evaluation item's question, answers and keys, a training row's texts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from posttrain.core.errors import DataError
from posttrain.core.records import Example, Message, Problem

ANSWER_COLUMNS = ("answer", "ground_truth")
"""Columns that hold an item's right answer, the first that is there; a text, a number, or a list of such."""

KEY_COLUMN = "content_keys"
"""Column of texts whose appearance in training data is contamination by itself: canaries, names, rare values."""

LEAK_QUESTION, LEAK_ANSWERS = "leak_question", "leak_answers"
"""Columns that hold the bare question, and its right answers, of a row whose prompt says more (headings, options,
solved examples, what form is asked for) or whose answer is a letter. They are searched for in place of both, and are
no part of what is asked: no prompt shows them and no task's hash counts them."""


@dataclass(frozen=True, slots=True)
class EvaluationItem:
    """What of one evaluation item must not occur in training data.

    Made by `read_item`, read by `decontamination.ContaminationIndex`. The question is what the user says, in all turns
    with the assistant's between them; system messages are instructions and are left out.

    Example: `{"prompt": "2 + 2?", "answer": 4}` becomes `question="2 + 2?"`, `answers=("4",)`, `keys=()`.
    """

    item_id: str
    question: str
    answers: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TrainingText:
    """All that a model reads of one training row, as texts of which none continues another.

    Made by `read_training_text`, read by `decontamination.py`. Turns that follow one another are one text, so that an
    answer is found right behind its question; a prompt stands before both of its answers, chosen and rejected.

    Example: `prompt "2 + 2?", chosen "4", rejected "5"` gives the texts `2 + 2?\\n4` and `2 + 2?\\n5`, and the one that
    is asked, `2 + 2?`.

    `asks` are the user's messages, each by itself.
    """

    row_id: str
    texts: tuple[str, ...]
    asks: tuple[str, ...] = ()


def read_item(row: Example | Problem) -> EvaluationItem:
    """Return what of an evaluation row must not occur in training data.

    The answer is the column of `ANSWER_COLUMNS`, else the assistant's message that the row ends with; of a
    preference, the chosen answer. A document (`text`) is a question without an answer. The columns `leak_question` and
    `leak_answers` stand in the place of what they name.

    Raises:
        DataError: `content_keys` or `leak_answers` is no list of texts, or `leak_question` no text.
    """
    if isinstance(row, Problem):
        item_id, messages, last = row.problem_id, list(row.messages), None
    else:
        item_id, messages = row.row_id, list(row.messages)
        last = _read_content(row.chosen[-1]) if row.chosen else None
    while messages and messages[-1]["role"] == "assistant":
        content = _read_content(messages.pop())
        last = content if last is None else last
    question = "\n".join(_read_content(message) for message in messages if message["role"] != "system")
    if isinstance(row, Example) and row.kind == "text":
        question = row.text
    bare = row.columns.get(LEAK_QUESTION)
    if bare is not None and (not isinstance(bare, str) or not bare.strip()):
        raise _refuse(LEAK_QUESTION, bare, "the bare question, a text", item_id)
    answers = _read_texts(row.columns, LEAK_ANSWERS, item_id)
    if row.columns.get(LEAK_ANSWERS) is None:
        answers = tuple(_read_answers(row.columns) or ([last] if last else []))
    keys = _read_texts(row.columns, KEY_COLUMN, item_id)
    return EvaluationItem(item_id, question if bare is None else bare, answers, keys)


def read_training_text(row: Example) -> TrainingText:
    """Return all texts of a training row: every message of every column of messages, or the document.

    Thinking and the arguments of tool calls are texts of their own. A row with a prompt alone is trained on by
    comparing with its answer, which therefore follows the prompt. Tools' schemas and other columns are not read.
    """
    if row.kind == "text":
        return TrainingText(row.row_id, (row.text,))
    answers = [row.chosen, row.rejected] if row.chosen or row.rejected else [[]]
    threads = [[_read_content(message) for message in [*row.messages, *answer]] for answer in answers]
    if row.kind == "prompt":
        threads = [threads[0] + _read_answers(row.columns)]
    apart: list[str] = []
    for message in (*row.messages, *row.chosen, *row.rejected):
        apart += [message["reasoning_content"]] if message.get("reasoning_content") else []
        apart += [_join_values(call["function"].get("arguments")) for call in message.get("tool_calls") or ()]
    asks = (_read_content(message) for message in row.messages if message["role"] == "user")
    return TrainingText(row.row_id, (*("\n".join(thread) for thread in threads), *apart), tuple(asks))


def _read_content(message: Message) -> str:
    content = message.get("content")
    return content if isinstance(content, str) else ""


def _read_answers(columns: dict[str, Any]) -> list[str]:
    for name in ANSWER_COLUMNS:
        value = columns.get(name)
        if value is not None:
            values = value if isinstance(value, list | tuple) else [value]
            return [str(part) for part in values if isinstance(part, str | int | float)]
    return []


def _read_texts(columns: dict[str, Any], name: str, item_id: str) -> tuple[str, ...]:
    value = columns.get(name)
    if value is None:
        return ()
    if not isinstance(value, list | tuple) or not all(isinstance(key, str) and key.strip() for key in value):
        raise _refuse(name, value, 'a list of texts: ["Elmridge Canal"]', item_id)
    return tuple(value)


def _refuse(name: str, value: Any, expected: str, item_id: str) -> DataError:
    return DataError(
        f"'{name}' is {json.dumps(value, default=str)[:80]}",
        expected=expected,
        cure="correct the row, or leave the column out",
        place=item_id,
    )


def _join_values(value: Any) -> str:
    """Return the texts and figures inside a JSON-like value, in order; nesting is bounded when rows are read."""
    if isinstance(value, dict):
        return "\n".join(_join_values(part) for pair in value.items() for part in pair)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "\n".join(map(_join_values, value))
    return "" if value is None else str(value)
