"""What a stage that samples says of its rollouts, so that a few of them can be drawn and judged before it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from posttrain.core.sampling import SamplingSettings
from posttrain.data.sources import DataSource
from posttrain.rollouts.environments import EnvironmentSettings


@dataclass(frozen=True, slots=True)
class RolloutSettings:
    """Which groups a stage draws and who rewards them.

    Made by the method `describe_rollouts` of a stage's configuration, built in or a user's own; read by preflight,
    which draws a few groups from the policy that the stage starts from.

    Args:
        problems: Where the problems come from; a path starts at the recipe's folder.
        scorer: Who rewards, as a recipe writes a scorer: a name, `file.py:name`, or a mapping with `type`.
        sampling: How completions are drawn; `num_samples` is the size of a group, at least 2.
        num_groups: Groups to draw at most; fewer are drawn where they say enough.
        environment: Which tools reply, None for one turn.

    Example: eight completions of each problem, 24 problems tried: `RolloutSettings(DataSource(source="tasks.jsonl"),
    "math", SamplingSettings(max_new_tokens=256, temperature=1.0, num_samples=8), 24)`.
    """

    problems: DataSource
    scorer: str | Mapping[str, Any]
    sampling: SamplingSettings
    num_groups: int = 24
    environment: EnvironmentSettings | None = None
