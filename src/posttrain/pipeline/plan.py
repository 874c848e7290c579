"""What a run would do: stages and rounds, what is cached and why, steps, tokens, memory, time.

Planning reads and tokenizes data (once: the run reads the same cache) and trains nothing. A stage's key
is known when its parent's artifact is; a stage after one that has yet to run is planned from the base.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from posttrain.chat.rendering import Renderer
from posttrain.core.hashing import hash_bytes, hash_json
from posttrain.core.progress import SilentProgress
from posttrain.core.protocols import Progress
from posttrain.core.run_folder import RunFolder
from posttrain.core.seeds import derive_seed
from posttrain.data.mixing import RowOrder
from posttrain.data.unpaired import read_labels
from posttrain.models.loading import BASE_FOLDER, GENERATION_FILE, read_context_tokens
from posttrain.models.manifest import load_manifest
from posttrain.models.validation import CONFIG_FILE
from posttrain.models.weights import hash_weights
from posttrain.pipeline.best_of_n_wiring import hash_study_scorers, read_study_problems
from posttrain.pipeline.decontaminating import OFF
from posttrain.pipeline.estimates import estimate_memory, estimate_seconds
from posttrain.pipeline.grpo_wiring import (
    hash_stage_audit,
    hash_stage_environment,
    hash_stage_scorer,
    read_stage_problems,
)
from posttrain.pipeline.named_models import list_reward_models
from posttrain.pipeline.policies import find_base, open_renderer
from posttrain.pipeline.preference_rows import PairStageConfig, load_stage_pairs
from posttrain.pipeline.preflight.rounds import check_rounds
from posttrain.pipeline.recipe import Recipe
from posttrain.pipeline.recipe_settings import BASE
from posttrain.pipeline.reward_wiring import load_reward_data
from posttrain.pipeline.rounds import Round, list_rounds
from posttrain.pipeline.store import ArtifactStore
from posttrain.pipeline.tracked_metric import describe_tracked_metric, find_tracked_metric
from posttrain.pipeline.wiring import (
    find_contaminated_rows,
    fingerprint_sources,
    fingerprint_values,
    load_stage_data,
)
from posttrain.stages import grpo, kto, preference, reward_model, sft
from posttrain.stages.best_of_n import BestOfNConfig
from posttrain.stages.reward_model import RewardModelConfig
from posttrain.stages.training_keys import count_steps
from posttrain.training.distributed import Ranks, find_device

_ROWS_COUNTED = 1_000_000


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
    config = stage.entry.config
    identity = config.identity() if config is not None else stage.entry.values
    sources = fingerprint_values(recipe, stage.entry.values) if config is None else []
    if isinstance(config, sft.SftConfig):
        # Rows count by content, not by the path they were read from.
        sources = fingerprint_sources(recipe, [*config.data, *config.validation])
        identity = {**identity, "data": len(config.data), "proportions": [s.proportion for s in config.data]}
        identity["validation"] = len(config.validation)
        identity |= _identify_left_out(recipe, config)
        tracked = find_tracked_metric(recipe, config)
        if tracked is not None:
            identity["tracked"] = describe_tracked_metric(recipe, tracked)
    if isinstance(config, PairStageConfig | RewardModelConfig):
        sources = fingerprint_sources(recipe, [*config.data, *config.validation])
        identity = {**identity, "data": len(config.data), "proportions": [s.proportion for s in config.data]}
        identity["validation"] = len(config.validation)
        identity |= _identify_left_out(recipe, config)
    if isinstance(config, grpo.GrpoConfig):
        sources = fingerprint_sources(recipe, config.data)
        identity = {**identity, "data": len(config.data), "scorer": hash_stage_scorer(recipe, config)}
        if config.environment is not None:
            identity["environment"] = hash_stage_environment(recipe, config)
        if config.audit is not None:
            identity["auditor"] = hash_stage_audit(recipe, config)
        identity |= _identify_left_out(recipe, config)
    if isinstance(config, BestOfNConfig):
        sources = fingerprint_sources(recipe, config.data)
        identity = {**identity, "data": len(config.data), "scorers": hash_study_scorers(recipe, config)}
    tokenizer: Any = renderer.tokenizer
    return hash_json(
        {
            "type": stage.entry.type,
            "name": stage.entry.name,
            "round": stage.number,
            "config": identity,
            "plugins": [plugin.content_hash for plugin in stage.entry.plugins],
            "input": input_hash,
            "model": hash_model_config(base),
            "sources": sources,
            "chat": renderer.format.hash,
            "tokenizer": tokenizer.content_hash,
            "seed": derive_stage_seed(recipe, stage),
            "version": sft.STAGE_VERSION,
        }
    )


def _identify_left_out(
    recipe: Recipe, config: sft.SftConfig | grpo.GrpoConfig | PairStageConfig | RewardModelConfig
) -> dict[str, Any]:
    """Return what of decontamination decides a stage's artifact: the rows left out, and that none were looked for."""
    if recipe.head.decontaminate is None:
        return {"decontaminate": OFF}
    found = find_contaminated_rows(recipe, config.data)
    return {"contaminated": [sorted(rows) for rows in found]} if any(found) else {}


