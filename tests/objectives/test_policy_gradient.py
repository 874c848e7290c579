"""The pieces of the GRPO family, by hand: ratio, clipping, KL, weights of tokens, truncated importance weights."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from posttrain.objectives.aggregation import compute_token_weights
from posttrain.objectives.choices import Aggregation, Kl
from posttrain.objectives.kl import compute_kl_loss, estimate_kl
from posttrain.objectives.policy_gradient import PolicyGradient, compute_importance_weights
from posttrain.objectives.reduction import normalise_weights

OLD = torch.tensor([0.5, 0.5, 0.5, 0.5]).log()


def differentiate(objective: PolicyGradient, logprobs: torch.Tensor, **constants: torch.Tensor) -> list[float]:
    leaf = logprobs.clone().requires_grad_()
    (slopes,) = torch.autograd.grad(objective(leaf, constants).sum(), leaf)
    return slopes.tolist()


def test_ppos_loss_and_gradient_are_the_ones_worked_out_by_hand() -> None:
    """Ratios 1.5, 1.5, 0.5, 0.5 with advantages 1, -1, 1, -1 and clips 0.2 and 0.3.

    -min(1.5, 1.3) = -1.3, clipped; -min(-1.5, -1.3) = 1.5, free: slope -rho A = 1.5; -min(0.5, 0.8) = -0.5, free: slope
    -0.5; -min(-0.5, -0.8) = 0.8, clipped.
    """
    logprobs = (torch.tensor([1.5, 1.5, 0.5, 0.5]) / 2).log()
    constants = {"old_logprobs": OLD, "advantages": torch.tensor([1.0, -1, 1, -1])}
    objective = PolicyGradient(clip_low=0.2, clip_high=0.3)
    assert objective(logprobs, constants).tolist() == pytest.approx([-1.3, 1.5, -0.5, 0.8])
    assert differentiate(objective, logprobs, **constants) == pytest.approx([0, 1.5, -0.5, 0])
    below, above = objective.find_clipped(logprobs, constants)
    assert (below.tolist(), above.tolist()) == ([False, False, False, True], [True, False, False, False])


def test_cispo_bounds_the_weight_and_keeps_every_tokens_gradient() -> None:
    """Slopes -min(rho, 1.3) A: -1.3, 1.3, -0.5, 0.5; with the low limit 0.8 as well -0.8, 0.8 for the last two."""
    logprobs = (torch.tensor([1.5, 1.5, 0.5, 0.5]) / 2).log()
    constants = {"old_logprobs": OLD, "advantages": torch.tensor([1.0, -1, 1, -1])}
    upper = PolicyGradient(clipping="cispo", clip_low=None, clip_high=0.3)
    assert differentiate(upper, logprobs, **constants) == pytest.approx([-1.3, 1.3, -0.5, 0.5])
    both = PolicyGradient(clipping="cispo", clip_low=0.2, clip_high=0.3)
    assert differentiate(both, logprobs, **constants) == pytest.approx([-1.3, 1.3, -0.8, 0.8])
    assert [part.tolist() for part in both.find_clipped(logprobs, constants)] == [
        [False, False, True, True],
        [True, True, False, False],
    ]


def test_gspos_ratio_is_the_geometric_mean_and_its_gradient_is_shared_evenly() -> None:
    """Two tokens with ratios 1.5 and 0.5: s = sqrt(0.75) = 0.8660; weighted by 1/2 each, the slopes are -A s / 2.

    The third token is a completion of its own, with ratio 2 beyond the limit of 1.1: slope 0 for A > 0.
    """
    logprobs = (torch.tensor([1.5, 0.5, 2.0]) / 2).log()
    objective = PolicyGradient(ratio="sequence", clip_low=0.2, clip_high=0.1)
    constants = {
        "old_logprobs": OLD[:3],
        "advantages": torch.tensor([1.0, 1.0, 1.0]),
        "sequences": torch.tensor([0, 0, 1]),
    }
    leaf = logprobs.clone().requires_grad_()
    weights, _ = compute_token_weights(torch.tensor([2, 1]), "sequence_mean", max_tokens=4)
    losses = objective(leaf, constants)
    assert losses.tolist() == pytest.approx([-math.sqrt(0.75)] * 2 + [-1.1])
    (losses * weights[constants["sequences"]]).sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.tolist() == pytest.approx([-math.sqrt(0.75) / 2] * 2 + [0.0])
    assert objective.is_coupled and not PolicyGradient().is_coupled


@pytest.mark.parametrize("ratio", ["token", "sequence"])
@pytest.mark.parametrize("clipping", ["ppo", "cispo", "none"])
def test_on_the_first_update_every_member_has_the_gradient_of_reinforce(ratio: str, clipping: str) -> None:
    """Each ratio is 1: the slope is -A, and nothing is clipped; a positive advantage raises the token's log-prob."""
    objective = PolicyGradient(ratio=ratio, clipping=clipping)  # type: ignore[arg-type]
    advantages = torch.tensor([2.0, 2.0, -1.0, -1.0])
    constants = {"old_logprobs": OLD, "advantages": advantages, "sequences": torch.tensor([0, 0, 1, 1])}
    assert differentiate(objective, OLD, **constants) == pytest.approx((-advantages).tolist())
    assert not any(bool(part.any()) for part in objective.find_clipped(OLD, constants))


