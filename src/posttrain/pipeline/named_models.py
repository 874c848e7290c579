"""Reward models by name in a recipe: which a scorer names, which stage makes them, and where they then lie."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain.core.config import suggest
from posttrain.core.durable import read_json, write_json
from posttrain.core.errors import RecipeError, StorageError
from posttrain.core.records import Artifact
from posttrain.core.run_folder import REWARD_REPORT, RunFolder
from posttrain.evaluation.task import EvaluationTask, GenerationTask
from posttrain.pipeline.scorer_settings import LearnedSettings, list_parts
from posttrain.pipeline.stage_entries import StageEntry
from posttrain.pipeline.stage_types import find_stage_type
from posttrain.pipeline.yaml_reader import Positions
from posttrain.stages.best_of_n import BestOfNConfig
from posttrain.stages.reward_model import RewardModelConfig

if TYPE_CHECKING:
    from posttrain.pipeline.recipe import Recipe


def name_stage_model(folder: RunFolder, stage: str, artifact: Artifact) -> None:
    """Write down which artifact is the reward model of a stage."""
    write_json(folder.reward_model(stage), {"hash": artifact.hash})


def find_stage_model(folder: RunFolder, stage: str) -> Path | None:
    """Return the folder of a stage's reward model, None where it has yet to be made."""
    try:
        path = folder.artifacts / str(read_json(folder.reward_model(stage))["hash"])
    except (StorageError, KeyError, TypeError):
        return None
    return path if path.is_dir() else None


def read_warnings(artifact: Artifact) -> list[str]:
    """Return what a reward model's stage warned of, as it stands in the artifact.

    Raises:
        StorageError: The artifact's report cannot be read.
    """
    path = Path(artifact.folder) / REWARD_REPORT
    return [str(line) for line in read_json(path).get("warnings", [])] if path.is_file() else []


def list_named_models(values: Iterable[str | dict[str, Any]]) -> set[str]:
    """Return what the `model` keys of scorers say, those of scorers inside them among them."""
    return {
        part.model
        for value in values
        for part in list_parts(value, place="scorer")
        if isinstance(part, LearnedSettings)
    }


def list_reward_models(recipe: Recipe, entry: StageEntry) -> set[str]:
    """Return the reward-model stages of a recipe that a stage's scorers name."""
    return list_named_models(value for _, value in list_scorers(entry.config)) & set(recipe.roots.reward_stages)


def check_named_models(stages: Sequence[StageEntry], tasks: Sequence[EvaluationTask], positions: Positions) -> None:
    """Check that what scorers name is made before it is asked.

    Raises:
        RecipeError: A stage's scorer names a stage that makes no reward model, or none before it, or a member that it
            has not; a task's scorer names a stage, whose reward model is not there when the base is measured.
    """
    names = [entry.name for entry in stages]
    for index, entry in enumerate(stages):
        earlier = [other.name for other in stages[:index] if find_stage_type(other.type).makes == "reward_model"]
        for path, value in list_scorers(entry.config):
            for name in sorted(list_named_models([value]) & set(names) - set(earlier)):
                raise RecipeError(
                    f"the scorer's model '{name}' is no stage of type reward_model before '{entry.name}'",
                    expected="an earlier stage of type reward_model, or the folder of a reward model",
                    cure=suggest(name, earlier) if earlier else "add a stage of type reward_model before it",
                    place=positions.describe(("stages", index, *path)),
                )
            _check_members(value, stages[:index], positions.describe(("stages", index, *path)))
    for index, task in enumerate(tasks):
        for name in sorted(list_named_models([task.scorer]) & set(names) if isinstance(task, GenerationTask) else []):
            raise RecipeError(
                f"the task's scorer names the stage '{name}', which has made nothing when the base is measured",
                expected="the folder of a reward model",
                cure="train the reward model in a recipe of its own and name its artifact's folder",
                place=positions.describe(("evaluate", index, "scorer")),
            )


def _check_members(value: str | dict[str, Any], earlier: Sequence[StageEntry], place: str) -> None:
    counts = {entry.name: entry.config.members for entry in earlier if isinstance(entry.config, RewardModelConfig)}
    for part in list_parts(value, place="scorer"):
        if not isinstance(part, LearnedSettings) or part.model not in counts:
            continue
        largest, count = max(part.members or [0]), counts[part.model]
        if largest >= count:
            raise RecipeError(
                f"member {largest} of '{part.model}', which has {count}",
                expected=f"numbers from 0 to {count - 1}",
                cure=f"name members that it has, or raise the stage's members to {largest + 1}",
                place=place,
            )


def list_scorers(config: Any) -> Iterator[tuple[tuple[str | int, ...], str | dict[str, Any]]]:
    """Yield the scorers that a stage's configuration names, with their places in it."""
    sources = getattr(config, "data", None)
    holders: list[tuple[tuple[str | int, ...], Any]] = [((), config), (("audit",), getattr(config, "audit", None))]
    holders += [(("data", place), source) for place, source in enumerate(sources if isinstance(sources, list) else ())]
    for path, holder in holders:
        scorer = getattr(holder, "scorer", None)
        if isinstance(scorer, str | dict):
            yield (*path, "scorer"), scorer
    if isinstance(config, BestOfNConfig):
        yield from config.scorers.items()
