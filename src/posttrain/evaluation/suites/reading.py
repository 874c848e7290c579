"""What readers of published rows share: cells of the type that they must have, and choices that can be told apart.

A row that is not as published raises KeyError, TypeError or ValueError; who reads the file makes it a bad row.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from typing import Any

from posttrain.core.hashing import hash_text

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


def letter_choices(question: str, texts: Sequence[str], right: int) -> dict[str, Any]:
    """Return the columns `prompt`, `choices` and `answer` of a question whose options stand in it, each after a letter.

    The letters are what is weighed, so that two options may have one text.

    Raises:
        ValueError: Fewer than two options, more than there are letters, or a right one that is none of them.
    """
    if not 2 <= len(texts) <= len(LETTERS) or not 0 <= right < len(texts):
        raise ValueError(f"{len(texts)} options, of which number {right} from 0 is right")
    letters = list(LETTERS[: len(texts)])
    lines = [f"{letter}. {text.strip()}" for letter, text in zip(letters, texts, strict=True)]
    prompt = "\n".join([question.strip(), *lines, "Answer:"]).strip()
    return {"prompt": prompt, "choices": letters, "answer": letters[right]}


def name_cluster(*parts: str) -> str:
    """Return a short name for what several rows have in common, by its content."""
    return hash_text(*parts)[:16]
