"""The rows and live parts of a reward-model stage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from posttrain.chat.rendering import Renderer
from posttrain.core.durable import write_json
from posttrain.core.protocols import Progress
from posttrain.core.records import Artifact
from posttrain.core.run_folder import RunFolder, StageFolder
from posttrain.data.judged import JudgedSettings, load_judged
from posttrain.data.pairs import PairData, PairSettings, load_pairs
from posttrain.data.sources import DataSource
from posttrain.data.tokenizing import DataPlace
from posttrain.lab.source import lab_rows
from posttrain.models.heads import find_backbone, find_causal_lm, find_head, is_sharing_exact
from posttrain.models.loaded_policy import LoadedPolicy
from posttrain.models.loading import load_policy, load_tokenizer, read_context_tokens
from posttrain.models.manifest import ArtifactFacts, Manifest
from posttrain.models.reward_models import (
    RewardFacts,
    assemble_member,
    check_scoring_class,
    make_head,
    save_reward_model,
)
from posttrain.pipeline.decontaminating import describe_decontamination
from posttrain.pipeline.estimates import DTYPES
from posttrain.pipeline.recipe import Recipe
from posttrain.pipeline.sft_wiring import fit_layers, load_trained_policy
from posttrain.pipeline.stage_jobs import StageJob, StageResult, check_key, describe_artifact, store_artifact
from posttrain.pipeline.stoppable import StoppableProgress
from posttrain.pipeline.wiring import PREVIEW_ROWS, describe_sample, find_contaminated_rows, locate_sources
from posttrain.stages import reward_model
from posttrain.stages.reward_diagnosis import Diagnosis
from posttrain.stages.reward_model import RewardModelConfig, RewardModelParts
from posttrain.stages.reward_rows import check_rows
from posttrain.training.checkpoints import CheckpointStore
from posttrain.training.distributed import Ranks, find_device, find_layers, shard_policy
from posttrain.training.policy import enable_checkpointing
from posttrain.training.reward_policy import ScoredRewardModel


@dataclass(frozen=True, slots=True)
class RewardData:
    """The tokenized rows of a stage: what it trains on and what it validates on."""

    train: PairData
    validation: PairData | None


def load_reward_data(
    recipe: Recipe, config: RewardModelConfig, renderer: Renderer, context_tokens: int | None, progress: Progress
) -> RewardData:
    """Return a stage's rows, tokenized now or read from the run folder's cache.

    Raises:
        DataError: A source cannot be read, or too many rows are bad or too long.
    """
    tokenizer: Any = renderer.tokenizer
    place = DataPlace(recipe.root, RunFolder(recipe.folder).cache / "tokens", lab_rows, progress)
    names = {"renderer_hash": renderer.format.hash, "tokenizer_hash": tokenizer.content_hash}
    limits: dict[str, Any] = {
        "max_length": config.max_length or context_tokens,
        "truncation": config.truncation,
        "max_affected_fraction": config.max_affected_fraction,
    }

    def load(sources: Sequence[DataSource], found: Sequence[dict[str, str]] = ()) -> PairData:
        located = locate_sources(recipe, sources)
        if config.learns == "pairwise":
            settings = PairSettings(**names, columns=config.kept_columns, **limits)
            return load_pairs(located, renderer, settings, place, found)
        separator = config.separator if config.learns == "process" else None
        judged = JudgedSettings(**names, attributes=tuple(config.attributes), separator=separator, **limits)
        return load_judged(located, renderer, tokenizer.decode, judged, place, found)

    contaminated = find_contaminated_rows(recipe, config.data, progress)
    return RewardData(load(config.data, contaminated), load(config.validation) if config.validation else None)


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


def run_reward_model(job: StageJob, config: RewardModelConfig) -> StageResult:
    """Run a reward-model stage and return the reward model beside the policy as it came.

    Raises:
        PosttrainError: Whatever stops the stage; its checkpoints stay.
    """
    setting = RewardSetting(job.parent, job.entry.name, job.ranks, job.context.seed, find_device())
    progress = job.context.progress
    shown = StoppableProgress(progress, job.context.should_stop) if job.ranks.count == 1 else progress
    context_tokens = read_context_tokens(setting.folder)
    data = job.ranks.first(lambda: load_reward_data(job.recipe, config, job.renderer, context_tokens, shown))
    check_rows(config, data.train, data.validation)
    check_key(job)
    ledger = {**data.train.ledger.to_json(), "decontamination": describe_decontamination(job.recipe)}
    if job.ranks.is_writer:
        write_json(job.folder.ledger, ledger)
        write_json(job.folder.preview, describe_reward_rows(data.train, job.renderer.tokenizer, PREVIEW_ROWS))
    facts = describe_artifact(job, config.identity(), ledger)

    def publish(tensors_of: Callable[[int], dict[str, torch.Tensor]], diagnosis: Diagnosis) -> Artifact:
        return store_artifact(job, lambda folder: save_members(setting, config, folder, facts, tensors_of, diagnosis))

    parts, notes = build_reward_parts(setting, config, data, publish)
    for note in notes:
        progress.note(note)
    artifacts = reward_model.run(config, {"policy": job.parent}, parts, job.context)
    if job.ranks.is_writer:  # the artifact has taken their place
        for folder in [job.folder, *(StageFolder(job.folder.member(number)) for number in range(config.members))]:
            CheckpointStore(folder.checkpoints).clear()
    return StageResult(artifacts, parts.num_tokens, ledger)


def build_reward_parts(
    setting: RewardSetting,
    config: RewardModelConfig,
    data: RewardData,
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
    hidden_size = find_head(model).weight.shape[1]
    causal_lm = find_causal_lm(model)
    own_head = causal_lm.get_output_embeddings().weight
    if own_head is not causal_lm.get_input_embeddings().weight:
        own_head.requires_grad_(False)  # nothing is predicted with it
    if config.activation_checkpointing == "on":
        enable_checkpointing(model)
    head = make_head(hidden_size, max(1, len(config.attributes)), seed).to(setting.device)
    scored = ScoredRewardModel(model, find_backbone(model), head, layout)
    shard_policy(scored, find_layers(find_backbone(model)), setting.ranks, compute_dtype=DTYPES[config.dtype])
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


def describe_reward_rows(data: PairData, tokenizer: Any, count: int) -> list[dict[str, Any]]:
    """Return the first rows of each source in turn, each completion behind its prompt, token by token."""
    shown: list[dict[str, Any]] = []
    for index in range(max((len(rows) for rows in data.sources), default=0)):
        for rows in data.sources:
            if index < len(rows) and len(shown) < count:
                pair = rows[index]
                names = ("chosen", "rejected") if len(pair.completions) > 1 else ("completion",)
                for name, completion in zip(names, pair.completions, strict=True):
                    tokens = describe_sample(pair.join(completion), tokenizer)
                    shown.append({"row_id": f"{pair.row_id} {name}", "tokens": tokens})
    return shown[:count]
