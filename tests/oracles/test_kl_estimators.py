"""What back-propagating the estimators of a KL does in expectation, over all completions; formulas written here.

With u = log ref - log pi of a completion (or of a token) sampled from pi:

    k1 = -u        k2 = u^2 / 2        k3 = e^u - 1 - u        (Schulman 2020, joschu.net/blog/kl-approx.html)

E[k1] = E[k3] = KL(pi || ref), yet a loss does not see where samples come from: its gradient is E[d k / d theta] with
the samples held. For k1 that is E[grad log pi] = 0; for k2 E[-u grad log pi], the reverse KL's; for k3
E[(1 - e^u) grad log pi] = -sum ref grad log pi, the forward KL's.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from tests.oracles.divergences import (
    compute_sequence_reverse_kl,
    derive_sequence_forward_gradient,
    derive_sequence_reverse_gradient,
    derive_token_forward_gradient,
    derive_token_reverse_gradient,
)
from tests.oracles.sample_policies import NEXT_XFV, OWN_XF, POLICY, REFERENCE, REFERENCE_XFV, SPACE

PROBABILITIES_S = POLICY.compute_logprobs_XY().detach().flatten().exp()

SEQUENCE_REVERSE = derive_sequence_reverse_gradient(SPACE, NEXT_XFV, REFERENCE_XFV)
SEQUENCE_FORWARD = derive_sequence_forward_gradient(SPACE, NEXT_XFV, REFERENCE_XFV)
TOKEN_REVERSE = derive_token_reverse_gradient(NEXT_XFV, REFERENCE_XFV, OWN_XF)
TOKEN_FORWARD = derive_token_forward_gradient(NEXT_XFV, REFERENCE_XFV, OWN_XF)
ZERO = torch.zeros_like(NEXT_XFV)

Estimator = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
ESTIMATORS: dict[str, Estimator] = {
    "k1": lambda policy, reference: policy - reference,
    "k2": lambda policy, reference: (reference - policy) ** 2 / 2,
    "k3": lambda policy, reference: (reference - policy).exp() - 1 - (reference - policy),
}


def estimate_by_sequences(estimator: Estimator) -> torch.Tensor:
    """E[k] of whole completions sampled from the policy; the samples' distribution carries no gradient."""
    values_XY = estimator(POLICY.compute_logprobs_XY(), REFERENCE.compute_logprobs_XY().detach())
    return (PROBABILITIES_S * values_XY.flatten()).sum()


def estimate_by_tokens(estimator: Estimator) -> torch.Tensor:
    """E[sum of k over a completion's tokens], the same way."""
    values_N = estimator(POLICY.compute_logprobs_N(), REFERENCE.compute_logprobs_N().detach())
    return (PROBABILITIES_S * SPACE.sum_tokens(values_N)).sum()


def differentiate(loss: torch.Tensor) -> torch.Tensor:
    (gradient,) = torch.autograd.grad(loss, POLICY.logits_XFV, retain_graph=True)
    return gradient


def differ(one: torch.Tensor, other: torch.Tensor) -> float:
    return (one - other).abs().max().item()


@pytest.mark.parametrize(
    ("name", "of_sequences", "of_tokens"),
    [
        ("k1", ZERO, ZERO),
        ("k2", SEQUENCE_REVERSE, TOKEN_REVERSE),
        ("k3", SEQUENCE_FORWARD, TOKEN_FORWARD),
    ],
)
def test_the_expected_gradient_of_an_estimator_is_that_of_another_divergence(
    name: str, of_sequences: torch.Tensor, of_tokens: torch.Tensor
) -> None:
    """k1 gives none, k2 the reverse KL, k3 the forward KL: of completions, and of tokens at the policy's prefixes."""
    assert differ(differentiate(estimate_by_sequences(ESTIMATORS[name])), of_sequences) < 1e-12
    assert differ(differentiate(estimate_by_tokens(ESTIMATORS[name])), of_tokens) < 1e-12


def test_k1_and_k3_are_unbiased_for_the_reverse_kl_and_k2_is_not() -> None:
    expected = compute_sequence_reverse_kl(POLICY.compute_logprobs_XY(), REFERENCE.compute_logprobs_XY()).sum().item()
    for estimate in (estimate_by_sequences, estimate_by_tokens):
        values = {name: estimate(estimator).item() for name, estimator in ESTIMATORS.items()}
        assert values["k1"] == pytest.approx(expected, abs=1e-12)
        assert values["k3"] == pytest.approx(expected, abs=1e-12)
        assert abs(values["k2"] - expected) > 0.05


def test_k3_token_by_token_is_the_forward_kl_of_tokens_and_not_of_completions() -> None:
    """Its prefixes are the policy's, the forward KL's of completions are the reference's."""
    gradient = differentiate(estimate_by_tokens(ESTIMATORS["k3"]))
    assert differ(gradient, SEQUENCE_FORWARD) > 0.05 and differ(gradient, SEQUENCE_REVERSE) > 0.05


def test_k1_in_the_reward_gives_the_reverse_kl_of_completions_as_a_whole_or_to_go() -> None:
    """sum_t grad log pi_t times sg[sum of k1 over all tokens], or over those from t on: the same in expectation."""
    logprobs_N = POLICY.compute_logprobs_N()
    k1_N = (logprobs_N - REFERENCE.compute_logprobs_N()).detach()
    totals_N = SPACE.repeat_to_tokens(SPACE.sum_tokens(k1_N))
    before_N = torch.cat([part.cumsum(0) - part for part in k1_N.split(SPACE.lengths_S.tolist())])
    for returns_N in (totals_N, totals_N - before_N):
        loss = (PROBABILITIES_S * SPACE.sum_tokens(returns_N * logprobs_N)).sum()
        assert differ(differentiate(loss), SEQUENCE_REVERSE) < 1e-12
    # Each token's own k1 alone forgets what follows: the reverse KL of tokens at given prefixes.
    loss = (PROBABILITIES_S * SPACE.sum_tokens(k1_N * logprobs_N)).sum()
    assert differ(differentiate(loss), TOKEN_REVERSE) < 1e-12
    assert differ(TOKEN_REVERSE, SEQUENCE_REVERSE) > 0.05
