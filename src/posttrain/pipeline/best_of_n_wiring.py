"""A stage of best-of-n: its problems and scorers, the study of the policy that it is given, and its artifact."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from posttrain.chat.rendering import Renderer
from posttrain.core.durable import read_json, write_json
from posttrain.core.errors import DataError, RecipeError
from posttrain.core.hashing import hash_json
from posttrain.core.records import Artifact, Problem
from posttrain.core.run_folder import STUDY_PAGE, STUDY_READINGS, RunFolder
from posttrain.data.examples import check_bad_fraction
from posttrain.data.ledger import Ledger
from posttrain.evaluation.monitors.reading import Reading, parse_reading
from posttrain.models.loading import load_policy, read_context_tokens
from posttrain.models.manifest import write_manifest
from posttrain.pipeline.named_scorers import NamedScorer
from posttrain.pipeline.problem_checks import ProblemCheck, build_problem_check
from posttrain.pipeline.recipe import Recipe
from posttrain.pipeline.recipe_settings import BASE
from posttrain.pipeline.reward_models import SharedModels
from posttrain.pipeline.sample_run import Drawing, identify_drawing
from posttrain.pipeline.sampling import build_sampler
from posttrain.pipeline.scorers import ScorerContext, build_context, build_scorer, hash_scorer, name_scorer
from posttrain.pipeline.selection_study import FinishedStudy, StudyRequest, study_selection, write_study
from posttrain.pipeline.selection_ways import AlarmSettings
from posttrain.pipeline.stage_jobs import StageJob, StageResult, check_key, describe_artifact
from posttrain.pipeline.stage_types import find_stage_type
from posttrain.pipeline.talking import Talker
from posttrain.pipeline.task_rows import read_problems
from posttrain.stages.best_of_n import BestOfNConfig
from posttrain.training.distributed import find_device

KIND: Literal["evaluation"] = "evaluation"
"""The kind of the artifact that a study is."""


@dataclass(frozen=True, slots=True)
class StudyProblems:
    """The problems of a study, and how many rows cannot be asked or judged."""

    problems: list[Problem]
    num_bad: int


def read_study_problems(recipe: Recipe, config: BestOfNConfig, checks: Sequence[ProblemCheck] = ()) -> StudyProblems:
    """Return the problems of a study; those that a check finds unusable are bad rows, which the source may allow.

    Raises:
        DataError: A source cannot be read, has more bad rows than it may, holds no problem, or two have one id.
    """
    problems: list[Problem] = []
    num_bad = 0
    for source in config.data:
        counted = Ledger()
        rows = list(read_problems(recipe.roots, source, ledger=counted))
        unusable = {name: found for check in checks for name, found in check.find_unusable(rows).items()}
        counted.rows_trained = counted.samples = 0  # which of them are asked is decided here
        for problem in rows:
            if problem.problem_id in unusable:
                reason, detail = unusable[problem.problem_id]
                counted.drop(problem.problem_id, reason, kind="bad", detail=detail)
            else:
                counted.train(samples=1, tokens=0, tokens_trained=0)
                problems.append(problem)
        check_bad_fraction(source, counted)
        num_bad += counted.rows_bad
    twice = len(problems) - len({problem.problem_id for problem in problems})
    if twice or not problems:
        raise DataError(
            f"{twice} problem ids occur more than once" if twice else "no problem is left",
            expected="at least one problem, each with an id of its own",
            cure="name each file once under 'data', with 'skip' and 'rows' that do not overlap"
            if twice
            else "choose sources with rows that can be asked and judged",
            place="data",
        )
    return StudyProblems(problems, num_bad)


def build_study_checks(
    recipe: Recipe, config: BestOfNConfig, renderer: Renderer, parent: Path, *, allow_unsafe: bool
) -> list[ProblemCheck]:
    """Return what checks the problems of a study, for the policy in a folder: one check for each scorer.

    Raises:
        RecipeError: A scorer's settings do not fit.
    """
    context, room = build_context(recipe.roots, recipe.scorers, allow_unsafe=allow_unsafe), read_context_tokens(parent)
    return [
        build_problem_check(value, replace(context, place=": ".join(path)), renderer, config.max_new_tokens, room)
        for path, value in config.scorers.items()
    ]


def hash_study_scorers(recipe: Recipe, config: BestOfNConfig) -> list[Any]:
    """Return the names by content of all scorers of a study, by their places.

    Raises:
        RecipeError: A proxy is gold by another spelling.
    """
    context = build_context(recipe.roots, recipe.scorers)
    hashes = {path: hash_json(hash_scorer(value, context)) for path, value in config.scorers.items()}
    for path, found in hashes.items():
        if path[0] == "proxies" and found == hashes["gold",]:
            raise RecipeError(
                f"the proxy '{path[1]}' is gold itself, which cannot fall while it rises",
                expected="proxies that judge otherwise than gold",
                cure="leave it out: every study has 'oracle', which chooses by gold",
                place="proxies",
            )
    return [[list(path), found] for path, found in hashes.items()]


def run_best_of_n(job: StageJob, config: BestOfNConfig) -> StageResult:
    """Study the policy and return the study beside the policy as it came.

    Raises:
        PosttrainError: Whatever stops the stage; what was drawn and judged stays.
    """
    artifact, num_tokens = job.ranks.first(lambda: _study(job, config))
    return StageResult({"policy": job.parent, KIND: artifact}, num_tokens)


def read_study_readings(artifact: Artifact) -> list[Reading]:
    """Return what the over-optimisation monitor says in a study's artifact."""
    return [parse_reading(values) for values in read_json(Path(artifact.folder) / STUDY_READINGS)]


