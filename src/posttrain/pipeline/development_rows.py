"""Rows for selection: what the best checkpoint and repairs are chosen on, shown to be none that results are told of.

The best of many policies looks better on the rows that chose it than it is.
"""

from __future__ import annotations

from posttrain.core.errors import DataError, RecipeError
from posttrain.core.hashing import canonical_json
from posttrain.core.records import Problem
from posttrain.data.sources import DataSource
from posttrain.evaluation.harness_task import HarnessTask
from posttrain.evaluation.perplexity import DOCUMENT
from posttrain.evaluation.runner import choose_problems
from posttrain.evaluation.task import DEVELOPMENT, ChoiceTask, EvaluationTask, PerplexityTask, find_development
from posttrain.pipeline.roots import Roots
from posttrain.pipeline.wiring import read_problems


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


def read_development_problems(roots: Roots, task: EvaluationTask) -> list[Problem]:
    """Return a task's rows for selection as problems, having shown that none of them is measured.

    Raises:
        DataError: The rows cannot be read, two share an id, or one of them is among the task's own.
        RecipeError: The task has none.
    """
    source, are_texts = require_development(task), isinstance(task, PerplexityTask)
    problems = read_problems(roots, source, are_texts=are_texts)
    choose_problems(task.name, "", problems)  # refuses ids that are not unique
    assert not isinstance(task, HarnessTask)  # it has no rows for selection
    if source == task.data:  # the task is measured on a split for development, so nothing is held out
        return problems
    measured = {
        _describe(task, problem): problem.problem_id for problem in read_problems(roots, task.data, are_texts=are_texts)
    }
    shared = [problem for problem in problems if _describe(task, problem) in measured]
    if shared:
        raise DataError(
            f"{len(shared)} of {len(problems)} development rows are among those that the task is measured on: the "
            f"first is {shared[0].problem_id}, which is {measured[_describe(task, shared[0])]} there",
            expected="development rows that occur nowhere in the task's 'data'",
            cure="take other rows for 'development', or take these out of 'data'",
            place=f"evaluate: {task.name}: development",
        )
    return problems


def _describe(task: EvaluationTask, problem: Problem) -> str:
    """Return what a policy is asked, or given to weigh; two questions with one stem differ by their choices."""
    choices = problem.columns.get("choices") if isinstance(task, ChoiceTask) else None
    return canonical_json([problem.messages, problem.tools, problem.columns.get(DOCUMENT), choices])
