"""Items as an evaluation would have recorded them, from tables of right and wrong."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from posttrain.core.records import ItemResult, Outcome


def build_items(
    values: Sequence[float],
    *,
    policy: str,
    task: str = "task-1",
    clusters: Sequence[str] | None = None,
    parts: Sequence[dict[str, float]] | None = None,
) -> list[ItemResult]:
    """Return one scored item a value."""
    return [
        ItemResult(
            item_id=f"item-{index}",
            cluster_id="" if clusters is None else str(clusters[index]),
            task_hash=task,
            sample_index=0,
            outcome=Outcome("scored", float(value), parts={} if parts is None else parts[index]),
            policy_hash=policy,
        )
        for index, value in enumerate(values)
    ]


def build_unread(count: int, *, policy: str, task: str = "task-1", status: str = "unparsed") -> list[ItemResult]:
    """Return items of which the policy's answer could not be read."""
    outcome = Outcome(status, 0.0, why="no answer", fault="policy")  # type: ignore[arg-type]
    return [ItemResult(f"item-{index}", "", task, 0, outcome, policy) for index in range(count)]


def build_table(
    both: int, better: int, worse: int, neither: int = 0, *, names: tuple[str, str] = ("parent", "stage")
) -> tuple[list[ItemResult], list[ItemResult]]:
    """Return the items before and after of a table of 0/1 pairs."""
    before = [1] * both + [0] * better + [1] * worse + [0] * neither
    after = [1] * both + [1] * better + [0] * worse + [0] * neither
    return build_items(before, policy=names[0]), build_items(after, policy=names[1])


def draw_pairs(
    generator: np.random.Generator, num_pairs: int, *, change: float, discordance: float, base: float = 0.7
) -> tuple[np.ndarray, np.ndarray]:
    """Return 0/1 values before and after with a true change and share of discordant pairs."""
    better, worse = (discordance + change) / 2, (discordance - change) / 2
    drawn = generator.choice(4, size=num_pairs, p=[better, worse, base - worse, 1 - base - better])
    return np.isin(drawn, (1, 2)).astype(float), np.isin(drawn, (0, 2)).astype(float)
