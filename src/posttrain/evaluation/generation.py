"""Completions, drawn and judged: exact match, verifiers, pass@k and the majority's answer.

What the policy caused (unparsed, truncated) is worth its declared value and stays in every denominator. What the
harness caused is scored once more, then left out and counted.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from posttrain.core.errors import RefusedError
from posttrain.core.freed_memory import release_freed_memory
from posttrain.core.protocols import Scorer
from posttrain.core.records import Completion, ItemResult, Outcome, Problem
from posttrain.core.sampling import Sampler
from posttrain.core.seeds import derive_seed
from posttrain.evaluation.figures import (
    CHOSEN_SCORE,
    DRAWN_NATS,
    DRAWN_TOKENS,
    MEAN_SCORE,
    STOPPED,
    summarise_items,
)
from posttrain.evaluation.task import GenerationTask
from posttrain.rollouts.attempts import Attempt, draw_attempts
from posttrain.rollouts.environments import Environment

_SCORED_AT_ONCE = 32
_DRAWN_AT_ONCE = 1024
"""Problems whose prompts are in memory together; a sampler that runs low on them leaves rows empty."""


@dataclass(frozen=True, slots=True)
class Generation:
    """Draws from a sampler, opened when something is to be drawn, and asks a scorer (`answering.Answerer`).

    `environment` replies to calls of tools; without one there is one turn.
    """

    task: GenerationTask
    policy_hash: str
    open_sampler: Callable[[], Sampler]
    scorer: Scorer
    seed: int = 0
    environment: Environment | None = None

    @property
    def num_samples(self) -> int:
        """Completions of each problem."""
        return self.task.num_samples

    @property
    def metric_name(self) -> str:
        """The scorer's name."""
        return self.scorer.name

    def answer(self, problems: Sequence[Problem], task_hash: str) -> Iterator[list[ItemResult]]:
        """Yield items as their completions are drawn and scored.

        Raises:
            RefusedError: The sampler holds another policy.
        """
        sampler = self.open_sampler()
        if sampler.policy_hash != self.policy_hash:
            raise RefusedError(
                f"the sampler holds policy {sampler.policy_hash}",
                expected=f"policy {self.policy_hash}",
                cure="load the sampler from the artifact that is to be measured",
                place=self.task.name,
            )
        for start in range(0, len(problems), _DRAWN_AT_ONCE):
            some = problems[start : start + _DRAWN_AT_ONCE]
            yield from draw_items(
                self.task, task_hash, some, sampler, self.scorer, seed=self.seed, environment=self.environment
            )
            release_freed_memory()

    def summarise(self, items: Sequence[ItemResult]) -> list[dict[str, Any]]:
        """Return the scorer's metric, `stop_rate`, the task's parts, pass@k and cons@k."""
        return summarise_items(self.task.name, self.scorer.name, items, self.task.parts, self.task.repeated)


# many parameters: what is drawn, from whom, and who judges
def draw_items(
    task: GenerationTask,
    task_hash: str,
    problems: Sequence[Problem],
    sampler: Sampler,
    scorer: Scorer,
    *,
    seed: int = 0,
    environment: Environment | None = None,
) -> Iterator[list[ItemResult]]:
    """Yield a task's items as they finish, some at a time.

    A problem's draws depend on the task, its own id and the seed alone, so that an item drawn after a restart is the
    same item.
    """
    parts = ("evaluation", task_hash) if seed == 0 else ("evaluation", task_hash, seed)
    seeds = [derive_seed(*parts, problem.problem_id, 0) for problem in problems]
    drawn = draw_attempts(problems, seeds, sampler, task.sampling, environment)
    attempts = ((problems[index], _refuse_unjudged(attempt)) for index, attempt in drawn)
    while batch := list(itertools.islice(attempts, _SCORED_AT_ONCE)):
        yield score_attempts(batch, scorer, task_hash)


def _refuse_unjudged(attempt: Attempt) -> Attempt:
    """Return an attempt, with the harness's failure as its verdict where nobody could choose it."""
    selection = attempt.last.selection
    if selection is None or selection.place is not None:
        return attempt
    why = f"no verdict on any of {len(selection.scores)} candidates: nothing could be chosen"
    return replace(attempt, verdict=Outcome("errored", 0.0, why=why, fault="harness"))


def score_batch(batch: Sequence[tuple[Problem, Completion]], scorer: Scorer, task_hash: str) -> list[ItemResult]:
    """Return one item for each problem and completion; what the harness failed on is scored once more."""
    return score_attempts([(problem, Attempt((completion,))) for problem, completion in batch], scorer, task_hash)


def score_attempts(batch: Sequence[tuple[Problem, Attempt]], scorer: Scorer, task_hash: str) -> list[ItemResult]:
    """Return one item for each problem and attempt; what the harness failed on is scored once more."""
    outcomes = {place: attempt.verdict for place, (_, attempt) in enumerate(batch) if attempt.verdict is not None}
    waiting = [place for place in range(len(batch)) if place not in outcomes]
    for _ in range(2):
        found = scorer.score([(batch[place][0], batch[place][1].judged) for place in waiting]) if waiting else []
        outcomes |= dict(zip(waiting, found, strict=True))
        waiting = [place for place, outcome in zip(waiting, found, strict=True) if outcome.fault == "harness"]
    return [_record(*one, outcomes[place], task_hash) for place, one in enumerate(batch)]


def _record(problem: Problem, attempt: Attempt, outcome: Outcome, task_hash: str) -> ItemResult:
    last = attempt.last
    has_ended = last.finish_reason == "stop" and attempt.verdict is None
    parts = {**outcome.parts, STOPPED: float(has_ended), DRAWN_TOKENS: float(attempt.num_drawn)}
    selection = last.selection
    if selection is not None and selection.place is not None:
        known = [score for score in selection.scores if score is not None]
        parts |= {CHOSEN_SCORE: selection.scores[selection.place] or 0.0, MEAN_SCORE: float(np.mean(known))}
    logprobs = [one.sampler_logprobs for one in attempt.completions if one.sampler_logprobs is not None]
    # Of what was chosen the log-likelihood tells nothing of how it came to be.
    if selection is None and len(logprobs) == len(attempt.completions) and attempt.num_drawn:
        parts[DRAWN_NATS] = -sum(float(values.sum(dtype=np.float64)) for values in logprobs)
    return ItemResult(
        item_id=problem.problem_id,
        cluster_id=problem.cluster_id,
        task_hash=task_hash,
        sample_index=last.sample_index,
        outcome=replace(outcome, parts=parts),
        policy_hash=last.policy_hash,
        text=last.text,
        prompt=problem.messages,
        reference=str(problem.columns.get("answer", "")),
        transcript=list(attempt.transcript),
    )
