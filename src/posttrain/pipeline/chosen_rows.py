"""Training rows from best-of-n: prompts with the answer that was chosen, or pairs of a chosen and a rejected one.

The first kind distils best-of-n by supervised fine-tuning, the second by a preference objective. A problem that gives
no row is kept beside the file with the reason, in `rows.jsonl.left_out.jsonl`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from posttrain.core.errors import RecipeError
from posttrain.core.protocols import Progress
from posttrain.core.records import Completion, Message, Problem
from posttrain.core.seeds import derive_seed
from posttrain.pipeline.completion_file import CompletionFile, CompletionKey
from posttrain.pipeline.named_scorers import NamedScorer
from posttrain.pipeline.sample_run import Drawing, DrawingSpeed, identify_drawing, make_plain
from posttrain.pipeline.stoppable import check_stop
from posttrain.pipeline.talking import Talker
from posttrain.samplers.best_of_n import BestOfNSampler, By, Chosen, check_candidates, compute_worths

Rejected = Literal["worst", "random"]
NO_VERDICT, NONE_PASSES, CUT_OFF, NO_PAIR = "no verdict", "none passes", "cut off", "no worse answer"
"""Why a problem gives no row; the first is the harness's failure and is asked again by the next start."""


@dataclass(frozen=True, slots=True)
class ChoosingRequest:
    """How rows are made: n candidates for each, who judges and by which rule one is taken, and what it is paired with.

    `rejected` is None for rows without a rejected answer; `is_raw` writes prompts and answers as plain text.
    """

    n: int
    scorer: NamedScorer
    by: By = "score"
    rejected: Rejected | None = None
    is_raw: bool = False

    def __post_init__(self) -> None:
        if self.rejected is not None and self.n < 2:
            raise RecipeError(
                f"pairs from {self.n} answer of each prompt",
                expected="at least 2",
                cure="set --best-of to 8, say",
                place="--best-of",
            )


@dataclass(frozen=True, slots=True)
class ChosenSummary:
    """What `write_chosen` did; printed by the command line.

    `left_out` counts problems without a row by the reason. `mean_chosen` and `mean_drawn` are what the rule holds the
    chosen answers and all candidates of this call to be worth, None where nothing was drawn.
    """

    out: str
    policy_hash: str
    rows: int
    drawn: int
    left_out: dict[str, int]
    mean_chosen: float | None
    mean_drawn: float | None


def write_chosen(
    talker: Talker,
    drawing: Drawing,
    request: ChoosingRequest,
    out: Path,
    *,
    progress: Progress,
    should_stop: Callable[[], bool],
) -> ChosenSummary:
    """Draw, choose and write the rows that a file lacks, and return what was done.

    Rows are written as problems are done, and stand at the end in the order of problems; the same call goes on with a
    file that was stopped.

    Raises:
        TerminatedError: A stop was asked for; the same call goes on from there.
        RefusedError: The file holds rows of another policy, other settings or another scorer.
        RecipeError: Candidates are to be drawn greedily.
    """
    check_candidates(request.n, drawing.settings)
    identity = {
        **identify_drawing(talker, drawing),
        "best_of": request.n,
        "by": request.by,
        "rejected": request.rejected,
        "scorer": request.scorer.identity,
    }
    beside = Path(f"{out}.left_out.jsonl")
    tally = _Tally()
    with CompletionFile(out, identity) as rows, CompletionFile(beside, identity) as left_out:
        keys = [
            (problem.problem_id, sample)
            for problem in drawing.problems
            for sample in range(drawing.settings.num_samples)
        ]
        missing = {key[0] for key in keys if key not in rows and key not in left_out}
        problems = [problem for problem in drawing.problems if problem.problem_id in missing]
        speed = DrawingSpeed(progress, should_stop)
        progress.start("choose", len(keys), unit="answer")
        talker.watch(speed.count)
        try:
            progress.advance(len(rows) + len(left_out))
            sampler = BestOfNSampler(talker.sampler, request.scorer.scorer, n=request.n, by=request.by)
            seeds = [drawing.seed_of(problem) for problem in problems]
            with closing(sampler.choose(problems, drawing.settings, seeds)) as found:  # type: ignore[type-var]
                for index, chosen in found:
                    _keep(problems[index], chosen, request, rows, left_out, tally)
                    progress.advance(1, **tally.describe())
                    check_stop(should_stop())
        finally:
            talker.watch(None)
            progress.finish()
        rows.arrange([key for key in keys if key in rows])
        left_out.arrange([key for key in keys if key in left_out])
        written = len(rows)
    reasons = _count_reasons(beside) | ({NO_VERDICT: tally.num_without} if tally.num_without else {})
    return ChosenSummary(str(out), talker.policy_hash, written, tally.num_drawn, reasons, *tally.means)


