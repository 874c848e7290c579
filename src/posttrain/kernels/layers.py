"""RMSNorm and gated SiLU with hand-written backward passes: fewer passes over memory, fewer saved tensors.

Autograd through the usual formulation of RMSNorm keeps an fp32 copy of its input and a rounded copy of
the normalised rows; here the input itself and one number a row are kept. Of the gated unit the two
inputs are kept and the activation is computed again. Results round at the same places as the
architectures' own code. With `native`, compiled kernels do the same in one pass over memory
(`kernels/native_layers.py` on a CPU, `kernels/triton_layers.py` on a GPU). Shape letters: N rows (any leading
dimensions), H hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch.nn.functional import silu

_TILE_ELEMENTS = 1 << 17  # 512 kB of fp32


class LayerKernels(Protocol):
    """Compiled kernels of layers, made by `pipeline/compiled.py` for a dtype and a device."""

    def takes(self, *tensors: torch.Tensor) -> bool:
        """Return whether the kernels can read tensors."""

    def normalise(
        self, rows_NH: torch.Tensor, gain_H: torch.Tensor, epsilon: float, *, is_unit_offset: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the RMSNorm of rows [N, H] and what each was multiplied by, fp32 [N, 1]."""

    # many parameters: what a backward pass is given
    def normalise_backward(
        self,
        rows_NH: torch.Tensor,
        gain_H: torch.Tensor,
        scales_N1: torch.Tensor,
        grad_NH: torch.Tensor,
        needs: tuple[bool, bool],
        *,
        is_unit_offset: bool,
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Return the gradients of rows and gain (fp32), None for one that is not needed."""

    def gate_silu(self, gate_NH: torch.Tensor, up_NH: torch.Tensor) -> torch.Tensor:
        """Return silu(gate) * up."""

    def gate_silu_backward(
        self, gate_NH: torch.Tensor, up_NH: torch.Tensor, grad_NH: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the gradients of gate and up."""


def are_plain(tensors: Sequence[torch.Tensor], dtype: torch.dtype, device_type: str) -> bool:
    """Return whether compiled code can read tensors by their addresses: plain ones of the dtype, contiguous, there."""
    return all(
        x.dtype == dtype
        and x.device.type == device_type
        and x.is_contiguous()
        and type(x) in (torch.Tensor, torch.nn.Parameter)
        for x in tensors
    )


def rms_norm(
    hidden_NH: torch.Tensor,
    weight_H: torch.Tensor,
    epsilon: float,
    *,
    is_unit_offset: bool = False,
    native: LayerKernels | None = None,
) -> torch.Tensor:
    """Return x / sqrt(mean(x^2) + epsilon) * w over the last dimension (arXiv 1910.07467).

    Args:
        hidden_NH: fp32 or bf16; the mean is taken in fp32.
        weight_H: Gain of each channel.
        epsilon: Added to the mean square.
        is_unit_offset: Gemma's form: the gain is 1 + w, applied in fp32 before rounding. Llama's form
            rounds the normalised rows first and then multiplies.
        native: Compiled kernels, used for the tensors that they take.
    """
    return _RmsNorm.apply(hidden_NH, weight_H, epsilon, is_unit_offset, native)


def gated_silu(gate_NH: torch.Tensor, up_NH: torch.Tensor, *, native: LayerKernels | None = None) -> torch.Tensor:
    """Return silu(gate) * up (SwiGLU without its products, arXiv 2002.05202); `native` as of `rms_norm`."""
    return _GatedSilu.apply(gate_NH, up_NH, native)


def _tiles(rows_NH: torch.Tensor) -> Iterator[slice]:
    """Yield slices of rows: on a CPU so few that the fp32 temporaries of a tile stay in cache."""
    N, H = rows_NH.shape
    size = max(1, _TILE_ELEMENTS // H) if rows_NH.device.type == "cpu" else max(1, N)
    for start in range(0, N, size):
        yield slice(start, start + size)


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_NH: torch.Tensor,
        weight_H: torch.Tensor,
        epsilon: float,
        is_unit_offset: bool,
        native: LayerKernels | None,
    ) -> torch.Tensor:
        H = hidden_NH.shape[-1]
        ctx.is_unit_offset, ctx.native = is_unit_offset, native
        rows_NH = hidden_NH.reshape(-1, H)
        if native is not None and native.takes(rows_NH, weight_H):
            output, scale_N1 = native.normalise(rows_NH, weight_H, epsilon, is_unit_offset=is_unit_offset)
            ctx.save_for_backward(hidden_NH, weight_H, scale_N1)
            return output.view(hidden_NH.shape)
        output = torch.empty_like(rows_NH)
        scale_N1 = rows_NH.new_empty(rows_NH.shape[0], 1, dtype=torch.float32)
        gain = 1.0 + weight_H.float() if is_unit_offset else weight_H
        for rows in _tiles(rows_NH):
            values = rows_NH[rows].float()
            scale = torch.linalg.vector_norm(values, dim=-1, keepdim=True, out=scale_N1[rows])
            scale.mul_(scale).div_(H).add_(epsilon).rsqrt_()
            normalised = values * scale
            if is_unit_offset:
                output[rows] = normalised.mul_(gain)
            else:
                output[rows] = normalised
                output[rows].mul_(gain)
        ctx.save_for_backward(hidden_NH, weight_H, scale_N1)
        return output.view(hidden_NH.shape)

    @staticmethod
    def backward(ctx: Any, grad_NH: torch.Tensor) -> tuple[Any, ...]:
        hidden_NH, weight_H, scale_N1 = ctx.saved_tensors
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        H = hidden_NH.shape[-1]
        hidden_rows, grad_rows = hidden_NH.reshape(-1, H), grad_NH.reshape(-1, H)
        if ctx.native is not None and ctx.native.takes(hidden_rows, weight_H, grad_rows):
            needs = (needs_hidden, needs_weight)
            grads = ctx.native.normalise_backward(
                hidden_rows, weight_H, scale_N1, grad_rows, needs, is_unit_offset=ctx.is_unit_offset
            )
            return _shape_grads(grads, hidden_NH, weight_H)
        gain = weight_H.float() + 1.0 if ctx.is_unit_offset else weight_H.float()
        grad_hidden = torch.empty_like(hidden_rows) if needs_hidden else None
        grad_weight = torch.zeros_like(weight_H, dtype=torch.float32) if needs_weight else None
        for rows in _tiles(hidden_rows):
            scale = scale_N1[rows]
            normalised = hidden_rows[rows] * scale  # fp32, whatever the rows are
            grad = grad_rows[rows].float()
            product = normalised * grad
            if grad_weight is not None:
                grad_weight += product.sum(0)
            if grad_hidden is not None:
                shared = (product @ gain[:, None]).div_(H)
                grad_hidden[rows] = torch.mul(grad, gain, out=product).sub_(normalised.mul_(shared)).mul_(scale)
        return _shape_grads((grad_hidden, grad_weight), hidden_NH, weight_H)


def _shape_grads(
    grads: tuple[torch.Tensor | None, torch.Tensor | None], hidden_NH: torch.Tensor, weight_H: torch.Tensor
) -> tuple[torch.Tensor | None, ...]:
    grad_hidden, grad_weight = grads
    return (
        grad_hidden.view(hidden_NH.shape) if grad_hidden is not None else None,
        grad_weight.to(weight_H.dtype) if grad_weight is not None else None,
        None,
        None,
        None,
    )


class _GatedSilu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_NH: torch.Tensor, up_NH: torch.Tensor, native: LayerKernels | None) -> torch.Tensor:
        ctx.save_for_backward(gate_NH, up_NH)
        ctx.native = native
        if native is not None and native.takes(gate_NH, up_NH):
            return native.gate_silu(gate_NH, up_NH)
        return silu(gate_NH).mul_(up_NH)

    @staticmethod
    def backward(ctx: Any, grad_NH: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        gate_NH, up_NH = ctx.saved_tensors
        if ctx.native is not None and ctx.native.takes(gate_NH, up_NH, grad_NH):
            return *ctx.native.gate_silu_backward(gate_NH, up_NH, grad_NH), None
        grad_up = silu(gate_NH).mul_(grad_NH)
        grad_gate = torch.ops.aten.silu_backward(grad_NH * up_NH, gate_NH)
        return grad_gate, grad_up, None
