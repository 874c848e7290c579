"""A preference stage from its pairs to its artifact: the policy in training form, the run itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from posttrain.core.hashing import hash_json
from posttrain.core.run_folder import RunFolder
from posttrain.models.heads import is_sharing_exact
from posttrain.pipeline.preference_rows import StagePairs
from posttrain.pipeline.sft_wiring import fit_layers, load_trained_policy, wrap_policy
from posttrain.pipeline.stage_jobs import StageJob, StageResult, build_publisher, clear_checkpoints
from posttrain.stages import preference
from posttrain.stages.preference import PreferenceConfig
from posttrain.stages.reference_logprobs import ReferenceCache
from posttrain.stages.training_keys import TrainingKeys
from posttrain.training.distributed import find_device
from posttrain.training.policy import enable_checkpointing


def train_preference(job: StageJob, config: PreferenceConfig, data: StagePairs, ledger: dict[str, Any]) -> StageResult:
    """Train a preference stage on its pairs and return what it made.

    Raises:
        PosttrainError: Whatever stops the stage; its checkpoints stay.
    """
    device = find_device()
    policy = load_trained_policy(Path(job.parent.folder), config, job.entry.name, job.context.seed, job.ranks, device)

    is_sharing = config.share_prompts == "auto" and is_sharing_exact(policy.model)
    fitted = fit_layers(policy.model, config)
    notes = fitted.notes
    if config.share_prompts == "auto" and not (is_sharing and fitted.layout == "packed"):
        notes.append("each branch has a prompt of its own: a probe of this policy with a shared one was not exact")
    if config.activation_checkpointing == "on":
        enable_checkpointing(policy.model)
    scored = wrap_policy(policy.model, fitted.layout, fitted.read_head, job.ranks, config)
    for note in notes:
        job.context.progress.note(note)
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


def name_reference(job: StageJob, config: TrainingKeys) -> ReferenceCache:
    """Return where the starting policy's log-probs are kept, and what names it: its weights, and how they are used."""
    starts = {
        "policy": job.parent.hash,
        "adapter": None if config.adapter is None else hash_json(config.adapter.identity()),
        "adapter_start": config.adapter_start,
        "dtype": config.dtype,
        "ranks": job.ranks.count,
    }
    return ReferenceCache(RunFolder(job.recipe.folder).cache / "references", starts)
