"""From a scorer's settings to the scorer: built-in ones, weighted ones, and the user's own."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from posttrain.core.config import Config
from posttrain.core.errors import RecipeError
from posttrain.core.hashing import hash_file
from posttrain.core.protocols import Scorer
from posttrain.core.run_folder import RunFolder
from posttrain.lab.gold import LabScorer
from posttrain.lab.world import build_world
from posttrain.pipeline import scorer_settings as settings
from posttrain.pipeline.named_models import find_stage_model
from posttrain.pipeline.plugins import Plugin, call_plugin, load_object
from posttrain.pipeline.roots import Roots
from posttrain.sandbox.programs import ProgramLimits
from posttrain.sandbox.running import ProgramPool
from posttrain.scorers.citations import DEFAULT_PATTERN, CitationScorer
from posttrain.scorers.code import CodeScorer
from posttrain.scorers.code_comparison import Comparison
from posttrain.scorers.exact_match import ExactMatch
from posttrain.scorers.facts import ClaimFacts, ShortAnswerFacts
from posttrain.scorers.functions import FunctionScorer, GuardedScorer
from posttrain.scorers.instructions import InstructionFollowing
from posttrain.scorers.knowledge_base import build_knowledge_base, load_knowledge_base
from posttrain.scorers.learned import LearnedScorer, LearnedUse, OpenedModel
from posttrain.scorers.math import MathScorer
from posttrain.scorers.personal_data import PersonalData
from posttrain.scorers.pressure import PressureScorer
from posttrain.scorers.proof import KernelChecker, ProofChecker, ProofScorer
from posttrain.scorers.proof_lean import LeanChecker
from posttrain.scorers.proof_z3 import Z3Checker
from posttrain.scorers.reasoning import ReasoningBlock
from posttrain.scorers.refusals import Refusals
from posttrain.scorers.shaping import CosineLength, LanguageMatch, LengthBand, OverlongPenalty, Repetition
from posttrain.scorers.structure import Structure
from posttrain.scorers.tool_calls import ToolCalls
from posttrain.scorers.weighted import Component, WeightedScorer

ScorerValue = str | Mapping[str, Any]
"""A scorer as a recipe writes it: a name, a plug-in's reference, or a mapping with `type`."""


def _locate_here(reference: str) -> Path:
    return Path(reference)


def _locate_model_here(reference: str) -> Path | None:
    return Path(reference)


@dataclass(frozen=True, slots=True)
class ScorerContext:
    """What scorers are built with beside their settings.

    Args:
        locate: Gives the file that a path in the settings stands for.
        plugins: The user's own scorers, by reference.
        allow_unsafe: Whether programs may run without a sandbox where none passes its self-check.
        place: What errors name.
        locate_model: Gives the folder that a reward model's name stands for, None where it has yet to be made.
        open_model: Opens a reward model for scorers; None: each of them opens its own.
    """

    locate: Callable[[str], Path] = _locate_here
    plugins: Mapping[str, Plugin] = field(default_factory=dict)
    allow_unsafe: bool = False
    place: str = "scorer"
    locate_model: Callable[[str], Path | None] = _locate_model_here
    open_model: Callable[[Path, settings.LearnedSettings], OpenedModel] | None = None


def build_context(roots: Roots, plugins: Mapping[str, Plugin], *, allow_unsafe: bool = False) -> ScorerContext:
    """Return what the scorers of a recipe's tasks are built with: paths start at its roots."""

    def locate(reference: str) -> Path:
        return roots.resolve(reference, place=reference)

    def locate_model(reference: str) -> Path | None:
        if roots.run is not None and reference in roots.reward_stages:
            return find_stage_model(RunFolder(roots.run), reference)
        return locate(reference)

    return ScorerContext(locate, plugins, allow_unsafe, "evaluate: scorer", locate_model)


