"""KTO and BCO on policies that can be listed: an independent minimiser agrees; BCO's closed form at its exact shift.

Completions come up with probabilities m(y|x) and are called desirable with probability p(x, y). Given its reference
point, KTO's expected slope by log pi(y|x) is -beta m (2 p - 1) sigma'(beta (r - z)) (both weights 1): where 2 p > 1
everywhere there is a finite optimum, at which that over pi(y|x) is the same for all completions of a prompt; a
completion with 2 p < 1 would be pushed to probability 0. BCO's is beta m (sigma(beta r - d) - p): finite for all p.
"""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
import torch

from posttrain.objectives.kto import BcoLoss, KtoLoss, RewardShift, compute_kl_point
from tests.oracles.closed_forms import compute_tilted
from tests.oracles.enumeration import CompletionSpace, TabularPolicy, compute_total_variation, draw_values
from tests.oracles.minimising import NotConvergedError, Probabilities, descend, minimise, minimise_over_probabilities

SPACE = CompletionSpace(num_prompts=2, num_tokens=3, max_tokens=2)
REFERENCE_XY = TabularPolicy.draw(SPACE, seed=1).compute_logprobs_XY().detach()
DATA_XY = TabularPolicy.draw(SPACE, seed=4, scale=0.5).compute_logprobs_XY().detach().exp() / 2
MISMATCHED_XY = DATA_XY.flip(0)  # the other prompt's completions, as a rotation of the data pairs them
BETA = 0.6


def label_rows(low: float, high: float) -> torch.Tensor:
    """How probably each completion is called desirable, [X, Y]."""
    return low + (high - low) * torch.sigmoid(2 * draw_values(SPACE, seed=7))


def sigmoid(values: Probabilities) -> Probabilities:
    return 1 / (1 + np.exp(-values))


def expect(objective: KtoLoss | BcoLoss, policy: TabularPolicy, desirable_XY: torch.Tensor, name: str,
           point: float) -> torch.Tensor:  # fmt: skip
    """Return the expected loss of a row, both labels of every completion in the batch."""
    logprobs_S = policy.compute_logprobs_XY().flatten()
    total = logprobs_S.new_zeros(())
    for is_desirable, share_XY in ((True, desirable_XY), (False, 1 - desirable_XY)):
        constants = {
            "references": REFERENCE_XY.flatten(),
            "is_desirable": torch.full(logprobs_S.shape, is_desirable),
            name: torch.full_like(logprobs_S, point),
        }
        total = total + ((DATA_XY * share_XY).flatten() * objective(logprobs_S, constants)).sum()
    return total


def measure_kl_point(policy: TabularPolicy) -> float:
    log_ratios_XY = policy.compute_logprobs_XY().detach() - REFERENCE_XY
    return compute_kl_point(float((MISMATCHED_XY * log_ratios_XY).sum()), 1)


@pytest.mark.parametrize("weights", [(1.0, 1.0), (2.0, 1.5)])
def test_ktos_fixed_point_is_what_a_minimiser_over_the_simplex_finds_for_its_own_point(
    weights: tuple[float, float],
) -> None:
    """The point is formed anew at each policy and carries no gradient; the other side seeks the point that is its own.

    It is above 0 here, so that the choice of mismatched completions matters.
    """
    desirable_XY = label_rows(0.55, 0.98)
    objective = KtoLoss(BETA, *weights)
    policy = TabularPolicy.draw(SPACE, seed=2)
    descend(
        lambda policy: expect(objective, policy, desirable_XY, "kl_point", measure_kl_point(policy)),
        policy,
        learning_rate=20.0,
        gradient_norm=1e-6,
    )
    data, desirable, reference = DATA_XY.numpy(), desirable_XY.numpy(), REFERENCE_XY.numpy()

    def solve(point: float) -> torch.Tensor:
        def compute(probabilities: Probabilities) -> float:
            values = sigmoid(BETA * (np.log(probabilities) - reference - point))
            gained = weights[0] * desirable * values + weights[1] * (1 - desirable) * (1 - values)
            return -float((data * gained).sum())

        return minimise_over_probabilities(compute, SPACE.shape_XY)[0]

    def compute_gap(point: float) -> float:
        return float((MISMATCHED_XY * (solve(point) - REFERENCE_XY)).sum()) - point

    point = float(scipy.optimize.brentq(compute_gap, 0.0, 3.0, xtol=1e-6))
    assert point > 0.05
    assert measure_kl_point(policy) == pytest.approx(point, abs=2e-3)
    assert compute_total_variation(policy.compute_logprobs_XY(), solve(point)).max().item() < 2e-3