def test_a_completion_that_is_listed_elsewhere_in_the_batch_has_the_same_loss() -> None:
    objective = PolicyGradient(ratio="sequence", kl="forward_kl", kl_coefficient=0.1)
    generator = torch.Generator().manual_seed(1)
    values = {name: -torch.rand(6, generator=generator) for name in ("logprobs", "old_logprobs", "reference_logprobs")}
    constants = {
        **values,
        "advantages": torch.tensor([1.0, 1, 1, -1, -1, -1]),
        "sequences": torch.tensor([0, 0, 0, 1, 1, 1]),
    }
    straight = objective(constants["logprobs"], constants)
    order = torch.tensor([3, 0, 4, 1, 5, 2])
    shuffled = {name: value[order] for name, value in constants.items()}
    assert torch.allclose(objective(shuffled["logprobs"], shuffled), straight[order])


def test_importance_weights_are_truncated_and_scale_the_loss() -> None:
    """Ratios 2 and 1/2 with a cap of 1.5: weights 1.5 and 0.5."""
    sampler = torch.tensor([0.25, 0.5]).log()
    weights = compute_importance_weights(torch.tensor([0.5, 0.25]).log().requires_grad_(), sampler, 1.5)
    assert weights.tolist() == pytest.approx([1.5, 0.5]) and not weights.requires_grad
    trainer = torch.tensor([0.5, 0.25]).log()
    constants = {"advantages": torch.ones(2), "sampler_logprobs": sampler}
    assert differentiate(PolicyGradient(importance_cap=1.5), trainer, **constants) == pytest.approx([-1.5, -0.5])


@pytest.mark.parametrize(
    ("kl", "loss", "slope"),
    [
        ("none", 0.0, 0.0),
        ("reverse_kl", 2 * math.log(2) ** 2 / 2, -2 * math.log(2)),
        ("forward_kl", 2 * (1 - math.log(2)), -2.0),
    ],
)
def test_a_kls_loss_and_slope_are_the_ones_worked_out_by_hand(kl: Kl, loss: float, slope: float) -> None:
    """u = log ref - log pi = ln 2 and w = 2: k2 = w u^2 / 2 with slope -w u; k3 = w (2 - 1 - ln 2), slope w (1 - 2)."""
    leaf = torch.tensor([0.25]).log().requires_grad_()
    value = compute_kl_loss(leaf, torch.tensor([0.5]).log(), torch.tensor([0.125]).log(), kl)
    assert value.tolist() == pytest.approx([loss])
    (found,) = torch.autograd.grad(value.sum() + 0 * leaf.sum(), leaf)
    assert found.tolist() == pytest.approx([slope])


def test_the_estimate_of_the_kl_is_zero_for_equal_policies_and_never_below() -> None:
    logprobs = torch.tensor([0.1, 0.9, 0.4]).log()
    assert estimate_kl(logprobs, logprobs).tolist() == [0, 0, 0]
    assert bool((estimate_kl(logprobs, torch.tensor([0.5, 0.2, 0.41]).log()) > 0).all())


@pytest.mark.parametrize(
    ("aggregation", "shares"),
    [
        ("token_mean", [0.2, 0.8]),
        ("sequence_mean", [0.5, 0.5]),
        ("constant_length", [2 / 20, 8 / 20]),
        ("sequence_sum", [2 / 2, 8 / 2]),
    ],
)
def test_what_a_completion_of_2_and_one_of_8_tokens_weigh_is_the_documented_share(
    aggregation: Aggregation, shares: list[float]
) -> None:
    """The cap is 10 tokens. By tokens 2/10 and 8/10; by completions halves; over 2 * 10 tokens; summed over tokens."""
    lengths = torch.tensor([2, 8])
    weights, divisors = compute_token_weights(lengths, aggregation, max_tokens=10)
    assert (weights * lengths / divisors.sum()).tolist() == pytest.approx(shares)


@pytest.mark.parametrize(
    ("aggregation", "weigh"),
    [
        ("token_mean", lambda n, lengths, cap: 1 / sum(lengths)),
        ("sequence_mean", lambda n, lengths, cap: 1 / (n * len(lengths))),
        ("constant_length", lambda n, lengths, cap: 1 / (cap * len(lengths))),
        ("sequence_sum", lambda n, lengths, cap: 1 / len(lengths)),
    ],
)
def test_what_a_token_weighs_is_the_documented_function_of_its_completions_length(
    aggregation: Aggregation, weigh: Callable[[int, list[int], int], float]
) -> None:
    """Of each length from 1 to the cap one completion, through the gradient: the slope of a token is its share."""
    cap = 12
    lengths = list(range(1, cap + 1))
    weights, divisors = compute_token_weights(torch.tensor(lengths), aggregation, max_tokens=cap)
    of_token = torch.arange(cap).repeat_interleave(torch.tensor(lengths))
    leaf = torch.zeros(len(of_token), requires_grad=True)
    losses = PolicyGradient(clipping="none")(leaf, {"advantages": -torch.ones(len(of_token))})
    (losses * normalise_weights(weights[of_token], float(divisors.sum()))).sum().backward()
    assert leaf.grad is not None
    expected = [weigh(n, lengths, cap) for n in lengths for _ in range(n)]
    assert leaf.grad.tolist() == pytest.approx(expected, rel=1e-6)


def test_a_completion_beyond_the_cap_is_refused() -> None:
    with pytest.raises(ValueError, match="11 tokens where the cap is 10"):
        compute_token_weights(torch.tensor([11]), "constant_length", max_tokens=10)
