"""The live parts of an SFT stage: its policy with adapters, layout, sharding and checkpointing decided."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from posttrain.core.errors import RefusedError
from posttrain.core.seeds import derive_seed
from posttrain.kernels.layouts import Layout
from posttrain.kernels.score_kernels import ScoreKernels
from posttrain.kernels.token_logprobs import Head
from posttrain.models.adapters import continue_adapter, prepare_policy
from posttrain.models.fusing import fuse_layers
from posttrain.models.heads import check_head, choose_layout, find_backbone, find_head
from posttrain.models.loaded_policy import LoadedPolicy
from posttrain.models.loading import load_policy
from posttrain.pipeline.compiled import build_training_kernels
from posttrain.pipeline.estimates import DTYPES, needs_checkpointing
from posttrain.pipeline.preflight.rounds import check_adapter_start
from posttrain.pipeline.stage_jobs import StageJob, StageResult, build_publisher, clear_checkpoints
from posttrain.pipeline.step_works import build_sft_work
from posttrain.pipeline.tracked_metric import (
    MetricTracker,
    build_tracker,
    find_tracked_metric,
    measure_on_first_rank,
)
from posttrain.pipeline.wiring import StageData
from posttrain.stages import sft
from posttrain.stages.sft import SftConfig
from posttrain.stages.training_keys import TrainingKeys
from posttrain.training.distributed import Ranks, find_device, find_layers, shard_policy
from posttrain.training.policy import ScoredPolicy, enable_checkpointing

CHECKPOINTING_NOTE = "activation checkpointing is on: without it a step would not fit into memory"


def load_trained_policy(
    folder: Path, config: TrainingKeys, name: str, seed: int, ranks: Ranks, device: str
) -> LoadedPolicy:
    """Return the policy a stage starts from, ready to train: full weights, or one trainable adapter.

    Raises:
        ModelError: The folder or its adapters cannot be used.
        RefusedError: The policy has adapters and the recipe does not say what to do with them, or has
            none and the recipe says to go on with one.
    """
    # With several ranks the fp32 shards are the masters and FSDP makes the bf16 copies.
    dtype = config.dtype if ranks.count == 1 else "float32"
    policy = load_policy(folder, dtype=dtype, device=device)
    start = config.adapter_start
    check_adapter_start(config, name, bool(policy.adapters))
    if policy.adapters and start == "continue" and config.adapter is None:
        continue_adapter(policy.model)
    else:
        existing: Literal["continue", "stack", "merge"] = "merge" if start is None or start == "new" else start
        policy = prepare_policy(policy, config.adapter, existing=existing, name=name, seed=derive_seed(seed, "adapter"))
    for parameter in policy.model.parameters():
        if parameter.requires_grad:  # adapters come in fp32; the optimizer keeps fp32 masters of what computes in bf16
            parameter.data = parameter.data.to(DTYPES[dtype])
    return policy


@dataclass(frozen=True, slots=True)
class FittedModel:
    """How a model is trained: how its rows are laid out, what scores its head's logits, and notes for the user."""

    layout: Layout
    scores: ScoreKernels | None
    notes: list[str]

    def read_head(self, model: Any) -> Head:
        """Return the model's head as it is now, with what scores its logits."""
        return replace(find_head(model), kernels=self.scores)


def fit_layers(model: Any, config: TrainingKeys) -> FittedModel:
    """Put compiled layers into a model that is to be trained, and return how it is trained.

    Raises:
        ModelError: The model's head is not what its logits say.
        RefusedError: `packing: on` for a model in which packed rows are not isolated.
    """
    notes: list[str] = []
    check_head(model)
    kernels = build_training_kernels(next(model.parameters()))
    if kernels.why_not:
        notes.append(f"training without compiled kernels, a fifth slower: {kernels.why_not}")
    fuse_layers(model, kernels.layers)
    layout = choose_layout(model, may_pack=config.packing != "off")
    if config.packing == "on" and layout != "packed":
        raise RefusedError(
            "packed rows are not isolated in this architecture: a probe gave other hidden states than each row alone",
            expected="an architecture whose attention can be registered",
            cure="set packing: auto or off; rows are then padded",
            place="packing",
        )
    return FittedModel(layout, kernels.scores, notes)


