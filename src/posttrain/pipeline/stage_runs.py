"""Running one round of one stage, and the weights that it keeps on the way."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from posttrain.core.durable import read_json, write_json
from posttrain.core.hashing import hash_json
from posttrain.core.records import Artifact
from posttrain.models.artifacts import save_policy
from posttrain.pipeline.sft_wiring import load_start
from posttrain.pipeline.stage_jobs import StageJob, StageResult, describe_artifact
from posttrain.pipeline.stage_kinds.kind import find_kind
from posttrain.stages.training_keys import TrainingKeys
from posttrain.training.checkpoints import CheckpointStore


def run_stage(job: StageJob) -> StageResult:
    """Run a stage and return what it made.

    Raises:
        PosttrainError: Whatever stops the stage; its checkpoints stay.
    """
    return find_kind(job.entry).run(job, job.entry.config)


def list_snapshots(job: StageJob) -> list[int]:
    """Return the steps of a stage's snapshots that are whole or artifacts, earliest first; the same on every rank."""

    def find() -> list[int]:
        path = job.folder.snapshot_steps
        made = [
            step for step in (read_json(path) if path.is_file() else []) if job.store.find(_snapshot_key(job, step))
        ]
        return sorted({*CheckpointStore(job.folder.snapshots).list_whole(), *made})

    return list(job.ranks.broadcast_object(find() if job.ranks.is_writer else None))


def _snapshot_key(job: StageJob, step: int) -> str:
    return hash_json({"stage": job.key, "snapshot": step})


def build_snapshot_artifact(job: StageJob, step: int) -> Artifact:
    """Return the policy of one of a stage's snapshots as an artifact, which is made only once.

    Raises:
        StorageError: The snapshot is missing or torn, or the artifact cannot be written.
        ValueError: The stage is a user's own, of which no snapshot is taken.
    """
    config = job.entry.config
    if not isinstance(config, TrainingKeys):
        raise ValueError(f"stage {job.entry.name!r} takes no snapshots")
    key = _snapshot_key(job, step)

    def save(folder: Path) -> None:
        weights = CheckpointStore(job.folder.snapshots).load(step).tensors
        ledger = read_json(job.folder.ledger)
        facts = replace(describe_artifact(job, {**config.identity(), "snapshot": step}, ledger), key=key)
        save_policy(load_start(job, config), folder, facts, weights_dtype=config.dtype, state=weights)

    return job.ranks.first(lambda: job.store.find(key) or job.store.add(key, save))


def discard_snapshots(job: StageJob) -> None:
    """Remove a stage's snapshots; which of them are artifacts stays known."""
    steps = list_snapshots(job)
    if job.ranks.is_writer and steps:
        write_json(job.folder.snapshot_steps, [step for step in steps if job.store.find(_snapshot_key(job, step))])
        CheckpointStore(job.folder.snapshots).clear()
