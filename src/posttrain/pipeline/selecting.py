"""Tasks that choose among several answers: the sampler that does it, and what names its scorer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from posttrain.core.protocols import Scorer
from posttrain.core.sampling import Sampler
from posttrain.evaluation.task import GenerationTask
from posttrain.pipeline.scorers import ScorerContext, ScorerValue, hash_scorer
from posttrain.samplers.best_of_n import BestOfNSampler


def wrap_sampler(sampler: Sampler, task: GenerationTask, find_scorer: Callable[[ScorerValue], Scorer]) -> Sampler:
    """Return what answers a task: a policy's sampler, or one that chooses among several of its answers.

    Args:
        sampler: Draws from the policy.
        task: What is asked.
        find_scorer: Gives the scorer that settings describe.
    """
    chosen = task.select
    if chosen is None:
        return sampler
    scorer = find_scorer(task.scorer if chosen.scorer is None else chosen.scorer)
    return BestOfNSampler(sampler, scorer, n=chosen.n, by=chosen.by)


def hash_chooser(task: GenerationTask, context: ScorerContext) -> list[Any]:
    """Return what names the scorer that chooses, nothing where the task has none beside its own."""
    chooser = task.scorers.get(("select", "scorer"))
    return [] if chooser is None else [hash_scorer(chooser, context)]
