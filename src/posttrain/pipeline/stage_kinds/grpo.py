"""Stages of the type `grpo`: problems, and what the policy draws of them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from posttrain.core.errors import TemplateError
from posttrain.core.run_folder import StageFolder
from posttrain.evaluation.monitors.reading import Reading
from posttrain.pipeline.audit_reading import read_audit
from posttrain.pipeline.estimates import StepWork, estimate_memory
from posttrain.pipeline.grpo_run import run_grpo
from posttrain.pipeline.grpo_samplers import check_stage_sampler
from posttrain.pipeline.grpo_wiring import (
    StageProblems,
    build_stage_checks,
    hash_stage_audit,
    hash_stage_environment,
    hash_stage_scorer,
    read_stage_problems,
)
from posttrain.pipeline.preflight.memory import check_memory, shape_adapter
from posttrain.pipeline.recipe import Recipe
from posttrain.pipeline.stage_costs import StageCost, list_learning_rates
from posttrain.pipeline.stage_entries import StageEntry
from posttrain.pipeline.stage_jobs import StageJob, StageResult
from posttrain.pipeline.stage_kinds.kind import CheckedRows, KeyParts, StageKind, StageSetting
from posttrain.pipeline.step_works import build_grpo_work
from posttrain.pipeline.wiring import fingerprint_sources, identify_left_out
from posttrain.stages.grpo import GrpoConfig
from posttrain.training.distributed import Ranks

_PROMPTS_COUNTED = 64


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
        """Return updates, learning rates and the most memory; tokens and time depend on what will be drawn."""
        problems = read_stage_problems(setting.recipe, config)
        rates = list_learning_rates(config, config.num_updates)
        work = self._build_work(setting, config, problems)
        memory = estimate_memory(setting.base, config, work, setting.ranks).total
        return StageCost(config.num_updates, None, rates, memory, 0.0 if is_cached else None)

    def check_rows(self, setting: StageSetting, config: GrpoConfig, *, is_new: bool) -> CheckedRows:
        """Check that every problem can be asked and judged, and that the largest update fits."""
        if not is_new:
            return CheckedRows()
        checks = build_stage_checks(
            setting.recipe, config, setting.renderer, setting.base, allow_unsafe=setting.allow_unsafe
        )
        problems = read_stage_problems(setting.recipe, config, checks)
        found = check_memory(
            setting.stage.label,
            setting.base,
            shape_adapter(setting.recipe, setting.stage.entry, config),
            lambda changed: self._build_work(setting, changed, problems),
            setting.ranks,
            longest=_count_prompt_tokens(setting, problems) + config.max_new_tokens,
        )
        return CheckedRows([found])

    def _build_work(self, setting: StageSetting, config: GrpoConfig, problems: StageProblems) -> StepWork:
        tokens, context_tokens = _count_prompt_tokens(setting, problems), setting.context_tokens
        if context_tokens is not None:  # a longer one leaves no room for a completion, and is left out
            tokens = max(1, min(tokens, context_tokens - config.max_new_tokens))
        return build_grpo_work(config, tokens, context_tokens, setting.ranks)

    def read_outcome(self, config: GrpoConfig, folder: StageFolder) -> list[Reading]:
        """Return what the stage's audit says."""
        return read_audit(config, folder)


def _count_prompt_tokens(setting: StageSetting, problems: StageProblems) -> int:
    """Return the tokens of the longest prompt among those of most characters."""
    lengths = [1]
    for problem in sorted(problems.all, key=lambda problem: -len(str(problem.messages)))[:_PROMPTS_COUNTED]:
        with suppress(TemplateError):  # one that the template refuses is never drawn: the check of problems says so
            (prompt,) = setting.renderer.render_prompts([(problem.messages, problem.tools)])
            lengths.append(len(prompt))
    return max(lengths)


KIND = GrpoKind()
