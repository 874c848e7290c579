"""Stages of the type `grpo`: problems, and what the policy draws of them."""

from __future__ import annotations

from collections.abc import Sequence

from posttrain.core.run_folder import StageFolder
from posttrain.evaluation.monitors.reading import Reading
from posttrain.pipeline.audit_reading import read_audit
from posttrain.pipeline.grpo_run import run_grpo
from posttrain.pipeline.grpo_samplers import check_stage_sampler
from posttrain.pipeline.grpo_wiring import (
    build_stage_checks,
    hash_stage_audit,
    hash_stage_environment,
    hash_stage_scorer,
    read_stage_problems,
)
from posttrain.pipeline.recipe import Recipe
from posttrain.pipeline.stage_costs import StageCost, list_learning_rates
from posttrain.pipeline.stage_entries import StageEntry
from posttrain.pipeline.stage_jobs import StageJob, StageResult
from posttrain.pipeline.stage_kinds.kind import CheckedRows, KeyParts, StageKind, StageSetting
from posttrain.pipeline.wiring import fingerprint_sources, identify_left_out
from posttrain.stages.grpo import GrpoConfig
from posttrain.training.distributed import Ranks


class GrpoKind(StageKind[GrpoConfig]):
    """Reinforcement of completions that the policy draws itself."""

    def identify(self, recipe: Recipe, entry: StageEntry, config: GrpoConfig) -> KeyParts:
        """Return the configuration, with what rewards, replies and audits by content."""
        identity = {**config.identity(), "data": len(config.data), "scorer": hash_stage_scorer(recipe, config)}
        if config.environment is not None:
            identity["environment"] = hash_stage_environment(recipe, config)
        if config.audit is not None:
            identity["auditor"] = hash_stage_audit(recipe, config)
        return KeyParts(identity | identify_left_out(recipe, config.data), fingerprint_sources(recipe, config.data))

    def run(self, job: StageJob, config: GrpoConfig) -> StageResult:
        """Draw, reward and update."""
        return run_grpo(job, config)

    def check_recipe(
        self, recipe: Recipe, config: GrpoConfig, context_tokens: int | None, ranks: Ranks
    ) -> Sequence[str]:
        """Check that the problems and the sampler are there."""
        fingerprint_sources(recipe, config.data)
        check_stage_sampler(config, ranks, recipe.roots)
        return ()

    def estimate(self, setting: StageSetting, config: GrpoConfig, *, is_cached: bool) -> StageCost:
        """Return updates and learning rates; the tokens are not known before they are drawn."""
        read_stage_problems(setting.recipe, config)
        rates = list_learning_rates(config, config.num_updates)
        return StageCost(steps=config.num_updates, learning_rates=rates, seconds=0.0 if is_cached else None)

    def check_rows(self, setting: StageSetting, config: GrpoConfig, *, is_new: bool) -> CheckedRows:
        """Check that every problem can be asked and judged."""
        if is_new:
            checks = build_stage_checks(
                setting.recipe, config, setting.renderer, setting.base, allow_unsafe=setting.allow_unsafe
            )
            read_stage_problems(setting.recipe, config, checks)
        return CheckedRows()

    def read_outcome(self, config: GrpoConfig, folder: StageFolder) -> list[Reading]:
        """Return what the stage's audit says."""
        return read_audit(config, folder)


KIND = GrpoKind()
