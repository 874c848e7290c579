"""What a run would do: stages and rounds, what is cached and why, steps, tokens, memory, time.

Planning reads and tokenizes data (once: the run reads the same cache) and trains nothing. A stage's key
is known when its parent's artifact is; a stage after one that has yet to run is planned from the base.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from posttrain.chat.rendering import Renderer
from posttrain.core.hashing import hash_bytes, hash_json
from posttrain.core.progress import SilentProgress
from posttrain.core.protocols import Progress
from posttrain.core.run_folder import RunFolder
from posttrain.models.loading import BASE_FOLDER, GENERATION_FILE
from posttrain.models.manifest import load_manifest
from posttrain.models.validation import CONFIG_FILE
from posttrain.models.weights import hash_weights
from posttrain.pipeline.named_models import list_reward_models
from posttrain.pipeline.policies import find_base, open_renderer
from posttrain.pipeline.preflight.rounds import check_rounds
from posttrain.pipeline.recipe import Recipe
from posttrain.pipeline.recipe_settings import BASE
from posttrain.pipeline.rounds import Round, derive_stage_seed, list_rounds
from posttrain.pipeline.stage_kinds.kind import StageSetting, find_kind
from posttrain.pipeline.stage_types import find_stage_type
from posttrain.pipeline.store import ArtifactStore
from posttrain.stages import sft
from posttrain.training.distributed import Ranks


@dataclass(frozen=True, slots=True)
class PlannedStage:
    """One stage and round: what it will do, as far as it is known before it runs; None is unknown.

    `learning_rates` are those of the first, middle and last step; `tokens` counts prompts too. A study draws
    `answers` and asks for `verdicts` on them, of all scorers together.
    """

    name: str
    round: int
    type: str
    status: str
    why: str
    key: str | None = None
    steps: int | None = None
    tokens: int | None = None
    learning_rates: list[float] | None = None
    memory_bytes: int | None = None
    seconds: float | None = None
    answers: int | None = None
    verdicts: int | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run of a recipe would do; `plan_hash` counts every leaf of the recipe, `recipe_hash` identity only."""

    plan_hash: str
    recipe_hash: str
    base_hash: str
    stages: list[PlannedStage]

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON-like values."""
        return asdict(self)


def compute_stage_key(recipe: Recipe, stage: Round, input_hash: str, renderer: Renderer, base: Path) -> str:
    """Return the key of a round's artifact: everything that decides it, and nothing that does not.

    Args:
        recipe: Gives the seed and says where paths start.
        stage: The round.
        input_hash: The name by content of the policy it starts from.
        renderer: Its chat format and tokenizer count.
        base: The recipe's model, whose configuration is no part of its weights' hash.

    Raises:
        DataError: A source cannot be read.
    """
    parts = find_kind(stage.entry).identify(recipe, stage.entry, stage.entry.config)
    tokenizer: Any = renderer.tokenizer
    return hash_json(
        {
            "type": stage.entry.type,
            "name": stage.entry.name,
            "round": stage.number,
            "config": parts.config,
            "plugins": [plugin.content_hash for plugin in stage.entry.plugins],
            "input": input_hash,
            "model": hash_model_config(base),
            "sources": parts.sources,
            "chat": renderer.format.hash,
            "tokenizer": tokenizer.content_hash,
            "seed": derive_stage_seed(recipe, stage),
            "version": sft.STAGE_VERSION,
        }
    )


def hash_base(base: Path) -> str:
    """Return the name by content of a base: an artifact's hash, or that of its weights."""
    return load_manifest(base).hash if (base / "manifest.json").exists() else hash_weights(base)


def hash_model_config(folder: Path) -> str:
    """Return the hash of a policy's configuration files: what its weights compute, and where it stops by itself."""
    inner = folder / BASE_FOLDER if (folder / BASE_FOLDER).is_dir() else folder
    files = [path for path in (inner / CONFIG_FILE, folder / GENERATION_FILE) if path.is_file()]
    return hash_bytes(*(path.read_bytes() for path in files))


def build_plan(recipe: Recipe, *, progress: Progress | None = None) -> Plan:
    """Return what a run of the recipe would do.

    Raises:
        PosttrainError: Whatever would stop the run before its first step: data, model, template.
    """
    shown = progress or SilentProgress()
    base = find_base(recipe)
    base_hash = hash_base(base)
    store = ArtifactStore(RunFolder(recipe.folder))
    outputs: dict[str, str | None] = {BASE: base_hash}
    unmade: set[str] = set()
    stages = []
    with open_renderer(recipe, base) as renderer:
        rounds = list_rounds(recipe)
        check_rounds(recipe, base, rounds, Ranks())
        for stage in rounds:
            parent = outputs[stage.entry.parent] if stage.number == 1 else outputs[stage.entry.name]
            waits_for = unmade & list_reward_models(recipe, stage.entry)
            is_known = parent is not None and not waits_for
            key = compute_stage_key(recipe, stage, str(parent), renderer, base) if is_known else None
            found = store.find(key) if key is not None else None
            outputs[stage.entry.name] = found.hash if found is not None else None
            if find_stage_type(stage.entry.type).passes_policy_on:
                outputs[stage.entry.name] = parent
                unmade |= set() if found is not None else {stage.entry.name}
            setting = StageSetting(recipe, stage, base, renderer, Ranks(), shown)
            cost = find_kind(stage.entry).estimate(setting, stage.entry.config, is_cached=found is not None)
            if found is not None:
                status, why = "cached", f"artifact {found.hash[:12]} has this key"
            else:
                status, why = "run", _why_run(stage, key, store, waits_for)
            planned = PlannedStage(
                stage.entry.name,
                stage.number,
                stage.entry.type,
                status,
                why,
                key,
                cost.steps,
                cost.tokens,
                cost.learning_rates,
                cost.memory_bytes,
                cost.seconds,
                cost.answers,
                cost.verdicts,
            )
            stages.append(planned)
    return Plan(recipe.hash, recipe.identity_hash(), base_hash, stages)


def _why_run(stage: Round, key: str | None, store: ArtifactStore, waits_for: set[str]) -> str:
    if waits_for:
        return f"'{min(waits_for)}' runs before it"
    if key is None:
        return f"'{stage.entry.parent if stage.number == 1 else stage.entry.name}' runs before it"
    return store.describe_loss(key) or "no artifact has its key yet"
