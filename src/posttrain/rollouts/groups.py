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
from posttrain.core.records import MAX_HARNESS_FAULT_FRACTION, Completion, Group, Outcome, Problem, Rollout
from posttrain.core.sampling import Sampler, SamplingSettings

_SCORED_AT_ONCE = 16
"""Completions that are handed to the scorer together: few, so that verdicts come while others are drawn."""

Judged = tuple[Completion, Outcome]
OnJudged = Callable[[Sequence[Judged]], None]


@dataclass(frozen=True, slots=True)
class Drawing:
    """Who draws and who judges: a sampler that holds the policy, a scorer, and how completions are drawn.

    `is_overlapped` judges in a thread beside the sampler's; else all is judged when all is drawn, which changes no
    result.
    """

    sampler: Sampler
    scorer: Scorer
    settings: SamplingSettings
    is_overlapped: bool = True


def draw_groups(
    problems: Sequence[Problem],
    seeds: Sequence[int],
    drawing: Drawing,
    *,
    find_known: Callable[[Completion], Outcome | None] | None = None,
    on_judged: OnJudged | None = None,
    is_whole: bool = True,
) -> list[Group]:
    """Return a group for each problem, in order.

    Args:
        problems: What to answer.
        seeds: One for each problem; a sample's stream is derived from it (`core.sampling.derive_sample_seed`).
        drawing: Who draws and judges.
        find_known: Gives the outcome that a completion had before, from a journal.
        on_judged: Told of verdicts as they come, in any order; what was known is told again.
        is_whole: Whether these are all that are judged together; the faults of a share are for its caller to count.

    Raises:
        RefusedError: The harness failed on more than 1 % of the completions, each tried twice.
    """
    places = {problem.problem_id: place for place, problem in enumerate(problems)}
    outcomes: dict[tuple[int, int], Judged] = {}
    for judged in _judge_as_drawn(problems, seeds, drawing, find_known):
        if on_judged is not None:
            on_judged(judged)
        for completion, outcome in judged:
            outcomes[places[completion.problem_id], completion.sample_index] = (completion, outcome)
    if is_whole:
        check_faults([outcome for _, outcome in outcomes.values()])
    return [
        Group(
            problem, tuple(_build_rollout(*outcomes[place, sample]) for sample in range(drawing.settings.num_samples))
        )
        for place, problem in enumerate(problems)
    ]


def _judge_as_drawn(
    problems: Sequence[Problem],
    seeds: Sequence[int],
    drawing: Drawing,
    find_known: Callable[[Completion], Outcome | None] | None,
) -> Iterator[list[Judged]]:
    """Yield completions with their outcomes, some at a time, in any order."""
    drawn = drawing.sampler.sample(problems, drawing.settings, seeds)
    waiting: list[tuple[Problem, Completion]] = []
    futures: list[Future[list[Judged]]] = []
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="scorer") as judge:
        for index, completion in drawn:
            known = find_known(completion) if find_known is not None else None
            if known is not None:
                yield [(completion, known)]
                continue
            waiting.append((problems[index], completion))
            if drawing.is_overlapped and len(waiting) >= _SCORED_AT_ONCE:
                futures.append(judge.submit(_judge, drawing.scorer, waiting))
                waiting = []
            while futures and futures[0].done():
                yield futures.pop(0).result()
        if waiting:
            futures.append(judge.submit(_judge, drawing.scorer, waiting))
        for future in futures:
            yield future.result()


def _judge(scorer: Scorer, items: Sequence[tuple[Problem, Completion]]) -> list[Judged]:
    """Return the outcome of each completion; what the harness failed on is tried once more."""
    outcomes = scorer.score(items)
    failed = [index for index, outcome in enumerate(outcomes) if outcome.fault == "harness"]
    if failed:
        again = scorer.score([items[index] for index in failed])
        for index, outcome in zip(failed, again, strict=True):
            outcomes[index] = outcome
    return [(completion, outcome) for (_, completion), outcome in zip(items, outcomes, strict=True)]


def _build_rollout(completion: Completion, outcome: Outcome) -> Rollout:
    return Rollout(completion.problem_id, completion.sample_index, (completion,), outcome)


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
