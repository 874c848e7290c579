"""The first rollouts of a stage, token by token: what was asked, drawn and replied, and what of it is trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from posttrain.core.records import Group, Rollout, Source
from posttrain.models.text_tokenizer import HuggingFaceTextTokenizer
from posttrain.pipeline.wiring import split_text

_SAMPLES_OF_A_GROUP = 2


def describe_rollouts(groups: Sequence[Group], tokenizer: HuggingFaceTextTokenizer, count: int) -> list[dict[str, Any]]:
    """Return the first rollouts of the first groups, as `describe_rows` does rows.

    Args:
        groups: What a step trains on.
        tokenizer: The policy's.
        count: Rollouts at most.
    """
    rollouts = [rollout for group in groups for rollout in group.rollouts[:_SAMPLES_OF_A_GROUP]]
    return [_describe_rollout(rollout, tokenizer) for rollout in rollouts[:count]]


def _describe_rollout(rollout: Rollout, tokenizer: HuggingFaceTextTokenizer) -> dict[str, Any]:
    ids = np.concatenate([rollout.prompt_ids, rollout.ids_T]).tolist()
    sources = [int(Source.USER)] * len(rollout.prompt_ids)
    sources += [int(Source.ASSISTANT if is_drawn else Source.TOOL) for is_drawn in rollout.is_drawn_T.tolist()]
    outcome = rollout.outcome
    worth = f"reward {outcome.value:g}" if outcome.is_counted else "no reward"
    is_drawn = [False] * len(rollout.prompt_ids) + rollout.is_drawn_T.tolist()
    return {
        "row_id": f"{rollout.problem_id}, sample {rollout.sample_index}, {worth}",
        "tokens": [
            [text, token, source, int(is_trained)]
            for text, token, source, is_trained in zip(split_text(ids, tokenizer), ids, sources, is_drawn, strict=True)
        ],
    }
