"""Which rounds are yet to train, found before anything trains and without reading an artifact's files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain.chat.rendering import Renderer
from posttrain.core.records import Artifact
from posttrain.core.run_folder import RunFolder
from posttrain.pipeline.named_models import list_reward_models
from posttrain.pipeline.plan import compute_stage_key
from posttrain.pipeline.recipe import Recipe
from posttrain.pipeline.recipe_settings import BASE
from posttrain.pipeline.rounds import Round
from posttrain.pipeline.stage_types import find_stage_type
from posttrain.pipeline.store import ArtifactStore, read_folder_key
from posttrain.training.checkpoints import CheckpointStore


@dataclass(frozen=True, slots=True)
class WaitingStage:
    """A round that is yet to train, as far as it is known.

    Made by `find_progress` and by the run, read by preflight. `parent` is the folder of the policy that it starts
    from, None while another round has to make it; `is_resumed` says that there is a checkpoint of it to go on from.
    """

    stage: Round
    parent: Path | None
    is_resumed: bool = False


@dataclass(frozen=True, slots=True)
class RunProgress:
    """How far a run has come: rounds to train, labels of those that are made, and of those that have not changed.

    A round has not changed if the record of the run before names it by the key that it has.
    """

    waiting: list[WaitingStage]
    made: list[str]
    unchanged: set[str]


def find_progress(
    recipe: Recipe, rounds: Sequence[Round], entries: Sequence[dict[str, Any]], base: Artifact, renderer: Renderer
) -> RunProgress:
    """Return how far a run has come, as its folder says.

    Args:
        recipe: The recipe.
        rounds: All of its rounds, in order.
        entries: What the record says of each.
        base: The recipe's model.
        renderer: Its chat format counts in the keys.

    Raises:
        DataError: A source cannot be read.
    """
    folder = RunFolder(recipe.folder)
    store = ArtifactStore(folder)
    known: dict[str, Artifact | None] = {BASE: base}
    progress = RunProgress([], [], set())
    unmade: set[str] = set()
    for stage, entry in zip(rounds, entries, strict=True):
        name = stage.entry.name
        parent = known[stage.entry.parent if stage.number == 1 else name]
        passes_on = find_stage_type(stage.entry.type).passes_policy_on
        if parent is None or unmade & list_reward_models(recipe, stage.entry):
            known[name] = parent if passes_on else None
            unmade |= {name} if passes_on else set()
            progress.waiting.append(WaitingStage(stage, None))
            continue
        key = compute_stage_key(recipe, stage, parent.hash, renderer, Path(base.folder))
        known[name] = store.read(key)
        if entry["key"] == key:
            progress.unchanged.add(stage.label)
        if known[name] is not None:
            progress.made.append(stage.label)
        if passes_on:
            unmade |= set() if known[name] is not None else {name}
            is_made, known[name] = known[name] is not None, parent
        else:
            is_made = known[name] is not None
        if is_made:
            continue
        own = folder.stage(stage.index, name, stage.number)
        is_resumed = read_folder_key(own.root) == key and not CheckpointStore(own.checkpoints).is_empty
        progress.waiting.append(WaitingStage(stage, Path(parent.folder), is_resumed))
    return progress
