"""Rows for selection: what the best checkpoint and repairs are chosen on, shown to be none that results are told of.

The best of many policies looks better on the rows that chose it than it is.
"""

from __future__ import annotations

from collections.abc import Sequence

from posttrain.core.errors import DataError, RecipeError
from posttrain.core.hashing import hash_json
from posttrain.core.records import Problem
from posttrain.data.ledger import Ledger
from posttrain.data.sources import DataSource
from posttrain.evaluation.harness_task import HarnessTask
from posttrain.evaluation.perplexity import DOCUMENT
from posttrain.evaluation.runner import choose_problems
from posttrain.evaluation.task import DEVELOPMENT, ChoiceTask, EvaluationTask, find_development
from posttrain.pipeline.roots import Roots
from posttrain.pipeline.task_rows import read_task_problems


def require_development(task: EvaluationTask) -> DataSource:
    """Return the source of a task's rows for selection.

    Raises:
        RecipeError: It has none.
    """
    found = find_development(task)
    if found is None:
        raise RecipeError(
            f"the task '{task.name}' has no rows for selection",
            expected=f"'{DEVELOPMENT}': rows that results are not told of",
            cure=f"add development: {{source: ...}} to the task '{task.name}'",
            place=f"evaluate: {task.name}",
        )
    return found


def read_development_problems(roots: Roots, task: EvaluationTask, *, ledger: Ledger | None = None) -> Sequence[Problem]:
    """Return a task's rows for selection as problems, having shown that none of them is measured.

    Args:
        roots: Where paths may lead.
        task: Names the rows.
        ledger: Counts what became of them.

    Raises:
        DataError: The rows cannot be read, two share an id, or one of them is among the task's own.
        RecipeError: The task has none.
    """
    source = require_development(task)
    assert not isinstance(task, HarnessTask)  # it has no rows for selection
    problems = read_task_problems(roots, task, source, ledger=ledger)
    choose_problems(task.name, "", problems)  # refuses ids that are not unique
    if source == task.data:  # the task is measured on a split for development, so nothing is held out
        return problems
    # Bare questions: the examples before one may differ where it stands.
    measured = {
        _describe(task, problem): problem.problem_id
        for problem in read_task_problems(roots, task, task.data, are_shown=False)
    }
    shared = [
        (problem.problem_id, measured[described])
        for problem in read_task_problems(roots, task, source, are_shown=False)
        if (described := _describe(task, problem)) in measured
    ]
    if shared:
        raise DataError(
            f"{len(shared)} of {len(problems)} development rows are among those that the task is measured on: the "
            f"first is {shared[0][0]}, which is {shared[0][1]} there",
            expected="development rows that occur nowhere in the task's 'data'",
            cure="take other rows for 'development', or take these out of 'data'",
            place=f"evaluate: {task.name}: development",
        )
    return problems


def _describe(task: EvaluationTask, problem: Problem) -> str:
    """Return the hash of what is asked or weighed; two questions with one stem differ by their choices."""
    choices = problem.columns.get("choices") if isinstance(task, ChoiceTask) else None
    return hash_json([problem.messages, problem.tools, problem.columns.get(DOCUMENT), choices])
