"""Builds what the tests of the code scorer judge: a problem with columns, and a completion of a text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from posttrain.core.records import Completion, Outcome, Problem
from posttrain.scorers.code import CodeScorer
from posttrain.scorers.code_judging import ProgramRunner


def build_item(
    columns: Mapping[str, Any], text: str, *, prompt: str = "Write it.", finish_reason: str = "stop", seed: int = 0
) -> tuple[Problem, Completion]:
    """Return a problem with these columns and a completion with this text."""
    ids = np.arange(3, dtype=np.int32)
    problem = Problem("row-1", [{"role": "user", "content": prompt}], dict(columns))
    return problem, Completion("row-1", 0, ids, ids, text, finish_reason, "policy", seed)


def score(runner: ProgramRunner, columns: Mapping[str, Any], text: str, **settings: Any) -> Outcome:
    """Return the outcome of one completion; settings that are no item's are the scorer's."""
    own = {name: settings.pop(name) for name in ("scoring", "comparison") if name in settings}
    return CodeScorer(runner=runner, **own).score([build_item(columns, text, **settings)])[0]


def columns_of(task: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns of a hostile case's task."""
    return {name: value for name, value in task.items() if name not in ("type", "prompt")}


def texts_of(tests: Sequence[Any]) -> list[str]:
    """Return the kinds of tests by name."""
    return [type(test).__name__ for test in tests]
