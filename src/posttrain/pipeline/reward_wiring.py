"""The rows and live parts of a reward-model stage."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from posttrain.chat.rendering import Renderer
from posttrain.core.protocols import Progress
from posttrain.core.records import Artifact
from posttrain.core.run_folder import StageFolder
from posttrain.data.judged import JudgedSettings, load_judged
from posttrain.data.pairs import PairData
from posttrain.data.sources import DataSource
from posttrain.models.heads import find_backbone, is_sharing_exact
from posttrain.models.loaded_policy import LoadedPolicy
from posttrain.models.loading import load_policy, load_tokenizer
from posttrain.models.manifest import ArtifactFacts, Manifest
from posttrain.models.reward_models import (
    RewardFacts,
    assemble_member,
    begin_head,
    check_scoring_class,
    save_reward_model,
)
from posttrain.pipeline.estimates import DTYPES, needs_checkpointing
from posttrain.pipeline.preference_rows import StagePairs, load_stage_pairs
from posttrain.pipeline.recipe import Recipe
from posttrain.pipeline.sft_wiring import CHECKPOINTING_NOTE, fit_layers, load_trained_policy
from posttrain.pipeline.stage_jobs import StageJob, StageResult, describe_artifact, store_artifact
from posttrain.pipeline.step_works import build_reward_work
from posttrain.pipeline.wiring import find_place, load_stage_rows
from posttrain.stages import reward_model
from posttrain.stages.reward_diagnosis import Diagnosis
from posttrain.stages.reward_model import RewardModelConfig, RewardModelParts
from posttrain.training.checkpoints import CheckpointStore
from posttrain.training.distributed import Ranks, find_device, find_layers, shard_policy
from posttrain.training.policy import enable_checkpointing
from posttrain.training.reward_policy import ScoredRewardModel


def load_reward_data(
    recipe: Recipe, config: RewardModelConfig, renderer: Renderer, context_tokens: int | None, progress: Progress
) -> StagePairs:
    """Return a stage's rows, tokenized now or read from the run folder's cache.

    Raises:
        DataError: A source cannot be read, or too many rows are bad or too long.
    """
    if config.learns == "pairwise":
        return load_stage_pairs(recipe, config, renderer, context_tokens, progress, columns=config.kept_columns)
    tokenizer: Any = renderer.tokenizer
    settings = JudgedSettings(
        renderer_hash=renderer.format.hash,
        tokenizer_hash=tokenizer.content_hash,
        attributes=tuple(config.attributes),
        separator=config.separator if config.learns == "process" else None,
        max_length=config.max_length or context_tokens,
        truncation=config.truncation,
        max_affected_fraction=config.max_affected_fraction,
    )
    place = find_place(recipe, progress)

    def load(sources: Sequence[DataSource], left_out: Sequence[Mapping[str, str]]) -> PairData:
        return load_judged(sources, renderer, tokenizer.decode, settings, place, left_out)

    return load_stage_rows(recipe, config, load, progress)


@dataclass(frozen=True, slots=True)
class RewardSetting:
    """What surrounds a reward-model stage: its policy's folder and artifact, its name, ranks, seed, device."""

    parent: Artifact
    name: str
    ranks: Ranks
    seed: int
    device: str

    @property
    def folder(self) -> Path:
        """The folder of the policy that it starts from."""
        return Path(self.parent.folder)


def train_reward_model(
    job: StageJob, config: RewardModelConfig, data: StagePairs, ledger: dict[str, Any]
) -> StageResult:
    """Train a reward-model stage on its rows and return the reward model beside the policy as it came.

    Raises:
        PosttrainError: Whatever stops the stage; its checkpoints stay.
    """
    setting = RewardSetting(job.parent, job.entry.name, job.ranks, job.context.seed, find_device())
    facts = describe_artifact(job, config.identity(), ledger)

    def publish(tensors_of: Callable[[int], dict[str, torch.Tensor]], diagnosis: Diagnosis) -> Artifact:
        return store_artifact(job, lambda folder: save_members(setting, config, folder, facts, tensors_of, diagnosis))

    parts, notes = build_reward_parts(setting, config, data, publish)
    for note in notes:
        job.context.progress.note(note)
    artifacts = reward_model.run(config, {"policy": job.parent}, parts, job.context)
    if job.ranks.is_writer:  # the artifact has taken their place
        for folder in [job.folder, *(StageFolder(job.folder.member(number)) for number in range(config.members))]:
            CheckpointStore(folder.checkpoints).clear()
    return StageResult(artifacts, parts.num_tokens, ledger)


def build_reward_parts(
    setting: RewardSetting,
    config: RewardModelConfig,
    data: StagePairs,
    publish: Callable[[Callable[[int], dict[str, torch.Tensor]], Diagnosis], Artifact],
) -> tuple[RewardModelParts, list[str]]:
    """Return the live parts of a stage, and notes on how they were chosen.

    Raises:
        ModelError: The architecture has no model with scores, or the model's head is not what its logits say.
        RefusedError: `packing: on` where packed rows are not isolated.
    """
    # In float32, where rounding cannot hide what sharing does: it is a property of the architecture.
    probe = load_policy(setting.folder, dtype="float32", device=setting.device)
    check_scoring_class(probe.model)
    is_sharing = config.packing != "off" and is_sharing_exact(probe.model)
    del probe
    notes = [] if is_sharing else ["completions do not share their prompt: it is not exact in this architecture"]

    work = build_reward_work(config, data.train, setting.ranks, setting.seed)
    if config.activation_checkpointing == "auto" and setting.ranks.first(
        lambda: needs_checkpointing(setting.folder, config, work, setting.ranks)
    ):
        notes.append(CHECKPOINTING_NOTE)
        config = config.model_copy(update={"activation_checkpointing": "on"})

    def build_member(seed: int) -> ScoredRewardModel:
        policy = load_trained_policy(setting.folder, config, setting.name, seed, setting.ranks, setting.device)
        return _build_scored(policy, config, seed, setting)

    parts = RewardModelParts(
        build_member, data.train, data.validation, setting.ranks, setting.device, is_sharing, publish
    )
    return parts, notes


def _build_scored(
    policy: LoadedPolicy, config: RewardModelConfig, seed: int, setting: RewardSetting
) -> ScoredRewardModel:
    model = policy.model
    layout = fit_layers(model, config).layout
    if config.activation_checkpointing == "on":
        enable_checkpointing(model)
    head = begin_head(model, max(1, len(config.attributes)), seed)
    backbone = find_backbone(model)
    scored = ScoredRewardModel(model, backbone, head, layout)
    shard_policy(scored, find_layers(backbone), setting.ranks, compute_dtype=DTYPES[config.dtype])
    return scored


# many parameters: what was trained, where it goes, and what is written with it
def save_members(
    setting: RewardSetting,
    config: RewardModelConfig,
    folder: Path,
    facts: ArtifactFacts,
    tensors_of: Callable[[int], dict[str, torch.Tensor]],
    diagnosis: Diagnosis,
) -> Manifest:
    """Write the reward model of trained members; each is assembled from the policy that the stage started from."""
    started = config.model_copy(update={"dtype": "float32"})

    def load() -> LoadedPolicy:
        return load_trained_policy(setting.folder, started, setting.name, setting.seed, Ranks(), "cpu")

    return save_reward_model(
        (assemble_member(load(), tensors_of(number)) for number in range(config.members)),
        load_tokenizer(setting.folder),
        folder,
        facts,
        RewardFacts(**asdict(diagnosis.meaning)),
        weights_dtype=config.dtype,
        report=diagnosis.report,
    )
