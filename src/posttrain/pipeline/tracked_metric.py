"""The generation metric that chooses which weights a stage keeps: drawn and scored as the stage trains.

A loss over given answers says little about what a policy writes by itself, so `keep: best_metric` asks the policy. Its
weights of the moment (the moving average where there is one) are published to a sampler, the task's development rows
are answered, and the answers are scored. Every measurement answers the same rows with the same seeds, and leaves
weights, gradients and random state as they were.

The rows are never those that the task is measured on after the stage: the best of many policies looks better on the
rows that chose it than it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from posttrain.chat.rendering import Renderer
from posttrain.core.config import suggest
from posttrain.core.errors import PosttrainError, RecipeError
from posttrain.core.hashing import hash_bytes, hash_text
from posttrain.core.protocols import Progress, Scorer
from posttrain.core.records import ItemResult, Problem
from posttrain.core.sampling import PolicyVersion, Sampler
from posttrain.data.sources import DataSource
from posttrain.evaluation.figures import summarise_items
from posttrain.evaluation.generation import draw_items
from posttrain.evaluation.problem_store import list_ids
from posttrain.evaluation.task import GenerationTask, find_development, hash_task
from posttrain.evaluation.weighing import build_text_renderer
from posttrain.gates.rules import split_metric
from posttrain.models.adapters import gather_whole
from posttrain.models.loaded_policy import LoadedPolicy
from posttrain.pipeline.development_rows import read_development_problems
from posttrain.pipeline.recipe import Recipe
from posttrain.pipeline.sampling import build_sampler, find_context_tokens
from posttrain.pipeline.scorers import build_context, build_scorer, hash_scorer
from posttrain.pipeline.selecting import hash_chooser, wrap_sampler
from posttrain.pipeline.tools import build_environment, hash_environment
from posttrain.pipeline.wiring import fingerprint_sources
from posttrain.rollouts.environments import Environment
from posttrain.stages.sft import SftConfig
from posttrain.statistics.pairing import list_parts, read_value
from posttrain.statistics.repeats import fold_samples, parse_repeated
from posttrain.training.distributed import Ranks, gather_tensors


@dataclass(frozen=True, slots=True)
class TrackedMetric:
    """A metric as a stage names it, with the task and the rows that stand behind it.

    Made by `find_tracked_metric`; read by the stage's key, preflight and wiring. `source` are the development rows.

    Example: `keep_metric: facts/stopped` gives the task `facts`, the part `stopped` and the task's development rows.
    """

    metric: str
    task: GenerationTask
    part: str | None
    source: DataSource


def find_tracked_metric(recipe: Recipe, config: SftConfig) -> TrackedMetric | None:
    """Return what chooses the weights that a stage keeps, or None where no metric does.

    The recipe was checked when it was read, so that the task is there, draws, and has development rows.
    """
    if config.keep_metric is None:
        return None
    name, part = split_metric(config.keep_metric)
    task = next(task for task in recipe.evaluate if task.name == name)
    source = find_development(task)
    assert isinstance(task, GenerationTask) and source is not None
    return TrackedMetric(config.keep_metric, task, part, source)


def describe_tracked_metric(recipe: Recipe, tracked: TrackedMetric) -> list[Any]:
    """Return what decides the metric beside the policy: a part of the key of what the stage makes.

    Raises:
        DataError: The development rows cannot be read.
    """
    drawing = {key: value for key, value in tracked.task.identity().items() if key not in tracked.task.BESIDE}
    context = build_context(recipe.roots, recipe.scorers)
    scorer = [*hash_scorer(tracked.task.scorer, context), *hash_chooser(tracked.task, context)]
    if tracked.task.environment is not None:
        scorer.append(hash_environment(tracked.task.environment, context))
    shots = [] if tracked.task.shots_from is None else [tracked.task.shots_from]
    return [drawing, scorer, tracked.part, fingerprint_sources(recipe, [tracked.source, *shots])]


class MetricTracker:
    """Measures a policy that is being trained, again and again.

    Args:
        tracked: What to measure.
        problems: The development rows.
        policy: The policy whose model is sampled from as it is at each measurement.
        sampler: Draws from it.
        scorer: Judges.
        progress: Shows the metric beside the stage's own figures.

    `environment` replies to calls of tools, where the task has one.
    """

    def __init__(
        self,
        tracked: TrackedMetric,
        problems: Sequence[Problem],
        policy: LoadedPolicy,
        sampler: Sampler,
        scorer: Scorer,
        progress: Progress,
    ) -> None:
        self.tracked = tracked
        self.policy = policy
        self._problems = problems
        self._task_hash = hash_task(tracked.task, problems)
        self._sampler = sampler
        self._scorer = scorer
        self._progress = progress
        self.environment: Environment | None = None

    def measure(self) -> float:
        """Return the mean score of the policy as it is.

        Raises:
            RefusedError: The harness failed on over 1 % of the rows, or the scorer applies to none.
            RecipeError: No outcome has the part that the metric names.
            DataError: A prompt leaves no room for an answer.
            SamplerError: The sampler does not hold the published weights, or they give logits that are not finite.
        """
        model = self.policy.model
        items: list[ItemResult] = []
        devices = [parameter.device for parameter in model.parameters() if parameter.device.type == "cuda"][:1]
        with torch.random.fork_rng(devices=devices):
            self._sampler.publish(PolicyVersion(hash_weights_in_memory(self.policy), model=model))
            for batch in draw_items(
                self.tracked.task,
                self._task_hash,
                self._problems,
                self._sampler,
                self._scorer,
                environment=self.environment,
            ):
                items += batch
            self._sampler.close()
        # In the order of the rows, so that the sum rounds alike whichever finished first.
        order = {name: index for index, name in enumerate(list_ids(self._problems))}
        items.sort(key=lambda item: (order[item.item_id], item.sample_index))
        value = compute_metric(self.tracked, self._scorer.name, items)
        self._progress.advance(0, **{self.tracked.metric: value})
        return value


def compute_metric(tracked: TrackedMetric, scorer_name: str, items: Sequence[ItemResult]) -> float:
    """Return a metric's mean over items, as gates read it: what the policy failed at counts its declared value.

    Raises:
        RefusedError: The harness failed on over 1 % of the items, or the scorer applies to none.
        RecipeError: No outcome has the part that the metric names.
        DataError: pass@k or cons@k of fewer than k samples.
    """
    summarise_items(tracked.task.name, scorer_name, items)  # refuses what is no measurement
    part = tracked.part
    if parse_repeated(part) is not None:
        items, part = fold_samples(items, str(part)), None
    read = [read_value(item, part) for item in items]
    parts = list_parts(items)
    if part is not None and part not in parts:
        raise RecipeError(
            f"no outcome of {scorer_name} has the part '{part}'",
            expected="one of " + ", ".join(parts),
            cure=suggest(part, parts),
            place=f"keep_metric: {tracked.metric}",
        )
    values = [value for value in read if not isinstance(value, str)]  # a text says why an item does not count
    return float(np.mean(np.array(values, dtype=np.float64)))


def hash_weights_in_memory(policy: LoadedPolicy, ranks: Ranks | None = None, dtype: torch.dtype | None = None) -> str:
    """Return a name by content for a policy as it is: where it was loaded from, and every weight that is trained.

    Args:
        policy: The policy; what of it is sharded counts whole.
        ranks: The processes that share it, every one of which must call this.
        dtype: The precision that it computes in, by which masters are named as what computes is; None: as held.
    """
    ranks = ranks or Ranks()
    digests: list[str] = []
    for name, parameter in policy.model.named_parameters():
        if parameter.requires_grad:
            whole = gather_whole(parameter)
            if ranks.is_writer:
                content = whole.to(dtype or whole.dtype).cpu().reshape(-1).view(torch.uint8).numpy().tobytes()
                digests.append(f"{name} {hash_bytes(content)}")
    return str(ranks.broadcast_object(hash_text(policy.hash, policy.base_hash, *digests)))


def build_tracker(
    recipe: Recipe,
    tracked: TrackedMetric,
    policy: LoadedPolicy,
    renderer: Renderer,
    progress: Progress,
    *,
    allow_unsafe: bool = False,
) -> MetricTracker:
    """Return what measures a policy that is held whole in this process, during its training.

    The sampler keeps a copy of the weights in the precision that the policy computes in, unless it draws from the
    policy itself.

    Raises:
        DataError: The development rows cannot be used.
        RecipeError: The scorer's settings do not fit.
    """
    problems = read_development_problems(recipe.roots, tracked.task)
    with torch.random.fork_rng(devices=[]):
        own = build_text_renderer(renderer) if tracked.task.form == "text" else renderer
        sampler, notes = build_sampler(policy, own)
    for note in notes:
        progress.note(note)
    context = build_context(recipe.roots, recipe.scorers, allow_unsafe=allow_unsafe)
    scorer = build_scorer(tracked.task.scorer, context)
    chosen = wrap_sampler(sampler, tracked.task, lambda value: build_scorer(value, context))
    tracker = MetricTracker(tracked, problems, policy, chosen, scorer, progress)
    if tracked.task.environment is not None:
        tracker.environment = build_environment(
            tracked.task.environment, renderer, context, context_tokens=find_context_tokens(policy.model)
        )
    return tracker


def measure_on_first_rank(
    tracker: MetricTracker | None, sharded: Mapping[str, torch.Tensor], ranks: Ranks
) -> Callable[[], float]:
    """Return what measures a sharded policy on the first rank and tells every rank the score.

    Args:
        tracker: Of a whole policy on the first rank, whose weights are overwritten; None on the others.
        sharded: The trained parameters by name, as sharding left them.
        ranks: The processes; every one must call what is returned.
    """

    def measure() -> float:
        whole = gather_tensors(dict(sharded), ranks)
        failure: PosttrainError | None = None
        value = 0.0
        if tracker is not None:
            try:
                _overwrite(tracker.policy.model, whole)
                value = tracker.measure()
            except PosttrainError as error:
                failure = error
        ranks.share_failure(failure)
        return float(ranks.broadcast_object(value))

    return measure


@torch.no_grad()
def _overwrite(model: torch.nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    own = dict(model.named_parameters())
    for name, tensor in weights.items():
        own[name].copy_(tensor)
