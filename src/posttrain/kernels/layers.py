"""RMSNorm and gated SiLU with hand-written backward passes: fewer passes over memory, fewer saved tensors.

Autograd through the usual formulation of RMSNorm keeps an fp32 copy of its input and a rounded copy of
the normalised rows; here the input itself and one number a row are kept. Of the gated unit the two
inputs are kept and the activation is computed again. Results round at the same places as the
architectures' own code. Shape letters: N rows (any leading dimensions), H hidden size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import silu


def rms_norm(
    hidden_NH: torch.Tensor, weight_H: torch.Tensor, epsilon: float, *, is_unit_offset: bool = False
) -> torch.Tensor:
    """Return x / sqrt(mean(x^2) + epsilon) * w over the last dimension (arXiv 1910.07467).

    Args:
        hidden_NH: fp32 or bf16; the mean is taken in fp32.
        weight_H: Gain of each channel.
        epsilon: Added to the mean square.
        is_unit_offset: Gemma's form: the gain is 1 + w, applied in fp32 before rounding. Llama's form
            rounds the normalised rows first and then multiplies.
    """
    return _RmsNorm.apply(hidden_NH, weight_H, epsilon, is_unit_offset)


def gated_silu(gate_NH: torch.Tensor, up_NH: torch.Tensor) -> torch.Tensor:
    """Return silu(gate) * up (SwiGLU without its products, arXiv 2002.05202)."""
    return _GatedSilu.apply(gate_NH, up_NH)


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_NH: torch.Tensor, weight_H: torch.Tensor, epsilon: float, is_unit_offset: bool
    ) -> torch.Tensor:
        values = hidden_NH.float()
        scale = torch.linalg.vector_norm(values, dim=-1, keepdim=True)
        scale = scale.mul_(scale).div_(values.shape[-1]).add_(epsilon).rsqrt_()
        normalised = values * scale if values is hidden_NH else values.mul_(scale)
        ctx.save_for_backward(hidden_NH, weight_H, scale)
        ctx.is_unit_offset = is_unit_offset
        if is_unit_offset:
            return normalised.mul_(1.0 + weight_H.float()).to(hidden_NH.dtype)
        return normalised.to(hidden_NH.dtype).mul_(weight_H)

    @staticmethod
    def backward(ctx: Any, grad_NH: torch.Tensor) -> tuple[Any, ...]:
        hidden_NH, weight_H, scale = ctx.saved_tensors
        H = hidden_NH.shape[-1]
        gain = weight_H.float() + 1.0 if ctx.is_unit_offset else weight_H.float()
        normalised = hidden_NH.float() * scale
        grad = grad_NH.float()
        product = normalised * grad
        grad_weight = None
        if ctx.needs_input_grad[1]:
            grad_weight = product.reshape(-1, H).sum(0).to(weight_H.dtype)
        if not ctx.needs_input_grad[0]:
            return None, grad_weight, None, None
        shared = (product @ gain[:, None]).div_(H)
        grad_hidden = (grad * gain).sub_(normalised.mul_(shared)).mul_(scale)
        return grad_hidden.to(hidden_NH.dtype), grad_weight, None, None


class _GatedSilu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_NH: torch.Tensor, up_NH: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(gate_NH, up_NH)
        return silu(gate_NH).mul_(up_NH)

    @staticmethod
    def backward(ctx: Any, grad_NH: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        gate_NH, up_NH = ctx.saved_tensors
        grad_up = silu(gate_NH).mul_(grad_NH)
        grad_gate = torch.ops.aten.silu_backward(grad_NH * up_NH, gate_NH)
        return grad_gate, grad_up
