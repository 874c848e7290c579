"""A study of best-of-n: answers are drawn once, judged by several scorers, and every way of choosing has its curve.

The folder holds `completions.jsonl` (as of `posttrain sample`), what each scorer said (`judged-<name>.jsonl`), the
figures `best_of_n.json` and the page `best_of_n.html`; a start that was stopped goes on with what is there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from posttrain.core.durable import write_json
from posttrain.core.errors import DataError, RecipeError, RefusedError, StorageError
from posttrain.core.hashing import hash_file, hash_json
from posttrain.core.protocols import Progress
from posttrain.core.records import MAX_HARNESS_FAULT_FRACTION, Completion, Outcome, Problem
from posttrain.core.run_folder import STUDY_FIGURES, STUDY_PAGE
from posttrain.evaluation.monitors.reading import Reading
from posttrain.kernels.readings import Ids
from posttrain.pipeline.completion_file import CompletionKey
from posttrain.pipeline.judged_file import Judge, judge_completions
from posttrain.pipeline.named_scorers import NamedScorer
from posttrain.pipeline.sample_run import Drawing, write_completions
from posttrain.pipeline.selection_ways import (
    GOLD,
    MAJORITY,
    ORACLE,
    RANDOM,
    AlarmSettings,
    Judged,
    compute_deviation,
    study_ways,
)
from posttrain.pipeline.talking import Talker
from posttrain.reports.selection import SelectionStudy, StudiedWay, write_selection_page
from posttrain.samplers.best_of_n import check_candidates
from posttrain.statistics.repeats import read_vote

_DRAWN_AT_ONCE = 1024
"""Answers that are drawn together, at least: enough to keep the engine's rows filled."""


@dataclass(frozen=True, slots=True)
class StudyRequest:
    """Who judges, who chooses, and where the study lies.

    `choosers` take the answer of the largest score, `verifiers` the first that they give 1; both by name. With
    `has_ids` scorers see the tokens that the policy drew, which reward models of its own tokenizer need; else its text.
    """

    model: str
    gold: NamedScorer
    out: Path
    choosers: Mapping[str, NamedScorer] = field(default_factory=dict)
    verifiers: Mapping[str, NamedScorer] = field(default_factory=dict)
    alarm: AlarmSettings = field(default_factory=AlarmSettings)
    notes: Sequence[str] = ()
    has_ids: bool = False

    def __post_init__(self) -> None:
        names = [GOLD, RANDOM, ORACLE, MAJORITY, *self.choosers, *self.verifiers]
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise RecipeError(
                f"two ways of choosing are called '{twice[0]}'",
                expected=f"a name of its own for each, other than {GOLD}, {RANDOM}, {ORACLE} and {MAJORITY}",
                cure="name it: --by reward=learned",
                place="--by",
            )


@dataclass(frozen=True, slots=True)
class FinishedStudy:
    """A study, what the over-optimisation monitor says of each score, and how many tokens were drawn for it."""

    study: SelectionStudy
    readings: Sequence[Reading]
    num_tokens: int


