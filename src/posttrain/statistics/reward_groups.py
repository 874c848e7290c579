"""Groups of rewards: several completions of one problem each, and whether they can teach anything.

An estimator that compares the completions of a group (GRPO, RLOO, best of n) learns from their differences alone: a
group whose rewards are all equal has no advantage anywhere and no gradient.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from posttrain.core.records import SAME_REWARD


@dataclass(frozen=True, slots=True)
class GroupFigures:
    """What the rewards of some groups say.

    Made by `compute_group_figures`, read by preflight and by stages that sample. A group with fewer than two counted
    rewards is in `num_left_out` and not in `num_groups`. `mean`, `lowest` and `highest` are over all counted rewards,
    NaN where there is none.

    Example: rewards `[1, 0], [1, 1], [None, 0]` with one completion cut: `num_groups=2, num_informative=1,
    num_left_out=1, num_rewards=5, num_completions=6, num_clipped=1`.
    """

    num_groups: int
    num_informative: int
    num_left_out: int
    num_rewards: int
    num_completions: int
    num_clipped: int
    mean: float
    lowest: float
    highest: float

    @property
    def informative_fraction(self) -> float:
        """The share of groups whose rewards are not all equal, 0 without a group."""
        return self.num_informative / self.num_groups if self.num_groups else 0.0

    @property
    def clipped_fraction(self) -> float:
        """The share of completions that were cut at the cap, 0 without a completion."""
        return self.num_clipped / self.num_completions if self.num_completions else 0.0

    @property
    def is_constant(self) -> bool:
        """Whether there are at least two rewards, and all of them are equal."""
        return self.num_rewards > 1 and self.highest - self.lowest <= SAME_REWARD


def compute_group_figures(
    rewards_PG: Sequence[Sequence[float | None]], is_clipped_PG: Sequence[Sequence[bool]]
) -> GroupFigures:
    """Return what groups of rewards say: how many teach something, how far rewards spread, how many were cut.

    A group is informative if its largest reward exceeds its smallest: those that DAPO's dynamic sampling keeps.

    Args:
        rewards_PG: The rewards of each problem's completions; None where there is no verdict (the harness failed, or
            the scorer does not apply). Groups may differ in size.
        is_clipped_PG: Whether each completion was cut at its cap, in the same order.

    Raises:
        ValueError: The two differ in shape, or a reward is not finite.

    Source: Yu et al. 2025, "DAPO: An Open-Source LLM Reinforcement Learning System at Scale" (arXiv 2503.14476),
    section 3.2, where rewards are those of right and wrong answers; here they may be any numbers.
    """
    if [len(group) for group in rewards_PG] != [len(group) for group in is_clipped_PG]:
        raise ValueError("each reward needs to be told whether its completion was cut")
    counted = [[reward for reward in group if reward is not None] for group in rewards_PG]
    rewards = [reward for group in counted for reward in group]
    if not all(map(math.isfinite, rewards)):
        raise ValueError("a reward is not finite")
    compared = [group for group in counted if len(group) > 1]
    return GroupFigures(
        num_groups=len(compared),
        num_informative=sum(max(group) - min(group) > SAME_REWARD for group in compared),
        num_left_out=len(counted) - len(compared),
        num_rewards=len(rewards),
        num_completions=sum(map(len, is_clipped_PG)),
        num_clipped=sum(sum(group) for group in is_clipped_PG),
        mean=math.fsum(rewards) / len(rewards) if rewards else math.nan,
        lowest=min(rewards, default=math.nan),
        highest=max(rewards, default=math.nan),
    )
