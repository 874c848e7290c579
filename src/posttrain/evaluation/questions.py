"""A row of multiple choice: its choices, which of them are right, and how they are shown by their letters."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from posttrain.core.errors import DataError
from posttrain.core.records import Problem

LETTERS = string.ascii_uppercase
MAX_CHOICES = 1000
CUE = "Answer:"
"""What follows the choices where no template asks for an answer."""


@dataclass(frozen=True, slots=True)
class Question:
    """A row's choices, what they are called, and the places of the right ones, from 0."""

    choices: Sequence[str]
    labels: Sequence[str]
    rights: tuple[int, ...]


def read_question(problem: Problem, *, may_repeat: bool = False) -> Question:
    """Return a row's choices and which of them are right; an answer that is a list names several.

    Args:
        problem: The row.
        may_repeat: Whether two choices may be the same text: where they are told apart by their letters.

    Raises:
        DataError: There are fewer than two choices, one is empty or no text, labels are not as many or not differing,
            or an answer is none of the choices, all of them, or several as it is read.
    """
    given = found = problem.columns.get("choices")
    labels: list[str] | None = None
    if isinstance(found, Mapping):
        labels, found = _read_labels(found.get("label")), found.get("text")
    choices = list(found) if isinstance(found, list | tuple) else []
    is_usable = all(isinstance(text, str) and text.strip() for text in choices)
    is_usable = is_usable and (may_repeat or len(set(choices)) == len(choices))
    is_labelled = not isinstance(given, Mapping) or (labels is not None and len(labels) == len(choices))
    if not is_usable or not is_labelled or not 2 <= len(choices) <= MAX_CHOICES:
        raise DataError(
            f"'choices' is {given!r}"[:200] if given is not None else "no column 'choices'",
            expected=f"2 to {MAX_CHOICES} differing texts, or {{text: [...], label: [...]}} of equal length",
            cure="map it in the task's data: columns: {choices: <your column>}",
            place=problem.problem_id,
        )
    given = problem.columns.get("answer")
    answers = given if isinstance(given, list | tuple) and given else [given]
    rights = {_find_right(problem, answer, choices, labels) for answer in answers}
    if len(rights) == len(choices):
        raise DataError(
            f"'answer' is {given!r}, which names all {len(choices)} choices"[:200],
            expected="at least one choice that is wrong, so that something can be told by the answer",
            cure="name the right ones only, or leave the row out",
            place=problem.problem_id,
        )
    return Question(choices, labels or _name_choices(len(choices)), tuple(sorted(rights)))


def _name_choices(count: int) -> list[str]:
    """Return letters, and numbers from 0 where there are not enough."""
    return list(LETTERS[:count]) if count <= len(LETTERS) else [str(place) for place in range(count)]


def _read_labels(given: Any) -> list[str] | None:
    """Return labels as texts, or None where they are no list of differing texts or whole numbers."""
    if not isinstance(given, list | tuple) or not all(type(label) in (str, int) for label in given):
        return None
    labels = [str(label).strip() for label in given]
    return labels if len(set(labels)) == len(labels) else None


def _find_right(problem: Problem, answer: Any, choices: Sequence[str], labels: Sequence[str] | None) -> int:
    readings = _read_answer(answer, choices, labels)
    if len(set(readings.values())) == 1:
        return next(iter(readings.values()))
    if readings:
        named = ", ".join(f"as its {way} it is choice {place} ({choices[place]!r})" for way, place in readings.items())
        raise DataError(
            f"'answer' is {answer!r}, which can be read in several ways: {named}"[:400],
            expected="an answer that names one choice, however it is read",
            cure="number the choices, {text: [...], label: [1, 2, ...]}, and give the right one's number as 'answer'",
            place=problem.problem_id,
        )
    raise DataError(
        f"'answer' is {answer!r}"[:200] if answer is not None else "no column 'answer'",
        expected=f"the right choice: its place from 0 to {len(choices) - 1}, its label, its letter, or its text",
        cure="map it in the task's data: columns: {answer: <your column>}",
        place=problem.problem_id,
    )


def _read_answer(answer: Any, choices: Sequence[str], labels: Sequence[str] | None) -> dict[str, int]:
    """Return the place of the choice that an answer names, by each way of reading it that finds one.

    A number that is one of the labels that a row gives is that label, and no place.
    """
    if not isinstance(answer, str | int) or isinstance(answer, bool):
        return {}
    text = str(answer).strip()
    readings: dict[str, int] = {}
    if isinstance(answer, int):
        if labels is not None and text in labels:
            return {"label": labels.index(text)}
        if 0 <= answer < len(choices):
            readings["place"] = answer
    ways = {
        "label": list(labels or ()),
        "letter": list(LETTERS[: len(choices)]),
        "text": [one.strip() for one in choices],
    }
    return readings | {way: list(known).index(text) for way, known in ways.items() if known.count(text) == 1}


def show_options(problem: Problem, question: Question, *, has_cue: bool) -> Problem:
    """Return the problem with its choices below the last message, each after a letter, and then a cue if there is one.

    Raises:
        DataError: There are more choices than letters.
    """
    if len(question.choices) > len(LETTERS):
        raise DataError(
            f"{len(question.choices)} choices",
            expected=f"at most {len(LETTERS)}, one a letter",
            cure="weigh the texts: options: texts",
            place=problem.problem_id,
        )
    lines = [f"{letter}. {choice}" for letter, choice in zip(LETTERS, question.choices, strict=False)]
    last = problem.messages[-1]
    shown = {**last, "content": "\n".join([str(last.get("content") or ""), *lines, *([CUE] if has_cue else [])])}
    return replace(problem, messages=[*problem.messages[:-1], shown])
