"""What the steps of each type of stage compute, for estimates of memory and time: their largest micro-batch.

The first steps are laid out as they will be trained; rows that come later count by the longest of them, which no
budget makes shorter. What a policy draws itself is not there yet: every completion counts as long as it may become.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from posttrain.data.mixing import RowOrder
from posttrain.data.pairs import PairData
from posttrain.kernels.layouts import Layout
from posttrain.models.heads import find_backbone
from posttrain.models.reward_models import begin_head
from posttrain.pipeline.estimates import DTYPES, LargestStep, StepWork
from posttrain.pipeline.wiring import StageData
from posttrain.samplers.kv_cache import KvCache, LayerShape
from posttrain.samplers.local import EngineOptions
from posttrain.samplers.pool import round_up_rows
from posttrain.stages.grpo import GrpoConfig
from posttrain.stages.kto import KtoConfig
from posttrain.stages.preference import PreferenceConfig
from posttrain.stages.preference_batches import PairBatches, Place
from posttrain.stages.reward_model import RewardModelConfig, build_objective, build_order, count_member_steps
from posttrain.stages.reward_rows import RewardRows, build_step_batch, fit_ratings
from posttrain.stages.sampler_keys import VllmKeys
from posttrain.stages.sft import SftConfig, group_rows
from posttrain.stages.sft import build_order as build_sft_order
from posttrain.stages.training_keys import count_steps
from posttrain.training.batches import (
    MicroBatch,
    PromptFamily,
    ScoredCompletion,
    build_family_batch,
    build_micro_batch,
)
from posttrain.training.distributed import Ranks
from posttrain.training.policy import ScoredPolicy
from posttrain.training.reward_policy import ScoredRewardModel

PairConfig = PreferenceConfig | KtoConfig

NUM_STEPS = 50
"""How many of the first steps are looked at."""


def build_sft_work(config: SftConfig, data: StageData, ranks: Ranks, seed: int) -> StepWork:
    """Return what the steps of an SFT stage compute.

    Args:
        config: The stage's configuration.
        data: Its rows.
        ranks: The processes that share a step.
        seed: The stage's seed, which decides which rows share a step.
    """

    def find(layout: Layout) -> LargestStep:
        places, count = find_largest_rows(config, data, ranks, seed, layout)
        samples = [data.train.rows[source].row(row) for source, row in places]
        names = [data.train.rows[source].row_ids[row] for source, row in places]
        return LargestStep(build_micro_batch(samples, names, has_filler=layout == "packed"), count)

    copies = 0
    if config.keep == "best_metric":  # a sampler's copy; over several ranks also the whole policy that it copies
        copies = 1 if ranks.count == 1 else 2
    return StepWork(find, has_ema=config.ema_decay is not None, num_copies=copies)


# many parameters: which rows, in which order and layout, and how many steps are looked at
def find_largest_rows(
    config: SftConfig, data: StageData, ranks: Ranks, seed: int, layout: Layout, *, num_steps: int = NUM_STEPS
) -> tuple[list[Place], int]:
    """Return the rows of the largest micro-batch, and how many a step has at most on one rank.

    Args:
        config: The stage's configuration.
        data: Its rows.
        ranks: The processes that share a step.
        seed: The stage's seed.
        layout: How rows lie in a micro-batch; padded, the longest row is what each of them takes.
        num_steps: How many of the first steps to look at.
    """
    order = build_sft_order(config, data.train, seed)
    lengths_of = [part.lengths_R for part in data.train.rows]
    steps = count_steps(config, order.steps_per_epoch)
    largest: list[Place] = []
    size = most = 0
    for step in range(min(num_steps, steps)):
        rows = order.rows_of_step(step)
        lengths = [int(lengths_of[source][row]) for source, row in rows]
        groups = group_rows(lengths, config.micro_batch_tokens, layout)
        most = max(most, -(-len(groups) // ranks.count))
        for group in groups:
            taken = [lengths[i] for i in group]
            if (tokens := len(taken) * max(taken) if layout == "padded" else sum(taken)) > size:
                largest, size = [rows[i] for i in group], tokens
    if steps > num_steps:
        place = find_longest(lengths_of)
        largest = [place] if lengths_of[place[0]][place[1]] > size else largest
    return largest or [(0, 0)], max(1, most)


def find_longest(lengths: Sequence[npt.NDArray[np.int64]]) -> Place:
    """Return the longest row of all sources."""
    source = max(range(len(lengths)), key=lambda source: int(lengths[source].max(initial=0)))
    return source, int(lengths[source].argmax())


@dataclass(frozen=True, slots=True)
class _Steps:
    """The steps of a stage of pairs: which rows each takes, how many there are, and the processes that share one."""

    order: RowOrder
    count: int
    ranks: Ranks


def build_pair_work(config: PairConfig, data: PairData, order: RowOrder, ranks: Ranks, *, may_share: bool) -> StepWork:
    """Return what the steps of a stage of pairs or labelled completions compute.

    Its reference is the policy that it starts from, run before the first step: less than a step, and no second model.

    Args:
        config: The stage's configuration.
        data: Its rows.
        order: Which of them each step takes.
        ranks: The processes that share a step.
        may_share: Whether a prompt may stand once before its completions.
    """
    steps = _Steps(order, count_steps(config, order.steps_per_epoch), ranks)

    def find(layout: Layout) -> LargestStep:
        is_shared = may_share and layout == "packed"
        batches = PairBatches(data.sources, Ranks(), layout, is_shared, config.micro_batch_tokens)
        return _find_largest(
            steps, layout, data, lambda places: (batch for _, batch in batches.build_micro_batches(places))
        )

    return StepWork(find)


def build_reward_work(config: RewardModelConfig, data: PairData, ranks: Ranks, seed: int) -> StepWork:
    """Return what the steps of one member of a reward-model stage compute; one is in memory at a time.

    Args:
        config: The stage's configuration.
        data: Its rows.
        ranks: The processes that share a step.
        seed: The stage's seed.

    Raises:
        DataError: The labels or margins of the rows cannot be learned from.
    """
    rows = RewardRows(config, data, fit_ratings(config, data))
    order = build_order(config, rows, seed)
    steps = _Steps(order, count_member_steps(config, order.steps_per_epoch), ranks)

    def find(layout: Layout) -> LargestStep:
        def lay_out(places: Sequence[Place]) -> Iterable[MicroBatch]:
            taken = [rows.row(place) for place in places]
            is_sharing = config.packing != "off"
            return build_step_batch(taken, config.micro_batch_tokens, Ranks(), layout, is_sharing=is_sharing)[
                0
            ].micro_batches

        return _find_largest(steps, layout, data, lay_out)

    def wrap(model: Any, layout: Layout) -> ScoredPolicy:
        head = begin_head(model, max(1, len(config.attributes)), 0)
        return ScoredRewardModel(model, find_backbone(model), head, layout)

    return StepWork(find, objective=build_objective(config), wrap=wrap)


def _find_largest(steps: _Steps, layout: Layout, data: PairData, lay_out: Any) -> LargestStep:
    """Return the largest micro-batch of the first steps, or the longest row alone if later ones may hold it."""
    largest: MicroBatch | None = None
    most = 1
    for step in range(min(NUM_STEPS, steps.count)):
        batches = list(lay_out(steps.order.rows_of_step(step)))
        most = max(most, -(-len(batches) // steps.ranks.count))
        for batch in batches:
            if largest is None or _measure(batch, layout) > _measure(largest, layout):
                largest = batch
    if largest is None or steps.count > NUM_STEPS:
        longest = find_longest([rows.part_lengths_RK.sum(axis=1) for rows in data.sources])
        (batch,) = lay_out([longest])
        if largest is None or _measure(batch, layout) > _measure(largest, layout):
            largest = batch
    return LargestStep(largest, most)


def _measure(batch: MicroBatch, layout: Layout) -> int:
    """Return the tokens that a micro-batch takes, padding included."""
    return len(batch.lengths) * max(batch.lengths) if layout == "padded" else len(batch.ids_T)


def build_grpo_work(config: GrpoConfig, prompt_tokens: int, context_tokens: int | None, ranks: Ranks) -> StepWork:
    """Return what the updates of a GRPO stage compute at most, and what drawing takes.

    Weights to draw from are kept beside those that are trained, and those of the reference where the method reads one.

    Args:
        config: The stage's configuration.
        prompt_tokens: Tokens of its longest prompt.
        context_tokens: The model's longest row, None if it has no limit.
        ranks: The processes that share an update.
    """
    room = config.max_new_tokens if context_tokens is None else context_tokens - prompt_tokens
    tokens = max(1, min(config.max_new_tokens, room))
    problems = -(-config.problems_per_step // config.minibatches)

    def find(layout: Layout) -> LargestStep:
        is_shared = config.share_prompts == "auto" and layout == "packed"
        budget, left = config.micro_batch_tokens, problems * config.group_size
        behind = max(1, min(config.group_size, (budget - prompt_tokens) // tokens)) if is_shared else 1
        families = max(1, min(budget // (prompt_tokens + behind * tokens), -(-left // behind)))
        batch = build_family_batch(
            [_make_family(prompt_tokens, tokens, behind)] * families,
            is_shared=is_shared,
            has_filler=layout == "packed",
        )
        return LargestStep(batch, -(-left // (families * behind * ranks.count)))

    copies = int(config.method.needs_reference)
    if isinstance(config.sampler, VllmKeys):  # whose weights and cache are another process's
        return StepWork(find, num_copies=copies)

    def count_drawing(policy: ScoredPolicy) -> int:
        return _count_drawing_bytes(policy, config, -(-config.problems_per_step // ranks.count), prompt_tokens, tokens)

    return StepWork(find, num_copies=copies + 1, count_drawing=count_drawing)


def _make_family(prompt_tokens: int, tokens: int, count: int) -> PromptFamily:
    ones = np.ones(tokens, np.float32)
    part = ScoredCompletion(np.zeros(tokens, np.int32), np.ones(tokens, np.bool_), ones, {}, "")
    return PromptFamily(np.zeros(prompt_tokens, np.int32), [part] * count)


def _count_drawing_bytes(
    policy: ScoredPolicy, config: GrpoConfig, problems: int, prompt_tokens: int, tokens: int
) -> int:
    """Return the bytes of keys and values of one drawing, and of the logits of all its sequences at one token."""
    language_model: Any = policy.model
    options, dtype = EngineOptions(), DTYPES[config.dtype]
    shapes = _list_layer_shapes(language_model.config.get_text_config())
    cache = KvCache(shapes, dtype, torch.device("meta"), options.cache_bytes)
    wanted = min(options.max_rows, round_up_rows(problems * config.group_size))
    sizes = cache.count_rows(wanted, tokens, prompt_tokens, config.group_size)
    logits = sizes.num_rows * policy.head().weight.shape[0] * (dtype.itemsize + 4)
    return sizes.num_tokens * cache.bytes_per_token + logits


def _list_layer_shapes(model: Any) -> list[LayerShape]:
    """Return what each layer keeps of a token as the model's configuration says it; nothing without attention."""
    queries = getattr(model, "num_attention_heads", None)
    if not isinstance(queries, int):
        return []
    heads = getattr(model, "num_key_value_heads", None) or queries
    size = getattr(model, "head_dim", None) or model.hidden_size // queries
    return [LayerShape(heads, size, size, None)] * model.num_hidden_layers
