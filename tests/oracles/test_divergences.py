"""Each named KL has the gradient of its own name; over completions and token by token are different quantities."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from tests.oracles.divergences import (
    compute_sequence_forward_kl,
    compute_sequence_reverse_kl,
    compute_token_forward_kl,
    compute_token_reverse_kl,
    derive_sequence_forward_gradient,
    derive_sequence_reverse_gradient,
    derive_token_forward_gradient,
    derive_token_reverse_gradient,
)
from tests.oracles.minimising import compute_finite_differences, compute_gradient
from tests.oracles.sample_policies import NEXT_XFV, OWN_XF, POLICY, REFERENCE, REFERENCE_XFV, SPACE

REFERENCE_XY = REFERENCE.compute_logprobs_XY().detach()
THEIRS_XF = SPACE.compute_reach(REFERENCE_XFV)

NAMED: dict[str, tuple[Callable[[], torch.Tensor], Callable[[], torch.Tensor]]] = {
    "sequence reverse": (
        lambda: compute_sequence_reverse_kl(POLICY.compute_logprobs_XY(), REFERENCE_XY).sum(),
        lambda: derive_sequence_reverse_gradient(SPACE, NEXT_XFV, REFERENCE_XFV),
    ),
    "sequence forward": (
        lambda: compute_sequence_forward_kl(POLICY.compute_logprobs_XY(), REFERENCE_XY).sum(),
        lambda: derive_sequence_forward_gradient(SPACE, NEXT_XFV, REFERENCE_XFV),
    ),
    "token reverse at the policy's prefixes": (
        lambda: compute_token_reverse_kl(POLICY.compute_next_logprobs(), REFERENCE_XFV, OWN_XF).sum(),
        lambda: derive_token_reverse_gradient(NEXT_XFV, REFERENCE_XFV, OWN_XF),
    ),
    "token forward at the policy's prefixes": (
        lambda: compute_token_forward_kl(POLICY.compute_next_logprobs(), REFERENCE_XFV, OWN_XF).sum(),
        lambda: derive_token_forward_gradient(NEXT_XFV, REFERENCE_XFV, OWN_XF),
    ),
    "token forward at the reference's prefixes": (
        lambda: compute_token_forward_kl(POLICY.compute_next_logprobs(), REFERENCE_XFV, THEIRS_XF).sum(),
        lambda: derive_token_forward_gradient(NEXT_XFV, REFERENCE_XFV, THEIRS_XF),
    ),
}


def differ(one: torch.Tensor, other: torch.Tensor) -> float:
    return (one - other).abs().max().item()


@pytest.mark.parametrize("name", NAMED)
def test_the_gradient_of_a_named_kl_is_that_of_finite_differences_and_of_the_derivation_by_hand(name: str) -> None:
    compute, derive = NAMED[name]
    by_differences = compute_finite_differences(compute, POLICY.logits_XFV)
    assert differ(compute_gradient(compute, POLICY.logits_XFV), by_differences) < 1e-6
    assert differ(derive(), by_differences) < 1e-6
    assert by_differences.abs().max().item() > 0.01


def test_the_five_gradients_are_different_but_the_two_forward_ones_at_the_references_prefixes() -> None:
    gradients = {name: derive() for name, (_, derive) in NAMED.items()}
    same = {
        (one, other) for one in gradients for other in gradients
        if one < other and differ(gradients[one], gradients[other]) < 1e-12
    }  # fmt: skip
    assert same == {("sequence forward", "token forward at the reference's prefixes")}
    rest = {
        differ(gradients[one], gradients[other])
        for one in gradients for other in gradients if one < other and (one, other) not in same
    }  # fmt: skip
    assert min(rest) > 0.01


def test_the_token_kls_have_the_sequence_kls_values_at_the_prefixes_of_whom_the_expectation_is_over() -> None:
    value = {name: compute().item() for name, (compute, _) in NAMED.items()}
    assert value["token reverse at the policy's prefixes"] == pytest.approx(value["sequence reverse"], abs=1e-12)
    assert value["token forward at the reference's prefixes"] == pytest.approx(value["sequence forward"], abs=1e-12)
    assert abs(value["token forward at the policy's prefixes"] - value["sequence forward"]) > 0.01


def test_what_the_token_reverse_kl_leaves_out_is_the_pull_towards_prefixes_of_small_kl() -> None:
    """The difference of the two reverse gradients is that of sum_h reach(h) sg[KL(h)]: only through the prefixes."""

    def compute() -> torch.Tensor:
        next_XFV = POLICY.compute_next_logprobs()
        kl_XF = (next_XFV.exp() * (next_XFV - REFERENCE_XFV)).sum(-1).detach()
        return (SPACE.compute_reach(next_XFV) * kl_XF).sum()

    whole = derive_sequence_reverse_gradient(SPACE, NEXT_XFV, REFERENCE_XFV)
    part = derive_token_reverse_gradient(NEXT_XFV, REFERENCE_XFV, OWN_XF)
    assert differ(whole - part, compute_gradient(compute, POLICY.logits_XFV)) < 1e-12


def test_a_kl_is_zero_for_equal_policies_and_infinite_where_the_other_never_goes() -> None:
    assert compute_sequence_reverse_kl(REFERENCE_XY, REFERENCE_XY).tolist() == [0.0, 0.0]
    half = torch.tensor([[0.5, 0.5, 0.0]]).log()
    third = torch.full((1, 3), 1 / 3).log()
    assert compute_sequence_reverse_kl(half, third).tolist() == pytest.approx([0.4054651], rel=1e-6)  # ln(3/2)
    assert compute_sequence_forward_kl(half, third).tolist() == [float("inf")]
