"""Suites: named lists of tasks, the built-in ones and those in a user's YAML file.

    schema: 1
    name: mine
    evaluate:
      - {name: maths, data: {source: problems.jsonl}, scorer: math}

A recipe is a suite too: its `evaluate` is what counts. Paths are held to the roots that recipes have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

import posttrain.evaluation.suites as built_in
from posttrain.core.config import Config, parse_config, suggest
from posttrain.core.errors import RecipeError
from posttrain.evaluation.task import EvaluationTask, GenerationTask
from posttrain.pipeline.harness_suites import SUITE_PREFIX, check_includes, list_suite_tasks
from posttrain.pipeline.plugins import Plugin
from posttrain.pipeline.recipe_checks import (
    check_keys,
    check_sources,
    check_task_names,
    find_scorer_plugins,
    read_schema,
    validate,
)
from posttrain.pipeline.recipe_settings import TOP_KEYS, Name
from posttrain.pipeline.roots import Roots, declare_roots
from posttrain.pipeline.yaml_reader import read_file, read_yaml

SCHEMA = 1
_SUFFIXES = (".yaml", ".yml")
_KEYS = ("schema", "name", "version", "evaluate")


class SuiteHead(Config):
    """The keys of a suite: its name, its version, its tasks."""

    name: Name
    version: int = Field(1, ge=1)
    evaluate: list[EvaluationTask] = Field(min_length=1)


@dataclass(frozen=True, slots=True)
class Suite:
    """Tasks to measure a model on, with where their paths lead and the user's own scorers."""

    name: str
    version: int
    tasks: tuple[EvaluationTask, ...]
    roots: Roots
    scorers: dict[str, Plugin]

    def choose(self, names: Sequence[str]) -> list[EvaluationTask]:
        """Return the tasks of these names, all of them where none is named.

        Raises:
            RecipeError: The suite has no such task.
        """
        known = [task.name for task in self.tasks]
        for name in names:
            if name not in known:
                raise RecipeError(
                    f"the suite '{self.name}' has no task '{name}'",
                    expected="one of " + ", ".join(known),
                    cure=suggest(name, known),
                    place="--task",
                )
        return [task for task in self.tasks if not names or task.name in names]


def list_suites() -> list[str]:
    """Return the names of the built-in suites."""
    return sorted(path.stem for path in _built_in_folder().glob("*.yaml"))


def find_suite(name: str) -> Path:
    """Return the file of a suite: a built-in one by name, or a YAML file.

    Raises:
        RecipeError: There is no such suite.
    """
    if name in list_suites():
        return _built_in_folder() / f"{name}.yaml"
    if name.endswith(_SUFFIXES):
        return Path(name)
    raise RecipeError(
        f"no suite is called '{name}'",
        expected=f"{', '.join(list_suites())}, {SUITE_PREFIX}<task>, or a YAML file with 'evaluate:'",
        cure=suggest(name, list_suites()),
        place="--suite",
    )


def read_suite(name: str) -> Suite:
    """Return a suite, read and checked; a recipe's `evaluate` is one.

    Raises:
        RecipeError: There is no such suite, it has no task, or what it says cannot be used.
    """
    if name.startswith(SUITE_PREFIX):
        return _build_harness_suite(name)
    path = find_suite(name)
    values, positions = read_yaml(read_file(path), str(path))
    values = read_schema(values, positions, SCHEMA)
    known = TOP_KEYS if "stages" in values else _KEYS
    check_keys(values, (), known, positions)
    if not values.get("evaluate"):
        raise RecipeError(
            "no task to measure" if "evaluate" in values else "'evaluate' is missing",
            expected="a list of at least one task",
            cure="add 'evaluate:' with '- {name: ..., data: {source: ...}, scorer: ...}' below it",
            place=positions.describe(("evaluate",)),
        )
    head: SuiteHead = validate(SuiteHead, {key: values[key] for key in _KEYS[1:] if key in values}, (), positions)
    check_task_names(head.evaluate, positions)
    roots = declare_roots(path)
    check_sources(head, (), roots, positions)
    check_includes(head.evaluate, roots, [positions.describe(("evaluate", i)) for i in range(len(head.evaluate))])
    scorers: dict[str, Plugin] = {}
    for index, task in enumerate(head.evaluate):
        if isinstance(task, GenerationTask):
            scorers |= find_scorer_plugins(task.scorer, roots, positions.describe(("evaluate", index, "scorer")))
    return Suite(head.name, head.version, tuple(head.evaluate), roots, scorers)


def _build_harness_suite(name: str) -> Suite:
    """Return tasks of lm-evaluation-harness as a suite: `harness:arc_easy,piqa`, each as its authors ask it."""
    values = {"name": "harness", "evaluate": list_suite_tasks(name.removeprefix(SUITE_PREFIX))}
    head: SuiteHead = parse_config(SuiteHead, values, place="--suite")
    return Suite(head.name, head.version, tuple(head.evaluate), declare_roots(Path.cwd() / "suite.yaml"), {})


def _built_in_folder() -> Path:
    return Path(next(iter(built_in.__path__)))
