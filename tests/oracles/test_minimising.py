"""Minimisers agree with one another and with the formula, and say so when there is nothing to be found."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.oracles.closed_forms import compute_tilted
from tests.oracles.divergences import compute_sequence_reverse_kl
from tests.oracles.enumeration import (
    CompletionSpace,
    TabularPolicy,
    compute_expectation,
    compute_total_variation,
    draw_values,
)
from tests.oracles.llama_policy import LlamaPolicy, make_llama, make_space
from tests.oracles.minimising import (
    NotConvergedError,
    Probabilities,
    compute_finite_differences,
    compute_gradient,
    descend,
    minimise,
    minimise_over_probabilities,
)

SPACE = CompletionSpace(num_prompts=2, num_tokens=3, max_tokens=3)
BETA = 0.7


def make_problem() -> tuple[TabularPolicy, torch.Tensor, torch.Tensor]:
    """A policy to start from, a reference and rewards: the maximiser of E[r] - beta KL is known by formula."""
    reference_XY = TabularPolicy.draw(SPACE, seed=1).compute_logprobs_XY().detach()
    return TabularPolicy.draw(SPACE, seed=2), reference_XY, draw_values(SPACE, seed=3)


def test_l_bfgs_finds_the_maximiser_of_a_reward_less_a_kl() -> None:
    policy, reference_XY, rewards_XY = make_problem()

    def objective(policy: TabularPolicy) -> torch.Tensor:
        logprobs_XY = policy.compute_logprobs_XY()
        kl_X = compute_sequence_reverse_kl(logprobs_XY, reference_XY)
        return (BETA * kl_X - compute_expectation(logprobs_XY, rewards_XY)).mean()

    found = minimise(objective, policy)
    expected_XY = compute_tilted(reference_XY, rewards_XY, BETA)
    assert found.gradient_norm < 1e-8
    assert compute_total_variation(policy.compute_logprobs_XY(), expected_XY).max().item() < 1e-6
    # The value at the optimum is -beta log Z.
    log_totals_X = (reference_XY + rewards_XY / BETA).logsumexp(-1)
    assert found.value == pytest.approx(-BETA * log_totals_X.mean().item(), abs=1e-10)


def test_a_minimiser_over_the_simplex_that_knows_no_logits_finds_the_same() -> None:
    _, reference_XY, rewards_XY = make_problem()
    reference, rewards = reference_XY.numpy(), rewards_XY.numpy()

    def objective(probabilities: Probabilities) -> float:
        kl = (probabilities * (np.log(probabilities) - reference)).sum(1)
        return float((BETA * kl - (probabilities * rewards).sum(1)).mean())

    found_XY, _ = minimise_over_probabilities(objective, SPACE.shape_XY)
    assert compute_total_variation(found_XY, compute_tilted(reference_XY, rewards_XY, BETA)).max().item() < 1e-4


def test_descending_a_surrogate_whose_value_means_nothing_finds_the_same() -> None:
    """The score function's surrogate, sum_y sg[pi (r - beta log(pi / ref))] log pi: only its gradient is E's."""
    policy, reference_XY, rewards_XY = make_problem()

    def surrogate(policy: TabularPolicy) -> torch.Tensor:
        logprobs_XY = policy.compute_logprobs_XY()
        held_XY = logprobs_XY.detach()
        returns_XY = rewards_XY - BETA * (held_XY - reference_XY)
        baseline_X1 = (held_XY.exp() * returns_XY).sum(-1, keepdim=True)
        return -(held_XY.exp() * (returns_XY - baseline_X1) * logprobs_XY).sum()

    descend(surrogate, policy, gradient_norm=1e-5)
    expected_XY = compute_tilted(reference_XY, rewards_XY, BETA)
    assert compute_total_variation(policy.compute_logprobs_XY(), expected_XY).max().item() < 1e-3


def test_an_objective_whose_optimum_is_at_infinity_is_not_called_converged() -> None:
    """The most rewarded completion alone, as its probability goes to one the gradient goes to zero."""
    policy, _, rewards_XY = make_problem()

    def objective(policy: TabularPolicy) -> torch.Tensor:
        return -compute_expectation(policy.compute_logprobs_XY(), rewards_XY).sum()

    with pytest.raises(NotConvergedError, match="infinity"):
        minimise(objective, policy)
    with pytest.raises(NotConvergedError, match="norm"):
        descend(objective, TabularPolicy.draw(SPACE, seed=2), max_steps=20)


def test_fp32_parameters_are_refused() -> None:
    policy = TabularPolicy.draw(SPACE, seed=1)
    policy.logits_XFV = policy.logits_XFV.detach().float().requires_grad_()
    with pytest.raises(TypeError, match="float64"):
        minimise(lambda policy: policy.compute_logprobs_XY().square().sum(), policy)


def test_finite_differences_are_exact_for_polynomials_of_the_fourth_degree_and_leave_the_tensor_alone() -> None:
    tensor = torch.tensor([0.5, -1.5, 2.0], dtype=torch.float64)
    found = compute_finite_differences(lambda: (tensor**4).sum(), tensor, step=0.1)
    assert found.tolist() == pytest.approx([4 * 0.5**3, 4 * (-1.5) ** 3, 4 * 2.0**3], rel=1e-12)
    assert tensor.tolist() == [0.5, -1.5, 2.0]


def test_a_llama_can_be_minimised_over_like_a_table() -> None:
    """The forward KL from a policy to itself with every matrix shrunk: 0 at the optimum."""
    space = make_space(max_tokens=2)
    target_XY = LlamaPolicy(space, make_llama(0)).compute_logprobs_XY().detach()
    policy = LlamaPolicy(space, make_llama(0))
    with torch.no_grad():
        for parameter in policy.get_parameters():
            parameter *= 0.8 if parameter.ndim == 2 else 1.0

    def objective(policy: LlamaPolicy) -> torch.Tensor:
        return (target_XY.exp() * (target_XY - policy.compute_logprobs_XY())).sum()

    assert objective(policy).item() > 0.1
    found = minimise(objective, policy, gradient_norm=1e-4)
    assert 0 <= found.value < 1e-5
    assert compute_total_variation(policy.compute_logprobs_XY(), target_XY).max().item() < 1e-3


def test_automatic_differentiation_and_finite_differences_agree_on_a_table() -> None:
    policy, reference_XY, _ = make_problem()

    def compute() -> torch.Tensor:
        return compute_sequence_reverse_kl(policy.compute_logprobs_XY(), reference_XY).sum()

    found = compute_gradient(compute, policy.logits_XFV)
    assert (found - compute_finite_differences(compute, policy.logits_XFV)).abs().max().item() < 1e-9
