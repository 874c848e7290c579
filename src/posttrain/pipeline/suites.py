"""Suites: named lists of tasks, the built-in ones and those in a user's YAML file.

    schema: 1
    name: mine
    evaluate:
      - {name: maths, data: {source: problems.jsonl}, scorer: math}

A recipe is a suite too: its `evaluate` is what counts. Paths are held to the roots that recipes have. The name of a
published benchmark is a suite as well: of the part `test`, or of all parts where none is called so; other parts are
tasks that may be named (`mmlu-validation`). Its files lie below one folder of data, or its rows come from the Hub.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

import posttrain.evaluation.suites as built_in
from posttrain.core.config import Config, parse_config, suggest
from posttrain.core.errors import RecipeError
from posttrain.evaluation.monitors.keys import AlarmKeys
from posttrain.evaluation.monitors.settings import MonitorSettings
from posttrain.evaluation.suites.registry import BENCHMARKS, find_benchmark
from posttrain.evaluation.task import EvaluationTask, GenerationTask
from posttrain.pipeline.benchmark_files import build_part_task, find_data_folder, list_parts
from posttrain.pipeline.harness_suites import SUITE_PREFIX, check_includes, list_suite_tasks
from posttrain.pipeline.monitor_checks import check_labels, check_monitors, list_monitors
from posttrain.pipeline.plugins import Plugin
from posttrain.pipeline.recipe_checks import (
    check_keys,
    check_sources,
    check_task_names,
    find_scorer_plugins,
    read_schema,
    validate,
)
from posttrain.pipeline.recipe_settings import TOP_KEYS, Name, read_one_name
from posttrain.pipeline.roots import Roots, declare_roots
from posttrain.pipeline.tool_settings import describe_tools, find_tool_plugins
from posttrain.pipeline.yaml_reader import read_file, read_yaml

SCHEMA = 1
_SUFFIXES = (".yaml", ".yml")
_KEYS = ("schema", "name", "version", "evaluate", "monitors")


class SuiteHead(Config):
    """The keys of a suite: its name, its version, its tasks, and what is read over their items."""

    name: Name
    version: int = Field(1, ge=1)
    evaluate: list[EvaluationTask] = Field(min_length=1)
    monitors: list[MonitorSettings] = Field(default_factory=list)

    @field_validator("monitors", mode="before")
    @classmethod
    def _read_monitors(cls, value: Any) -> Any:
        return read_one_name(value)


@dataclass(frozen=True, slots=True)
class Suite:
    """Tasks to measure a model on, with where their paths lead and the user's own scorers and tools."""

    name: str
    version: int
    tasks: tuple[EvaluationTask, ...]
    roots: Roots
    scorers: dict[str, Plugin]
    monitors: tuple[AlarmKeys, ...] = ()

    def choose(self, names: Sequence[str]) -> list[EvaluationTask]:
        """Return the tasks of these names, all of them where none is named.

        Raises:
            RecipeError: The suite has no such task.
        """
        for name in names:
            _check_task(name, [task.name for task in self.tasks], self.name)
        return [task for task in self.tasks if not names or task.name in names]


def _check_task(name: str, known: Sequence[str], suite: str) -> None:
    if name not in known:
        raise RecipeError(
            f"the suite '{suite}' has no task '{name}'",
            expected="one of " + ", ".join(known),
            cure=suggest(name, known),
            place="--task",
        )


def list_suites() -> list[str]:
    """Return the names of the built-in suites."""
    return sorted(path.stem for path in _built_in_folder().glob("*.yaml"))


@dataclass(frozen=True, slots=True)
class Listed:
    """A suite or benchmark as it is listed: what it asks, and under which licence its rows stand."""

    name: str
    version: int
    about: str
    licence: str


def list_listed() -> list[Listed]:
    """Return what `--suite` may name: the built-in suites, then the published benchmarks."""
    suites = [read_suite(name) for name in list_suites()]
    return [
        *(Listed(suite.name, suite.version, ", ".join(task.name for task in suite.tasks), "") for suite in suites),
        *(Listed(one.name, one.version, one.about, one.licence) for one in BENCHMARKS.values()),
    ]