def build_scored_policy(
    policy: LoadedPolicy, config: SftConfig, data: StageData, ranks: Ranks, seed: int
) -> tuple[ScoredPolicy, list[str]]:
    """Return the policy in training form, and notes on what was decided.

    Raises:
        ModelError: The model's head is not what its logits say.
        RefusedError: `packing: on` for a model in which packed rows are not isolated.
    """
    model = policy.model
    fitted = fit_layers(model, config)
    notes = fitted.notes
    if config.packing == "auto" and fitted.layout != "packed":
        notes.append("rows are padded: packing is not exact in this architecture")
    should_checkpoint = config.activation_checkpointing == "on"
    if config.activation_checkpointing == "auto":
        should_checkpoint = needs_checkpointing(
            policy.folder, config, build_sft_work(config, data, ranks, seed), ranks, is_loaded=True
        )
        if should_checkpoint:
            notes.append(CHECKPOINTING_NOTE)
    if should_checkpoint:
        enable_checkpointing(model)
    return wrap_policy(model, fitted.layout, fitted.read_head, ranks, config), notes


def wrap_policy(
    model: Any, layout: Layout, read_head: Callable[[Any], Head], ranks: Ranks, config: TrainingKeys
) -> ScoredPolicy:
    """Return a fitted model as one that scores micro-batches, sharded among the ranks."""
    backbone = find_backbone(model)
    scored = ScoredPolicy(model, backbone, read_head, layout)
    shard_policy(scored, find_layers(backbone), ranks, compute_dtype=DTYPES[config.dtype])
    return scored


def load_start(job: StageJob, config: TrainingKeys) -> LoadedPolicy:
    """Return the policy that a stage started from, in training form and whole, on this rank alone."""
    base, seed = Path(job.parent.folder), job.context.seed
    return load_trained_policy(base, config, job.entry.name, seed, Ranks(), find_device())


def train_sft(job: StageJob, config: SftConfig, data: StageData, ledger: dict[str, Any]) -> StageResult:
    """Train an SFT stage on its rows and return what it made.

    Raises:
        PosttrainError: Whatever stops the stage; its checkpoints stay.
    """
    device, seed = find_device(), job.context.seed
    policy = load_trained_policy(Path(job.parent.folder), config, job.entry.name, seed, job.ranks, device)
    scored, notes = build_scored_policy(policy, config, data, job.ranks, seed)
    for note in notes:
        job.context.progress.note(note)
    publish = build_publisher(job, policy, config, ledger)
    measure = job.ranks.first(lambda: _build_measure(job, config, policy, scored))
    parts = sft.SftParts(scored, data.train, data.validation, job.ranks, device, publish, measure)
    artifacts = sft.run(config, {"policy": job.parent}, parts, job.context)
    clear_checkpoints(job)
    return StageResult(artifacts, parts.num_tokens, ledger)


def _build_measure(
    job: StageJob, config: SftConfig, policy: LoadedPolicy, scored: ScoredPolicy
) -> Callable[[], float] | None:
    """Return what gives the score of the metric that chooses the weights to keep, or None where none does."""
    tracked = find_tracked_metric(job.recipe, config)
    if tracked is None:
        return None

    def build(whole: LoadedPolicy) -> MetricTracker:
        return build_tracker(
            job.recipe, tracked, whole, job.renderer, job.context.progress, allow_unsafe=job.allow_unsafe
        )

    if job.ranks.count == 1:
        return build(policy).measure
    tracker = build(load_start(job, config)) if job.ranks.is_writer else None
    sharded = {name: p.detach() for name, p in scored.model.named_parameters() if p.requires_grad}
    return measure_on_first_rank(tracker, sharded, job.ranks)
