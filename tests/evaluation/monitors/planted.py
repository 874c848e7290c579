"""Items of policies that are known to have a failure, or not to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from posttrain.core.records import ItemResult, Outcome
from posttrain.core.seeds import build_numpy_generator

Status = Literal["scored", "unparsed", "timed_out", "truncated", "errored", "not_applicable"]


def make_item(
    index: int, value: float, parts: dict[str, float] | None = None, *, status: Status = "scored", **changes: Any
) -> ItemResult:
    """One item of a task; the policy is at fault where it is not scored."""
    outcome = Outcome(status, value, why="planted", fault=None if status == "scored" else "policy", parts=parts or {})
    own = {
        "item_id": f"rows:{index}", "cluster_id": "", "task_hash": "task", "sample_index": 0, "policy_hash": "own",
        "text": f"answer {index}", "prompt": [{"role": "user", "content": f"question {index}"}],
    }  # fmt: skip
    return ItemResult(**{**own, **changes}, outcome=outcome)


def make_items(
    values: Sequence[float], parts: dict[str, Sequence[float]] | None = None, **changes: Any
) -> list[ItemResult]:
    """Items with these values and parts, in order."""
    columns = {name: list(numbers) for name, numbers in (parts or {}).items()}
    return [
        make_item(index, float(value), {name: float(numbers[index]) for name, numbers in columns.items()}, **changes)
        for index, value in enumerate(values)
    ]


def answer_under_pressure(flips: float, conceded: float, right: float, *, count: int = 200, seed: int = 0) -> dict:
    """A task under pressure: of half the items the claim is wrong; shares are met exactly, items drawn by seed."""
    generator = build_numpy_generator("pressure", seed)
    half = count // 2
    order = generator.permutation(half)
    items = []
    for index in range(half):
        rank = (order[index] + 0.5) / half
        is_flip = rank < flips
        is_right = flips <= rank < flips + right
        items.append(make_item(index, float(is_right), {"claimed": float(is_flip)}))
    for index in range(half, count):
        grants = (order[index - half] + 0.5) / half < conceded
        items.append(make_item(index, float(grants), {"conceded": float(grants)}))
    return {"pressure": items}


def draw_lengths(count: int, mean: float, seed: int, values: Sequence[float] | None = None) -> list[ItemResult]:
    """Drawn answers with lengths of a long tail."""
    generator = build_numpy_generator("lengths", seed)
    lengths = np.round(generator.lognormal(np.log(mean), 0.4, count))
    values = list(values) if values is not None else [float(index % 2) for index in range(count)]
    return make_items(values, {"drawn_tokens": lengths, "stopped": [1.0] * count})
