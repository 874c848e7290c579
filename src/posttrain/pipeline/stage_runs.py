"""Running one round of one stage: its parts are built, its `run` is called, its artifact is stored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from posttrain.chat.rendering import Renderer
from posttrain.core.durable import read_json, write_json
from posttrain.core.errors import RecipeError
from posttrain.core.hashing import hash_json
from posttrain.core.protocols import Progress
from posttrain.core.records import Artifact, Group
from posttrain.models.artifacts import save_policy
from posttrain.models.loaded_policy import LoadedPolicy
from posttrain.models.loading import load_policy, read_context_tokens
from posttrain.pipeline.best_of_n_wiring import run_best_of_n
from posttrain.pipeline.decontaminating import describe_decontamination
from posttrain.pipeline.grpo_wiring import (
    GrpoSetting,
    build_grpo_parts,
    build_stage_checks,
    load_started_policy,
    read_stage_problems,
)
from posttrain.pipeline.kto_wiring import run_kto
from posttrain.pipeline.plugins import call_plugin
from posttrain.pipeline.preference_wiring import run_preference
from posttrain.pipeline.preflight.override_names import TRUNCATION
from posttrain.pipeline.reward_wiring import run_reward_model
from posttrain.pipeline.rollout_preview import describe_rollouts
from posttrain.pipeline.sft_wiring import build_scored_policy, load_trained_policy
from posttrain.pipeline.stage_jobs import (
    StageJob,
    StageResult,
    build_publisher,
    check_key,
    clear_checkpoints,
    describe_artifact,
    store_artifact,
)
from posttrain.pipeline.stoppable import StoppableProgress
from posttrain.pipeline.tracked_metric import (
    MetricTracker,
    build_tracker,
    find_tracked_metric,
    measure_on_first_rank,
)
from posttrain.pipeline.wiring import PREVIEW_ROWS, StageData, describe_rows, load_stage_data
from posttrain.rollouts.pass_rate_log import PassRateLog
from posttrain.rollouts.shares import ShareJournals
from posttrain.stages import grpo, sft
from posttrain.stages.best_of_n import BestOfNConfig
from posttrain.stages.kto import KtoConfig
from posttrain.stages.preference import PreferenceConfig
from posttrain.stages.reward_model import RewardModelConfig
from posttrain.stages.training_keys import TrainingKeys
from posttrain.training.checkpoints import CheckpointStore
from posttrain.training.distributed import Ranks, find_device
from posttrain.training.policy import ScoredPolicy


@dataclass(slots=True)
class PluginParts:
    """Live parts of a user's own stage.

    `policy` is loaded in fp32, adapters frozen (`models.adapters.prepare_policy` makes one trainable);
    `publish` saves what `policy.model` holds and returns the artifact.
    """

    policy: LoadedPolicy
    renderer: Renderer
    ranks: Ranks
    device: str
    publish: Callable[[LoadedPolicy], Artifact]


def run_stage(job: StageJob) -> StageResult:
    """Run a stage and return what it made.

    Raises:
        PosttrainError: Whatever stops the stage; its checkpoints stay.
    """
    if isinstance(job.entry.config, sft.SftConfig):
        return _run_sft(job, job.entry.config)
    if isinstance(job.entry.config, grpo.GrpoConfig):
        return _run_grpo(job, job.entry.config)
    if isinstance(job.entry.config, PreferenceConfig):
        return run_preference(job, job.entry.config)
    if isinstance(job.entry.config, KtoConfig):
        return run_kto(job, job.entry.config)
    if isinstance(job.entry.config, RewardModelConfig):
        return run_reward_model(job, job.entry.config)
    if isinstance(job.entry.config, BestOfNConfig):
        return run_best_of_n(job, job.entry.config)
    return _run_plugin(job)


def _run_sft(job: StageJob, config: sft.SftConfig) -> StageResult:
    device = find_device()
    progress = job.context.progress
    base = Path(job.parent.folder)
    # Left at any time if there is one process; with several, the others would wait for this one.
    shown = StoppableProgress(progress, job.context.should_stop) if job.ranks.count == 1 else progress
    data = job.ranks.first(lambda: _load_rows(job, config, shown))
    ledger = {**data.train.ledger.to_json(), "decontamination": describe_decontamination(job.recipe)}
    if job.ranks.is_writer:
        write_json(job.folder.ledger, ledger)
        tokenizer: Any = job.renderer.tokenizer
        write_json(job.folder.preview, describe_rows(data.train.rows, tokenizer, PREVIEW_ROWS))
    progress.note(_describe_data(data))
    policy = load_trained_policy(base, config, job.entry.name, job.context.seed, job.ranks, device)
    scored, notes = build_scored_policy(policy, config, data, job.ranks, job.context.seed)
    for note in notes:
        progress.note(note)

    publish = build_publisher(job, policy, config, ledger)
    measure = job.ranks.first(lambda: _build_measure(job, config, policy, scored))
    parts = sft.SftParts(scored, data.train, data.validation, job.ranks, device, publish, measure)
    artifacts = sft.run(config, {"policy": job.parent}, parts, job.context)
    clear_checkpoints(job)
    return StageResult(artifacts, parts.num_tokens, ledger)


def _run_grpo(job: StageJob, config: grpo.GrpoConfig) -> StageResult:
    setting = GrpoSetting(
        job.recipe,
        job.parent,
        job.entry.name,
        job.renderer,
        job.ranks,
        job.context.seed,
        find_device(),
        job.allow_unsafe,
        job.is_audit_overridden,
    )
    parent = Path(job.parent.folder)
    checks = build_stage_checks(job.recipe, config, job.renderer, parent, allow_unsafe=job.allow_unsafe)
    problems = job.ranks.first(lambda: read_stage_problems(job.recipe, config, checks))
    check_key(job)
    ledger = problems.ledger.to_json()
    if job.ranks.is_writer:
        write_json(job.folder.ledger, ledger)
    policy = load_started_policy(setting, config)

    publish = build_publisher(job, policy, config, ledger)
    parts, notes = build_grpo_parts(setting, config, problems, policy, publish)
    parts.show = lambda groups: _show_first(job, groups)
    for note in notes:
        job.context.progress.note(note)
    try:
        artifacts = grpo.run(config, {"policy": job.parent}, parts, job.context)
    finally:
        parts.sampler.close()
    if job.ranks.is_writer:  # the artifact has taken their place
        CheckpointStore(job.folder.checkpoints).clear()
        ShareJournals(job.folder).clear()
        if config.curriculum is not None:
            for folder in job.folder.list_rollouts():
                PassRateLog(folder, len(problems.all), config.curriculum.decay).clear()
    return StageResult(artifacts, parts.num_tokens, ledger)


def _show_first(job: StageJob, groups: Sequence[Group]) -> None:
    """Write down the first rollouts of the stage, for the report."""
    tokenizer: Any = job.renderer.tokenizer
    if groups and job.ranks.is_writer and not job.folder.preview.exists():
        write_json(job.folder.preview, describe_rollouts(groups, tokenizer, PREVIEW_ROWS))


def _build_measure(
    job: StageJob, config: sft.SftConfig, policy: LoadedPolicy, scored: ScoredPolicy
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
    tracker = build(_load_start(job, config)) if job.ranks.is_writer else None
    sharded = {name: p.detach() for name, p in scored.model.named_parameters() if p.requires_grad}
    return measure_on_first_rank(tracker, sharded, job.ranks)


def _load_start(job: StageJob, config: TrainingKeys) -> LoadedPolicy:
    """Return the policy that the stage started from, in training form and whole, on this rank alone."""
    base, seed = Path(job.parent.folder), job.context.seed
    return load_trained_policy(base, config, job.entry.name, seed, Ranks(), find_device())


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
        save_policy(_load_start(job, config), folder, facts, weights_dtype=config.dtype, state=weights)

    return job.ranks.first(lambda: job.store.find(key) or job.store.add(key, save))


def discard_snapshots(job: StageJob) -> None:
    """Remove a stage's snapshots; which of them are artifacts stays known."""
    steps = list_snapshots(job)
    if job.ranks.is_writer and steps:
        write_json(job.folder.snapshot_steps, [step for step in steps if job.store.find(_snapshot_key(job, step))])
        CheckpointStore(job.folder.snapshots).clear()


