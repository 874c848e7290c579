"""What a scorer's outcomes are used for besides a metric: rewards, filters, and choosing among several answers.

In all of them the policy's failures count with their declared value, and what the harness failed on, or what does
not apply, is never a number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from posttrain.core.protocols import Scorer
from posttrain.core.records import Completion, Outcome, Problem


def read_rewards(outcomes: Sequence[Outcome]) -> list[float | None]:
    """Return each outcome's value, or None where there is none: such a completion is masked, not rewarded."""
    return [outcome.value if outcome.is_counted else None for outcome in outcomes]


@dataclass(frozen=True, slots=True)
class Sieved:
    """What a filter did to rows: indices that are kept, and for every other index the reason.

    Example: of three rows with values 1, 0 and a broken scorer, `at_least=0.5` gives `kept=[0]` and
    `dropped={1: "0 is below 0.5: ...", 2: "not judged: ..."}`.
    """

    kept: list[int]
    dropped: dict[int, str]


def sieve(scorer: Scorer, items: Sequence[tuple[Problem, Completion]], *, at_least: float) -> Sieved:
    """Keep the items that a scorer gives at least some value; what could not be judged is dropped and said so."""
    sieved = Sieved([], {})
    for index, outcome in enumerate(scorer.score(items)):
        if not outcome.is_counted:
            sieved.dropped[index] = f"not judged: {outcome.why or outcome.status}"
        elif outcome.value >= at_least:
            sieved.kept.append(index)
        else:
            sieved.dropped[index] = f"{outcome.value:g} is below {at_least:g}: {outcome.why or outcome.status}"
    return sieved


def choose_best(scorer: Scorer, problem: Problem, completions: Sequence[Completion]) -> int | None:
    """Return the index of the completion of the largest value, the first of equals; None if none could be judged."""
    outcomes = scorer.score([(problem, completion) for completion in completions])
    judged = [index for index, outcome in enumerate(outcomes) if outcome.is_counted]
    return max(judged, key=lambda index: (outcomes[index].value, -index), default=None)
