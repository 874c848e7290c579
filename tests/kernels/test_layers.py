"""RMSNorm and the gated unit with their own backward passes equal autograd through the textbook's form."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import silu

from posttrain.kernels.layers import gated_silu, rms_norm
from posttrain.models.fusing import fuse_layers
from tests.training.tiny import (
    ARCHITECTURES,
    gradients_of,
    largest_difference,
    make_model,
    make_samples,
    make_step,
    make_updater,
)


def textbook_norm(x: torch.Tensor, w: torch.Tensor, epsilon: float, is_unit_offset: bool) -> torch.Tensor:
    values = x.float()
    normalised = values * torch.rsqrt(values.pow(2).mean(-1, keepdim=True) + epsilon)
    return (normalised * (1 + w.float())).to(x.dtype) if is_unit_offset else w * normalised.to(x.dtype)


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype).requires_grad_()


def test_rms_norm_is_the_one_worked_out_by_hand() -> None:
    """x = (3, 4), epsilon 0: the root mean square is sqrt(25/2) = 3.5355339; x / rms = (0.8485281, 1.1313708)."""
    x, w = torch.tensor([[3.0, 4.0]]), torch.tensor([2.0, 0.5])
    assert rms_norm(x, w, 0.0)[0].tolist() == pytest.approx([1.6970563, 0.5656854], rel=1e-6)
    offset = rms_norm(x, w, 0.0, is_unit_offset=True)[0].tolist()
    assert offset == pytest.approx([3 * 0.8485281, 1.5 * 1.1313708], rel=1e-6)
    assert x.tolist() == [[3.0, 4.0]]


@pytest.mark.parametrize("is_unit_offset", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rms_norm_and_its_gradients_equal_autograd(is_unit_offset: bool, dtype: torch.dtype) -> None:
    x, w = draw(2, 7, 24, dtype=dtype), draw(24, seed=1, dtype=dtype)
    upstream = draw(2, 7, 24, seed=2, dtype=dtype).detach()
    ours, theirs = rms_norm(x, w, 1e-5, is_unit_offset=is_unit_offset), textbook_norm(x, w, 1e-5, is_unit_offset)
    tolerance = 1e-6 if dtype == torch.float32 else 0.02
    assert ours.dtype == theirs.dtype and torch.allclose(ours, theirs, rtol=tolerance, atol=tolerance)
    got = torch.autograd.grad(ours, [x, w], upstream)
    expected = torch.autograd.grad(theirs, [x, w], upstream)
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == b.dtype
        assert float((a.float() - b.float()).norm() / b.float().norm()) < tolerance


def test_a_frozen_gain_and_a_frozen_input_get_no_gradient() -> None:
    x, w = draw(5, 8), draw(8, seed=1)
    rms_norm(x, w.detach(), 1e-5).sum().backward()
    assert x.grad is not None and w.grad is None
    rms_norm(x.detach(), w, 1e-5).sum().backward()
    assert w.grad is not None
    expected = torch.autograd.grad(textbook_norm(x, w, 1e-5, False).sum(), [x, w])
    assert torch.allclose(x.grad, expected[0], atol=1e-6) and torch.allclose(w.grad, expected[1], atol=1e-6)


def test_a_row_of_zeros_has_finite_gradients() -> None:
    x = torch.zeros(1, 8, requires_grad=True)
    rms_norm(x, torch.ones(8), 1e-6).sum().backward()
    assert x.grad is not None and bool(x.grad.isfinite().all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gated_unit_and_its_gradients_equal_autograd(dtype: torch.dtype) -> None:
    gate, up = draw(6, 10, dtype=dtype), draw(6, 10, seed=1, dtype=dtype)
    upstream = draw(6, 10, seed=2, dtype=dtype).detach()
    ours, theirs = gated_silu(gate, up), silu(gate) * up
    assert torch.equal(ours, theirs)
    got = torch.autograd.grad(ours, [gate, up], upstream)
    expected = torch.autograd.grad(theirs, [gate, up], upstream)
    tolerance = 1e-6 if dtype == torch.float32 else 0.01
    for a, b in zip(got, expected, strict=True):
        assert float((a.float() - b.float()).norm() / b.float().norm()) < tolerance


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name != "mamba"])
def test_a_model_with_these_layers_has_the_same_loss_and_gradients(name: str) -> None:
    results, replaced = [], 0
    for is_fused in (False, True):
        model = make_model(name)
        replaced = fuse_layers(model) if is_fused else 0
        sums = make_updater(model).accumulate(make_step(make_samples((9, 23, 4))), 0)
        results.append((float(sums[0]), gradients_of(model)))
    assert (replaced > 0) == (name not in ("gpt_neox", "gpt2", "phi"))  # these have neither
    assert results[0][0] == pytest.approx(results[1][0], abs=1e-6)
    scale = max(1.0, max(float(grad.abs().max()) for grad in results[0][1].values()))
    assert largest_difference(results[0][1], results[1][1]) < 1e-5 * scale