def build_scorer(value: ScorerValue, context: ScorerContext) -> Scorer:
    """Return the scorer that a recipe describes.

    Raises:
        RecipeError: The settings do not fit, or the user's code cannot be imported or is no scorer.
        DataError: A knowledge base cannot be read.
        SandboxError: A checker that is asked for is not installed.
    """
    found = settings.read_scorer(value, place=context.place)
    try:
        return _BUILDERS[type(found)](found, context)
    except ValueError as error:
        raise RecipeError(str(error), expected="settings that the scorer takes", place=context.place) from error


def find_tier(scorer: Scorer) -> str | None:
    """Return the sandbox tier that a scorer's programs run in, None for a scorer that runs none.

    The lab's scorer runs programs for some rows alone: asked once it has scored, it tells where they ran, if any did.
    """
    if isinstance(scorer, LabScorer):
        pools = [judge.runner for judge in scorer.judges if isinstance(judge, CodeScorer)]
        return next((pool.started_tier for pool in pools if isinstance(pool, ProgramPool)), None)
    if isinstance(scorer, CodeScorer) and isinstance(scorer.runner, ProgramPool):
        return scorer.runner.tier
    inner = [part.scorer for part in scorer.components] if isinstance(scorer, WeightedScorer) else []
    inner += [scorer.correctness] if isinstance(scorer, CosineLength) else []
    inner += [scorer.inner] if isinstance(scorer, PressureScorer) else []
    return next((tier for part in inner if (tier := find_tier(part)) is not None), None)


def hash_scorer(value: ScorerValue, context: ScorerContext) -> list[Any]:
    """Return what decides a scorer's outcomes: its settings, its files by content, the user's code by content."""
    parts = list(settings.list_parts(value, place=context.place))
    own = [
        _name_plugin(context.plugins[part.reference])
        if isinstance(part, settings.FunctionSettings)
        else part.identity()
        for part in parts
    ]
    bases = [getattr(part, "knowledge_base", None) for part in parts]
    models = [context.locate_model(part.model) for part in parts if isinstance(part, settings.LearnedSettings)]
    named = [[None if folder is None else _name_model(folder, context) for folder in models]] if models else []
    return [own, [hash_file(context.locate(base)) for base in bases if base], *named]


def name_scorer(value: ScorerValue) -> str:
    """Return how a scorer is called in tables: its type, or the reference of a user's own."""
    return value if isinstance(value, str) else str(value.get("type"))


def _name_plugin(plugin: Plugin) -> list[str]:
    """Return a user's scorer by content: its file's, and which of the file's functions it is."""
    return [plugin.content_hash, plugin.attribute]


def _build_learned(chosen: settings.LearnedSettings, context: ScorerContext) -> Scorer:
    def open_model() -> OpenedModel:
        folder = context.locate_model(chosen.model)
        if folder is None or not folder.is_dir():
            raise _no_model(chosen.model, context.place)
        if context.open_model is not None:
            return context.open_model(folder, chosen)
        from posttrain.pipeline.reward_models import open_for_scoring  # brings torch and transformers

        return open_for_scoring(folder, chosen)

    folder = context.locate_model(chosen.model)
    if folder is not None and not folder.is_dir():
        raise _no_model(chosen.model, context.place)
    use = LearnedUse(
        weights=dict(chosen.weights),
        aggregation=chosen.aggregation,
        variance_weight=chosen.variance_weight,
        step_aggregation=chosen.step_aggregation,
        length_penalty=chosen.length_penalty,
        failed_value=chosen.failed_value,
        members=tuple(chosen.members or ()),
    )
    return LearnedScorer(open_model, use)


def _name_model(folder: Path, context: ScorerContext) -> str:
    from posttrain.models.reward_models import name_reward_model  # brings torch and transformers

    if not folder.is_dir():
        raise _no_model(str(folder), context.place)
    return name_reward_model(folder)


def _no_model(reference: str, place: str) -> RecipeError:
    return RecipeError(
        f"there is no reward model '{reference}'",
        expected="the name of an earlier stage of type reward_model, or the folder of a reward model",
        cure="check the name; relative paths start at the recipe's folder",
        place=place,
    )


