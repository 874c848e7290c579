"""A preference stage from its recipe to its artifact: the policy in training form, the run itself."""

from __future__ import annotations

from pathlib import Path

from posttrain.core.durable import write_json
from posttrain.core.hashing import hash_json
from posttrain.core.protocols import Progress
from posttrain.core.run_folder import RunFolder
from posttrain.models.heads import is_sharing_exact
from posttrain.models.loading import read_context_tokens
from posttrain.pipeline.decontaminating import describe_decontamination
from posttrain.pipeline.preference_rows import PairStageConfig, StagePairs, describe_pairs, load_stage_pairs
from posttrain.pipeline.preflight.override_names import TRUNCATION
from posttrain.pipeline.sft_wiring import fit_layers, load_trained_policy, wrap_policy
from posttrain.pipeline.stage_jobs import StageJob, StageResult, build_publisher, check_key, clear_checkpoints
from posttrain.pipeline.stoppable import StoppableProgress
from posttrain.pipeline.wiring import PREVIEW_ROWS
from posttrain.stages import preference
from posttrain.stages.preference import PreferenceConfig
from posttrain.stages.reference_logprobs import ReferenceCache
from posttrain.training.distributed import find_device
from posttrain.training.policy import enable_checkpointing


def run_preference(job: StageJob, config: PreferenceConfig) -> StageResult:
    """Run a preference stage and return what it made.

    Raises:
        PosttrainError: Whatever stops the stage; its checkpoints stay.
    """
    progress, device = job.context.progress, find_device()
    # Left at any time if there is one process; with several, the others would wait for this one.
    shown = StoppableProgress(progress, job.context.should_stop) if job.ranks.count == 1 else progress
    data = job.ranks.first(lambda: load_rows(job, config, shown))
    ledger = {**data.train.ledger.to_json(), "decontamination": describe_decontamination(job.recipe)}
    if job.ranks.is_writer:
        write_json(job.folder.ledger, ledger)
        write_json(job.folder.preview, describe_pairs(data.train, job.renderer.tokenizer, PREVIEW_ROWS))
    policy = load_trained_policy(Path(job.parent.folder), config, job.entry.name, job.context.seed, job.ranks, device)

    is_sharing = config.share_prompts == "auto" and is_sharing_exact(policy.model)
    fitted = fit_layers(policy.model, config)
    notes = fitted.notes
    if config.share_prompts == "auto" and not (is_sharing and fitted.layout == "packed"):
        notes.append("each branch has a prompt of its own: a probe of this policy with a shared one was not exact")
    if config.activation_checkpointing == "on":
        enable_checkpointing(policy.model)
    scored = wrap_policy(policy.model, fitted.layout, fitted.read_head, job.ranks, config)
    for note in (describe_data(data), *notes):
        progress.note(note)
    parts = preference.PreferenceParts(
        policy=scored,
        train=data.train,
        validation=data.validation,
        is_sharing_exact=is_sharing,
        references=name_reference(job, config),
        name=job.entry.name,
        ranks=job.ranks,
        device=device,
        publish=build_publisher(job, policy, config, ledger),
    )
    artifacts = preference.run(config, {"policy": job.parent}, parts, job.context)
    clear_checkpoints(job)
    return StageResult(artifacts, parts.num_tokens, ledger)


def name_reference(job: StageJob, config: PairStageConfig) -> ReferenceCache:
    """Return where the starting policy's log-probs are kept, and what names it: its weights, and how they are used."""
    starts = {
        "policy": job.parent.hash,
        "adapter": None if config.adapter is None else hash_json(config.adapter.identity()),
        "adapter_start": config.adapter_start,
        "dtype": config.dtype,
        "ranks": job.ranks.count,
    }
    return ReferenceCache(RunFolder(job.recipe.folder).cache / "references", starts)


def load_rows(job: StageJob, config: PairStageConfig, progress: Progress) -> StagePairs:
    """Return the stage's pairs, having checked that they are those that its key names."""
    context_tokens = read_context_tokens(Path(job.parent.folder))
    if TRUNCATION in job.overridden:
        config = config.model_copy(update={"max_affected_fraction": 1.0})
    data = load_stage_pairs(job.recipe, config, job.renderer, context_tokens, progress)
    check_key(job)
    return data


def describe_data(data: StagePairs, noun: str = "pairs") -> str:
    """Return what became of the rows of a stage, in a line."""
    ledger, total = data.train.ledger, data.train.num_tokenized
    text = f"{ledger.rows_trained:,} of {ledger.rows_in:,} {noun}, {ledger.tokens_trained:,} trained tokens"
    reasons = "; ".join(f"{entry.rows:,} dropped: {reason}" for reason, entry in ledger.dropped.items())
    return f"{text}; {total:,} {noun} tokenized now" + (f"; {reasons}" if reasons else "")
