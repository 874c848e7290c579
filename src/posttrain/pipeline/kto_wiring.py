"""A KTO stage from its recipe to its artifact: the policy in training form, the run itself."""

from __future__ import annotations

from pathlib import Path

from posttrain.core.durable import write_json
from posttrain.models.loading import read_context_tokens
from posttrain.pipeline.decontaminating import describe_decontamination
from posttrain.pipeline.preference_rows import check_labelled, describe_pairs
from posttrain.pipeline.preference_wiring import describe_data, load_rows, name_reference
from posttrain.pipeline.sft_wiring import fit_layers, load_trained_policy, wrap_policy
from posttrain.pipeline.stage_jobs import StageJob, StageResult, build_publisher, clear_checkpoints
from posttrain.pipeline.stoppable import StoppableProgress
from posttrain.pipeline.wiring import PREVIEW_ROWS
from posttrain.stages import kto
from posttrain.stages.kto import KtoConfig
from posttrain.training.distributed import find_device
from posttrain.training.policy import enable_checkpointing


def run_kto(job: StageJob, config: KtoConfig) -> StageResult:
    """Run a KTO stage and return what it made.

    Raises:
        PosttrainError: Whatever stops the stage; its checkpoints stay.
    """
    progress, device = job.context.progress, find_device()
    # Left at any time if there is one process; with several, the others would wait for this one.
    shown = StoppableProgress(progress, job.context.should_stop) if job.ranks.count == 1 else progress
    data = job.ranks.first(lambda: load_rows(job, config, shown))
    check_labelled(config, data)  # refused before the policy is loaded
    ledger = {**data.train.ledger.to_json(), "decontamination": describe_decontamination(job.recipe)}
    if job.ranks.is_writer:
        write_json(job.folder.ledger, ledger)
        write_json(job.folder.preview, describe_pairs(data.train, job.renderer.tokenizer, PREVIEW_ROWS))
    parent = Path(job.parent.folder)
    policy = load_trained_policy(parent, config, job.entry.name, job.context.seed, job.ranks, device)

    fitted = fit_layers(policy.model, config)
    if config.activation_checkpointing == "on":
        enable_checkpointing(policy.model)
    scored = wrap_policy(policy.model, fitted.layout, fitted.read_head, job.ranks, config)
    for note in (describe_data(data, "rows"), *fitted.notes):
        progress.note(note)
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
