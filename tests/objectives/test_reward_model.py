"""Losses of reward models by hand, their gradients and invariances, and what aggregation gives."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from posttrain.objectives.reduction import normalise_weights
from posttrain.objectives.reward_aggregation import aggregate_members, aggregate_steps
from posttrain.objectives.reward_model import (
    PairwiseObjective,
    RegressionObjective,
    StepObjective,
    compute_pairwise_losses,
    compute_regression_losses,
    compute_step_losses,
)


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def test_the_loss_of_a_pair_is_the_one_worked_out_by_hand() -> None:
    """Scores ln 3 and 0: sigma(ln 3) = 3/4, loss ln(4/3) = 0.2876821. With margin ln 3 both are level: ln 2."""
    chosen, rejected = torch.tensor([math.log(3)] * 2), torch.zeros(2)
    losses = compute_pairwise_losses(chosen, rejected, torch.tensor([0.0, math.log(3)]))
    assert losses.tolist() == pytest.approx([0.2876821, math.log(2)], rel=1e-6)


def test_centring_adds_the_squared_sum_of_both_scores() -> None:
    """Scores 2 and 1, c = 0.1: 0.1 * 9 = 0.9 beside log(1 + 1/e) = 0.3132617."""
    [loss] = compute_pairwise_losses(torch.tensor([2.0]), torch.tensor([1.0]), centring=0.1).tolist()
    assert loss == pytest.approx(0.9 + 0.3132617, rel=1e-6)


def test_the_gradient_of_a_pair_is_what_the_derivation_says() -> None:
    """dl/dr_c = -sigma(-(r_c - r_r - m)) + 2c (r_c + r_r), dl/dr_r the same with the first sign turned."""
    chosen, rejected = torch.tensor([0.7], requires_grad=True), torch.tensor([-0.2], requires_grad=True)
    compute_pairwise_losses(chosen, rejected, torch.tensor([0.5]), centring=0.25).sum().backward()
    slope, centring = sigmoid(-(0.7 + 0.2 - 0.5)), 2 * 0.25 * 0.5
    assert chosen.grad is not None and rejected.grad is not None
    assert chosen.grad.item() == pytest.approx(-slope + centring, rel=1e-5)
    assert rejected.grad.item() == pytest.approx(slope + centring, rel=1e-5)


def test_an_untrained_model_that_gives_one_score_to_all_starts_at_ln_2() -> None:
    scores = torch.full((6, 1), 1.7)
    weights = normalise_weights(torch.ones(6), 3.0)
    assert float((PairwiseObjective()(scores, {}) * weights).sum()) == pytest.approx(math.log(2), abs=1e-6)


def test_a_shift_of_all_scores_changes_no_loss_unless_they_are_centred() -> None:
    chosen, rejected = torch.randn(5, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    plain, shifted = (compute_pairwise_losses(chosen + by, rejected + by) for by in (0.0, 3.0))
    assert torch.allclose(plain, shifted, atol=1e-12)
    centred = [compute_pairwise_losses(chosen + by, rejected + by, centring=0.01) for by in (0.0, 3.0)]
    assert not torch.allclose(*centred, atol=1e-3)


def test_swapping_a_pair_turns_the_sign_of_its_lead_and_nothing_else() -> None:
    """l(c, r) - l(r, c) = r_r - r_c, since -log sigma(x) + log sigma(-x) = -x."""
    chosen, rejected = torch.tensor([1.3]), torch.tensor([0.4])
    difference = compute_pairwise_losses(chosen, rejected) - compute_pairwise_losses(rejected, chosen)
    assert difference.item() == pytest.approx(-0.9, rel=1e-5)


def test_pairs_in_parts_or_in_any_order_give_the_loss_and_gradient_of_all_at_once() -> None:
    objective, total = PairwiseObjective(0.02), 4.0
    base = torch.tensor([[0.3], [-1.0], [2.0], [2.5], [0.0], [0.1], [-3.0], [1.0]], dtype=torch.float64)
    margins = torch.tensor([0.0, 0.0, 0.5, 0.5, 1.0, 1.0, 0.2, 0.2], dtype=torch.float64)

    def run(parts: list[list[int]]) -> tuple[float, torch.Tensor]:
        scores = base.clone().requires_grad_()
        loss = torch.zeros((), dtype=torch.float64)
        for part in parts:
            rows = torch.tensor([2 * pair + side for pair in part for side in (0, 1)])
            weights = normalise_weights(torch.ones(len(rows)), total)
            loss = loss + (objective(scores[rows], {"margin": margins[rows]}) * weights).sum()
        loss.backward()
        assert scores.grad is not None
        return loss.item(), scores.grad

    loss, gradient = run([[0, 1, 2, 3]])
    for parts in ([[0], [1], [2], [3]], [[2, 0], [3, 1]], [[3, 2, 1, 0]]):
        other, others = run(parts)
        assert other == pytest.approx(loss, abs=1e-6)
        assert torch.allclose(others, gradient, atol=1e-6)


def test_a_tie_is_half_right() -> None:
    scores = torch.tensor([[1.0], [0.0], [0.5], [0.5], [0.0], [1.0]])
    assert PairwiseObjective().count_hits(scores, {}).tolist() == [1, 1, 0.5, 0.5, 0, 0]


def test_regression_is_the_squared_error_over_the_ratings_that_are_given() -> None:
    """(1 - 3)^2 + (0 - 1)^2 = 5; of the second row the first rating alone: (2 - 2.5)^2 = 0.25."""
    scores = torch.tensor([[1.0, 0.0], [2.0, 9.0]], requires_grad=True)
    targets, given = torch.tensor([[3.0, 1.0], [2.5, 0.0]]), torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    losses = compute_regression_losses(scores, targets, given)
    assert losses.tolist() == pytest.approx([5.0, 0.25])
    (losses * normalise_weights(torch.ones(2), float(given.sum()))).sum().backward()
    assert scores.grad is not None
    # 2 (r - t) / 3 ratings, and nothing of what is not given
    assert scores.grad.flatten().tolist() == pytest.approx([-4 / 3, -2 / 3, -1 / 3, 0.0])
    hits = RegressionObjective().count_hits(scores.detach(), {"target": targets, "is_given": given})
    assert hits.tolist() == [0.5, 1.0]  # 0 is not above 0, where the rating 1 lies


def test_the_loss_of_a_step_is_its_cross_entropy_by_hand() -> None:
    """Log-odds ln 3: a right step costs ln(4/3), a wrong one ln 4; the gradient is sigma(r) - y."""
    scores = torch.full((2, 1), math.log(3), requires_grad=True)
    losses = StepObjective()(scores, {"label": torch.tensor([1.0, 0.0])})
    assert losses.tolist() == pytest.approx([math.log(4 / 3), math.log(4)], rel=1e-6)
    losses.sum().backward()
    assert scores.grad is not None
    assert scores.grad[:, 0].tolist() == pytest.approx([0.75 - 1, 0.75], rel=1e-6)
    assert compute_step_losses(torch.tensor([800.0, -800.0]), torch.tensor([1.0, 0.0])).tolist() == [0.0, 0.0]


def test_members_are_aggregated_as_by_hand() -> None:
    """Scores 1, 2, 6: mean 3, minimum 1, variance (4 + 1 + 9)/3 = 14/3, so 3 - 0.3 * 14/3 = 1.6."""
    scores = np.array([[1.0], [2.0], [6.0]])
    assert aggregate_members(scores, "mean").tolist() == [3.0]
    assert aggregate_members(scores, "worst_case").tolist() == [1.0]
    assert aggregate_members(scores, "mean_minus_variance", 0.3) == pytest.approx([1.6])


def test_one_member_is_its_own_aggregate() -> None:
    scores = np.array([[0.25, -1.0]])
    for how in ("mean", "worst_case", "mean_minus_variance"):
        assert aggregate_members(scores, how, 5.0).tolist() == [0.25, -1.0]  # type: ignore[arg-type]


def test_steps_are_aggregated_as_by_hand() -> None:
    """Probabilities 3/4, 1/2, 9/10: minimum 1/2, product 0.3375, last 0.9."""
    log_odds = np.log(np.array([3.0, 1.0, 9.0]))
    assert aggregate_steps(log_odds, "min") == pytest.approx(0.5)
    assert aggregate_steps(log_odds, "product") == pytest.approx(0.3375)
    assert aggregate_steps(log_odds, "last") == pytest.approx(0.9)
    with pytest.raises(ValueError, match="without a step"):
        aggregate_steps(np.empty(0), "min")
