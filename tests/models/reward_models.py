"""Tiny reward models and prompts with completions, for the tests that score."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from posttrain.kernels.readings import Reading
from posttrain.models.reward_models import RewardFacts, build_member, make_head, save_reward_model
from tests.models.tiny_models import FACTS, make_tiny, make_tokenizer

PAIRS = RewardFacts("pairwise", ("preference",), ((0.0,),), (1.0,), (0.0,))


def make_members(count: int = 1, *, architecture: str = "llama", num_outputs: int = 1) -> list[Any]:
    """Random members, each with weights of its own."""
    members = []
    for seed in range(count):
        model = make_tiny(architecture, seed)
        head = make_head(model.config.hidden_size, num_outputs, seed)
        members.append(build_member(model, head.weight * 5, make_tokenizer()))
    return members


def save_members(folder: Path, members: Sequence[Any], facts: RewardFacts = PAIRS) -> Path:
    """An artifact of members, in float32."""
    save_reward_model(members, make_tokenizer(), folder, FACTS, facts, weights_dtype="float32")
    return folder


def read(prompt: Sequence[int], *completions: Sequence[int]) -> Reading:
    """A prompt with completions that are read at their last token."""
    ids = tuple(np.asarray(part, np.int32) for part in completions)
    return Reading(np.asarray(prompt, np.int32), ids, tuple(np.asarray([len(part) - 1]) for part in ids))


def draw_ids(count: int, seed: int) -> list[int]:
    """Token ids that are none of the special ones."""
    return np.random.default_rng(seed).integers(3, 250, count).tolist()
