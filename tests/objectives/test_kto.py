"""KTO and BCO by hand: values, slopes, reference points, weights, step 0."""

from __future__ import annotations

import math

import pytest
import torch

from posttrain.objectives.kto import (
    BcoLoss,
    KtoLoss,
    RewardShift,
    UnpairedObjective,
    compute_balance,
    compute_kl_point,
)
from posttrain.objectives.reduction import normalise_weights

REFERENCE = torch.tensor([-4.0, -4.0, -4.0, -4.0], dtype=torch.float64)
IS_DESIRABLE = torch.tensor([True, False, True, False])
RATIOS = torch.tensor([3.0, 3.0, -1.0, -1.0], dtype=torch.float64)


def differentiate(objective: KtoLoss | BcoLoss, constants: dict[str, torch.Tensor]) -> list[float]:
    leaf = (REFERENCE + RATIOS).requires_grad_()
    (slopes,) = torch.autograd.grad(objective(leaf, constants).sum(), leaf)
    return [float(slope) for slope in slopes]


def constants_of_kto(kl_point: float) -> dict[str, torch.Tensor]:
    point = torch.full((4,), kl_point, dtype=torch.float64)
    return {"references": REFERENCE, "is_desirable": IS_DESIRABLE, "kl_point": point}


def constants_of_bco(shift: float) -> dict[str, torch.Tensor]:
    shifts = torch.full((4,), shift, dtype=torch.float64)
    return {"references": REFERENCE, "is_desirable": IS_DESIRABLE, "reward_shift": shifts}


def test_ktos_losses_and_slopes_are_the_ones_worked_out_by_hand() -> None:
    """beta ln 3, z 1: u = beta (r - z) is 2 ln 3 for r = 3 and -2 ln 3 for r = -1; sigma(2 ln 3) = 9/10.

    Losses w (1 - sigma(+-u)): 2 * 1/10, 3 * 9/10, 2 * 9/10, 3 * 1/10. Slopes -+w beta sigma(u) sigma(-u), with
    sigma(u) sigma(-u) = 9/100 in each row: -0.18 ln 3 where it is desirable, 0.27 ln 3 where not.
    """
    beta = math.log(3)
    objective = KtoLoss(beta, desirable_weight=2.0, undesirable_weight=3.0)
    constants = constants_of_kto(1.0)
    assert objective(REFERENCE + RATIOS, constants).tolist() == pytest.approx([0.2, 2.7, 1.8, 0.3])
    expected = [-0.18 * beta, 0.27 * beta, -0.18 * beta, 0.27 * beta]
    assert differentiate(objective, constants) == pytest.approx(expected)


def test_bcos_losses_and_slopes_are_the_ones_worked_out_by_hand() -> None:
    """beta ln 3, d = ln 3: u = beta r - d is 2 ln 3 and -2 ln 3, sigma(u) 9/10 and 1/10.

    Losses -w log sigma(+-u): 2 ln(10/9), 3 ln 10, 2 ln 10, 3 ln(10/9). Slopes -w beta sigma(-u) of desirable rows:
    -0.2 ln 3 and -1.8 ln 3; w beta sigma(u) of the others: 2.7 ln 3 and 0.3 ln 3.
    """
    beta = math.log(3)
    objective = BcoLoss(beta, desirable_weight=2.0, undesirable_weight=3.0)
    constants = constants_of_bco(math.log(3))
    expected = [2 * math.log(10 / 9), 3 * math.log(10), 2 * math.log(10), 3 * math.log(10 / 9)]
    assert objective(REFERENCE + RATIOS, constants).tolist() == pytest.approx(expected)
    slopes = [-0.2 * beta, 2.7 * beta, -1.8 * beta, 0.3 * beta]
    assert differentiate(objective, constants) == pytest.approx(slopes)


def test_no_gradient_flows_through_the_kl_point_or_the_shift() -> None:
    leaf = torch.tensor([0.5, 0.5, 0.5, 0.5], dtype=torch.float64, requires_grad=True)
    for objective, name in ((KtoLoss(), "kl_point"), (BcoLoss(), "reward_shift")):
        logprobs = (REFERENCE + RATIOS).requires_grad_()
        constants = {"references": REFERENCE, "is_desirable": IS_DESIRABLE, name: leaf}
        slopes = torch.autograd.grad(objective(logprobs, constants).sum(), [logprobs, leaf], allow_unused=True)
        assert slopes[0] is not None and slopes[1] is None


def test_at_step_0_every_value_is_a_half_and_every_loss_of_bco_ln_2() -> None:
    """The policy is the reference: r = 0, so z = 0 from any mismatched completions, and the shift is 0."""
    assert compute_kl_point(0.0, 3) == 0.0 and RewardShift().value == 0.0
    assert KtoLoss()(REFERENCE, constants_of_kto(0.0)).tolist() == [0.5] * 4
    assert BcoLoss()(REFERENCE, constants_of_bco(0.0)).tolist() == pytest.approx([math.log(2)] * 4)


def test_the_kl_point_is_the_mean_log_ratio_and_never_below_0() -> None:
    assert compute_kl_point(6.0, 4) == 1.5
    assert compute_kl_point(-6.0, 4) == 0.0
    assert compute_kl_point(0.7, 1) == pytest.approx(0.7)


