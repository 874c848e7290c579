"""What compiled kernels of logits are held to: scores and gradients of the same rows in torch."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from posttrain.kernels.score_kernels import ScoreKernels
from posttrain.kernels.token_logprobs import Head, TokenScores, score_tokens
from tests.kernels.layer_checks import make


def clipped(logprobs: torch.Tensor, constants: Mapping[str, torch.Tensor]) -> torch.Tensor:
    return -torch.minimum((logprobs + 3.0).exp(), torch.full_like(logprobs, 1.2)) * constants["advantages"]


# many parameters: what a head is made of, and who scores it
def score_rows(
    dtype: torch.dtype,
    vocabulary: int,
    scale: float,
    *,
    with_entropy: bool,
    device: str = "cpu",
    kernels: ScoreKernels | None = None,
) -> list[torch.Tensor]:
    """Loss, log-probs, hits, gradients by hidden states and head, and entropies if asked for, of 45 rows."""
    N, H = 45, 24
    hidden = make(N, H, dtype=dtype, seed=1, device=device)
    weight = make(vocabulary, H, dtype=dtype, seed=2, device=device)
    generator = torch.Generator().manual_seed(3)
    targets = torch.randint(vocabulary, (N,), generator=generator).to(device)
    targets[0] = (hidden[0] @ weight.T).argmax()
    constants = {"advantages": torch.randn(N, generator=generator).to(device)}
    weights = torch.rand(N, generator=generator).to(device)
    head = Head(weight, scale=scale, kernels=kernels)
    scores: TokenScores = score_tokens(hidden, head, targets, weights, clipped, constants, with_entropy=with_entropy)
    scores.loss.backward()
    figures = [scores.loss, scores.logprobs_N, scores.is_argmax_N.float(), hidden.grad, weight.grad]
    return [*figures, scores.entropies_N] if scores.entropies_N is not None else figures
