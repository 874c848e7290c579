"""A GRPO stage from its recipe to its artifact."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from posttrain.core.durable import write_json
from posttrain.core.records import Group
from posttrain.pipeline.grpo_wiring import (
    GrpoSetting,
    build_grpo_parts,
    build_stage_checks,
    load_started_policy,
    read_stage_problems,
)
from posttrain.pipeline.rollout_preview import describe_rollouts
from posttrain.pipeline.stage_jobs import StageJob, StageResult, build_publisher, check_key
from posttrain.pipeline.wiring import PREVIEW_ROWS
from posttrain.rollouts.pass_rate_log import PassRateLog
from posttrain.rollouts.shares import ShareJournals
from posttrain.stages import grpo
from posttrain.training.checkpoints import CheckpointStore
from posttrain.training.distributed import find_device


def run_grpo(job: StageJob, config: grpo.GrpoConfig) -> StageResult:
    """Run a GRPO stage and return what it made.

    Raises:
        PosttrainError: Whatever stops the stage; its checkpoints stay.
    """
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
