"""Measuring a policy on the recipe's tasks: the base, and what every stage made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain.chat.rendering import Renderer
from posttrain.core.hashing import hash_json
from posttrain.core.protocols import Progress
from posttrain.core.run_folder import StageFolder
from posttrain.evaluation.runner import run_task
from posttrain.models.loading import load_policy
from posttrain.pipeline.plan import hash_model_config
from posttrain.pipeline.recipe import Recipe
from posttrain.pipeline.sampling import build_sampler
from posttrain.pipeline.scorers import build_scorer, find_tier, hash_scorer
from posttrain.pipeline.wiring import build_scorer_context, load_problems
from posttrain.stages.sft import SftConfig
from posttrain.training.distributed import find_device


def compute_measuring_key(recipe: Recipe, folder: Path, renderer: Renderer) -> str:
    """Return the key of how a policy is measured: everything but the policy's weights and the tasks, which items name.

    Items that were drawn in another precision or from another chat format, or judged by another version
    of a user's scorer, are no answer to what the recipe asks now.
    """
    context = build_scorer_context(recipe)
    scorers = [hash_scorer(task.scorer, context) for task in recipe.evaluate]
    return hash_json([renderer.format.hash, choose_dtype(recipe), hash_model_config(folder), scorers])


@dataclass(frozen=True, slots=True)
class Measured:
    """The metrics of a policy on a recipe's tasks, for `run.json`, and the sandbox tier of programs, if any ran."""

    metrics: list[dict[str, Any]]
    sandbox: str | None = None


# many parameters: what is measured, where it goes, and how
def measure_policy(
    recipe: Recipe,
    folder: Path,
    stage_folder: StageFolder,
    label: str,
    renderer: Renderer,
    progress: Progress,
    *,
    allow_unsafe: bool = False,
) -> Measured:
    """Return what a policy scores on every task of the recipe.

    Args:
        recipe: Names the tasks.
        folder: The policy's folder: the base or an artifact.
        stage_folder: Where the items are recorded; items that are there already are not drawn again.
        label: What the metrics' `stage` says.
        renderer: Turns problems into prompts.
        progress: Shows how far it has come.
        allow_unsafe: Whether programs may run without a sandbox where none passes its self-check.

    Raises:
        RefusedError: The harness failed on too many items.
        DataError: A task's rows cannot be used.
    """
    if not recipe.evaluate:
        return Measured([])
    policy = load_policy(folder, dtype=choose_dtype(recipe), device=find_device())
    sampler, notes = build_sampler(policy, renderer)
    for note in notes:
        progress.note(note)
    context = build_scorer_context(recipe, allow_unsafe=allow_unsafe)
    metrics: list[dict[str, Any]] = []
    sandbox: str | None = None
    for task in recipe.evaluate:
        scorer = build_scorer(task.scorer, context)
        found = run_task(
            task,
            load_problems(recipe, task),
            sampler,
            scorer,
            items_path=stage_folder.items(task.name),
            progress=progress,
            policy_hash=policy.hash,
        )
        sandbox = find_tier(scorer) or sandbox
        metrics += [{"stage": label, **figures} for figures in found]
    sampler.close()
    return Measured(metrics, sandbox)


def choose_dtype(recipe: Recipe) -> str:
    """Return the precision that policies are measured in: what the recipe's stages compute in, one for all.

    One precision for the base and every stage, so that a difference between them is the stage's.
    """
    dtypes = {entry.config.dtype for entry in recipe.stages if isinstance(entry.config, SftConfig)}
    return "bfloat16" if "bfloat16" in dtypes else "float32"
