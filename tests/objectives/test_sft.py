"""SFT's loss and the one division, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from posttrain.core.errors import TrainingError
from posttrain.objectives.reduction import check_total, normalise_weights
from posttrain.objectives.sft import compute_sft_loss


def test_the_token_mean_is_the_one_worked_out_by_hand() -> None:
    """Three tokens of probability 1/2, 1/4 and 1/8: losses ln 2, 2 ln 2, 3 ln 2, their mean 2 ln 2 = 1.3862944."""
    logprobs = torch.tensor([0.5, 0.25, 0.125]).log()
    losses = compute_sft_loss(logprobs, {})
    assert losses.tolist() == pytest.approx([math.log(2), 2 * math.log(2), 3 * math.log(2)], rel=1e-6)
    assert float((losses * normalise_weights(torch.ones(3), 3.0)).sum()) == pytest.approx(1.3862944, rel=1e-6)


def test_the_gradient_pushes_every_log_prob_up_by_its_share() -> None:
    logprobs = torch.tensor([-1.0, -2.0, -3.0], requires_grad=True)
    (compute_sft_loss(logprobs, {}) * normalise_weights(torch.ones(3), 3.0)).sum().backward()
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == pytest.approx([-1 / 3] * 3)


def test_a_mean_over_parts_is_the_mean_over_all_however_unequal_the_parts() -> None:
    """Losses 1, 2, 3, 10 in parts of 3 and 1: the mean is 16/4 = 4; the mean of the parts' means is (2 + 10)/2 = 6."""
    losses = torch.tensor([1.0, 2.0, 3.0, 10.0])
    parts = [losses[:3], losses[3:]]
    total = sum(float((part * normalise_weights(torch.ones(len(part)), 4.0)).sum()) for part in parts)
    assert total == pytest.approx(4.0)


def test_weights_are_divided_in_fp32_whatever_they_came_in() -> None:
    weights = normalise_weights(torch.ones(3, dtype=torch.bfloat16), 3.0)
    assert weights.dtype == torch.float32
    assert weights.tolist() == pytest.approx([1 / 3] * 3, rel=1e-7)


@pytest.mark.parametrize("total", [0.0, -1.0, float("nan")])
def test_a_total_that_cannot_be_a_denominator_is_refused_with_the_cure(total: float) -> None:
    with pytest.raises(TrainingError, match="total token weight") as caught:
        normalise_weights(torch.ones(2), total)
    assert "batch_size" in caught.value.cure
    check_total(1e-9)