def _build_function(chosen: settings.FunctionSettings, context: ScorerContext) -> Scorer:
    plugin, place = context.plugins[chosen.reference], context.place
    found = load_object(plugin, place=place)
    if isinstance(found, type):
        found = call_plugin(plugin, found, place=place)
    if callable(getattr(found, "score", None)):
        return GuardedScorer(
            str(getattr(found, "name", plugin.attribute)), found.score, timeout_seconds=chosen.timeout_seconds
        )
    if not callable(found):
        raise RecipeError(
            f"the scorer {plugin.reference} is {found!r}"[:300],
            expected="a function f(prompts, completions, completion_ids, **columns), or an object with score(items)",
            place=place,
        )
    return FunctionScorer(plugin.attribute, found, timeout_seconds=chosen.timeout_seconds)


def _block(chosen: settings.ReasoningSettings) -> ReasoningBlock | None:
    if chosen.reasoning_tag is None:
        return None
    return ReasoningBlock(chosen.reasoning_tag, is_opened_by_prompt=chosen.reasoning_opened_by_prompt)


def _count_workers() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def _build_math(chosen: settings.MathSettings, context: ScorerContext) -> Scorer:
    return MathScorer(
        answer_form=chosen.answer_form,
        extraction=tuple(chosen.extraction),
        is_comma_decimal=chosen.is_comma_decimal,
        reasoning=_block(chosen),
        num_workers=_count_workers(),
    )


def _build_code(chosen: settings.CodeSettings, context: ScorerContext) -> Scorer:
    limits = ProgramLimits(
        cpu_seconds=chosen.cpu_seconds, wall_seconds=chosen.wall_seconds, memory_bytes=chosen.memory_mb << 20
    )
    runner = ProgramPool(tier=chosen.tier, limits=limits, allow_unsafe=context.allow_unsafe)
    comparison = Comparison(chosen.relative_tolerance, chosen.absolute_tolerance, chosen.types)
    return CodeScorer(runner=runner, scoring=chosen.scoring, comparison=comparison)


def _build_short_answer(chosen: settings.ShortAnswerSettings, context: ScorerContext) -> Scorer:
    return ShortAnswerFacts(
        answer_marker=chosen.answer_marker,
        ignore_accents=chosen.ignore_accents,
        relative_tolerance=chosen.relative_tolerance,
        reasoning=_block(chosen),
    )


def _build_facts(chosen: settings.FactsSettings, context: ScorerContext) -> Scorer:
    return ClaimFacts(
        knowledge_base=load_knowledge_base(context.locate(chosen.knowledge_base)),
        value=chosen.value,
        unknown_weight=chosen.unknown_weight,
        count_negations=chosen.count_negations,
        reasoning=_block(chosen),
    )


def _build_citations(chosen: settings.CitationsSettings, context: ScorerContext) -> Scorer:
    base = chosen.knowledge_base
    return CitationScorer(
        pattern=chosen.pattern or DEFAULT_PATTERN,
        knowledge_base=None if base is None else load_knowledge_base(context.locate(base)),
        undecided_value=chosen.undecided_value,
        reasoning=_block(chosen),
    )


def _build_proof(chosen: settings.ProofSettings, context: ScorerContext) -> Scorer:
    checker: ProofChecker
    if chosen.checker == "kernel":
        checker = KernelChecker(logic=chosen.logic)
    elif chosen.checker == "z3":
        checker = Z3Checker(requires_model=chosen.requires_model, num_workers=_count_workers())
    else:
        checker = LeanChecker(is_isolated=chosen.is_isolated)
    return ProofScorer(checker=checker, reasoning=_block(chosen))


def _build_tool_calls(chosen: settings.ToolCallsSettings, context: ScorerContext) -> Scorer:
    return ToolCalls(
        syntax=chosen.syntax,
        mode=chosen.mode,
        strings=chosen.strings,
        allows_text=chosen.allows_text,
        allows_fence=chosen.allows_fence,
        reasoning=_block(chosen),
    )