def _load_rows(job: StageJob, config: sft.SftConfig, progress: Progress) -> StageData:
    """Return the stage's rows, having checked that they are those that its key names."""
    context_tokens = read_context_tokens(Path(job.parent.folder))
    if TRUNCATION in job.overridden:
        config = config.model_copy(update={"max_affected_fraction": 1.0})
    data = load_stage_data(job.recipe, config, job.renderer, context_tokens, progress)
    check_key(job)
    return data


def _run_plugin(job: StageJob) -> StageResult:
    config, run = job.entry.load_plugin()
    policy = load_policy(Path(job.parent.folder), dtype="float32", device=find_device())

    def publish(trained: LoadedPolicy) -> Artifact:
        facts = describe_artifact(job, config.identity(), {})
        return store_artifact(job, lambda folder: save_policy(trained, folder, facts, weights_dtype="float32"))

    parts = PluginParts(policy, job.renderer, job.ranks, find_device(), publish)
    plugin = job.entry.plugin
    assert plugin is not None  # load_plugin has read it
    artifacts = call_plugin(
        plugin, lambda: run(config, {"policy": job.parent}, parts, job.context), place=job.entry.place
    )
    if not isinstance(artifacts, dict) or not isinstance(artifacts.get("policy"), Artifact):
        raise RecipeError(
            f"the stage returned {artifacts!r}"[:200],
            expected="a dictionary with the artifact 'policy', as parts.publish(policy) returns it",
            place=job.entry.place,
        )
    return StageResult(artifacts)


def _describe_data(data: StageData) -> str:
    ledger, total = data.train.ledger, data.train.num_tokenized
    text = f"{ledger.rows_trained:,} of {ledger.rows_in:,} rows, {ledger.tokens_trained:,} trained tokens"
    reasons = "; ".join(f"{entry.rows:,} dropped: {reason}" for reason, entry in ledger.dropped.items())
    return f"{text}; {total:,} rows tokenized now" + (f"; {reasons}" if reasons else "")
