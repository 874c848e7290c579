"""A study of best-of-n: answers are drawn once, judged by several scorers, and every way of choosing has its curve.

The folder holds `completions.jsonl` (as of `posttrain sample`), what each scorer said (`judged-<name>.jsonl`), the
figures `best_of_n.json` and the page `best_of_n.html`; a start that was stopped goes on with what is there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from posttrain.core.durable import write_json
from posttrain.core.errors import DataError, RecipeError, RefusedError, StorageError
from posttrain.core.hashing import hash_file, hash_json
from posttrain.core.protocols import Progress
from posttrain.core.records import MAX_HARNESS_FAULT_FRACTION, Completion, Outcome, Problem
from posttrain.core.seeds import build_numpy_generator
from posttrain.pipeline.completion_file import CompletionKey
from posttrain.pipeline.judged_file import judge_completions
from posttrain.pipeline.named_scorers import NamedScorer
from posttrain.pipeline.sample_run import Drawing, write_completions
from posttrain.pipeline.talking import Talker
from posttrain.reports.selection import Kind, SelectionStudy, StudiedWay, write_selection_page
from posttrain.samplers.best_of_n import check_candidates
from posttrain.statistics.clusters import Floats
from posttrain.statistics.gain_fits import GainCurve, fit_best_of_n
from posttrain.statistics.over_optimisation import find_divergence
from posttrain.statistics.repeats import RIGHT, read_vote
from posttrain.statistics.selection_curves import (
    Choosing,
    SelectionCurve,
    list_powers,
    summarise_curve,
    trace_curve,
)

GOLD, OWN = "gold", "own"
RANDOM, ORACLE, MAJORITY = "random", "oracle", "majority"
_LEVEL = 0.05


@dataclass(frozen=True, slots=True)
class StudyRequest:
    """Who judges, who chooses, and where the study lies.

    `choosers` take the answer of the largest score, `verifiers` the first that they give 1; both by name.
    """

    model: str
    gold: NamedScorer
    out: Path
    choosers: Mapping[str, NamedScorer] = field(default_factory=dict)
    verifiers: Mapping[str, NamedScorer] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [RANDOM, ORACLE, MAJORITY, *self.choosers, *self.verifiers]
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise RecipeError(
                f"two ways of choosing are called '{twice[0]}'",
                expected=f"a name of its own for each, other than {RANDOM}, {ORACLE} and {MAJORITY}",
                cure="name it: --by reward=learned",
                place="--by",
            )

    @property
    def page(self) -> Path:
        """Where the page lies."""
        return self.out / "best_of_n.html"

    @property
    def figures(self) -> Path:
        """Where the figures lie."""
        return self.out / "best_of_n.json"


@dataclass(frozen=True, slots=True)
class _Judged:
    """Problems of which all samples that count have a verdict by every scorer, in one order of samples.

    `values` are the scorers' by name, gold's under `GOLD`; `votes` what each sample votes for by gold's reading.
    """

    problems: list[Problem]
    values: dict[str, list[list[float]]]
    votes: list[list[str | None]]
    notes: list[str]

    @property
    def clusters(self) -> list[str]:
        """The source of each problem."""
        return [problem.cluster_id or problem.problem_id for problem in self.problems]


def study_selection(
    talker: Talker, drawing: Drawing, request: StudyRequest, *, progress: Progress, should_stop: Callable[[], bool]
) -> SelectionStudy:
    """Draw and judge what the folder lacks, and return the study, which is written there with its page.

    Raises:
        TerminatedError: A stop was asked for; the same call goes on from there.
        RefusedError: The folder holds what was drawn otherwise, or a scorer's harness failed on over 1 % of problems.
        RecipeError: Answers are to be drawn greedily.
        DataError: No problem can be judged.
    """
    most = drawing.settings.num_samples
    check_candidates(most, drawing.settings)
    path = request.out / "completions.jsonl"
    write_completions(talker, drawing, path, progress=progress, should_stop=should_stop)
    scorers = {GOLD: request.gold, **request.choosers, **request.verifiers}
    drawn_hash = hash_file(path)
    outcomes: dict[str, dict[CompletionKey, Outcome]] = {}
    for name, scorer in scorers.items():
        progress.start(f"judge by {name}", drawing.num_completions, unit="answer")
        kept = request.out / f"judged-{hash_json([name, scorer.identity])[:12]}.jsonl"
        try:
            pairs = _read_completions(path, drawing.problems)
            outcomes[name] = judge_completions(pairs, scorer, kept, drawn_hash, progress, should_stop)
        finally:
            progress.finish()
    texts = {(p.problem_id, c.sample_index): c.text for p, c in _read_completions(path, drawing.problems)}
    judged = _gather(drawing.problems, outcomes, texts, most)
    study = _study(talker, drawing, request, judged)
    write_json(request.figures, study.to_json())
    write_selection_page(study, request.page)
    return study


def _read_completions(path: Path, problems: Sequence[Problem]) -> Iterator[tuple[Problem, Completion]]:
    """Yield what `write_completions` wrote, with the problems that it was drawn for."""
    known = {problem.problem_id: problem for problem in problems}
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                values = json.loads(line)
                problem = known[values["problem_id"]]
                ids, none = np.array(values["ids"], np.int32), np.zeros(0, np.int32)
                drawn = Completion(
                    values["problem_id"], values["sample_index"], none, ids, str(values["text"]),
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
) -> _Judged:
    """Return what is known of problems of which every scorer judged every sample; the others are counted."""
    found = _Judged([], {name: [] for name in outcomes}, [], [])
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


def _study(talker: Talker, drawing: Drawing, request: StudyRequest, judged: _Judged) -> SelectionStudy:
    most = drawing.settings.num_samples
    ns = list_powers(most)
    gold = judged.values[GOLD]
    ways: list[tuple[Kind, Choosing]] = [("random", Choosing(RANDOM))]
    if any(len(set(votes) - {None}) < sum(vote is not None for vote in votes) for votes in judged.votes):
        ways.append(("majority", Choosing(MAJORITY, answers_P=judged.votes)))
    else:
        judged.notes.append("no vote: no two answers to a problem agree")
    for name in request.verifiers:
        passes = [[float(value >= RIGHT) for value in own] for own in judged.values[name]]
        ways.append(("verifier", Choosing(name, passes)))
    ways += [("score", Choosing(name, judged.values[name])) for name in request.choosers]
    ways.append(("oracle", Choosing(ORACLE, gold)))
    if len(set(judged.clusters)) == 1:
        judged.notes.append("all problems are of one source: nothing can be said of others, and there are no intervals")
    return SelectionStudy(
        model=request.model,
        policy_hash=talker.policy_hash,
        gold=request.gold.scorer.name,
        num_problems=len(judged.problems),
        num_sources=len(set(judged.clusters)),
        num_samples=most,
        ways=[_study_way(kind, choosing, ns, judged) for kind, choosing in ways],
        unit=_compute_deviation(gold),
        units={name: _compute_deviation(judged.values[name]) for name in request.choosers},
        settings=_list_settings(talker, drawing, request),
        notes=judged.notes,
    )


def _study_way(kind: Kind, choosing: Choosing, ns: Sequence[int], judged: _Judged) -> StudiedWay:
    def build_generator() -> np.random.Generator:
        return build_numpy_generator("best_of_n", len(judged.problems), ns[-1])

    values = {GOLD: judged.values[GOLD]}
    if kind == "score":
        values[OWN] = judged.values[choosing.name]
    curve = trace_curve(choosing, values, ns, build_generator)
    points = summarise_curve(curve, GOLD, judged.clusters, build_generator)
    if kind != "score":
        return StudiedWay(choosing.name, kind, points)
    own = summarise_curve(curve, OWN, judged.clusters, build_generator)
    fitted, says = _fit(curve, judged.clusters, build_generator)
    return StudiedWay(choosing.name, kind, points, own, fitted, says, _find_turn(curve, judged.clusters))


def _fit(
    curve: SelectionCurve, clusters: Sequence[str], build_generator: Callable[[], np.random.Generator]
) -> tuple[GainCurve | None, str]:
    try:
        found = fit_best_of_n(curve.kls_PK, curve.gains_PK(GOLD), clusters, build_generator)
    except DataError as error:
        return None, f"no curve is fitted: {error.found}"
    fit = found.fitted
    coefficients = ", ".join(
        f"{name} {one.value:.3g} ({one.low:.3g} to {one.high:.3g})" for name, one in (("α", fit.alpha), ("β", fit.beta))
    )
    return found, f"{coefficients}; {found.describe()}"


def _find_turn(curve: SelectionCurve, clusters: Sequence[str]) -> str:
    """Return what a paired test shows of the score going up while gold goes down, nothing where it shows none."""
    if len(curve.ns) < 2 or len(set(clusters)) < 2:
        return ""
    found = find_divergence(
        curve.values_PK[OWN].T,
        curve.values_PK[GOLD].T,
        clusters_P=clusters,
        level=_LEVEL,
        num_looks=len(curve.ns) - 1,
    )
    if found is None:
        return f"No fall of gold is shown at {_LEVEL:.0%}"
    return (
        f"From n = {curve.ns[found.against]} to {curve.ns[found.look]} the score is up by {found.proxy_change:.3g} "
        f"while gold falls by {-found.gold_change:.3g} (p = {found.p_value:.2g})"
    )


def _compute_deviation(values_PN: Sequence[Sequence[float]]) -> float:
    """Return the standard deviation among a problem's answers, over problems; 1 where there is none."""
    variances: Floats = np.array([np.var(values) for values in values_PN])
    return float(np.sqrt(variances.mean())) or 1.0


def _list_settings(talker: Talker, drawing: Drawing, request: StudyRequest) -> dict[str, Any]:
    drawn = drawing.settings
    scorers = {GOLD: request.gold, **request.choosers, **request.verifiers}
    return {
        "temperature": drawn.temperature,
        "max_new_tokens": drawn.max_new_tokens,
        "seed": drawing.seed,
        "dtype": talker.dtype,
        **{f"scorer {name}": json.dumps(one.identity[0], ensure_ascii=False) for name, one in scorers.items()},
    }