def test_far_from_the_point_ktos_slope_vanishes_and_bcos_keeps_the_whole_weight_of_a_wrong_label() -> None:
    """r = -1000 of a desirable row, beta 1: sigma(-1000) sigma(1000) is 0; BCO's slope is -1 and its loss 1000."""
    logprobs = torch.tensor([-1000.0], dtype=torch.float64, requires_grad=True)
    zero, one = torch.zeros(1, dtype=torch.float64), torch.tensor([True])
    kto = KtoLoss(1.0)(logprobs, {"references": zero, "is_desirable": one, "kl_point": zero})
    bco = BcoLoss(1.0)(logprobs, {"references": zero, "is_desirable": one, "reward_shift": zero})
    assert (kto.item(), bco.item()) == (1.0, 1000.0)
    assert torch.autograd.grad(kto.sum(), logprobs)[0].item() == pytest.approx(0.0, abs=1e-12)
    assert torch.autograd.grad(bco.sum(), logprobs)[0].item() == -1.0


@pytest.mark.parametrize("is_kto", [True, False])
def test_a_steps_loss_does_not_depend_on_how_its_rows_are_cut_or_ordered(is_kto: bool) -> None:
    """Eight rows as 1 x 8, 8 x 1, and 3 + 5 shuffled: the mean over rows, with the step's one point."""
    generator = torch.Generator().manual_seed(4)
    logprobs = -5 * torch.rand(8, generator=generator, dtype=torch.float64)
    constants = {
        "references": -5 * torch.rand(8, generator=generator, dtype=torch.float64),
        "is_desirable": torch.arange(8) % 3 > 0,
        "kl_point" if is_kto else "reward_shift": torch.full((8,), 0.3, dtype=torch.float64),
    }
    objective = KtoLoss(0.5, 1.0, 1.5) if is_kto else BcoLoss(0.5, 1.0, 1.5)

    def compute(groups: list[list[int]]) -> tuple[float, list[float]]:
        leaf = logprobs.clone().requires_grad_()
        total = leaf.new_zeros(())
        for rows in groups:
            part = objective(leaf[rows], {name: values[rows] for name, values in constants.items()})
            total = total + (part * normalise_weights(torch.ones(len(rows)), 8.0)).sum()
        total.backward()
        assert leaf.grad is not None
        return total.item(), leaf.grad.tolist()

    loss, slopes = compute([list(range(8))])
    assert loss == pytest.approx(objective(logprobs, constants).mean().item())
    for groups in ([[row] for row in range(8)], [[6, 1, 3], [7, 0, 2, 5, 4]]):
        other_loss, other_slopes = compute(groups)
        assert other_loss == pytest.approx(loss, abs=1e-12)
        assert other_slopes == pytest.approx(slopes, abs=1e-12)


def test_of_tokens_the_loss_is_that_of_their_sums_and_lies_at_each_completions_first_token() -> None:
    """Completions of two, one and three tokens, the second in between: sums -2.5, -1 and -6; the slopes are shared."""
    logprobs = torch.tensor([-1.0, -1.0, -1.5, -3.0, -2.0, -1.0], dtype=torch.float64, requires_grad=True)
    sequences = torch.tensor([0, 1, 0, 2, 2, 2])
    of_sequence = {
        "references": torch.tensor([-2.0, -3.0, -4.0], dtype=torch.float64),
        "is_desirable": torch.tensor([1.0, 0.0, 1.0]),
        "kl_point": torch.full((3,), 0.25, dtype=torch.float64),
    }
    constants = {name: values[sequences] for name, values in of_sequence.items()} | {"branches": sequences}
    loss = KtoLoss(0.5, 1.0, 2.0)
    found = UnpairedObjective(loss)(logprobs, constants)
    sums = torch.tensor([-2.5, -1.0, -6.0], dtype=torch.float64, requires_grad=True)
    expected = loss(sums, of_sequence)
    assert found[[0, 1, 3]].tolist() == pytest.approx(expected.tolist())
    assert found[[2, 4, 5]].tolist() == [0.0, 0.0, 0.0]
    (slopes,) = torch.autograd.grad(found.sum(), logprobs)
    (of_sums,) = torch.autograd.grad(expected.sum(), sums)
    assert slopes.tolist() == pytest.approx(of_sums[sequences].tolist())
    assert UnpairedObjective(loss).is_coupled


def test_the_shift_is_the_middle_of_both_labels_averages() -> None:
    """First means 6/3 = 2 and -2/2 = -1: 0.5. Then 4 and none under 0.9: 0.9 * 2 + 0.1 * 4 = 2.2, -1 stays: 0.6."""
    first = RewardShift().update((6.0, 3), (-2.0, 2), 0.9)
    assert (first.desirable, first.undesirable, first.value) == (2.0, -1.0, 0.5)
    second = first.update((4.0, 1), (0.0, 0), 0.9)
    assert second.desirable == pytest.approx(2.2)
    assert (second.undesirable, second.value) == (-1.0, pytest.approx(0.6))
    assert RewardShift.from_json(second.to_json()) == second


def test_the_shift_stays_0_until_both_labels_were_seen() -> None:
    only = RewardShift().update((6.0, 3), (0.0, 0), 0.9)
    assert (only.desirable, only.undesirable, only.value) == (2.0, None, 0.0)


def test_the_balance_is_that_of_all_rows_of_a_label() -> None:
    """100 desirable rows of weight 1 beside 400 undesirable ones of weight 0.2: 100 / 80."""
    assert compute_balance(100, 400, 1.0, 0.2) == pytest.approx(1.25)
