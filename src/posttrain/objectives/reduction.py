"""The one place that divides: per-token weights over one total for the whole optimizer step.

A loss is sum_n w_n l_n / W with W the sum of all weights of the step: all micro-batches, all ranks.
The division is done here, on the weights, before anything is summed; so a step's loss and gradient do
not depend on how its rows are cut into micro-batches or dealt to ranks, and a mean of means cannot be
written. Shape letter: N scored tokens of one micro-batch.
"""

from __future__ import annotations

import torch

from posttrain.core.errors import TrainingError


def normalise_weights(weights_N: torch.Tensor, total: float) -> torch.Tensor:
    """Return w_n / W in fp32.

    Args:
        weights_N: Weights of one micro-batch's tokens, >= 0.
        total: W, the sum of the weights of the whole optimizer step, over all micro-batches and ranks.

    Raises:
        TrainingError: The step has no weight at all, so it has no loss.
    """
    check_total(total)
    return weights_N.to(torch.float32) / total


def check_total(total: float) -> None:
    """Raise if a step's total weight cannot be a denominator."""
    if not total > 0:
        raise TrainingError(
            f"the optimizer step has a total token weight of {total}",
            expected="at least one trained token in every optimizer step",
            cure="raise batch_size, or check with 'posttrain data show' which tokens are trained on",
        )