def read_suites(names: Sequence[str], *, data: Path | None = None, only: Sequence[str] = ()) -> Suite:
    """Return one suite of several: built-in ones, one YAML file, published benchmarks.

    Args:
        names: What is asked for; a name may be several with commas between them.
        data: The folder below which benchmarks' files lie; None: what POSTTRAIN_DATA names, else the Hub is asked.
        only: Names of tasks, where not all are wanted; only their files are looked for.

    Raises:
        RecipeError: There is no such suite or task, two tasks or monitors have one name, two suites have their own
            paths, or a benchmark's file is not there.
    """
    # After its prefix the commas are the harness's own.
    split = [part for name in names for part in ([name] if name.startswith(SUITE_PREFIX) else name.split(","))]
    wanted = [part.strip() for part in split if part.strip()]
    benchmarks = [name for name in wanted if name.partition("@")[0] in BENCHMARKS]
    others = [read_suite(name) for name in wanted if name not in benchmarks]
    own = [name for name in wanted if name.endswith(_SUFFIXES)]
    if not wanted or len(own) > 1:
        raise RecipeError(
            f"{len(own)} YAML files: {', '.join(own)}" if own else "no suite",
            expected="built-in suites and benchmarks, and at most one YAML file, from whose folder paths start",
            cure="measure one after the other" if own else "name one; posttrain eval --list shows them",
            place="--suite",
        )
    parts = [part for name in benchmarks for part in list_parts(find_benchmark(name))]
    known = [task.name for suite in others for task in suite.tasks] + [part.task_name for part in parts]
    for name in only:
        _check_task(name, known, "+".join(wanted))
    folder = find_data_folder(data)
    tasks = [task for suite in others for task in suite.tasks]
    tasks += [build_part_task(part, folder) for part in parts if (part.task_name in only if only else part.is_default)]
    twice = [task.name for number, task in enumerate(tasks) if task.name in [one.name for one in tasks[:number]]]
    if twice:
        raise RecipeError(
            f"two tasks are named '{twice[0]}'",
            expected="a name of its own for each",
            cure="measure the suites one after the other",
            place="--suite",
        )
    roots = declare_roots(Path(own[0]) if own else Path.cwd() / "suite.yaml")
    scorers = {name: plugin for suite in others for name, plugin in suite.scorers.items()}
    folders = (*roots.folders, *([] if folder is None else [folder]))
    version = others[0].version if len(wanted) == len(others) == 1 else 1
    monitors = others[0].monitors if len(wanted) == len(others) == 1 else _join_monitors(others, only)
    own_names = {
        path: suite.name for path, suite in zip((w for w in wanted if w not in benchmarks), others, strict=True)
    }
    label = "+".join(own_names[name] if name in own else name for name in wanted)
    return Suite(label, version, tuple(tasks), replace(roots, folders=folders), scorers, monitors)


def _join_monitors(suites: Sequence[Suite], only: Sequence[str]) -> tuple[AlarmKeys, ...]:
    """Return the monitors of several suites, each suite's `auto` standing for its own tasks alone.

    Raises:
        RecipeError: Two have one name.
    """
    monitors = [
        monitor
        for suite in suites
        for monitor in list_monitors(suite.monitors, [task for task in suite.tasks if not only or task.name in only])
    ]
    check_labels([one.label for one in monitors], "--suite", cure="measure the suites one after the other")
    return tuple(monitors)


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
        expected=f"{', '.join(list_suites())}, a published benchmark (posttrain eval --list), {SUITE_PREFIX}<task>, "
        "or a YAML file with 'evaluate:'",
        cure=suggest(name, [*list_suites(), *BENCHMARKS]),
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
            for keys, scorer in task.scorers.items():
                scorers |= find_scorer_plugins(scorer, roots, positions.describe(("evaluate", index, *keys)))
            scorers |= find_tool_plugins(task.environment, roots, describe_tools(positions, ("evaluate", index)))
    check_monitors(head.monitors, head.evaluate, positions)
    return Suite(head.name, head.version, tuple(head.evaluate), roots, scorers, tuple(head.monitors))


def _build_harness_suite(name: str) -> Suite:
    """Return tasks of lm-evaluation-harness as a suite: `harness:arc_easy,piqa`, each as its authors ask it."""
    values = {"name": "harness", "evaluate": list_suite_tasks(name.removeprefix(SUITE_PREFIX))}
    head: SuiteHead = parse_config(SuiteHead, values, place="--suite")
    return Suite(head.name, head.version, tuple(head.evaluate), declare_roots(Path.cwd() / "suite.yaml"), {})


def _built_in_folder() -> Path:
    return Path(next(iter(built_in.__path__)))
