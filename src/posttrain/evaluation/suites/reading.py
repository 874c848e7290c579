"""What readers of published rows share: cells of the type that they must have, and choices that can be told apart.

A row that is not as published raises KeyError, TypeError or ValueError; who reads the file makes it a bad row.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from typing import Any

from posttrain.core.hashing import hash_text
from posttrain.data.evaluation_items import LEAK_ANSWERS, LEAK_QUESTION

LETTERS = string.ascii_uppercase


def take_text(row: Mapping[str, Any], name: str) -> str:
    """Return a cell that is a text and not blank.

    Raises:
        KeyError: There is none.
        TypeError: It is no text.
        ValueError: It is blank.
    """
    value = row[name]
    if not isinstance(value, str):
        raise TypeError(f"'{name}' is {type(value).__name__}, not a text")
    if not value.strip():
        raise ValueError(f"'{name}' is blank")
    return value


def take_texts(row: Mapping[str, Any], name: str, *, at_least: int = 1) -> list[str]:
    """Return a cell that is a list of texts, none of them blank.

    Raises:
        KeyError: There is none.
        TypeError: It is no list of texts.
        ValueError: It has fewer than `at_least`, or a blank one.
    """
    value = row[name]
    if not isinstance(value, list | tuple) or not all(isinstance(text, str) for text in value):
        raise TypeError(f"'{name}' is {value!r:.80}, not a list of texts")
    if len(value) < at_least or not all(text.strip() for text in value):
        raise ValueError(f"'{name}' has {len(value)} texts, expected {at_least} or more, none of them blank")
    return list(value)


def take_place(row: Mapping[str, Any], name: str, count: int) -> int:
    """Return a cell that is a place from 0 to `count` - 1.

    Raises:
        KeyError: There is none.
        TypeError: It is no whole number.
        ValueError: It is out of range.
    """
    value = take_whole(row, name)
    if not 0 <= value < count:
        raise ValueError(f"'{name}' is {value}, not a place from 0 to {count - 1}")
    return value


def take_whole(row: Mapping[str, Any], name: str) -> int:
    """Return a cell that is a whole number.

    Raises:
        KeyError: There is none.
        TypeError: It is no whole number.
    """
    value = row[name]
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"'{name}' is {value!r:.80}, not a whole number")
    return value


def number_choices(texts: Sequence[str], right: int | Sequence[int]) -> dict[str, Any]:
    """Return the columns `choices` and `answer`: choices with their places as labels, so that no answer is ambiguous.

    A text that stands there twice is one choice: it has one likelihood, and is right where either of the two is.

    Args:
        texts: The choices, at least two of them different.
        right: The place of the right one, or the places of the right ones.

    Raises:
        ValueError: Fewer than two different choices, or none that is wrong.
        IndexError: A place that there is not; `take_place` keeps it from happening.
    """
    places = [right] if isinstance(right, int) else list(right)
    distinct = list(dict.fromkeys(text.strip() for text in texts))
    mapped = sorted({distinct.index(texts[place].strip()) for place in places})
    if len(distinct) < 2 or len(mapped) == len(distinct):
        raise ValueError(f"{len(distinct)} different choices, of which {len(mapped)} are right")
    choices = {"text": distinct, "label": list(range(len(distinct)))}
    return {"choices": choices, "answer": mapped[0] if isinstance(right, int) else mapped}


def mark_leaks(question: str, answers: Sequence[str] | None = None) -> dict[str, Any]:
    """Return the columns that name what must not leak into training data, where the prompt says more than that.

    Args:
        question: The question as published, without what a reader puts around it.
        answers: The texts of its right answers; None: what the column `answer` says.
    """
    columns: dict[str, Any] = {LEAK_QUESTION: question.strip()}
    return columns if answers is None else {**columns, LEAK_ANSWERS: [text.strip() for text in answers]}


def letter_choices(question: str, texts: Sequence[str], right: int, heading: str = "") -> dict[str, Any]:
    """Return the columns of a question whose options stand in its prompt, each after a letter.

    They are `prompt`, `choices`, `answer`, and those of `mark_leaks`: the question and its right option's text. The
    letters are what is weighed, so that two options may have one text.

    Args:
        question: As published.
        texts: The options, in order.
        right: The place of the right one.
        heading: What stands above the question, and is no part of it.

    Raises:
        ValueError: Fewer than two options, more than there are letters, or a right one that is none of them.
    """
    if not 2 <= len(texts) <= len(LETTERS) or not 0 <= right < len(texts):
        raise ValueError(f"{len(texts)} options, of which number {right} from 0 is right")
    letters = list(LETTERS[: len(texts)])
    lines = [f"{letter}. {text.strip()}" for letter, text in zip(letters, texts, strict=True)]
    above = f"{heading}\n\n" if heading else ""
    prompt = "\n".join([above + question.strip(), *lines, "Answer:"]).strip()
    # A question may be its options alone: without it they are what must not leak.
    leaks = mark_leaks(question if question.strip() else "\n".join(texts), [texts[right]])
    return {"prompt": prompt, "choices": letters, "answer": letters[right], **leaks}


def name_cluster(*parts: str) -> str:
    """Return a short name for what several rows have in common, by its content."""
    return hash_text(*parts)[:16]
