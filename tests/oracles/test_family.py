"""Each member of the GRPO family by the stage's own parts, in exact expectation over groups: optimum or fixed point."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from posttrain.stages.grpo_family import METHODS, Algorithm
from tests.oracles.closed_forms import compute_tilted
from tests.oracles.divergences import compute_sequence_reverse_kl
from tests.oracles.enumeration import (
    CompletionSpace,
    TabularPolicy,
    compute_expectation,
    compute_total_variation,
    draw_values,
)
from tests.oracles.family_groups import compute_family_loss
from tests.oracles.minimising import compute_finite_differences, descend

SPACE = CompletionSpace(num_prompts=2, num_tokens=3, max_tokens=2)
REFERENCE = TabularPolicy.draw(SPACE, seed=1)
REWARDS_XY = draw_values(SPACE, seed=3)
WORDS = CompletionSpace(num_prompts=2, num_tokens=5, max_tokens=1)
"""Completions of one token: five of them."""
WORDS_REFERENCE = TabularPolicy.draw(WORDS, seed=1)
WORDS_REWARDS_XY = draw_values(WORDS, seed=3)


def differentiate(loss: torch.Tensor, policy: TabularPolicy) -> torch.Tensor:
    (gradient,) = torch.autograd.grad(loss, policy.logits_XFV)
    return gradient


def compute_mean_reward(policy: TabularPolicy) -> torch.Tensor:
    return compute_expectation(policy.compute_logprobs_XY(), REWARDS_XY).mean()


@pytest.mark.invariants
def test_rloo_reaches_the_tilted_reference_with_groups_of_two() -> None:
    """Whatever the size of its groups: leaving one out makes no bias, and lengths have no say."""
    method, policy = replace(METHODS["rloo"], kl_coefficient=0.7), TabularPolicy.draw(SPACE, seed=2)
    descend(
        lambda policy: compute_family_loss(method, policy, REWARDS_XY, REFERENCE, 2),
        policy,
        learning_rate=6.0,
        gradient_norm=3e-4,
    )
    expected_XY = compute_tilted(REFERENCE.compute_logprobs_XY().detach(), REWARDS_XY, 0.7)
    assert compute_total_variation(policy.compute_logprobs_XY(), expected_XY).max().item() < 1e-3


@pytest.mark.parametrize("group_size", [2, 3])
def test_rloos_gradient_is_that_of_reward_less_the_sequence_kl_by_finite_differences(group_size: int) -> None:
    method, policy = replace(METHODS["rloo"], kl_coefficient=0.7), TabularPolicy.draw(SPACE, seed=2)
    found = differentiate(compute_family_loss(method, policy, REWARDS_XY, REFERENCE, group_size), policy)

    def objective(logits_XFV: torch.Tensor) -> torch.Tensor:
        moved = TabularPolicy(SPACE, logits_XFV)
        kl_X = compute_sequence_reverse_kl(moved.compute_logprobs_XY(), REFERENCE.compute_logprobs_XY())
        return 0.7 * kl_X.mean() - compute_mean_reward(moved)

    differences = compute_finite_differences(lambda: objective(policy.logits_XFV), policy.logits_XFV)
    assert (found - differences).abs().max().item() < 1e-6 and differences.abs().max().item() > 0.01


@pytest.mark.parametrize("group_size", [2, 3])
def test_dr_grpos_gradient_is_that_of_the_mean_reward_over_the_cap_shrunk_by_its_own_baseline(group_size: int) -> None:
    """(G - 1) / (G L) grad E[r], with the cap L of 2 tokens: it climbs to the best completions, without an end."""
    policy = TabularPolicy.draw(SPACE, seed=2)
    found = differentiate(compute_family_loss(METHODS["dr_grpo"], policy, REWARDS_XY, REFERENCE, group_size), policy)
    expected = -differentiate(compute_mean_reward(policy), policy) * (group_size - 1) / group_size / 2
    assert (found - expected).abs().max().item() < 1e-12 and expected.abs().max().item() > 0.01


@pytest.mark.invariants
def test_grpo_with_groups_of_two_rests_where_preferences_by_pairs_balance_the_forward_kl() -> None:
    """pi(y) (1 - P(y) / beta) = ref(y), P(y) = chance that another draw is worse less that it is better.

    With two completions the reward less the mean over the deviation is the sign of their difference. The gradient by a
    logit is -pi P + beta (pi - ref), 0 at rest (Vojnovic and Yun 2025, arXiv 2502.18548: 1 / (1 - x) in place of e^x).
    """
    beta = 2.0
    method, policy = replace(METHODS["grpo"], kl_coefficient=beta), TabularPolicy.draw(WORDS, seed=2)
    descend(
        lambda policy: compute_family_loss(method, policy, WORDS_REWARDS_XY, WORDS_REFERENCE, 2),
        policy,
        learning_rate=3.0,
        gradient_norm=1e-6,
    )
    chances_XY = policy.compute_logprobs_XY().detach().exp()
    signs_XYY = torch.sign(WORDS_REWARDS_XY[:, :, None] - WORDS_REWARDS_XY[:, None, :])
    preferences_XY = (signs_XYY * chances_XY[:, None, :]).sum(-1)
    balanced_XY = chances_XY * (1 - preferences_XY / beta)
    reference_XY = WORDS_REFERENCE.compute_logprobs_XY().detach()
    assert (balanced_XY - reference_XY.exp()).abs().max().item() < 1e-4
    tilted_XY = compute_tilted(reference_XY, WORDS_REWARDS_XY, beta)
    assert compute_total_variation(policy.compute_logprobs_XY().detach(), tilted_XY).max().item() > 0.02


@pytest.mark.invariants
def test_reinforce_pp_rests_at_the_tilted_reference_and_goes_there() -> None:
    """There r - beta log(pi / ref) is one number for all completions: none is above the mean, whatever the scale."""
    method, space = replace(METHODS["reinforce_pp"], kl_coefficient=0.7), CompletionSpace(2, 3, 1)
    reference, rewards_XY = TabularPolicy.draw(space, seed=1), draw_values(space, seed=3)
    expected_XY = compute_tilted(reference.compute_logprobs_XY().detach(), rewards_XY, 0.7)
    at_rest = TabularPolicy.from_logprobs(space, expected_XY)
    found = differentiate(compute_family_loss(method, at_rest, rewards_XY, reference, 2), at_rest)
    assert found.abs().max().item() < 1e-12
    policy = TabularPolicy.draw(space, seed=2)
    for step in range(500):  # the deviation keeps steps from becoming small: the learning rate has to
        gradient = differentiate(compute_family_loss(method, policy, rewards_XY, reference, 2), policy)
        with torch.no_grad():
            policy.logits_XFV -= 3.0 * 0.98**step * gradient
    assert compute_total_variation(policy.compute_logprobs_XY(), expected_XY).max().item() < 1e-3


@pytest.mark.invariants
@pytest.mark.parametrize("algorithm", ["dr_grpo", "dapo", "gspo", "cispo"])
def test_members_without_a_kl_go_to_what_the_verifier_accepts(algorithm: Algorithm) -> None:
    """They have no finite optimum: the share that is accepted keeps rising towards 1."""
    policy, seen = TabularPolicy.draw(SPACE, seed=2), []
    accepted_XY = draw_values(SPACE, seed=5, choices=[0.0, 0.0, 1.0])
    for _ in range(3):
        for _ in range(30):
            gradient = differentiate(compute_family_loss(METHODS[algorithm], policy, accepted_XY, REFERENCE, 2), policy)
            with torch.no_grad():
                policy.logits_XFV -= 8.0 * gradient
        seen.append(compute_expectation(policy.compute_logprobs_XY().detach(), accepted_XY).min().item())
    assert seen[0] < seen[1] < seen[2] < 1 and seen[2] > 0.9