def study_selection(
    talker: Talker, drawing: Drawing, request: StudyRequest, *, progress: Progress, should_stop: Callable[[], bool]
) -> FinishedStudy:
    """Draw and judge what the folder lacks, and return the study (`write_study` writes it).

    Raises:
        TerminatedError: A stop was asked for; the same call goes on from there.
        RefusedError: The folder holds what was drawn otherwise, or a scorer's harness failed on over 1 % of problems.
        RecipeError: Answers are to be drawn greedily.
        DataError: No problem can be judged.
    """
    most = drawing.settings.num_samples
    check_candidates(most, drawing.settings)
    drawing = replace(drawing, at_once=max(1, -(-_DRAWN_AT_ONCE // most)))
    path = request.out / "completions.jsonl"
    write_completions(talker, drawing, path, progress=progress, should_stop=should_stop)
    scorers = {GOLD: request.gold, **request.choosers, **request.verifiers}
    prompts = _render_prompts(talker, drawing.problems) if request.has_ids else {}
    judges = {
        name: Judge(scorer, request.out / f"judged-{hash_json([name, scorer.identity])[:12]}.jsonl")
        for name, scorer in scorers.items()
    }
    progress.start(f"judge by {len(judges)} scorers", drawing.num_completions, unit="answer")
    try:
        pairs = _read_completions(path, drawing.problems, prompts)
        judge_completions(pairs, list(judges.values()), hash_file(path), progress, should_stop)
    finally:
        progress.finish()
    texts: dict[CompletionKey, str] = {}
    num_tokens = 0
    for problem, completion in _read_completions(path, drawing.problems, {}):
        texts[problem.problem_id, completion.sample_index] = completion.text
        num_tokens += len(completion.ids)
    judged = _gather(drawing.problems, {name: judge.found for name, judge in judges.items()}, texts, most)
    ways = study_ways(judged, list(request.choosers), list(request.verifiers), most, request.alarm)
    return FinishedStudy(_build_study(talker, drawing, request, judged, ways.ways), ways.readings, num_tokens)


def write_study(study: SelectionStudy, folder: Path) -> Path:
    """Write the figures and the page into a folder, and return the page.

    Raises:
        StorageError: They cannot be written.
    """
    page = folder / STUDY_PAGE
    write_json(folder / STUDY_FIGURES, study.to_json())
    write_selection_page(study, page)
    return page


def _render_prompts(talker: Talker, problems: Sequence[Problem]) -> dict[str, Ids]:
    """Return the ids of each problem's prompt, as the sampler saw them."""
    rendered = talker.renderer.render_prompts([(problem.messages, problem.tools) for problem in problems])
    return {problem.problem_id: ids for problem, ids in zip(problems, rendered, strict=True)}


def _read_completions(
    path: Path, problems: Sequence[Problem], prompts: Mapping[str, Ids]
) -> Iterator[tuple[Problem, Completion]]:
    """Yield what `write_completions` wrote, with the problems that it was drawn for and their prompts' ids."""
    known = {problem.problem_id: problem for problem in problems}
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                values = json.loads(line)
                problem = known[values["problem_id"]]
                ids, none = np.array(values["ids"], np.int32), np.zeros(0, np.int32)
                prompt = prompts.get(problem.problem_id, none)
                drawn = Completion(
                    values["problem_id"], values["sample_index"], prompt, ids, str(values["text"]),
                    values["finish_reason"], values["policy_hash"], values["seed"],
                )  # fmt: skip
            except (KeyError, TypeError, ValueError) as error:
                raise StorageError(
                    f"not a completion of these prompts: {error!r}",
                    expected="a line as it was drawn",
                    cure="remove the folder and run the same command again: everything is drawn anew",
                    place=f"{path}:{number}",
                ) from None
            yield problem, drawn


def _gather(
    problems: Sequence[Problem],
    outcomes: Mapping[str, Mapping[CompletionKey, Outcome]],
    texts: Mapping[CompletionKey, str],
    most: int,
) -> Judged:
    """Return what is known of problems of which every scorer judged every sample; the others are counted."""
    found = Judged([], {name: [] for name in outcomes}, [], [])
    failed, silent = [], []
    for problem in problems:
        keys = [(problem.problem_id, sample) for sample in range(most)]
        said = {name: [one[key] for key in keys] for name, one in outcomes.items()}
        if any(outcome.fault == "harness" for own in said.values() for outcome in own):
            failed.append(problem.problem_id)
        elif any(not outcome.is_counted for own in said.values() for outcome in own):
            silent.append(problem.problem_id)
        else:
            found.problems.append(problem)
            for name, own in said.items():
                found.values[name].append([outcome.value for outcome in own])
            votes = [read_vote(outcome, texts[key]) for outcome, key in zip(said[GOLD], keys, strict=True)]
            found.votes.append(votes)
    if len(failed) > MAX_HARNESS_FAULT_FRACTION * len(problems):
        raise RefusedError(
            f"a scorer's harness failed on answers of {len(failed)} of {len(problems)} problems, {failed[0]} the first",
            expected=f"at most {MAX_HARNESS_FAULT_FRACTION:.0%} of them, so that what is left out cannot decide",
            cure="mend the scorer or the sandbox and run the same command again: only these answers are judged anew",
            place=GOLD,
        )
    if not found.problems:
        raise DataError(
            f"no problem of {len(problems)} that every scorer judges",
            expected="rows that all scorers apply to",
            cure="choose other scorers, or rows with the columns that they read",
            place=GOLD,
        )
    if failed:
        found.notes.append(f"left out: {len(failed)} problems on which a scorer's harness failed")
    if silent:
        found.notes.append(f"left out: {len(silent)} problems that a scorer does not apply to")
    return found


def _build_study(
    talker: Talker, drawing: Drawing, request: StudyRequest, judged: Judged, ways: Sequence[StudiedWay]
) -> SelectionStudy:
    return SelectionStudy(
        model=request.model,
        policy_hash=talker.policy_hash,
        gold=request.gold.scorer.name,
        num_problems=len(judged.problems),
        num_sources=len(set(judged.clusters)),
        num_samples=drawing.settings.num_samples,
        ways=ways,
        unit=compute_deviation(judged.values[GOLD]),
        units={name: compute_deviation(judged.values[name]) for name in request.choosers},
        settings=_list_settings(talker, drawing, request),
        notes=[*request.notes, *judged.notes],
    )


def _list_settings(talker: Talker, drawing: Drawing, request: StudyRequest) -> dict[str, Any]:
    drawn = drawing.settings
    scorers = {GOLD: request.gold, **request.choosers, **request.verifiers}
    return {
        "temperature": drawn.temperature,
        "max_new_tokens": drawn.max_new_tokens,
        "seed": drawing.seed,
        "dtype": talker.dtype,
        "level of alarms": request.alarm.level,
        "allowed drop": request.alarm.allowed_drop,
        **{f"scorer {name}": json.dumps(one.identity[0], ensure_ascii=False) for name, one in scorers.items()},
    }
