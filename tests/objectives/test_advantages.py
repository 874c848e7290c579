"""Advantages, by hand and by what they may not depend on."""

from __future__ import annotations

import math

import pytest
import torch

from posttrain.objectives.advantages import compute_advantages
from posttrain.objectives.choices import Baseline, Scale

EVERY = [
    (baseline, scale)
    for baseline in ("group_mean", "leave_one_out", "batch_mean", "none")
    for scale in ("none", "group_std", "batch_std")
]


def compute(rewards: list[float], groups: list[int], baseline: Baseline, scale: Scale) -> list[float]:
    found = compute_advantages(torch.tensor(rewards), torch.tensor(groups), baseline=baseline, scale=scale)
    return [round(value, 6) for value in found.advantages_S.tolist()]


def test_advantages_of_two_groups_are_the_ones_worked_out_by_hand() -> None:
    """Group 0 has rewards 1, 0, 0, 1 (mean 1/2, deviation 1/2), group 1 has 3, 0 (mean 3/2, deviation 3/2).

    The others of the first completion have a mean of 1/3, of the second 2/3; of the fifth 0. All six have the mean 5/6.
    """
    rewards, groups = [1.0, 0, 0, 1, 3, 0], [0, 0, 0, 0, 1, 1]
    assert compute(rewards, groups, "group_mean", "none") == [0.5, -0.5, -0.5, 0.5, 1.5, -1.5]
    assert compute(rewards, groups, "group_mean", "group_std") == [1, -1, -1, 1, 1, -1]
    assert compute(rewards, groups, "leave_one_out", "none") == pytest.approx(
        [2 / 3, -2 / 3, -2 / 3, 2 / 3, 3, -3], abs=1e-6
    )
    assert compute(rewards, groups, "batch_mean", "none") == pytest.approx([r - 5 / 6 for r in rewards], abs=1e-6)
    assert compute(rewards, groups, "none", "none") == rewards
    # (4 * 1/4 + 2 * 9/4) / 6 = 11/12
    expected = [a / math.sqrt(11 / 12) for a in (0.5, -0.5, -0.5, 0.5, 1.5, -1.5)]
    assert compute(rewards, groups, "group_mean", "batch_std") == pytest.approx(expected, abs=1e-6)


def test_leaving_one_out_is_the_groups_mean_scaled_by_g_over_g_less_1() -> None:
    rewards, groups = [0.3, -1.0, 2.5, 0.0], [4, 4, 4, 4]
    mean, others = (compute(rewards, groups, baseline, "none") for baseline in ("group_mean", "leave_one_out"))
    assert others == pytest.approx([a * 4 / 3 for a in mean], abs=1e-5)


@pytest.mark.parametrize(("baseline", "scale"), EVERY)
def test_the_order_of_completions_and_the_names_of_groups_change_nothing(baseline: Baseline, scale: Scale) -> None:
    generator = torch.Generator().manual_seed(3)
    groups = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2, 3])
    rewards = torch.randn(10, generator=generator, dtype=torch.float64)
    straight = compute_advantages(rewards, groups, baseline=baseline, scale=scale)
    order = torch.randperm(10, generator=generator)
    names = torch.tensor([70, -2, 11, 5])[groups]
    shuffled = compute_advantages(rewards[order], names[order], baseline=baseline, scale=scale)
    assert torch.allclose(shuffled.advantages_S, straight.advantages_S[order], rtol=0, atol=1e-12)
    assert torch.equal(shuffled.is_counted_S, straight.is_counted_S[order])


@pytest.mark.parametrize(("baseline", "scale"), [pair for pair in EVERY if "batch" not in "".join(pair)])
def test_advantages_within_groups_do_not_depend_on_what_else_is_in_the_step(baseline: Baseline, scale: Scale) -> None:
    """Ragged groups of 2 to 6 and one of 1, in one step or split over four, in float32: equal to 1e-7."""
    generator = torch.Generator().manual_seed(5)
    groups = torch.arange(1, 7).repeat_interleave(torch.arange(1, 7))
    rewards = torch.randn(len(groups), generator=generator)
    whole = compute_advantages(rewards, groups, baseline=baseline, scale=scale)
    for share in range(4):
        mine = groups % 4 == share
        part = compute_advantages(rewards[mine], groups[mine], baseline=baseline, scale=scale)
        assert torch.allclose(part.advantages_S, whole.advantages_S[mine], rtol=0, atol=1e-7)
        assert torch.equal(part.is_counted_S, whole.is_counted_S[mine])
    is_compared = baseline != "none" or scale == "group_std"
    assert whole.num_singletons == int(is_compared)


@pytest.mark.parametrize("baseline", ["group_mean", "leave_one_out"])
def test_a_completion_without_another_of_its_problem_is_left_out_and_counted(baseline: Baseline) -> None:
    rewards, groups = torch.tensor([1.0, 0.0, 5.0, 2.0, 9.0]), torch.tensor([0, 0, 1, 2, 2])
    has_reward = torch.tensor([True, True, True, True, False])  # so group 2 has one reward alone, as group 1
    found = compute_advantages(rewards, groups, baseline=baseline, scale="none", has_reward_S=has_reward)
    assert found.is_counted_S.tolist() == [True, True, False, False, False]
    assert found.num_singletons == 2
    assert found.advantages_S[2:].tolist() == [0, 0, 0]


def test_what_the_harness_failed_on_changes_no_other_completion() -> None:
    rewards, groups = torch.tensor([1.0, 0.0, 0.5]), torch.tensor([0, 0, 0])
    for baseline, scale in EVERY:
        alone = compute_advantages(rewards[:2], groups[:2], baseline=baseline, scale=scale)
        third = torch.tensor([1.0, 0.0, math.nan])
        known = torch.tensor([True, True, False])
        found = compute_advantages(third, groups, baseline=baseline, scale=scale, has_reward_S=known)
        assert found.advantages_S.tolist() == [*alone.advantages_S.tolist(), 0.0]


@pytest.mark.parametrize("scale", ["none", "group_std", "batch_std"])
def test_equal_rewards_have_no_advantage_and_no_nan(scale: Scale) -> None:
    for baseline in ("group_mean", "leave_one_out", "batch_mean"):
        assert compute([0.1 + 0.2, 0.3, 0.3], [1, 1, 1], baseline, scale) == [0, 0, 0]


def test_a_reward_that_is_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        compute([1.0, math.inf], [0, 0], "group_mean", "none")


def test_no_completions_have_no_advantages() -> None:
    none = torch.zeros(0)
    found = compute_advantages(none, none.long(), baseline="group_mean", scale="group_std")
    assert found.advantages_S.shape == (0,) and found.num_singletons == 0
