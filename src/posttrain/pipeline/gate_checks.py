"""Checks of a recipe's gates when it is read: names, samples, rows to search repairs on, repairs that can be made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from posttrain.core.errors import RecipeError
from posttrain.data.sources import DataSource
from posttrain.evaluation.harness_task import HarnessTask
from posttrain.evaluation.task import EvaluationTask, GenerationTask, find_development
from posttrain.gates.rules import GateRules, check_names, list_metrics, list_tasks, split_metric
from posttrain.pipeline.recipe_settings import BASE
from posttrain.pipeline.stage_entries import StageEntry
from posttrain.pipeline.stage_types import find_stage_type
from posttrain.pipeline.yaml_reader import Positions
from posttrain.stages.sft import SftConfig
from posttrain.statistics.repeats import parse_repeated

TRAINING_REPAIRS = ("replay", "smaller_learning_rate")
"""Repairs that train the stage again, with another configuration."""


def check_gates(stages: Sequence[StageEntry], tasks: Sequence[EvaluationTask], positions: Positions) -> None:
    """Check every gate of a recipe against its tasks and stages.

    Raises:
        RecipeError: An unknown task or baseline, pass@k of too few samples, a repair without rows to search on, or
            one that the stage cannot have.
    """
    by_name = {task.name: task for task in tasks}
    for index, entry in enumerate(stages):
        if entry.gate is None:
            continue
        place = positions.describe(("stages", index, "gate"))
        if find_stage_type(entry.type).passes_policy_on:
            raise RecipeError(
                "a gate of a stage that passes its policy on as it came",
                expected="gates of stages that change the policy",
                cure="leave the gate out; what the stage makes is measured in its artifact",
                place=place,
            )
        earlier = [BASE, *(other.name for other in stages[:index])]
        check_names(entry.gate, tasks=list(by_name), stages=earlier, place=place)
        _check_samples(entry.gate, by_name, place)
        if entry.gate.on_fail:
            _check_repairs(entry, stages[:index], by_name, place)


def _check_samples(rules: GateRules, tasks: Mapping[str, EvaluationTask], place: str) -> None:
    for metric in list_metrics(rules):
        name, part = split_metric(metric)
        kind, task = parse_repeated(part), tasks[name]
        drawn = task.num_samples if isinstance(task, GenerationTask) else 1
        if kind is not None and kind[1] > drawn:
            raise RecipeError(
                f"'{metric}' of a task that draws {drawn} sample{'s' if drawn > 1 else ''} of each problem",
                expected=f"num_samples of at least {kind[1]}",
                cure=f"set num_samples: {kind[1]} (and a temperature) in the task '{name}', or ask for a smaller k",
                place=place,
            )


def _check_repairs(
    entry: StageEntry, earlier: Sequence[StageEntry], tasks: Mapping[str, EvaluationTask], place: str
) -> None:
    assert entry.gate is not None
    for name in list_tasks(entry.gate):
        task = tasks[name]
        found = find_development(task)
        if isinstance(task, HarnessTask):
            raise RecipeError(
                f"the task '{name}' of the harness has no rows to search a repair on",
                expected="a gate of tasks with development rows, or one without repairs",
                cure="leave 'on_fail' out, or put the metric into the gate of another stage",
                place=place,
            )
        if found == task.data:
            raise RecipeError(
                f"a repair would be searched on the very rows of the task '{name}' that the gate decides on",
                expected="'data' of another split than development",
                cure=f"measure '{name}' on held_out rows, or leave 'on_fail' out",
                place=place,
            )
        if found is None:
            raise RecipeError(
                f"the task '{name}' has no rows to search a repair on",
                expected="'development': rows that the gate does not decide on",
                cure=f"add development: {{source: ...}} to the task '{name}', or leave 'on_fail' out",
                place=place,
            )
    known = find_stage_type(entry.type).repairs
    unfit = [name for name in entry.gate.on_fail if name not in known]
    if unfit:
        why = "is not trained on demonstrations" if unfit[0] == "replay" else "is trained by its own code"
        raise RecipeError(
            f"the repair '{unfit[0]}' of a stage that {why}",
            expected=f"what can be repaired of a stage of this type: {', '.join(known)}",
            cure="leave the other repairs out",
            place=place,
        )
    if "replay" in entry.gate.on_fail and not find_replay(entry, earlier):
        raise RecipeError(
            f"nothing to replay: no stage before '{entry.name}' was trained on rows of its kind",
            expected="rows that the policy learned from before",
            cure="name them in the gate: replay: [{source: ...}], or leave the repair out",
            place=place,
        )


def find_replay(entry: StageEntry, earlier: Sequence[StageEntry]) -> list[DataSource]:
    """Return the rows that a replay mixes in: those that the gate names, else what the stages before were trained on.

    Only stages that the policy comes from count, and only rows that are read in the same way.
    """
    if entry.gate is not None and entry.gate.replay:
        return list(entry.gate.replay)
    by_name = {other.name: other for other in earlier}
    found: list[DataSource] = []
    parent = by_name.get(entry.parent)
    while parent is not None and isinstance(entry.config, SftConfig):
        if isinstance(parent.config, SftConfig) and parent.config.mode == entry.config.mode:
            found += [source for source in parent.config.data if source not in found]
        parent = by_name.get(parent.parent)
    return found