def _build_cosine_length(chosen: settings.CosineLengthSettings, context: ScorerContext) -> Scorer:
    return CosineLength(
        correctness=build_scorer(chosen.correctness, context),
        max_length=chosen.max_length,
        right=(chosen.right[0], chosen.right[1]),
        wrong=(chosen.wrong[0], chosen.wrong[1]),
        exceeded=chosen.exceeded,
        threshold=chosen.threshold,
        unit=chosen.unit,
    )


def _build_lab(chosen: settings.LabSettings, context: ScorerContext) -> Scorer:
    base = build_world(chosen.world_seed).knowledge_base
    judges: dict[str, Scorer] = {
        "code": _build_code(settings.CodeSettings(), context),
        "calls": ToolCalls(syntax="hermes", strings="exact"),
        "constraint": Structure(),
        "cited": CitationScorer(),
        "claims": ClaimFacts(knowledge_base=build_knowledge_base(**base, place="lab:world"), value="all_or_nothing"),
        "request": Refusals(wanted="column"),
    }
    return LabScorer(judges=judges, value=chosen.value, takes_prose=chosen.takes_prose)


def _build_weighted(chosen: settings.WeightedSettings, context: ScorerContext) -> Scorer:
    return WeightedScorer(
        [
            Component(
                part.name,
                build_scorer(part.scorer, context),
                weight=part.weight,
                role=part.role,
                value_range=None if part.value_range is None else (part.value_range[0], part.value_range[1]),
                threshold=part.threshold,
            )
            for part in chosen.components
        ]
    )


_BUILDERS: dict[type[Config], Callable[[Any, ScorerContext], Scorer]] = {
    settings.ExactMatchSettings: lambda chosen, context: ExactMatch(),
    settings.MathSettings: _build_math,
    settings.CodeSettings: _build_code,
    settings.ShortAnswerSettings: _build_short_answer,
    settings.FactsSettings: _build_facts,
    settings.CitationsSettings: _build_citations,
    settings.ProofSettings: _build_proof,
    settings.InstructionsSettings: lambda chosen, context: InstructionFollowing(
        value=chosen.value, reasoning=_block(chosen)
    ),
    settings.StructureSettings: lambda chosen, context: Structure(rule=chosen.rule, reasoning=_block(chosen)),
    settings.ToolCallsSettings: _build_tool_calls,
    settings.RefusalsSettings: lambda chosen, context: Refusals(
        wanted=chosen.wanted, partial=chosen.partial, reasoning=_block(chosen)
    ),
    settings.PersonalDataSettings: lambda chosen, context: PersonalData(
        phone_region=chosen.phone_region,
        allows_prompt=chosen.allows_prompt,
        ignores_examples=chosen.ignores_examples,
    ),
    settings.LengthSettings: lambda chosen, context: LengthBand(
        low=chosen.low, high=chosen.high, slope=chosen.slope, unit=chosen.unit
    ),
    settings.OverlongSettings: lambda chosen, context: OverlongPenalty(
        max_length=chosen.max_length, cache=chosen.cache, unit=chosen.unit
    ),
    settings.CosineLengthSettings: _build_cosine_length,
    settings.LanguageSettings: lambda chosen, context: LanguageMatch(
        language=chosen.language, by_paragraph=chosen.by_paragraph, reasoning=_block(chosen)
    ),
    settings.RepetitionSettings: lambda chosen, context: Repetition(
        measure=chosen.measure, allowed=chosen.allowed, n=chosen.n, unit=chosen.unit
    ),
    settings.WeightedSettings: _build_weighted,
    settings.PressureSettings: lambda chosen, context: PressureScorer(build_scorer(chosen.scorer, context)),
    settings.LabSettings: _build_lab,
    settings.LearnedSettings: _build_learned,
    settings.FunctionSettings: _build_function,
}
