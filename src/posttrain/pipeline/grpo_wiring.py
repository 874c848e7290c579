"""The live parts of a GRPO stage: policy, sampler, scorer, problems, and a reference where the method reads one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from posttrain.chat.rendering import Renderer
from posttrain.core.errors import DataError, ModelError
from posttrain.core.hashing import hash_json
from posttrain.core.protocols import Scorer
from posttrain.core.records import Artifact, Problem
from posttrain.data.examples import check_bad_fraction
from posttrain.data.ledger import Ledger
from posttrain.data.tokenizing import CONTAMINATED
from posttrain.kernels.token_logprobs import Head
from posttrain.models.heads import (
    choose_layout,
    is_sharing_exact,
)
from posttrain.models.loaded_policy import LoadedPolicy
from posttrain.models.loading import load_policy, read_context_tokens
from posttrain.models.logprobs import compute_logprobs
from posttrain.pipeline.estimates import DTYPES
from posttrain.pipeline.grpo_samplers import build_stage_sampler
from posttrain.pipeline.problem_checks import ProblemCheck, build_problem_check
from posttrain.pipeline.recipe import Recipe
from posttrain.pipeline.scorers import ScorerContext, ScorerValue, build_context, build_scorer, hash_scorer
from posttrain.pipeline.sft_wiring import fit_layers, load_trained_policy, wrap_policy
from posttrain.pipeline.task_rows import read_problems
from posttrain.pipeline.tools import build_environment, hash_environment
from posttrain.pipeline.tracked_metric import hash_weights_in_memory
from posttrain.pipeline.wiring import find_contaminated_rows
from posttrain.rollouts.environments import Environment
from posttrain.scorers.routed import RoutedScorer
from posttrain.stages.grpo import GrpoConfig, GrpoParts
from posttrain.stages.grpo_batches import LogprobsOf
from posttrain.stages.step_audit import AuditParts
from posttrain.training.distributed import Ranks
from posttrain.training.policy import ScoredPolicy, enable_checkpointing


@dataclass(frozen=True, slots=True)
class GrpoSetting:
    """What surrounds a GRPO stage: the recipe, the policy that it starts from, renderer, ranks, seed, device.

    `is_audit_overridden` lets the stage go on against an alarm of its audit.
    """

    recipe: Recipe
    parent: Artifact
    name: str
    renderer: Renderer
    ranks: Ranks
    seed: int
    device: str
    allow_unsafe: bool = False
    is_audit_overridden: bool = False


@dataclass(frozen=True, slots=True)
class StageProblems:
    """The problems of a stage, by source, and what became of all rows."""

    by_source: list[list[Problem]]
    ledger: Ledger

    @property
    def all(self) -> list[Problem]:
        """The problems of all sources, in order."""
        return [problem for problems in self.by_source for problem in problems]


def read_stage_problems(
    recipe: Recipe, config: GrpoConfig, checks: Sequence[ProblemCheck] | None = None
) -> StageProblems:
    """Return a stage's problems without those that the recipe's tasks are measured on.

    With a check for each source those that cannot be asked or judged are bad rows, which its `max_bad_fraction` allows.

    Raises:
        DataError: A source cannot be read, has more bad rows than it may, holds no problem, or two have one id.
    """
    found = StageProblems([], Ledger())
    held_back_of = find_contaminated_rows(recipe, config.data)
    for place, (source, held_back) in enumerate(zip(config.data, held_back_of, strict=True)):
        problems: list[Problem] = []
        counted = Ledger()
        rows = list(read_problems(recipe.roots, source, ledger=counted))
        unusable = {} if checks is None else checks[place].find_unusable(rows)
        counted.rows_trained = counted.samples = 0  # which of the rows are trained on is decided here
        for problem in rows:
            name = problem.problem_id
            if name in held_back:
                counted.drop(name, CONTAMINATED, kind="contaminated", detail=held_back[name])
            elif name in unusable:
                reason, detail = unusable[name]
                counted.drop(name, reason, kind="bad", detail=detail)
            else:
                counted.train(samples=1, tokens=0, tokens_trained=0)
                problems.append(problem)
        check_bad_fraction(source, counted)
        found.ledger.merge(counted)
        found.by_source.append(problems)
    problems = found.all
    names = {problem.problem_id for problem in problems}
    if len(names) < len(problems) or not problems:
        raise DataError(
            f"{len(problems) - len(names)} problem ids occur more than once" if problems else "no problem is left",
            expected="at least one problem, each with an id of its own",
            cure="name each file once under 'data', with 'skip' and 'rows' that do not overlap"
            if problems
            else "choose sources with rows that can be used, and other problems than the tasks are measured on",
            place="data",
        )
    return found


def build_stage_checks(
    recipe: Recipe, config: GrpoConfig, renderer: Renderer, parent: Path, *, allow_unsafe: bool
) -> list[ProblemCheck]:
    """Return what checks the problems of each of a stage's sources, for the policy in a folder.

    Raises:
        RecipeError: The scorer's settings do not fit.
    """
    context = build_context(recipe.roots, recipe.scorers, allow_unsafe=allow_unsafe)
    room = read_context_tokens(parent)
    checks = {
        hash_json(value): build_problem_check(value, context, renderer, config.max_new_tokens, room)
        for value in _list_distinct(config.scorers)
    }
    return [checks[hash_json(value)] for value in config.scorers]


def _list_distinct(values: Sequence[ScorerValue]) -> list[ScorerValue]:
    return list({hash_json(value): value for value in values}.values())


def hash_stage_scorer(recipe: Recipe, config: GrpoConfig) -> str:
    """Return the name by content of what rewards."""
    context = build_context(recipe.roots, recipe.scorers)
    return hash_json([hash_scorer(value, context) for value in config.scorers])


def hash_stage_environment(recipe: Recipe, config: GrpoConfig) -> str | None:
    """Return the name by content of what replies to calls, None where nothing does."""
    if config.environment is None:
        return None
    return hash_environment(config.environment, build_context(recipe.roots, recipe.scorers))


def hash_stage_audit(recipe: Recipe, config: GrpoConfig) -> str | None:
    """Return the name by content of what audits, None without an audit."""
    if config.audit is None:
        return None
    return hash_json(hash_scorer(config.audit.scorer, build_context(recipe.roots, recipe.scorers)))


def build_grpo_parts(
    setting: GrpoSetting,
    config: GrpoConfig,
    problems: StageProblems,
    policy: LoadedPolicy,
    publish: Callable[[dict[str, torch.Tensor]], Artifact],
) -> tuple[GrpoParts, list[str]]:
    """Return the live parts of a stage, and notes on how they were chosen.

    Raises:
        ModelError: The model's head is not what its logits say, or caps logits at a temperature other than 1.
        RefusedError: The sampler is not there or cannot serve several processes, or `packing: on` where packed rows
            are not isolated.
        RecipeError: The scorer's settings do not fit.
        SamplerError: The sampler does not hold the policy.
    """
    is_sharing = config.share_prompts == "auto" and is_sharing_exact(policy.model)
    made = build_stage_sampler(config, policy, setting.renderer, setting.ranks, setting.recipe.roots)
    scored, notes = _build_scored_policy(policy, config, setting.ranks)
    made.scored = scored
    if config.share_prompts == "auto" and not (is_sharing and scored.layout == "packed"):
        notes.append("each completion has a prompt of its own: a probe of this policy with shared ones was not exact")
    context = build_context(setting.recipe.roots, setting.recipe.scorers, allow_unsafe=setting.allow_unsafe)
    parts = GrpoParts(
        policy=scored,
        sampler=made.sampler,
        scorer=_build_stage_scorer(config, problems, context),
        scorer_hash=hash_stage_scorer(setting.recipe, config),
        problems=problems.all,
        compute_reference=_build_reference(setting, config),
        decode=lambda ids: str(setting.renderer.tokenizer.decode(ids)),
        context_tokens=read_context_tokens(Path(setting.parent.folder)),
        name_policy=lambda: hash_weights_in_memory(policy, setting.ranks, DTYPES[config.dtype]),
        is_sharing_exact=is_sharing,
        ranks=setting.ranks,
        device=setting.device,
        publish=publish,
        rest=made.rest,
        environment=_build_environment(setting, config, context),
        audit=_build_audit(setting, config, context),
    )
    return parts, [*made.notes, *notes]


def _build_stage_scorer(config: GrpoConfig, problems: StageProblems, context: ScorerContext) -> Scorer:
    """Return who rewards: one scorer, or for the rows of each source its own."""
    distinct = _list_distinct(config.scorers)
    if len(distinct) == 1:
        return build_scorer(distinct[0], context)
    built = {hash_json(value): build_scorer(value, context) for value in distinct}
    return RoutedScorer(
        {
            problem.problem_id: built[hash_json(value)]
            for value, of_source in zip(config.scorers, problems.by_source, strict=True)
            for problem in of_source
        }
    )


def _build_environment(setting: GrpoSetting, config: GrpoConfig, context: ScorerContext) -> Environment | None:
    if config.environment is None:
        return None
    return build_environment(
        config.environment,
        setting.renderer,
        replace(context, place=f"stages: {setting.name}: environment"),
        context_tokens=read_context_tokens(Path(setting.parent.folder)),
    )


def _build_audit(setting: GrpoSetting, config: GrpoConfig, context: ScorerContext) -> AuditParts | None:
    if config.audit is None:
        return None
    may_stop = config.audit.on_alarm == "stop" and not setting.is_audit_overridden
    return AuditParts(
        build_scorer(config.audit.scorer, replace(context, place="audit: scorer")),
        setting.name,
        may_stop,
        setting.ranks,
    )


def load_started_policy(setting: GrpoSetting, config: GrpoConfig) -> LoadedPolicy:
    """Return the policy that the stage trains, in training form."""
    folder = Path(setting.parent.folder)
    return load_trained_policy(folder, config, setting.name, setting.seed, setting.ranks, setting.device)


def _build_scored_policy(policy: LoadedPolicy, config: GrpoConfig, ranks: Ranks) -> tuple[ScoredPolicy, list[str]]:
    model = policy.model
    fitted = fit_layers(model, config)
    if config.activation_checkpointing == "on":
        enable_checkpointing(model)
    read_head = _heat_head(model, fitted.read_head, config.temperature)
    return wrap_policy(model, fitted.layout, read_head, ranks, config), fitted.notes


def _heat_head(model: Any, read_head: Callable[[Any], Head], temperature: float) -> Callable[[Any], Head]:
    """Return what reads the head at the temperature that completions are drawn at.

    Raises:
        ModelError: The head caps its logits, before the temperature divides them.
    """
    if temperature == 1.0:
        return read_head
    if read_head(model).softcap is not None:
        raise ModelError(
            f"temperature {temperature} for a model that caps its logits",
            expected="temperature 1 for such a model",
            cure="leave temperature out",
            place="temperature",
        )

    def read(model: Any) -> Head:
        head = read_head(model)
        return replace(head, scale=head.scale / temperature)

    return read


def _build_reference(setting: GrpoSetting, config: GrpoConfig) -> LogprobsOf | None:
    """Return what gives the log-probs of the policy that the stage starts from, None where none are read."""
    if not config.method.needs_reference:
        return None
    folder = Path(setting.parent.folder)
    reference = load_policy(folder, dtype=config.dtype, device=setting.device)
    for parameter in reference.model.parameters():
        parameter.requires_grad_(False)
    layout = choose_layout(reference.model)

    def compute(
        prompts: Sequence[npt.NDArray[np.int32]], completions: Sequence[npt.NDArray[np.int32]]
    ) -> list[npt.NDArray[np.float32]]:
        found = compute_logprobs(
            reference.model,
            prompts,
            completions,
            temperature=config.temperature,
            micro_batch_tokens=config.micro_batch_tokens,
            layout=layout,
        )
        return [one.logprobs_T for one in found]

    return compute
