"""Stages of the type `best_of_n`: problems, and what several scorers choose among the answers that are drawn."""

from __future__ import annotations

from collections.abc import Sequence

from posttrain.core.records import Artifact
from posttrain.evaluation.monitors.reading import Reading
from posttrain.pipeline.best_of_n_wiring import (
    build_study_checks,
    hash_study_scorers,
    read_study_problems,
    read_study_readings,
    run_best_of_n,
)
from posttrain.pipeline.recipe import Recipe
from posttrain.pipeline.stage_costs import StageCost
from posttrain.pipeline.stage_entries import StageEntry
from posttrain.pipeline.stage_jobs import StageJob, StageResult
from posttrain.pipeline.stage_kinds.kind import CheckedRows, KeyParts, StageKind, StageSetting
from posttrain.pipeline.wiring import fingerprint_sources
from posttrain.stages.best_of_n import BestOfNConfig
from posttrain.training.distributed import Ranks


class BestOfNKind(StageKind[BestOfNConfig]):
    """Studies of best-of-n; the policy is passed on as it came."""

    def identify(self, recipe: Recipe, entry: StageEntry, config: BestOfNConfig) -> KeyParts:
        """Return the configuration, with every scorer by content."""
        identity = {**config.identity(), "data": len(config.data), "scorers": hash_study_scorers(recipe, config)}
        return KeyParts(identity, fingerprint_sources(recipe, config.data))

    def run(self, job: StageJob, config: BestOfNConfig) -> StageResult:
        """Draw, judge, and study what is chosen."""
        return run_best_of_n(job, config)

    def check_recipe(
        self, recipe: Recipe, config: BestOfNConfig, context_tokens: int | None, ranks: Ranks
    ) -> Sequence[str]:
        """Check that the problems are there, and that no proxy is gold."""
        fingerprint_sources(recipe, config.data)
        hash_study_scorers(recipe, config)
        return ()

    def estimate(self, setting: StageSetting, config: BestOfNConfig, *, is_cached: bool) -> StageCost:
        """Return how many answers are drawn and verdicts asked for; tokens are not known before they are drawn."""
        num_answers = len(read_study_problems(setting.recipe, config).problems) * config.n
        num_verdicts = num_answers * len(config.scorers)
        return StageCost(seconds=0.0 if is_cached else None, answers=num_answers, verdicts=num_verdicts)

    def check_rows(self, setting: StageSetting, config: BestOfNConfig, *, is_new: bool) -> CheckedRows:
        """Check that every problem can be asked and judged."""
        if is_new:
            checks = build_study_checks(
                setting.recipe, config, setting.renderer, setting.base, allow_unsafe=setting.allow_unsafe
            )
            read_study_problems(setting.recipe, config, checks)
        return CheckedRows()

    def read_made(self, made: Artifact) -> list[Reading]:
        """Return what the over-optimisation monitor says of each proxy."""
        return read_study_readings(made)


KIND = BestOfNKind()