def derive_stage_seed(recipe: Recipe, stage: Round) -> int:
    """Return the seed of one round of a stage."""
    return derive_seed(recipe.seed, "stage", stage.entry.name, stage.number)


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
            if isinstance(stage.entry.config, RewardModelConfig):
                outputs[stage.entry.name] = parent
                unmade |= set() if found is not None else {stage.entry.name}
            if isinstance(stage.entry.config, BestOfNConfig):
                outputs[stage.entry.name] = parent
            planned = PlannedStage(stage.entry.name, stage.number, stage.entry.type, "run", "", key=key)
            if found is not None:
                planned = replace(planned, status="cached", why=f"artifact {found.hash[:12]} has this key")
            else:
                planned = replace(planned, why=_why_run(stage, key, store, waits_for))
            if isinstance(stage.entry.config, sft.SftConfig):
                planned = _plan_sft(recipe, stage, planned, base, renderer, shown)
            elif isinstance(stage.entry.config, grpo.GrpoConfig):
                planned = _plan_grpo(recipe, stage.entry.config, planned)
            elif isinstance(stage.entry.config, RewardModelConfig):
                planned = _plan_reward_model(recipe, stage, planned, base, renderer, shown)
            elif isinstance(stage.entry.config, PairStageConfig):
                planned = _plan_preference(recipe, stage, planned, base, renderer, shown)
            elif isinstance(stage.entry.config, BestOfNConfig):
                planned = _plan_best_of_n(recipe, stage.entry.config, planned)
            stages.append(planned)
    return Plan(recipe.hash, recipe.identity_hash(), base_hash, stages)


def _why_run(stage: Round, key: str | None, store: ArtifactStore, waits_for: set[str]) -> str:
    if waits_for:
        return f"'{min(waits_for)}' runs before it"
    if key is None:
        return f"'{stage.entry.parent if stage.number == 1 else stage.entry.name}' runs before it"
    return store.describe_loss(key) or "no artifact has its key yet"


