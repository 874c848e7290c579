"""Items for the maths scorer's tests."""

from __future__ import annotations

from typing import Any

import numpy as np

from posttrain.core.records import Completion, Problem

IDS = np.arange(3, dtype=np.int32)
Item = tuple[Problem, Completion]


def build_item(text: str, gold: Any, form: str | None = None, *, question: str = "", **columns: Any) -> Item:
    """Return a problem with its gold answer, and a completion that ended by itself."""
    form_column = {} if form is None else {"answer_form": form}
    problem = Problem("row-1", [{"role": "user", "content": question}], {"answer": gold, **form_column, **columns})
    return problem, build_completion(text)


def build_completion(text: str, finish_reason: Any = "stop") -> Completion:
    return Completion("row-1", 0, IDS, IDS, text, finish_reason, "policy", 0)
