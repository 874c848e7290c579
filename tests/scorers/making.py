"""Problems and completions from plain text, and scorers that say what they are told to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from posttrain.core.records import Completion, FinishReason, Outcome, Problem


def make_item(
    text: str, columns: dict[str, Any] | None = None, *, finish_reason: FinishReason = "stop", name: str = "problem"
) -> tuple[Problem, Completion]:
    """One problem with its completion."""
    problem = Problem(name, [{"role": "user", "content": "?"}], columns or {})
    ids = np.arange(len(text), dtype=np.int32)
    return problem, Completion(name, 0, np.zeros(1, np.int32), ids, text, finish_reason, "policy", 0)


class Told:
    """Returns the outcomes that it was made with."""

    def __init__(self, outcomes: Sequence[Outcome], name: str = "told") -> None:
        self.name = name
        self._outcomes = list(outcomes)

    def score(self, items: Sequence[tuple[Problem, Completion]]) -> list[Outcome]:
        assert len(items) == len(self._outcomes)
        return self._outcomes


def told(*values: float) -> Told:
    return Told([Outcome("scored", value) for value in values])
