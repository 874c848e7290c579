"""A KTO stage from its rows to its artifact: the policy in training form, the run itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from posttrain.models.loading import read_context_tokens
from posttrain.pipeline.preference_rows import StagePairs
from posttrain.pipeline.preference_wiring import name_reference
from posttrain.pipeline.sft_wiring import fit_layers, load_trained_policy, wrap_policy
from posttrain.pipeline.stage_jobs import StageJob, StageResult, build_publisher, clear_checkpoints
from posttrain.stages import kto
from posttrain.stages.kto import KtoConfig
from posttrain.training.distributed import find_device
from posttrain.training.policy import enable_checkpointing


def train_kto(job: StageJob, config: KtoConfig, data: StagePairs, ledger: dict[str, Any]) -> StageResult:
    """Train a KTO stage on its labelled rows and return what it made.

    Raises:
        PosttrainError: Whatever stops the stage; its checkpoints stay.
    """
    device = find_device()
    parent = Path(job.parent.folder)
    policy = load_trained_policy(parent, config, job.entry.name, job.context.seed, job.ranks, device)

    fitted = fit_layers(policy.model, config)
    if config.activation_checkpointing == "on":
        enable_checkpointing(policy.model)
    scored = wrap_policy(policy.model, fitted.layout, fitted.read_head, job.ranks, config)
    for note in fitted.notes:
        job.context.progress.note(note)
    parts = kto.KtoParts(
        policy=scored,
        train=data.train,
        validation=data.validation,
        references=name_reference(job, config),
        context_tokens=read_context_tokens(parent),
        name=job.entry.name,
        ranks=job.ranks,
        device=device,
        publish=build_publisher(job, policy, config, ledger),
    )
    artifacts = kto.run(config, {"policy": job.parent}, parts, job.context)
    clear_checkpoints(job)
    return StageResult(artifacts, parts.num_tokens, ledger)
