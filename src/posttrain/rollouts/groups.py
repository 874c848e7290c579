"""Groups of completions of each problem, each judged as soon as it is drawn, while others are still being drawn.

The result does not depend on the order in which completions end or verdicts come: groups stand in the order of their
problems, rollouts in that of their samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from posttrain.core.errors import RefusedError
from posttrain.core.protocols import Scorer
from posttrain.core.records import MAX_HARNESS_FAULT_FRACTION, Completion, Group, Outcome, Problem
from posttrain.core.sampling import Sampler, SamplingSettings
from posttrain.rollouts.attempts import Attempt, ReplyBook, draw_attempts
from posttrain.rollouts.environments import Environment

_SCORED_AT_ONCE = 16
"""Completions that are handed to the scorer together: few, so that verdicts come while others are drawn."""

Judged = tuple[Attempt, Outcome]
OnJudged = Callable[[Sequence[Judged]], None]


@dataclass(frozen=True, slots=True)
class Drawing:
    """Who draws and who judges: a sampler that holds the policy, a scorer, and how completions are drawn.

    `is_overlapped` judges in a thread beside the sampler's; else all is judged when all is drawn, which changes no
    result. `environment` replies to calls of tools; without one there is one turn.
    """

    sampler: Sampler
    scorer: Scorer
    settings: SamplingSettings
    is_overlapped: bool = True
    environment: Environment | None = None


# many parameters: what is drawn and judged, what is known of it, and who is told
def draw_groups(
    problems: Sequence[Problem],
    seeds: Sequence[int],
    drawing: Drawing,
    *,
    find_known: Callable[[Completion], Outcome | None] | None = None,
    on_judged: OnJudged | None = None,
    book: ReplyBook | None = None,
    is_whole: bool = True,
) -> list[Group]:
    """Return a group for each problem, in order.

    Args:
        problems: What to answer.
        seeds: One for each problem; a sample's stream is derived from it (`core.sampling.derive_sample_seed`).
        drawing: Who draws and judges.
        find_known: Gives the outcome that the rollout which a completion ends had before, from a journal.
        on_judged: Told of verdicts as they come, in any order; what was known is told again.
        book: Remembers what tools replied.
        is_whole: Whether these are all that are judged together; the faults of a share are for its caller to count.

    Raises:
        RefusedError: The harness failed on more than 1 % of the completions, each tried twice.
    """
    places = {problem.problem_id: place for place, problem in enumerate(problems)}
    outcomes: dict[tuple[int, int], Judged] = {}
    drawn = draw_attempts(problems, seeds, drawing.sampler, drawing.settings, drawing.environment, book)
    for judged in judge_as_drawn(problems, drawn, drawing, find_known):
        if on_judged is not None:
            on_judged(judged)
        for attempt, outcome in judged:
            outcomes[places[attempt.last.problem_id], attempt.last.sample_index] = (attempt, outcome)
    if is_whole:
        check_faults([outcome for _, outcome in outcomes.values()])
    samples = range(drawing.settings.num_samples)
    return [
        Group(problem, tuple(attempt.conclude(outcome) for attempt, outcome in (outcomes[place, n] for n in samples)))
        for place, problem in enumerate(problems)
    ]


def judge_as_drawn(
    problems: Sequence[Problem],
    drawn: Iterator[tuple[int, Attempt]],
    drawing: Drawing,
    find_known: Callable[[Completion], Outcome | None] | None,
) -> Iterator[list[Judged]]:
    """Yield attempts with their outcomes, some at a time, in any order."""
    waiting: list[tuple[Problem, Attempt]] = []
    futures: list[Future[list[Judged]]] = []
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="scorer") as judge:
        for index, attempt in drawn:
            known = attempt.verdict or (find_known(attempt.last) if find_known is not None else None)
            if known is not None:
                yield [(attempt, known)]
                continue
            waiting.append((problems[index], attempt))
            if drawing.is_overlapped and len(waiting) >= _SCORED_AT_ONCE:
                futures.append(judge.submit(_judge, drawing.scorer, waiting))
                waiting = []
            while futures and futures[0].done():
                yield futures.pop(0).result()
        if waiting:
            futures.append(judge.submit(_judge, drawing.scorer, waiting))
        for future in futures:
            yield future.result()


def _judge(scorer: Scorer, attempts: Sequence[tuple[Problem, Attempt]]) -> list[Judged]:
    """Return the outcome of each attempt; what the harness failed on is tried once more."""
    items = [(problem, attempt.judged) for problem, attempt in attempts]
    outcomes = scorer.score(items)
    failed = [index for index, outcome in enumerate(outcomes) if outcome.fault == "harness"]
    if failed:
        again = scorer.score([items[index] for index in failed])
        for index, outcome in zip(failed, again, strict=True):
            outcomes[index] = outcome
    return [(attempt, outcome) for (_, attempt), outcome in zip(attempts, outcomes, strict=True)]


def check_faults(outcomes: Sequence[Outcome]) -> None:
    """Check that what was judged together was judged: faults of the harness are rare.

    Raises:
        RefusedError: The harness failed on more than 1 % of the completions.
    """
    faults = [outcome for outcome in outcomes if outcome.fault == "harness"]
    if len(faults) > MAX_HARNESS_FAULT_FRACTION * len(outcomes):
        raise RefusedError(
            f"the scorer failed on {len(faults)} of {len(outcomes)} completions: {faults[0].why}",
            expected=f"at most {MAX_HARNESS_FAULT_FRACTION:.0%}, so that what is left out cannot decide",
            cure="mend the scorer or the sandbox and run the same command again: it goes on from the last checkpoint",
            place="rollouts",
        )