def _plan_sft(
    recipe: Recipe, stage: Round, planned: PlannedStage, base: Path, renderer: Renderer, progress: Progress
) -> PlannedStage:
    config = stage.entry.config
    assert isinstance(config, sft.SftConfig)
    data = load_stage_data(recipe, config, renderer, read_context_tokens(base), progress)
    seed = derive_stage_seed(recipe, stage)
    order = sft.build_order(config, data.train, seed)
    steps = count_steps(config, order.steps_per_epoch)
    rates = [config.compute_learning_rate(step, steps) for step in ([0, steps // 2, steps - 1] if steps else [])]
    tokens = count_tokens(order, [part.lengths_R for part in data.train.rows], steps)
    memory = estimate_memory(base, config, data, Ranks(), seed)
    is_cached = planned.status == "cached"
    return replace(
        planned,
        steps=steps,
        tokens=tokens,
        learning_rates=rates,
        memory_bytes=memory.total,
        seconds=0.0 if is_cached else estimate_seconds(base, config, data, seed, tokens, device=find_device()),
    )


def _plan_grpo(recipe: Recipe, config: grpo.GrpoConfig, planned: PlannedStage) -> PlannedStage:
    """Return the updates and learning rates of a stage that samples; its tokens are not known before it drew them."""
    read_stage_problems(recipe, config)
    updates = config.num_updates
    rates = [
        config.compute_learning_rate(step, updates) for step in ([0, updates // 2, updates - 1] if updates else [])
    ]
    seconds = 0.0 if planned.status == "cached" else None
    return replace(planned, steps=updates, learning_rates=rates, seconds=seconds)


# many parameters: those of _plan_sft
def _plan_reward_model(
    recipe: Recipe, stage: Round, planned: PlannedStage, base: Path, renderer: Renderer, progress: Progress
) -> PlannedStage:
    """Return the steps, learning rates and tokens of all members."""
    config = stage.entry.config
    assert isinstance(config, RewardModelConfig)
    data = load_reward_data(recipe, config, renderer, read_context_tokens(base), progress).train
    order = RowOrder(
        [len(rows) for rows in data.sources], [source.proportion for source in config.data],
        derive_stage_seed(recipe, stage), config.batch_size,
    )  # fmt: skip
    steps = reward_model.count_member_steps(config, order.steps_per_epoch)
    tokens = count_tokens(order, [rows.part_lengths_RK.sum(axis=1) for rows in data.sources], steps)
    return replace(
        planned,
        steps=steps * config.members,
        tokens=tokens * config.members,
        learning_rates=[config.compute_learning_rate(step, steps) for step in (0, steps // 2, steps - 1)],
        seconds=0.0 if planned.status == "cached" else None,
    )


# many parameters: those of _plan_sft
def _plan_preference(
    recipe: Recipe, stage: Round, planned: PlannedStage, base: Path, renderer: Renderer, progress: Progress
) -> PlannedStage:
    """Return the steps, tokens and learning rates of a stage of pairs, a prompt counted once, or of labelled rows."""
    config = stage.entry.config
    assert isinstance(config, PairStageConfig)
    data = load_stage_pairs(recipe, config, renderer, read_context_tokens(base), progress)
    seed = derive_stage_seed(recipe, stage)
    if isinstance(config, kto.KtoConfig):
        read_labels(data.train.sources)
        order = kto.build_order(config, data.train, seed)
    else:
        order = preference.build_order(config, data.train, seed)
    steps = count_steps(config, order.steps_per_epoch)
    rates = [config.compute_learning_rate(step, steps) for step in ([0, steps // 2, steps - 1] if steps else [])]
    tokens = count_tokens(order, [rows.part_lengths_RK.sum(1) for rows in data.train.sources], steps)
    seconds = 0.0 if planned.status == "cached" else None
    return replace(planned, steps=steps, tokens=tokens, learning_rates=rates, seconds=seconds)


def _plan_best_of_n(recipe: Recipe, config: BestOfNConfig, planned: PlannedStage) -> PlannedStage:
    """Return how many answers a study draws and verdicts it asks for; tokens are not known before it drew them."""
    num_answers = len(read_study_problems(recipe, config).problems) * config.n
    seconds = 0.0 if planned.status == "cached" else None
    return replace(planned, answers=num_answers, verdicts=num_answers * len(config.scorers), seconds=seconds)


def count_tokens(order: RowOrder, lengths: Sequence[npt.NDArray[np.int64]], steps: int) -> int:
    """Return how many tokens, prompts included, a number of steps sees.

    The first million rows are counted, and what comes after them in proportion.

    Args:
        order: Says which rows each step takes.
        lengths: Tokens of every row, for each source.
        steps: Steps from the first.
    """
    counted = min(steps, max(1, _ROWS_COUNTED // order.batch_size))
    tokens = sum(int(lengths[source][row]) for step in range(counted) for source, row in order.rows_of_step(step))
    return round(tokens * steps / counted) if counted else 0
