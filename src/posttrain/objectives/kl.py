"""KL divergences from a reference, by the name of what their gradient is.

With u = log ref - log pi of a sampled token, and w = pi / pi_old the ratio to the policy that it was sampled from:

| name | loss of a token | its expected gradient | |
| --- | --- | --- | --- |
| `reverse_kl` | sg[w] u^2 / 2 | that of KL(pi || ref) of the next token | k2 |
| `forward_kl` | sg[w] (e^u - 1 - u) | that of KL(ref || pi) of the next token | k3, as GRPO |

Both are taken at the prefixes that were sampled, which carry no gradient: they are not the KL of whole completions.
That one is had by taking beta times `compute_log_ratios`' sum off the reward (RLOO, PPO). Back-propagating k1 = -u
itself gives no gradient at all, which is why no name stands for it.

Known difference from GRPO (arXiv 2402.03300, equation 4): the loss is weighted by w, so that it stays right after
several updates on the same samples; on the first update w = 1.

Source: Schulman 2020, "Approximating KL divergence" (joschu.net/blog/kl-approx.html); Tang and Munos 2025, "On a few
pitfalls in KL divergence gradient estimation for RL" (arXiv 2506.09477).
"""

from __future__ import annotations

import torch

from posttrain.objectives.choices import Kl


def compute_kl_loss(logprobs_N: torch.Tensor, reference_N: torch.Tensor, old_N: torch.Tensor, kl: Kl) -> torch.Tensor:
    """Return each token's loss of a named KL, nats, >= 0.

    Args:
        logprobs_N: The policy's log-probs of the sampled tokens, with gradient.
        reference_N: The reference's.
        old_N: Those of the policy that the tokens were sampled from.
        kl: Whose gradient is wanted; `none` is 0.
    """
    if kl == "none":
        return torch.zeros_like(logprobs_N)
    weights_N = (logprobs_N.detach() - old_N).exp()
    u_N = reference_N - logprobs_N
    return weights_N * (u_N.square() / 2 if kl == "reverse_kl" else u_N.expm1() - u_N)


def compute_log_ratios(old_N: torch.Tensor, reference_N: torch.Tensor) -> torch.Tensor:
    """Return log pi_old - log ref of each sampled token: its sum over a completion estimates KL(pi_old || ref), k1."""
    return old_N - reference_N


def estimate_kl(logprobs_N: torch.Tensor, reference_N: torch.Tensor) -> torch.Tensor:
    """Return k3 of each token sampled from the policy itself: an estimate of KL(pi || ref) that is never below 0."""
    u_N = reference_N - logprobs_N
    return u_N.expm1() - u_N
