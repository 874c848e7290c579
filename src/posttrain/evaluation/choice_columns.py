"""Two columns that a row of multiple choice may have beside its choices: contexts of their own, and what each tells.

* `contexts` and `continuation`: instead of the choices after the prompt, one continuation is weighed after a context
  for each choice, which takes the prompt's place (partial evaluation: Trinh & Le 2018, arXiv 1806.02847). The choices
  are what the contexts are called.
* `choice_parts`: names with a number or null for each choice; the item has the number of the choice that the policy
  prefers as a part of that name, and no such part where it is null. Means over items leave out those without.

Example: `{"choices": ["Ann", "Eve", "unknown"], "choice_parts": {"bias": [1, -1, null]}}` gives an item whose answer is
Eve the part `bias` of -1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from posttrain.core.errors import DataError
from posttrain.core.records import Problem

CONTEXTS, CONTINUATION, CHOICE_PARTS = "contexts", "continuation", "choice_parts"


def split_contexts(problem: Problem, num_choices: int) -> list[tuple[Problem, str]]:
    """Return for each choice the problem with its own context as the prompt, and the continuation that is weighed.

    Empty where the row has no contexts. Messages before the last, solved examples say, stay.

    Raises:
        DataError: Contexts that are not one different text for each choice, or no continuation.
    """
    contexts, continuation = problem.columns.get(CONTEXTS), problem.columns.get(CONTINUATION)
    if contexts is None:
        return []
    is_list = isinstance(contexts, list | tuple) and all(isinstance(text, str) and text.strip() for text in contexts)
    if not is_list or len(set(contexts)) != len(contexts) or len(contexts) != num_choices:
        raise _refuse(problem, CONTEXTS, contexts, f"{num_choices} different texts, one for each choice")
    if not isinstance(continuation, str) or not continuation.strip():
        raise _refuse(problem, CONTINUATION, continuation, "the text that follows every context")
    last = problem.messages[-1]
    return [
        (replace(problem, messages=[*problem.messages[:-1], {**last, "content": context}]), continuation)
        for context in contexts
    ]


def read_choice_parts(problem: Problem, chosen: int, num_choices: int) -> dict[str, float]:
    """Return the parts of an item whose answer is the choice at this place.

    Raises:
        DataError: The column is no mapping of names to a finite number or null for each choice.
    """
    given: Any = problem.columns.get(CHOICE_PARTS)
    if given is None:
        return {}
    is_mapping = isinstance(given, Mapping) and all(isinstance(name, str) for name in given)
    if not is_mapping or not all(_is_series(values, num_choices) for values in given.values()):
        raise _refuse(problem, CHOICE_PARTS, given, f"names, each with {num_choices} numbers or nulls, one a choice")
    return {name: float(values[chosen]) for name, values in given.items() if values[chosen] is not None}


def _is_series(values: Any, length: int) -> bool:
    if not isinstance(values, list | tuple) or len(values) != length:
        return False
    return all(value is None or _is_number(value) for value in values)


def _is_number(value: Any) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond what a float holds
        return False


def _refuse(problem: Problem, column: str, found: Any, expected: str) -> DataError:
    return DataError(
        f"'{column}' is {found!r}"[:200] if found is not None else f"no column '{column}'",
        expected=expected,
        cure="correct the row, or leave the column out",
        place=problem.problem_id,
    )
