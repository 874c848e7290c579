"""The GRPO family on policies that can be listed: optimum by formula, or the fixed point that is stated."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from posttrain.objectives.choices import Kl
from posttrain.objectives.kl import compute_kl_loss
from posttrain.objectives.policy_gradient import PolicyGradient
from tests.oracles.closed_forms import compute_tilted
from tests.oracles.divergences import derive_token_forward_gradient, derive_token_reverse_gradient
from tests.oracles.enumeration import (
    CompletionSpace,
    TabularPolicy,
    compute_expectation,
    compute_expected_loss,
    compute_total_variation,
    draw_values,
    weigh_prompts_evenly,
)
from tests.oracles.minimising import descend
from tests.oracles.sample_policies import NEXT_XFV, OWN_XF, POLICY, REFERENCE, REFERENCE_XFV
from tests.oracles.sample_policies import SPACE as KL_SPACE

SPACE = CompletionSpace(num_prompts=2, num_tokens=3, max_tokens=2)
REFERENCE_POLICY = TabularPolicy.draw(SPACE, seed=1)
REFERENCE_XY = REFERENCE_POLICY.compute_logprobs_XY().detach()
REWARDS_XY = draw_values(SPACE, seed=3)
BETA = 0.7


def take_expected_loss(
    objective: PolicyGradient, policy: TabularPolicy, advantages_XY: torch.Tensor, sampled_XY: torch.Tensor
) -> torch.Tensor:
    """Return the loss expected over completions drawn with log-probs `sampled_XY`, summed over their tokens."""
    constants = {
        "old_logprobs": policy.compute_logprobs_N().detach(),
        "advantages": SPACE.repeat_to_tokens(advantages_XY.detach().flatten()),
        "sequences": SPACE.sequence_N,
    }
    return compute_expected_loss(policy, objective, weigh_prompts_evenly(sampled_XY.detach()), constants)


def test_with_the_sequence_kl_in_the_reward_the_family_reaches_the_tilted_reference() -> None:
    """Un-normalised advantages of r - beta log(pi / ref): REINFORCE's gradient, whatever bounds the ratio of 1."""
    expected_XY = compute_tilted(REFERENCE_XY, REWARDS_XY, BETA)
    for objective in (PolicyGradient(), PolicyGradient(clipping="cispo"), PolicyGradient(clipping="none")):
        policy = TabularPolicy.draw(SPACE, seed=2)

        def surrogate(policy: TabularPolicy, objective: PolicyGradient = objective) -> torch.Tensor:
            logprobs_XY = policy.compute_logprobs_XY().detach()
            returns_XY = REWARDS_XY - BETA * (logprobs_XY - REFERENCE_XY)
            baseline_X = compute_expectation(logprobs_XY, returns_XY)
            return take_expected_loss(objective, policy, returns_XY - baseline_X[:, None], logprobs_XY)

        descend(surrogate, policy, learning_rate=6.0, gradient_norm=3e-5)
        found_XY = policy.compute_logprobs_XY()
        assert compute_total_variation(found_XY, expected_XY).max().item() < 1e-3