def test_at_ktos_optimum_the_slope_over_the_probability_is_the_same_for_all_completions_of_a_prompt() -> None:
    desirable_XY, point = label_rows(0.55, 0.98), 0.4
    policy = TabularPolicy.draw(SPACE, seed=2)
    minimise(lambda policy: expect(KtoLoss(BETA), policy, desirable_XY, "kl_point", point), policy)
    logprobs_XY = policy.compute_logprobs_XY().detach()
    values_XY = torch.sigmoid(BETA * (logprobs_XY - REFERENCE_XY - point))
    slopes_XY = BETA * DATA_XY * (2 * desirable_XY - 1) * values_XY * (1 - values_XY)
    ratios_XY = slopes_XY / logprobs_XY.exp()
    assert (ratios_XY / ratios_XY.mean(-1, keepdim=True) - 1).abs().max().item() < 1e-4


def test_a_completion_that_is_mostly_undesirable_has_no_finite_optimum_under_kto() -> None:
    desirable_XY = label_rows(0.05, 0.95)
    assert bool((desirable_XY < 0.5).any())
    with pytest.raises(NotConvergedError):
        minimise(
            lambda policy: expect(KtoLoss(1.5), policy, desirable_XY, "kl_point", 0.0),
            TabularPolicy.draw(SPACE, seed=2),
        )


def test_bco_at_the_exact_shift_is_the_tilted_reference() -> None:
    """With p = sigma(reward), d = -beta log Z: sigma(beta r - d) = p at pi = ref exp(reward / beta) / Z.

    One prompt, since Z is a prompt's own and d is not.
    """
    space = CompletionSpace(num_prompts=1, num_tokens=3, max_tokens=3)
    reference_XY = TabularPolicy.draw(space, seed=1).compute_logprobs_XY().detach()
    rewards_XY = draw_values(space, seed=3)
    shift = -BETA * float((reference_XY + rewards_XY / BETA).logsumexp(-1))
    policy = TabularPolicy.draw(space, seed=2)

    def compute(policy: TabularPolicy) -> torch.Tensor:
        logprobs_S = policy.compute_logprobs_XY().flatten()
        total = logprobs_S.new_zeros(())
        for is_desirable, share_S in ((True, rewards_XY.sigmoid()[0]), (False, (-rewards_XY).sigmoid()[0])):
            constants = {
                "references": reference_XY.flatten(),
                "is_desirable": torch.full(logprobs_S.shape, is_desirable),
                "reward_shift": torch.full_like(logprobs_S, shift),
            }
            total = total + (share_S * BcoLoss(BETA)(logprobs_S, constants)).mean()
        return total

    minimise(compute, policy)
    expected_XY = compute_tilted(reference_XY, rewards_XY, BETA)
    assert compute_total_variation(policy.compute_logprobs_XY(), expected_XY).max().item() < 1e-6


def measure_shift(logprobs_XY: torch.Tensor, desirable_XY: torch.Tensor) -> float:
    """The middle of the labels' mean rewards, through the stage's own averages."""
    rewards_XY = BETA * (logprobs_XY.detach() - REFERENCE_XY)
    means = []
    for share_XY in (desirable_XY, 1 - desirable_XY):
        weights_XY = DATA_XY * share_XY
        means.append((float((weights_XY * rewards_XY).sum() / weights_XY.sum()), 1))
    return RewardShift().update(means[0], means[1], 0.0).value


def test_bcos_fixed_point_is_what_a_minimiser_over_the_simplex_finds_for_its_own_shift() -> None:
    desirable_XY = label_rows(0.05, 0.95)
    policy = TabularPolicy.draw(SPACE, seed=2)
    descend(
        lambda policy: expect(
            BcoLoss(BETA), policy, desirable_XY, "reward_shift",
            measure_shift(policy.compute_logprobs_XY(), desirable_XY),
        ),
        policy,
        learning_rate=20.0,
        gradient_norm=1e-6,
    )  # fmt: skip
    data, desirable, reference = DATA_XY.numpy(), desirable_XY.numpy(), REFERENCE_XY.numpy()

    def solve(shift: float) -> torch.Tensor:
        def compute(probabilities: Probabilities) -> float:
            logits = BETA * (np.log(probabilities) - reference) - shift
            losses = desirable * np.logaddexp(0, -logits) + (1 - desirable) * np.logaddexp(0, logits)
            return float((data * losses).sum())

        return minimise_over_probabilities(compute, SPACE.shape_XY)[0]

    shift = float(
        scipy.optimize.brentq(lambda shift: measure_shift(solve(shift), desirable_XY) - shift, -0.8, 0.8, xtol=1e-6)
    )
    assert abs(shift) > 0.02
    assert measure_shift(policy.compute_logprobs_XY(), desirable_XY) == pytest.approx(shift, abs=2e-3)
    assert compute_total_variation(policy.compute_logprobs_XY(), solve(shift)).max().item() < 2e-3