class _Tally:
    """Sums of what candidates are worth, over what was drawn in this call."""

    def __init__(self) -> None:
        self.num_drawn = self.num_without = self.num_chosen = 0
        self.chosen = self.drawn = 0.0
        self.num_worths = 0

    def add(self, worths: Sequence[float | None], place: int | None) -> None:
        """Count one problem's candidates."""
        known = [worth for worth in worths if worth is not None]
        self.num_drawn += len(worths)
        self.num_worths += len(known)
        self.drawn += sum(known)
        if place is None:
            self.num_without += 1
        else:
            self.num_chosen += 1
            self.chosen += worths[place] or 0.0

    @property
    def means(self) -> tuple[float | None, float | None]:
        """The mean of the chosen ones, and of all."""
        if not self.num_chosen:
            return None, None
        return self.chosen / self.num_chosen, self.drawn / self.num_worths

    def describe(self) -> dict[str, float]:
        """Return what the progress bar shows."""
        chosen, drawn = self.means
        return {} if chosen is None or drawn is None else {"chosen": chosen, "drawn": drawn}


# many parameters: one problem's answer, how rows are made, and where they go
def _keep(
    problem: Problem,
    chosen: Chosen,
    request: ChoosingRequest,
    rows: CompletionFile,
    left_out: CompletionFile,
    tally: _Tally,
) -> None:
    completion = chosen.completion
    key: CompletionKey = (problem.problem_id, completion.sample_index)
    if key in rows or key in left_out:
        return
    worths = compute_worths(request.by, chosen.outcomes, [candidate.text for candidate in chosen.candidates])
    tally.add(worths, chosen.selection.place)
    row = build_row(problem, chosen, worths, request)
    if isinstance(row, dict):
        rows.append(key, row)
    elif row != NO_VERDICT:
        named = {"problem_id": key[0], "sample_index": key[1], "policy_hash": completion.policy_hash}
        left_out.append(key, {**named, "reason": row})


def build_row(
    problem: Problem, chosen: Chosen, worths: Sequence[float | None], request: ChoosingRequest
) -> dict[str, Any] | str:
    """Return a training row, or the reason why there is none.

    A chosen answer that was cut off would be taught as if it ended there, and one that fails its verifier as if it were
    right. The rejected answer is worth less than the chosen one by the same rule, and ended by itself; `worst` is the
    first of those worth least.

    Args:
        problem: What was asked.
        chosen: What was chosen among what.
        worths: What the rule holds each candidate to be worth.
        request: How rows are made.
    """
    place = chosen.selection.place
    worth = None if place is None else worths[place]
    if place is None or worth is None:
        return NO_VERDICT
    if request.by == "verifier" and not worth:
        return NONE_PASSES
    if chosen.completion.finish_reason != "stop":
        return CUT_OFF
    row: dict[str, Any] = {
        **make_plain(problem.columns),
        "problem_id": problem.problem_id,
        "sample_index": chosen.completion.sample_index,
        "policy_hash": chosen.completion.policy_hash,
        "prompt": problem.messages[0]["content"] if request.is_raw else make_plain(problem.messages),
        **({"tools": make_plain(problem.tools)} if problem.tools else {}),
        "scores": [make_plain(score) for score in chosen.selection.scores],
        "place": place,
    }
    if request.rejected is None:
        return {**row, "completion": _write(chosen.completion, request), "score": worth}
    rejected = _find_rejected(chosen.candidates, worths, place, request.rejected)
    if rejected is None:
        return NO_PAIR
    pair = {"chosen": chosen.completion, "rejected": chosen.candidates[rejected]}
    return {
        **row,
        **{name: _write(one, request) for name, one in pair.items()},
        "score_chosen": worth,
        "score_rejected": worths[rejected],
    }


def _find_rejected(
    candidates: Sequence[Completion], worths: Sequence[float | None], place: int, rejected: Rejected
) -> int | None:
    best = worths[place]
    worse = [
        (worth, other)
        for other, worth in enumerate(worths)
        if worth is not None and best is not None and worth < best and candidates[other].finish_reason == "stop"
    ]
    if not worse:
        return None
    if rejected == "worst":
        return min(worse)[1]
    return worse[derive_seed("rejected", candidates[place].seed) % len(worse)][1]


def _write(completion: Completion, request: ChoosingRequest) -> str | list[Message]:
    return completion.text if request.is_raw else [{"role": "assistant", "content": completion.text}]


def _count_reasons(path: Path) -> dict[str, int]:
    import json

    lines = path.read_text(encoding="utf-8").splitlines()
    return dict(Counter(json.loads(line)["reason"] for line in lines))
