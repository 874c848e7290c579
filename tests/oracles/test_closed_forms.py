"""Closed forms against minimisers that do not know them, and against listing every draw."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import scipy.optimize
import torch

from tests.oracles.closed_forms import (
    InfeasibleError,
    compute_best_of_n,
    compute_best_of_n_bound,
    compute_conditioned,
    compute_dual,
    compute_preference_probabilities,
    compute_tilted,
    solve_constrained,
)
from tests.oracles.divergences import compute_sequence_reverse_kl
from tests.oracles.enumeration import (
    CompletionSpace,
    TabularPolicy,
    compute_expectation,
    compute_total_variation,
    draw_values,
)
from tests.oracles.minimising import Probabilities, minimise_over_probabilities

SPACE = CompletionSpace(num_prompts=2, num_tokens=3, max_tokens=2)
REFERENCE_XY = TabularPolicy.draw(SPACE, seed=1).compute_logprobs_XY().detach()
REWARDS_XY = draw_values(SPACE, seed=2)
COSTS_XY = draw_values(SPACE, seed=3)
BETA = 0.5


def compute_loss(probabilities: Probabilities) -> float:
    """beta KL(pi || ref) - E[r] in numpy, averaged over prompts."""
    kl = (probabilities * (np.log(probabilities) - REFERENCE_XY.numpy())).sum(1)
    return float((BETA * kl - (probabilities * REWARDS_XY.numpy()).sum(1)).mean())


def test_the_tilted_reference_is_the_maximiser_of_a_reward_less_beta_times_the_reverse_kl() -> None:
    found_XY, result = minimise_over_probabilities(compute_loss, SPACE.shape_XY)
    tilted_XY = compute_tilted(REFERENCE_XY, REWARDS_XY, BETA)
    assert compute_total_variation(found_XY, tilted_XY).max().item() < 1e-3
    assert compute_total_variation(tilted_XY, REFERENCE_XY).min().item() > 0.2
    # E[r] - beta KL there is beta log Z.
    log_totals_X = (REFERENCE_XY + REWARDS_XY / BETA).logsumexp(-1)
    assert -result.fun == pytest.approx(BETA * log_totals_X.mean().item(), abs=1e-8)


def test_tilting_is_the_one_worked_out_by_hand_and_k_rounds_are_one_of_k_times_the_reward() -> None:
    """Even reference, reward ln 3 and 0, beta 1: 3/4 and 1/4; again from there: 9/10 and 1/10."""
    even_XY, rewards_XY = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[math.log(3), 0.0]])
    once_XY = compute_tilted(even_XY, rewards_XY, 1.0)
    assert once_XY.exp()[0].tolist() == pytest.approx([3 / 4, 1 / 4])
    assert compute_tilted(once_XY, rewards_XY, 1.0).exp()[0].tolist() == pytest.approx([9 / 10, 1 / 10])
    assert compute_tilted(even_XY, 2 * rewards_XY, 1.0).exp()[0].tolist() == pytest.approx([9 / 10, 1 / 10])


def test_conditioning_keeps_ratios_and_costs_minus_log_of_the_accepted_share() -> None:
    is_accepted_XY = REWARDS_XY > 0
    conditioned_XY = compute_conditioned(REFERENCE_XY, is_accepted_XY)
    accepted_X = (REFERENCE_XY.exp() * is_accepted_XY).sum(-1)
    kl_X = compute_sequence_reverse_kl(conditioned_XY, REFERENCE_XY)
    assert kl_X.tolist() == pytest.approx((-accepted_X.log()).tolist(), abs=1e-12)
    shifts_XY = (conditioned_XY - REFERENCE_XY)[is_accepted_XY]
    assert shifts_XY.tolist() == pytest.approx((-accepted_X.log()).repeat_interleave(is_accepted_XY.sum(-1)).tolist())
    # It is the limit of tilting by a verifier's reward as beta goes to 0.
    limit_XY = compute_tilted(REFERENCE_XY, is_accepted_XY.double(), 0.02)
    assert compute_total_variation(limit_XY, conditioned_XY).max().item() < 1e-12


def test_preference_probabilities_are_bradley_terrys() -> None:
    """p(y > y') / p(y' > y) = exp(r(y) - r(y')): e^r are the strengths."""
    preferences_XYY = compute_preference_probabilities(REWARDS_XY)
    strengths_XY = REWARDS_XY.exp()
    expected = strengths_XY[:, :, None] / (strengths_XY[:, :, None] + strengths_XY[:, None, :])
    assert (preferences_XYY - expected).abs().max().item() < 1e-12
    assert (preferences_XYY + preferences_XYY.transpose(1, 2) - 1).abs().max().item() < 1e-12
    assert preferences_XYY.diagonal(dim1=1, dim2=2).unique().tolist() == [0.5]


def list_best_of_n(probabilities: list[float], scores: list[float], n: int) -> list[float]:
    """The distribution of the first of the best among n draws, by listing all n-tuples of draws."""
    found = [0.0] * len(probabilities)
    for draws in product(range(len(probabilities)), repeat=n):
        best = max(draws, key=lambda y: scores[y])
        found[best] += math.prod(probabilities[y] for y in draws)
    return found


@pytest.mark.parametrize("choices", [None, [0.0, 1.0], [0.0, 0.5, 1.0]], ids=["no ties", "two levels", "three levels"])
@pytest.mark.parametrize("n", [1, 2, 4])
def test_best_of_n_is_what_listing_all_draws_gives(n: int, choices: list[float] | None) -> None:
    scores_XY = draw_values(SPACE, seed=4, choices=choices)
    found = compute_best_of_n(REFERENCE_XY, scores_XY, n).exp()
    for x in range(SPACE.num_prompts):
        listed = list_best_of_n(REFERENCE_XY[x].exp().tolist(), scores_XY[x].tolist(), n)
        assert found[x].tolist() == pytest.approx(listed, abs=1e-12)


def test_the_kl_of_best_of_n_stays_below_the_bound_and_with_a_verifier_saturates() -> None:
    """Without ties it comes near log n - (n-1)/n only while n is small beside 1/p; with two levels it is known:

    with a the accepted share and b = 1 - a, b^n log b^(n-1) + (1 - b^n) log((1 - b^n) / a), which goes to -log a.
    """
    verdicts_XY = draw_values(SPACE, seed=5, choices=[0.0, 1.0])
    accepted_X = (REFERENCE_XY.exp() * verdicts_XY).sum(-1)
    assert bool(((accepted_X > 0) & (accepted_X < 1)).all())
    for n in (1, 2, 4, 16, 64):
        bound = compute_best_of_n_bound(n)
        for scores_XY in (REWARDS_XY, verdicts_XY):
            kl_X = compute_sequence_reverse_kl(compute_best_of_n(REFERENCE_XY, scores_XY, n), REFERENCE_XY)
            assert kl_X.max().item() <= bound + 1e-12
        missed_X = (1 - accepted_X) ** n
        expected_X = missed_X * (n - 1) * (1 - accepted_X).log() + (1 - missed_X) * ((1 - missed_X) / accepted_X).log()
        assert kl_X.tolist() == pytest.approx(expected_X.tolist(), abs=1e-12)
    assert kl_X.tolist() == pytest.approx((-accepted_X.log()).tolist(), abs=0.01) and bound > 3


def test_the_bound_is_met_by_a_reference_of_many_small_atoms_and_distinct_scores() -> None:
    even_XY = torch.full((1, 20_000), 1 / 20_000, dtype=torch.float64).log()
    scores = torch.arange(20_000.0, dtype=torch.float64)
    cumulative = (scores + 1) / 20_000
    best_XY = (cumulative**4 - (scores / 20_000) ** 4).log()[None]
    kl = compute_sequence_reverse_kl(best_XY, even_XY).item()
    assert kl == pytest.approx(compute_best_of_n_bound(4), abs=1e-3) and kl < compute_best_of_n_bound(4)


def compute_cost(logprobs_XY: torch.Tensor) -> float:
    return compute_expectation(logprobs_XY, COSTS_XY).mean().item()


LIMIT = -0.2


def test_the_constrained_optimum_is_what_a_minimiser_over_the_simplex_finds() -> None:
    free_XY = compute_tilted(REFERENCE_XY, REWARDS_XY, BETA)
    assert compute_cost(free_XY) > LIMIT + 0.1  # the constraint binds
    optimum = solve_constrained(REFERENCE_XY, REWARDS_XY, COSTS_XY, limit=LIMIT, beta=BETA)
    found_XY, result = minimise_over_probabilities(
        compute_loss,
        SPACE.shape_XY,
        at_most=lambda probabilities: float((probabilities * COSTS_XY.numpy()).sum(1).mean()) - LIMIT,
    )
    assert compute_total_variation(found_XY, optimum.logprobs_XY).max().item() < 1e-3
    assert compute_cost(optimum.logprobs_XY) == pytest.approx(LIMIT, abs=1e-10)
    # Strong duality: the least of the dual is the greatest of the primal.
    dual = compute_dual(REFERENCE_XY, REWARDS_XY, COSTS_XY, limit=LIMIT, beta=BETA, multiplier=optimum.multiplier)
    assert dual == pytest.approx(-result.fun, abs=1e-7)


def test_the_multiplier_is_where_scipy_finds_the_dual_least_and_what_a_unit_of_limit_is_worth() -> None:
    optimum = solve_constrained(REFERENCE_XY, REWARDS_XY, COSTS_XY, limit=LIMIT, beta=BETA)
    found = scipy.optimize.minimize_scalar(
        lambda multiplier: compute_dual(
            REFERENCE_XY, REWARDS_XY, COSTS_XY, limit=LIMIT, beta=BETA, multiplier=multiplier
        ),
        bounds=(0.0, 20.0),
        method="bounded",
        options={"xatol": 1e-9},
    )
    assert optimum.multiplier > 0.1
    assert optimum.multiplier == pytest.approx(found.x, abs=1e-5)

    def compute_value(limit: float) -> float:
        policy_XY = solve_constrained(REFERENCE_XY, REWARDS_XY, COSTS_XY, limit=limit, beta=BETA).logprobs_XY
        kl_X = compute_sequence_reverse_kl(policy_XY, REFERENCE_XY)
        return (compute_expectation(policy_XY, REWARDS_XY) - BETA * kl_X).mean().item()

    worth = (compute_value(LIMIT + 1e-4) - compute_value(LIMIT - 1e-4)) / 2e-4
    assert optimum.multiplier == pytest.approx(worth, abs=1e-6)


def test_a_slack_constraint_has_multiplier_0_and_changes_nothing() -> None:
    free_XY = compute_tilted(REFERENCE_XY, REWARDS_XY, BETA)
    optimum = solve_constrained(REFERENCE_XY, REWARDS_XY, COSTS_XY, limit=compute_cost(free_XY) + 1e-6, beta=BETA)
    assert optimum.multiplier == 0.0 and torch.equal(optimum.logprobs_XY, free_XY)
    just = solve_constrained(REFERENCE_XY, REWARDS_XY, COSTS_XY, limit=compute_cost(free_XY) - 1e-6, beta=BETA)
    assert 0 < just.multiplier < 1e-4


def test_a_limit_that_no_policy_keeps_is_refused() -> None:
    least = COSTS_XY.min(-1).values.mean().item()
    with pytest.raises(InfeasibleError):
        solve_constrained(REFERENCE_XY, REWARDS_XY, COSTS_XY, limit=least - 0.01, beta=BETA)
