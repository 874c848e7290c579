"""Which monitors a recipe or a suite has, checked when it is read: names, tasks, and what `auto` stands for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from posttrain.core.config import suggest
from posttrain.core.errors import RecipeError
from posttrain.evaluation.monitors.keys import AlarmKeys, MonitorKeys
from posttrain.evaluation.monitors.reading import Monitor
from posttrain.evaluation.monitors.settings import MONITORS, AutoMonitors, expand_auto
from posttrain.evaluation.task import EvaluationTask, GenerationTask, PerplexityTask
from posttrain.pipeline.yaml_reader import Positions

RIGHT_OR_WRONG = ("exact_match", "math", "short_answer", "code", "proof", "tool_calls", "lab")
"""Scorers whose value says whether an answer is right, as far as their keys do not ask for something else."""
_ELSE = {"scoring": "fraction", "value": "gold"}
"""Keys of these scorers that do."""


def list_monitors(monitors: Sequence[AlarmKeys], tasks: Sequence[EvaluationTask]) -> list[MonitorKeys]:
    """Return the monitors that are read, with `auto` in its meaning for the tasks at hand."""
    drawn = [task for task in tasks if isinstance(task, GenerationTask)]
    return expand_auto(
        monitors,
        drawn=[task.name for task in drawn],
        judged=[task.name for task in drawn if _says_right_or_wrong(task)],
        weighed=[task.name for task in tasks if isinstance(task, PerplexityTask)],
    )


def _says_right_or_wrong(task: GenerationTask) -> bool:
    keys: Mapping[str, object] = {"type": task.scorer} if isinstance(task.scorer, str) else task.scorer
    return keys.get("type") in RIGHT_OR_WRONG and all(keys.get(key) != value for key, value in _ELSE.items())


def check_monitors(monitors: Sequence[AlarmKeys], tasks: Sequence[EvaluationTask], positions: Positions) -> None:
    """Refuse monitors of unknown tasks, monitors that share a name or have another type's, and an `auto` for none.

    Raises:
        RecipeError: See above, at the entry's line.
    """
    known = [task.name for task in tasks]
    labels: list[str] = []
    for index, monitor in enumerate(monitors):
        place = positions.describe(positions.nearest(("monitors", index)))
        if isinstance(monitor, AutoMonitors):
            _check_auto(monitor, tasks, labels, place)
        if not isinstance(monitor, MonitorKeys):
            continue
        assert isinstance(monitor, Monitor)
        for name in monitor.tasks_read:
            if name not in known:
                raise RecipeError(
                    f"the monitor '{monitor.label}' reads '{name}', which is no task",
                    expected="tasks that 'evaluate' lists",
                    cure=suggest(name, known) if known else f"add a task '{name}' to 'evaluate'",
                    place=place,
                )
        kind = getattr(monitor, "type", "")
        if monitor.label in MONITORS and monitor.label != kind:
            raise RecipeError(
                f"a monitor of the type '{kind}' is named '{monitor.label}', which is another type",
                expected="a name that is no other type's, since readings and overrides know monitors by it",
                cure=f"choose another name, or leave it out: it is called '{kind}' then",
                place=place,
            )
        check_labels([*labels, monitor.label], place, cure="give one of them a 'name'")
        labels.append(monitor.label)


def check_labels(labels: Sequence[str], place: str, *, cure: str) -> None:
    """Refuse monitors that share a name.

    Raises:
        RecipeError: Two do.
    """
    twice = [label for number, label in enumerate(labels) if label in labels[:number]]
    if twice:
        raise RecipeError(
            f"two monitors are named '{twice[0]}'", expected="a name of its own for each", cure=cure, place=place
        )


def _check_auto(monitor: AutoMonitors, tasks: Sequence[EvaluationTask], labels: list[str], place: str) -> None:
    if not list_monitors([monitor], tasks):
        raise RecipeError(
            "'auto' finds no task to read",
            expected="a task of the type generation or perplexity",
            cure="add one to 'evaluate', or leave 'auto' out",
            place=place,
        )
    if "auto" in labels:
        raise RecipeError("'auto' stands twice", expected="once", cure="leave one out", place=place)
    labels.append("auto")