def _study(job: StageJob, config: BestOfNConfig) -> tuple[Artifact, int]:
    parent, progress = Path(job.parent.folder), job.context.progress
    checks = build_study_checks(job.recipe, config, job.renderer, parent, allow_unsafe=job.allow_unsafe)
    read = read_study_problems(job.recipe, config, checks)
    check_key(job)
    notes = [f"left out: {read.num_bad:,} rows that cannot be asked or judged"] if read.num_bad else []
    context = build_context(job.recipe.roots, job.recipe.scorers, allow_unsafe=job.allow_unsafe)
    context = replace(context, open_model=SharedModels().open)
    drawing = Drawing(read.problems, config.sampling, job.context.seed)
    request = StudyRequest(
        _name_policy(job),
        _build_named(config.gold, context, "gold"),
        job.folder.root,
        {name: _build_named(value, context, f"proxies: {name}") for name, value in config.proxies.items()},
        {name: _build_named(value, context, f"verifiers: {name}") for name, value in config.verifiers.items()},
        AlarmSettings(config.level, config.allowed_drop),
        notes,
        has_ids=True,
    )
    with _open_policy(job, config) as talker:
        # By what decides the answers: with another proxy they are not drawn again.
        kept = RunFolder(job.recipe.folder).answers(hash_json(identify_drawing(talker, drawing)))
        request = replace(request, out=kept)
        found = study_selection(talker, drawing, request, progress=progress, should_stop=job.context.should_stop)
    artifact = job.store.add(job.key, lambda folder: _save(job, config, found, folder))
    for line in describe_study(found):
        progress.note(f"{job.entry.name}: {line}")
    progress.note(f"{job.entry.name}: page {Path(artifact.folder) / STUDY_PAGE}")
    return artifact, found.num_tokens


def describe_study(found: FinishedStudy) -> list[str]:
    """Return a line for each score: what its curve says, and whether gold falls."""
    return [f"{way.name}: {way.says}. {way.turn}." for way in found.study.ways if way.own]


def _name_policy(job: StageJob) -> str:
    """Return what the page calls the policy: the stage that made it, behind those that passed it on."""
    stages = {entry.name: entry for entry in job.recipe.stages}
    name = job.entry.parent
    while name != BASE and find_stage_type(stages[name].type).passes_policy_on:
        name = stages[name].parent
    return job.recipe.model.source if name == BASE else f"{name} of {job.recipe.name}"


def _build_named(value: str | dict[str, Any], context: ScorerContext, place: str) -> NamedScorer:
    context = replace(context, place=place)
    return NamedScorer(name_scorer(value), build_scorer(value, context), hash_scorer(value, context))


@contextmanager
def _open_policy(job: StageJob, config: BestOfNConfig) -> Iterator[Talker]:
    """Yield the policy that the stage is given, ready to answer in the run's chat format."""
    folder = Path(job.parent.folder)
    policy = load_policy(folder, dtype=config.dtype, device=find_device())
    sampler, notes = build_sampler(policy, job.renderer)
    for note in notes:
        job.context.progress.note(note)
    del policy  # the engine has weights of its own
    try:
        yield Talker(job.parent.hash, config.dtype, job.renderer, sampler, read_context_tokens(folder), notes)
    finally:
        sampler.close()


def _save(job: StageJob, config: BestOfNConfig, found: FinishedStudy, folder: Path) -> None:
    folder.mkdir(parents=True)
    write_study(found.study, folder)
    write_json(folder / STUDY_READINGS, [reading.to_json() for reading in found.readings])
    facts = replace(describe_artifact(job, config.identity(), {}), kind=KIND)
    write_manifest(folder, facts, "", [])
