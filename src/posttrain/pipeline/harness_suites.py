"""Tasks of lm-evaluation-harness as recipes and suites name them: folders of a user's own tasks, lists by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from posttrain.core.errors import RecipeError
from posttrain.evaluation.harness import check_installed, list_members
from posttrain.evaluation.harness_task import HARNESS, HarnessTask
from posttrain.evaluation.task import EvaluationTask
from posttrain.pipeline.roots import Roots

SUITE_PREFIX = f"{HARNESS}:"
"""Begins the name of a suite that is a list of the harness's tasks: `harness:arc_easy,piqa`."""


def locate_include(task: HarnessTask, roots: Roots, *, place: str) -> Path | None:
    """Return the folder of a task's own YAML files, held to the declared roots; None where it names none.

    Raises:
        RecipeError: It leads outside the roots, or is no folder.
    """
    if task.include is None:
        return None
    path = roots.resolve(task.include, place=place)
    if not path.is_dir():
        raise RecipeError(
            f"{task.include!r} is no folder",
            expected="a folder with tasks of the harness as YAML",
            cure="check the path, which starts at the recipe's folder",
            place=place,
        )
    return path


def check_includes(tasks: Sequence[EvaluationTask], roots: Roots, places: Sequence[str]) -> None:
    """Refuse a folder of tasks that lies outside the declared roots, whether it is there or not.

    Raises:
        RecipeError: One does.
    """
    for task, place in zip(tasks, places, strict=True):
        if isinstance(task, HarnessTask) and task.include is not None:
            roots.resolve(task.include, place=place)


def list_suite_tasks(names: str) -> list[dict[str, Any]]:
    """Return tasks, as a suite writes them, for the harness's tasks, groups and tags that a suite's name lists.

    Raises:
        RecipeError: None is listed, or the harness is not installed, or has no such task.
    """
    wanted = [part.strip() for part in names.split(",") if part.strip()]
    if not wanted:
        raise RecipeError(
            f"'{SUITE_PREFIX}' names no task",
            expected=f"tasks, groups or tags of the harness, with commas between them: {SUITE_PREFIX}arc_easy,piqa",
            cure="name one behind the colon",
            place="--suite",
        )
    check_installed("--suite")
    tasks: dict[str, dict[str, Any]] = {}
    for name in wanted:
        for member in list_members(name) or [name]:  # an unknown name is refused, with what was meant, once it is asked
            called = "".join(c if c.isascii() and (c.isalnum() or c in "_-") else "-" for c in member.lower())[:64]
            called = called.lstrip("-_") or HARNESS
            used = {task["name"] for task in tasks.values()}
            while called in used:
                called = f"{called[:60]}-{len(tasks)}"
            tasks.setdefault(member, {"name": called, "type": HARNESS, "task": member})
    return list(tasks.values())