def test_dividing_by_the_groups_deviation_tilts_by_the_rewards_over_their_own_deviation() -> None:
    """A = (r - E r) / sd(r), and beta log(pi / ref) in the reward after it: pi ~ ref exp(r / (beta sd(pi))) at rest.

    The deviation is the policy's own at the fixed point (arXiv 2502.18548): the found one is put into the formula.
    """
    policy, beta = TabularPolicy.draw(SPACE, seed=2), 2.0

    def compute_deviation(logprobs_XY: torch.Tensor) -> torch.Tensor:
        mean_X = compute_expectation(logprobs_XY, REWARDS_XY)
        return compute_expectation(logprobs_XY, (REWARDS_XY - mean_X[:, None]) ** 2).sqrt()

    def surrogate(policy: TabularPolicy) -> torch.Tensor:
        logprobs_XY = policy.compute_logprobs_XY().detach()
        scaled_XY = REWARDS_XY / compute_deviation(logprobs_XY)[:, None]
        returns_XY = scaled_XY - beta * (logprobs_XY - REFERENCE_XY)
        baseline_X = compute_expectation(logprobs_XY, returns_XY)
        return take_expected_loss(PolicyGradient(), policy, returns_XY - baseline_X[:, None], logprobs_XY)

    descend(surrogate, policy, learning_rate=3.0, gradient_norm=1e-4)
    found_XY = policy.compute_logprobs_XY().detach()
    deviation_X = compute_deviation(found_XY)
    expected_XY = compute_tilted(REFERENCE_XY, REWARDS_XY / deviation_X[:, None], beta)
    assert compute_total_variation(found_XY, expected_XY).max().item() < 1e-3
    plain_XY = compute_tilted(REFERENCE_XY, REWARDS_XY, beta)
    assert compute_total_variation(found_XY, plain_XY).max().item() > 0.02


@pytest.mark.parametrize("clipping", ["ppo", "cispo"])
@pytest.mark.parametrize("ratio", ["token", "sequence"])
def test_without_a_kl_the_policy_goes_to_what_the_verifier_accepts(clipping: str, ratio: str) -> None:
    """DAPO, GSPO and CISPO have no finite optimum: the share that is accepted keeps rising towards 1."""
    objective = PolicyGradient(ratio=ratio, clipping=clipping)  # type: ignore[arg-type]
    policy = TabularPolicy.draw(SPACE, seed=2)
    accepted_XY = draw_values(SPACE, seed=5, choices=[0.0, 0.0, 1.0])
    seen = []
    for _ in range(3):
        for _ in range(100):
            logprobs_XY = policy.compute_logprobs_XY().detach()
            baseline_X = compute_expectation(logprobs_XY, accepted_XY)
            loss = take_expected_loss(objective, policy, accepted_XY - baseline_X[:, None], logprobs_XY)
            (gradient,) = torch.autograd.grad(loss, policy.get_parameters())
            with torch.no_grad():
                policy.logits_XFV -= gradient
        seen.append(compute_expectation(policy.compute_logprobs_XY().detach(), accepted_XY).min().item())
    assert seen[0] < seen[1] < seen[2] < 1 and seen[2] > 0.95


@pytest.mark.parametrize(
    ("kl", "derive"),
    [("reverse_kl", derive_token_reverse_gradient), ("forward_kl", derive_token_forward_gradient)],
)
def test_a_kls_expected_gradient_is_that_of_the_divergence_it_is_named_after(
    kl: Kl, derive: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
) -> None:
    """On the policy's own samples, and by importance weights on another policy's: at that one's prefixes then."""
    probabilities_S = POLICY.compute_logprobs_XY().detach().flatten().exp()
    reference_N = REFERENCE.compute_logprobs_N().detach()
    logprobs_N = POLICY.compute_logprobs_N()
    loss_N = compute_kl_loss(logprobs_N, reference_N, logprobs_N.detach(), kl)
    (gradient,) = torch.autograd.grad((probabilities_S * KL_SPACE.sum_tokens(loss_N)).sum(), POLICY.logits_XFV)
    assert (gradient - derive(NEXT_XFV, REFERENCE_XFV, OWN_XF)).abs().max().item() < 1e-12

    sampler = TabularPolicy.draw(KL_SPACE, seed=9)
    sampled_S = sampler.compute_logprobs_XY().detach().flatten().exp()
    logprobs_N = POLICY.compute_logprobs_N()
    loss_N = compute_kl_loss(logprobs_N, reference_N, sampler.compute_logprobs_N().detach(), kl)
    (gradient,) = torch.autograd.grad((sampled_S * KL_SPACE.sum_tokens(loss_N)).sum(), POLICY.logits_XFV)
    reach_XF = KL_SPACE.compute_reach(sampler.compute_next_logprobs().detach())
    assert (gradient - derive(NEXT_XFV, REFERENCE_XFV, reach_XF)).abs().max().item() < 1e-10
