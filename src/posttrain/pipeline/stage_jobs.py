"""One round of one stage with everything that surrounds it, what it gives, and how what it makes is stored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from posttrain.chat.rendering import Renderer
from posttrain.core.durable import write_json
from posttrain.core.errors import DataError, TrainingError
from posttrain.core.protocols import Progress, RunContext
from posttrain.core.records import Artifact
from posttrain.core.run_folder import StageFolder
from posttrain.models.artifacts import save_policy
from posttrain.models.loaded_policy import LoadedPolicy
from posttrain.models.loading import read_context_tokens
from posttrain.models.manifest import ArtifactFacts
from posttrain.pipeline.decontaminating import describe_decontamination
from posttrain.pipeline.policies import describe_chat
from posttrain.pipeline.preflight.override_names import TRUNCATION
from posttrain.pipeline.recipe import Recipe
from posttrain.pipeline.stage_entries import StageEntry
from posttrain.pipeline.stage_rows import StageRows, T
from posttrain.pipeline.stoppable import StoppableProgress
from posttrain.pipeline.store import ArtifactStore
from posttrain.pipeline.wiring import PREVIEW_ROWS
from posttrain.stages.training_keys import TrainingKeys
from posttrain.training.checkpoints import CheckpointStore
from posttrain.training.distributed import Ranks


@dataclass(frozen=True, slots=True)
class StageJob:
    """One round of one stage with everything that surrounds it.

    `compute_key` gives the key of what is there now, `overridden` the checks that were refused and let through, and
    `is_audit_overridden` whether the stage goes on against an alarm of its audit.
    """

    recipe: Recipe
    entry: StageEntry
    key: str
    parent: Artifact
    folder: StageFolder
    renderer: Renderer
    ranks: Ranks
    store: ArtifactStore
    context: RunContext
    compute_key: Callable[[], str]
    allow_unsafe: bool = False
    overridden: tuple[str, ...] = ()
    is_audit_overridden: bool = False


@dataclass(slots=True)
class StageResult:
    """What a stage gave: its artifacts by name, the tokens it saw, its ledger."""

    artifacts: dict[str, Artifact]
    tokens: int | None = None
    ledger: dict[str, Any] | None = None


def check_key(job: StageJob) -> None:
    """Check that what was read is what the stage's key names.

    Raises:
        DataError: A source changed meanwhile.
    """
    if job.compute_key() != job.key:
        raise DataError(
            "a source changed after the stage was begun",
            expected="the rows that the artifact will be named by",
            cure="run the same command again when the data is whole",
            place=f"{job.entry.name}: data",
        )


def describe_artifact(job: StageJob, identity: dict[str, Any], ledger: dict[str, Any]) -> ArtifactFacts:
    """Return what an artifact that comes of a stage says of itself: chat format, lineage, configuration, ledger."""
    chat_format = job.renderer.format
    return ArtifactFacts(
        chat_template=chat_format.template,
        template_hash=chat_format.hash,
        stop_ids=chat_format.stop_ids,
        chat=describe_chat(chat_format),
        key=job.key,
        parents=[job.parent.hash],
        config=identity,
        ledger=ledger,
        overrides=job.overridden,
    )


def store_artifact(job: StageJob, save: Callable[[Path], object]) -> Artifact:
    """Save on the writing rank; every rank gets the artifact."""
    artifact = job.store.add(job.key, save) if job.ranks.is_writer else None
    artifact = job.ranks.broadcast_object(artifact)
    if artifact is None:
        raise TrainingError("the writing rank stored no artifact", cure="see the first rank's error")
    return artifact


def build_publisher(
    job: StageJob, policy: LoadedPolicy, config: TrainingKeys, ledger: dict[str, Any]
) -> Callable[[dict[str, torch.Tensor]], Artifact]:
    """Return what stores a policy's trained weights as the stage's artifact, in the stage's precision."""

    def publish(weights: dict[str, torch.Tensor]) -> Artifact:
        facts = describe_artifact(job, config.identity(), ledger)
        return store_artifact(
            job, lambda folder: save_policy(policy, folder, facts, weights_dtype=config.dtype, state=weights)
        )

    return publish


def clear_checkpoints(job: StageJob) -> None:
    """Remove a stage's checkpoints, whose place its artifact has taken."""
    if job.ranks.is_writer:
        for folder in (job.folder.checkpoints, job.folder.best):
            CheckpointStore(folder).clear()


def read_stage_rows(
    job: StageJob,
    load: Callable[[int | None, bool, Progress], StageRows[T]],
    show: Callable[[T, int], list[dict[str, Any]]],
) -> tuple[StageRows[T], dict[str, Any]]:
    """Return the rows of a stage that runs, and its ledger, having written down the ledger and the first rows.

    Args:
        job: The stage as it runs.
        load: Gives the rows, told the model's longest row and whether any number of them may be too long.
        show: Gives the first rows, token by token.

    Raises:
        DataError: A source cannot be read, or is not what the stage's key names.
    """
    progress = job.context.progress
    # Left at any time if there is one process; with several, the others would wait for this one.
    shown = StoppableProgress(progress, job.context.should_stop) if job.ranks.count == 1 else progress

    def read() -> StageRows[T]:
        found = load(read_context_tokens(Path(job.parent.folder)), TRUNCATION in job.overridden, shown)
        check_key(job)
        return found

    data = job.ranks.first(read)
    ledger = {**data.train.ledger.to_json(), "decontamination": describe_decontamination(job.recipe)}
    if job.ranks.is_writer:
        write_json(job.folder.ledger, ledger)
        write_json(job.folder.preview, show(data.train, PREVIEW_ROWS))
    return data, ledger
