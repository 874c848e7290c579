"""What the recipe alone tells: data that is not there, adapters nobody decided on.

A stage that cannot start is found before the stages ahead of it are run, not after.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from posttrain.core.errors import RefusedError
from posttrain.core.run_folder import ARTIFACT_MANIFEST
from posttrain.evaluation.harness import check_installed
from posttrain.evaluation.harness_task import HarnessTask
from posttrain.evaluation.task import PerplexityTask
from posttrain.gates.rules import list_tasks
from posttrain.models.loading import read_context_tokens
from posttrain.models.manifest import load_manifest
from posttrain.pipeline.development_rows import read_development_problems
from posttrain.pipeline.recipe import Recipe
from posttrain.pipeline.recipe_settings import BASE
from posttrain.pipeline.rounds import Round
from posttrain.pipeline.stage_kinds.kind import find_kind
from posttrain.pipeline.stage_types import find_stage_type
from posttrain.pipeline.wiring import fingerprint_sources
from posttrain.stages.training_keys import TrainingKeys
from posttrain.training.distributed import Ranks


def check_rounds(recipe: Recipe, base: Path, rounds: Sequence[Round], ranks: Ranks) -> None:
    """Check every round of every stage as far as it can be without running the ones before it.

    Raises:
        DataError: A stage's or a task's data cannot be found or read, or what would choose a stage's weights is among
            what they are measured on.
        RecipeError: A stage's rows may be longer than the model takes.
        RefusedError: A stage's sampler is not there or cannot serve as many processes, or a stage's policy will have
            adapters and the recipe does not say what to do with them, or will have none and the recipe says to go on
            with one.
    """
    context_tokens = read_context_tokens(base)
    adapters: dict[str, bool | None] = {BASE: holds_adapters(base)}
    selecting: set[str] = set()
    for stage in rounds:
        name, config = stage.entry.name, stage.entry.config
        if stage.entry.gate is not None and stage.entry.gate.on_fail:
            selecting.update(list_tasks(stage.entry.gate))
        has_adapters = adapters[stage.entry.parent if stage.number == 1 else name]
        selecting.update(find_kind(stage.entry).check_recipe(recipe, config, context_tokens, ranks))
        if isinstance(config, TrainingKeys) and has_adapters is not None:
            check_adapter_start(config, name, has_adapters)
        if find_stage_type(stage.entry.type).passes_policy_on:
            adapters[name] = has_adapters
        elif isinstance(config, TrainingKeys):
            goes_on = has_adapters and config.adapter_start == "continue"
            adapters[name] = config.adapter is not None or bool(goes_on)
        else:
            adapters[name] = None  # a plug-in: what it gives is known to itself alone
    for task in recipe.evaluate:
        if isinstance(task, HarnessTask):
            check_installed(f"evaluate: {task.name}")
            continue
        shots = None if isinstance(task, PerplexityTask) else task.shots_from
        fingerprint_sources(recipe, [task.data, *([] if shots is None else [shots])])
        if task.name in selecting:
            read_development_problems(recipe.roots, task)


def check_adapter_start(config: TrainingKeys, name: str, has_adapters: bool) -> None:
    """Check that a stage's `adapter_start` fits the policy that it starts from.

    Raises:
        RefusedError: It does not, with the values that would.
    """
    start = config.adapter_start
    if has_adapters and start in (None, "new"):
        found = "the policy has adapters already" + (", and adapter_start is new" if start else "")
        expected, cure = "adapter_start to say what to do with them", "set adapter_start: continue, stack or merge"
    elif not has_adapters and (start in ("stack", "merge") or (start == "continue" and config.adapter is None)):
        found = f"adapter_start: {start}, but the policy has no adapter"
        expected = "a policy with an adapter"
        cure = "leave adapter_start out: adapter settings start a first one, without them all weights train"
    else:
        return
    raise RefusedError(found, expected=expected, cure=cure, place=f"stages: {name}: adapter_start")


def holds_adapters(folder: Path) -> bool:
    """Return whether a folder is an artifact with adapters."""
    return (folder / ARTIFACT_MANIFEST).exists() and bool(load_manifest(folder).adapters)
