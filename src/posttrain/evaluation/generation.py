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
from posttrain.evaluation.figures import DRAWN_NATS, DRAWN_TOKENS, STOPPED, summarise_items
from posttrain.evaluation.task import GenerationTask

_SCORED_AT_ONCE = 32
_DRAWN_AT_ONCE = 1024
"""Problems whose prompts are in memory together; a sampler that runs low on them leaves rows empty."""


@dataclass(frozen=True, slots=True)
class Generation:
    """Draws from a sampler, opened when something is to be drawn, and asks a scorer (`answering.Answerer`)."""

    task: GenerationTask
    policy_hash: str
    open_sampler: Callable[[], Sampler]
    scorer: Scorer
    seed: int = 0

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
            yield from draw_items(self.task, task_hash, some, sampler, self.scorer, seed=self.seed)
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
) -> Iterator[list[ItemResult]]:
    """Yield a task's items as they finish, some at a time.

    A problem's draws depend on the task, its own id and the seed alone, so that an item drawn after a restart is the
    same item.
    """
    parts = ("evaluation", task_hash) if seed == 0 else ("evaluation", task_hash, seed)
    seeds = [derive_seed(*parts, problem.problem_id, 0) for problem in problems]
    drawn = ((problems[index], completion) for index, completion in sampler.sample(problems, task.sampling, seeds))
    while batch := list(itertools.islice(drawn, _SCORED_AT_ONCE)):
        yield score_batch(batch, scorer, task_hash)


def score_batch(batch: Sequence[tuple[Problem, Completion]], scorer: Scorer, task_hash: str) -> list[ItemResult]:
    """Return one item for each problem and completion; what the harness failed on is scored once more."""
    outcomes = scorer.score(batch)
    failed = [index for index, outcome in enumerate(outcomes) if outcome.fault == "harness"]
    if failed:
        again = scorer.score([batch[index] for index in failed])
        for index, outcome in zip(failed, again, strict=True):
            outcomes[index] = outcome
    return [
        _record(problem, completion, outcome, task_hash)
        for (problem, completion), outcome in zip(batch, outcomes, strict=True)
    ]


def _record(problem: Problem, completion: Completion, outcome: Outcome, task_hash: str) -> ItemResult:
    parts = {**outcome.parts, STOPPED: float(completion.finish_reason == "stop")}
    parts[DRAWN_TOKENS] = float(len(completion.ids))
    if completion.sampler_logprobs is not None and len(completion.ids):
        parts[DRAWN_NATS] = -float(completion.sampler_logprobs.sum(dtype=np.float64))
    return ItemResult(
        item_id=problem.problem_id,
        cluster_id=problem.cluster_id,
        task_hash=task_hash,
        sample_index=completion.sample_index,
        outcome=replace(outcome, parts=parts),
        policy_hash=completion.policy_hash,
        text=completion.text,
        prompt=problem.messages,
        reference=str(problem.columns.get("answer", "")),
    )
