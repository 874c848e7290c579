"""What is measured: rows, how completions are drawn, and who judges them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import Field, field_validator

from posttrain.core.config import Config, display_field
from posttrain.core.hashing import hash_json
from posttrain.core.records import Problem
from posttrain.data.sources import DataSource


class EvaluationTask(Config):
    """One task: measured on the base and after every stage, by the same rows, drawing and scorer.

    `name` is the file name of its items too. `scorer` is a name, or a mapping with `type` and that type's keys.
    `temperature` 0 is greedy. `max_new_tokens` counts the stop token; what does not stop by then is truncated and
    counts as a failure. `parts` are parts of the scorer's outcomes that are reported beside its value.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")
    data: DataSource
    scorer: str | dict[str, Any] = "exact_match"
    max_new_tokens: int = Field(128, ge=1, le=1_000_000)
    temperature: float = Field(0.0, ge=0, le=100)
    parts: list[str] = display_field(default_factory=list)

    @field_validator("data")
    @classmethod
    def _check_data(cls, value: DataSource) -> DataSource:
        if value.proportion is not None:
            raise ValueError("a task has one source and mixes nothing: leave 'proportion' out")
        return value


def hash_task(task: EvaluationTask, problems: Sequence[Problem]) -> str:
    """Return the name by content of a task and its problems: items may be compared only under one such hash.

    The task's name and the path of its data do not count; what the problems say does.
    """
    settings = {key: value for key, value in task.identity().items() if key not in ("name", "data")}
    contents = [[problem.problem_id, problem.messages, problem.tools, problem.columns] for problem in problems]
    return hash_json([settings, contents])
