"""Supervised fine-tuning: the negative log-likelihood of the demonstration's tokens.

    l_n = -log pi(y_n | x, y_<n)

Summed over a sequence and averaged over the data it equals H(p_data) + KL(p_data || pi). The token mean of a
batch divides its rows by the tokens of that batch, so in expectation long sequences weigh less than in that
sum; the difference fades as batches grow.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch


def compute_sft_loss(logprobs_N: torch.Tensor, constants: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return -log pi of each chosen token.

    Args:
        logprobs_N: Policy log-probs of the target tokens, nats, <= 0, fp32.
        constants: Unused; every token objective has this second argument.

    Returns:
        Loss of each token, nats, >= 0, same shape and dtype.
    """
    del constants
    return -logprobs_N
