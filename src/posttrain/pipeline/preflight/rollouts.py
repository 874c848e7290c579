"""A few groups of completions, drawn and rewarded as a stage will: whether there is anything to learn from them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from posttrain.chat.rendering import Renderer
from posttrain.core.config import Config
from posttrain.core.errors import DataError, RecipeError
from posttrain.core.protocols import Progress, Scorer
from posttrain.core.records import MAX_HARNESS_FAULT_FRACTION, ItemResult, Problem
from posttrain.core.sampling import Sampler
from posttrain.core.seeds import derive_seed
from posttrain.evaluation.generation import score_attempts
from posttrain.models.loading import load_policy, read_context_tokens
from posttrain.pipeline.plugins import call_plugin
from posttrain.pipeline.preflight.findings import Figure, Finding
from posttrain.pipeline.preflight.length_caps import MOST_CUT_FRACTION
from posttrain.pipeline.preflight.override_names import LENGTH_CAPS, ROLLOUTS
from posttrain.pipeline.preflight.references import load_references
from posttrain.pipeline.problem_checks import ProblemCheck, build_problem_check
from posttrain.pipeline.recipe import Recipe
from posttrain.pipeline.recipe_checks import find_scorer_plugins
from posttrain.pipeline.sampling import build_sampler, find_context_tokens
from posttrain.pipeline.scorers import build_context, build_scorer
from posttrain.pipeline.stage_entries import StageEntry
from posttrain.pipeline.tool_settings import find_tool_plugins
from posttrain.pipeline.tools import build_environment
from posttrain.rollouts.attempts import draw_attempts
from posttrain.rollouts.environments import Environment
from posttrain.stages.rollouts import RolloutSettings
from posttrain.statistics.intervals import wilson_interval
from posttrain.statistics.reward_groups import GroupFigures, compute_group_figures
from posttrain.training.distributed import find_device

LEAST_INFORMATIVE_FRACTION = 0.1
"""Share of groups whose rewards differ, below which a stage is refused."""
MAX_SECONDS = 30.0
"""Time after which no further groups are drawn, however many were asked for."""
_PARTS = 4  # in how many parts groups are drawn, so that a clear case ends early


def find_rollouts(entry: StageEntry) -> tuple[Config, RolloutSettings] | None:
    """Return a stage's configuration and what it says of its rollouts, None for a stage that does not sample.

    A user's own stage is imported for it.

    Raises:
        RecipeError: The user's code cannot be imported, raises, or describes something else.
    """
    config = entry.config if entry.plugin is None else entry.load_plugin()[0]
    describe = getattr(config, "describe_rollouts", None)
    if config is None or not callable(describe):
        return None
    found = describe() if entry.plugin is None else call_plugin(entry.plugin, describe, place=entry.place)
    if not isinstance(found, RolloutSettings) or found.num_groups < 1 or found.sampling.num_samples < 2:
        raise RecipeError(
            f"describe_rollouts returned {found!r}"[:300],
            expected="RolloutSettings with num_groups of at least 1 and sampling.num_samples of at least 2",
            cure="see posttrain.stages.rollouts.RolloutSettings; a group of one completion compares nothing",
            place=entry.place,
        )
    return config, found


# many parameters: what is drawn, from whom, and who judges
def check_rollouts(
    stage: str,
    settings: RolloutSettings,
    problems: Sequence[Problem],
    sampler: Sampler,
    scorer: Scorer,
    *,
    seed: int,
    progress: Progress,
    environment: Environment | None = None,
) -> list[Finding]:
    """Return what a few groups say: a finding of their rewards, and one of completions cut at the cap.

    Args:
        stage: The stage's label.
        settings: What the stage draws.
        problems: The problems to try, in order.
        sampler: Draws from the policy that the stage starts from.
        scorer: Rewards.
        seed: Names the draw.
        progress: Shows how far it has come.
        environment: Replies to calls of tools, None for one turn.
    """
    groups: list[list[ItemResult]] = []
    size = -(-len(problems) // _PARTS)
    began = time.monotonic()
    progress.start(f"preflight {stage}: rollouts", len(problems), unit="group")
    try:
        for start in range(0, len(problems), size):
            some = problems[start : start + size]
            groups += draw_groups(some, settings, sampler, scorer, seed, environment)
            progress.advance(len(problems[start : start + size]))
            if _is_clear(_compute_figures(groups)) or time.monotonic() - began > MAX_SECONDS:
                break
    finally:
        progress.finish()
    return judge_groups(stage, settings, groups)


def draw_groups(
    problems: Sequence[Problem],
    settings: RolloutSettings,
    sampler: Sampler,
    scorer: Scorer,
    seed: int,
    environment: Environment | None = None,
) -> list[list[ItemResult]]:
    """Return the scored completions of each problem, in the order of the problems."""
    seeds = [derive_seed(seed, "preflight rollouts", problem.problem_id) for problem in problems]
    drawn = list(draw_attempts(problems, seeds, sampler, settings.sampling, environment))
    items = score_attempts([(problems[index], attempt) for index, attempt in drawn], scorer, "")
    groups: list[list[ItemResult]] = [[] for _ in problems]
    for (index, _), item in zip(drawn, items, strict=True):
        groups[index].append(item)
    return groups


def _compute_figures(groups: Sequence[Sequence[ItemResult]]) -> GroupFigures:
    rewards = [[item.outcome.value if item.outcome.is_counted else None for item in group] for group in groups]
    return compute_group_figures(rewards, [[not _ended(item) for item in group] for group in groups])


def _ended(item: ItemResult) -> bool:
    return item.outcome.parts["stopped"] == 1.0


def _is_clear(figures: GroupFigures) -> bool:
    """Return whether more groups would hardly change that all is well, by 95 % limits."""
    if not figures.num_groups:
        return False
    informative = wilson_interval(figures.num_informative, figures.num_groups)
    clipped = wilson_interval(figures.num_clipped, figures.num_completions)
    return informative.low >= LEAST_INFORMATIVE_FRACTION and clipped.high <= MOST_CUT_FRACTION


def judge_groups(stage: str, settings: RolloutSettings, groups: Sequence[Sequence[ItemResult]]) -> list[Finding]:
    """Return the findings of groups that were drawn and rewarded."""
    found = _compute_figures(groups)
    figures: dict[str, Figure] = {
        "groups": len(groups),
        "completions": found.num_completions,
        "informative_groups": found.num_informative,
        "informative_fraction": found.informative_fraction,
        "reward_mean": found.mean,
        "reward_lowest": found.lowest,
        "reward_highest": found.highest,
    }
    return [_judge_rewards(stage, found, groups, figures), _judge_cuts(stage, settings, found)]


def _judge_rewards(
    stage: str, found: GroupFigures, groups: Sequence[Sequence[ItemResult]], figures: dict[str, Figure]
) -> Finding:
    faults = [item.outcome.why for group in groups for item in group if item.outcome.fault == "harness"]
    if len(faults) > MAX_HARNESS_FAULT_FRACTION * found.num_completions:
        words = f"the harness failed on {len(faults)} of {found.num_completions} completions: {faults[0]}"
        expected = f"at most {MAX_HARNESS_FAULT_FRACTION:.0%} of them"
        return Finding(stage, ROLLOUTS, "refused", words, expected, "mend the scorer or the sandbox", figures)
    if not found.num_groups or found.is_constant:
        words = (
            f"all {found.num_rewards} rewards are {found.highest:g}"
            if found.num_groups
            else "the scorer applies to no group of completions"
        )
        return Finding(
            stage,
            ROLLOUTS,
            "refused",
            words,
            "rewards that tell completions apart",
            "check the scorer and the columns that it reads on a right answer (posttrain verify); where it is sound, "
            "the policy can solve none of these problems, or all: train it on demonstrations first, or choose others",
            figures,
        )
    if found.informative_fraction < LEAST_INFORMATIVE_FRACTION:
        return Finding(
            stage,
            ROLLOUTS,
            "refused",
            f"in {found.num_informative} of {found.num_groups} groups ({found.informative_fraction:.0%}) the rewards "
            "differ; the others teach nothing",
            f"at least {LEAST_INFORMATIVE_FRACTION:.0%} of the groups",
            "choose problems that the policy solves now and then (neither always nor never), raise num_samples or the "
            "temperature, or a scorer with values between",
            figures,
        )
    words = f"the rewards differ in {found.num_informative} of {found.num_groups} groups"
    return Finding(stage, ROLLOUTS, "passed", words, figures=figures)


def _judge_cuts(stage: str, settings: RolloutSettings, found: GroupFigures) -> Finding:
    cap = settings.sampling.max_new_tokens
    words = (
        f"{found.num_clipped} of {found.num_completions} drawn completions ({found.clipped_fraction:.0%}) were cut at "
        f"max_new_tokens {cap:,}"
    )
    figures: dict[str, Figure] = {
        "completions": found.num_completions,
        "clipped": found.num_clipped,
        "clipped_fraction": found.clipped_fraction,
        "max_new_tokens": cap,
        "proposed_max_new_tokens": 2 * cap,
    }
    if found.clipped_fraction <= MOST_CUT_FRACTION:
        return Finding(stage, LENGTH_CAPS, "passed", words, figures=figures)
    return Finding(
        stage,
        LENGTH_CAPS,
        "refused",
        words,
        f"at most {MOST_CUT_FRACTION:.0%} of them",
        f"set max_new_tokens: {2 * cap}, say; where the policy never stops, train it on demonstrations first",
        figures,
    )


def _leave_out_unusable(problems: Sequence[Problem], check: ProblemCheck, settings: RolloutSettings) -> list[Problem]:
    """Return the problems that can be asked and judged, where their source allows that others cannot.

    Raises:
        DataError: It does not, or none is left.
    """
    unusable = check.find_unusable(problems)
    left = [problem for problem in problems if problem.problem_id not in unusable]
    if unusable and (not left or not settings.problems.max_bad_fraction):
        (name, (reason, detail)), *_ = unusable.items()
        raise DataError(
            f"{reason}: {detail}",
            expected="problems that can be asked and judged",
            cure="correct or leave out the row, choose another scorer, or lower max_new_tokens",
            place=name,
        )
    return left


# many parameters: everything that a probe is built from
def probe_rollouts(
    stage: str,
    folder: Path,
    config: Config,
    settings: RolloutSettings,
    *,
    recipe: Recipe,
    renderer: Renderer,
    seed: int,
    progress: Progress,
    allow_unsafe: bool,
) -> list[Finding]:
    """Return what a few groups of a stage say, drawn from the policy that it starts from by the real sampler.

    Args:
        stage: The stage's label.
        folder: The policy that it starts from.
        config: Its configuration, of which `dtype` counts if there is one.
        settings: What it draws.
        recipe: Says where paths start, and names the user's scorers.
        renderer: Turns problems into prompts.
        seed: Its seed.
        progress: Shows how far it has come.
        allow_unsafe: Whether programs may run without a sandbox where none passes its self-check.

    Raises:
        DataError: The problems cannot be read, or leave no room in the model's context.
        RecipeError: The scorer's settings do not fit.
    """
    found = load_references(recipe, settings.problems, renderer, settings.num_groups, seed, "rollouts")
    scorer: Any = settings.scorer
    own = find_scorer_plugins(scorer, recipe.roots, f"{stage}: scorer")
    own |= find_tool_plugins(settings.environment, recipe.roots, f"{stage}: environment")
    context = build_context(recipe.roots, recipe.scorers, allow_unsafe=allow_unsafe)
    context = replace(context, plugins={**context.plugins, **own}, place=f"{stage}: scorer")
    check = build_problem_check(
        scorer, context, renderer, settings.sampling.max_new_tokens, read_context_tokens(folder)
    )
    problems = _leave_out_unusable([reference.problem for reference in found], check, settings)
    policy = load_policy(folder, dtype=str(getattr(config, "dtype", "float32")), device=find_device())
    environment = None
    if settings.environment is not None:
        own_context = replace(context, place=f"{stage}: environment")
        tokens = find_context_tokens(policy.model)
        environment = build_environment(settings.environment, renderer, own_context, context_tokens=tokens)
    sampler, _ = build_sampler(policy, renderer)
    try:
        return check_rollouts(
            stage,
            settings,
            problems,
            sampler,
            build_scorer(scorer, context),
            seed=seed,
            progress=progress,
            environment=environment,
        )
    finally:
        sampler.close()
