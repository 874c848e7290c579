"""Advantages of completions from their rewards: a baseline is taken off, and what is left may be scaled.

    A_i = (r_i - b_i) / s_i

| `baseline` | b_i | of |
| --- | --- | --- |
| `group_mean` | the mean of the completions of the same problem, i among them | GRPO, Dr. GRPO, DAPO, GSPO, CISPO |
| `leave_one_out` | the mean of the others of the same problem | RLOO |
| `batch_mean` | the mean of the whole step | REINFORCE++ |
| `none` | 0 | REINFORCE |

| `scale` | s_i | of |
| --- | --- | --- |
| `none` | 1 | Dr. GRPO, RLOO |
| `group_std` | the standard deviation of the group's rewards | GRPO |
| `batch_std` | that of all r - b of the step | REINFORCE++ and its variant with a group's mean as baseline |

Any baseline that does not depend on completion i leaves the expected gradient as it is; the group's own mean does
depend on it and shrinks the gradient by (G - 1) / G, which `leave_one_out` undoes. Dividing by the group's standard
deviation weights problems by how certain the policy is: it is another objective (arXiv 2502.18548), not a smaller
variance.

Sources: GRPO, Shao et al. 2024, "DeepSeekMath" (arXiv 2402.03300), section 4.1; Dr. GRPO, Liu et al. 2025,
"Understanding R1-Zero-like training" (arXiv 2503.20783); RLOO, Ahmadian et al. 2024, "Back to basics" (arXiv
2402.14740), section 3; REINFORCE++, Hu et al. 2025 (arXiv 2501.03262). Known difference from them: standard deviations
are the population's (divided by G, not G - 1), and where rewards do not differ the advantage is 0 instead of a quotient
with a small constant below it.

Shape letter: S completions of a step, of all its problems.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from posttrain.core.records import SAME_REWARD
from posttrain.objectives.choices import Baseline, Scale


@dataclass(frozen=True, slots=True)
class Advantages:
    """The advantage of every completion, and which of them count.

    `advantages_S` fp64, 0 where a completion does not count. `is_counted_S`: it has a reward, and where the baseline is
    its group's, another one to be compared with. `num_singletons` counts completions with a reward that have no other.

    Example: rewards `[1, 0, 1]` of groups `[7, 7, 9]` with a group's mean taken off: `advantages_S = [0.5, -0.5, 0]`,
    `is_counted_S = [True, True, False]`, `num_singletons = 1`.
    """

    advantages_S: torch.Tensor
    is_counted_S: torch.Tensor
    num_singletons: int


def compute_advantages(
    rewards_S: torch.Tensor,
    groups_S: torch.Tensor,
    *,
    baseline: Baseline,
    scale: Scale,
    has_reward_S: torch.Tensor | None = None,
) -> Advantages:
    """Return the advantage of every completion of a step; the order of completions changes nothing.

    Args:
        rewards_S: Rewards, any finite number where there is one.
        groups_S: int64, which problem each completion is of: groups may differ in size and lie anywhere.
        baseline: What is taken off.
        scale: What is divided by.
        has_reward_S: False where there is no verdict (the harness failed); None: all have one.

    Raises:
        ValueError: A reward that counts is not finite, or shapes differ.
    """
    if rewards_S.shape != groups_S.shape or rewards_S.ndim != 1:
        raise ValueError(f"rewards of shape {tuple(rewards_S.shape)} and groups of {tuple(groups_S.shape)}")
    known_S = torch.ones_like(groups_S, dtype=torch.bool) if has_reward_S is None else has_reward_S
    rewards = torch.where(known_S, rewards_S.double(), 0.0)
    if not bool(rewards.isfinite().all()):
        raise ValueError("a reward is not finite")
    _, places = groups_S.unique(return_inverse=True)
    sizes_S = _sum_by_group(known_S.double(), places)
    is_alone_S = known_S & (sizes_S < 2)
    is_compared = baseline in ("group_mean", "leave_one_out") or scale == "group_std"
    counted_S = known_S & ~is_alone_S if is_compared else known_S
    centred = torch.where(counted_S, rewards - _find_baseline(rewards, places, sizes_S, counted_S, baseline), 0.0)
    if scale == "group_std":
        means = _sum_by_group(torch.where(counted_S, rewards, 0.0), places) / sizes_S.clamp(min=1)
        spreads = (
            _sum_by_group(torch.where(counted_S, (rewards - means) ** 2, 0.0), places) / sizes_S.clamp(min=1)
        ) ** 0.5
        centred = _divide(centred, spreads)
    elif scale == "batch_std":
        count = counted_S.sum().clamp(min=1)
        mean = centred.sum() / count
        spread = (torch.where(counted_S, (centred - mean) ** 2, 0.0).sum() / count) ** 0.5
        centred = _divide(centred, spread.expand_as(centred))
    return Advantages(centred, counted_S, int(is_alone_S.sum()) if is_compared else 0)


def _find_baseline(
    rewards_S: torch.Tensor, places_S: torch.Tensor, sizes_S: torch.Tensor, counted_S: torch.Tensor, baseline: Baseline
) -> torch.Tensor:
    counted = torch.where(counted_S, rewards_S, 0.0)
    if baseline == "none":
        return torch.zeros_like(rewards_S)
    if baseline == "batch_mean":
        return (counted.sum() / counted_S.sum().clamp(min=1)).expand_as(rewards_S)
    sums_S = _sum_by_group(counted, places_S)
    if baseline == "group_mean":
        return sums_S / sizes_S.clamp(min=1)
    return (sums_S - rewards_S) / (sizes_S - 1).clamp(min=1)


def _sum_by_group(values_S: torch.Tensor, places_S: torch.Tensor) -> torch.Tensor:
    """Return at each completion the sum over its group."""
    count = int(places_S.max()) + 1 if len(places_S) else 0
    return values_S.new_zeros(count).index_add(0, places_S, values_S)[places_S]


def _divide(values_S: torch.Tensor, spreads_S: torch.Tensor) -> torch.Tensor:
    return torch.where(spreads_S > SAME_REWARD, values_S / spreads_S.clamp(min=SAME_REWARD), 0.0)
