"""RMSNorm and the gated SiLU unit in Triton, for training on a GPU: one pass over memory each way.

They round where the layers in torch do (`kernels/layers.py`). Imported only where Triton is installed and
a GPU is used. Shape letters: N rows (any leading dimensions), H hidden size, P programs.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from posttrain.kernels.layers import are_plain

_GATE_BLOCK = 1024
_BACKWARD_PROGRAMS = 528  # four a multiprocessor of a large GPU; each sums the gain's gradient over its rows


# many parameters: a kernel is given its tensors and sizes one by one
@triton.jit
def _normalise(
    hidden, gain, output, scales, H, epsilon, IS_UNIT_OFFSET: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    is_real = columns < H
    values = tl.load(hidden + row * H + columns, mask=is_real, other=0.0).to(tl.float32)
    factors = tl.load(gain + columns, mask=is_real, other=0.0).to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(values * values, 0) / H + epsilon)
    tl.store(scales + row, scale)
    normalised = values * scale
    if IS_UNIT_OFFSET:
        result = normalised * (1.0 + factors)
    else:
        result = normalised.to(output.dtype.element_ty).to(tl.float32) * factors
    tl.store(output + row * H + columns, result.to(output.dtype.element_ty), mask=is_real)


# many parameters: a kernel is given its tensors and sizes one by one
@triton.jit
def _normalise_backward(
    hidden, gain, scales, grad, grad_hidden, sums, N, H,
    IS_UNIT_OFFSET: tl.constexpr, NEEDS_HIDDEN: tl.constexpr, NEEDS_GAIN: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    columns = tl.arange(0, BLOCK)
    is_real = columns < H
    factors = tl.load(gain + columns, mask=is_real, other=0.0).to(tl.float32)
    if IS_UNIT_OFFSET:
        factors += 1.0
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for row in range(tl.program_id(0), N, tl.num_programs(0)):
        start = tl.cast(row, tl.int64) * H
        scale = tl.load(scales + row)
        normalised = tl.load(hidden + start + columns, mask=is_real, other=0.0).to(tl.float32) * scale
        slopes = tl.load(grad + start + columns, mask=is_real, other=0.0).to(tl.float32)
        if NEEDS_GAIN:
            total += normalised * slopes
        if NEEDS_HIDDEN:
            shared = tl.sum(normalised * slopes * factors, 0) / H
            result = (slopes * factors - normalised * shared) * scale
            tl.store(grad_hidden + start + columns, result.to(grad_hidden.dtype.element_ty), mask=is_real)
    if NEEDS_GAIN:
        tl.store(sums + tl.program_id(0) * H + columns, total, mask=is_real)


# many parameters: a kernel is given its tensors and sizes one by one
@triton.jit
def _gate_silu(gate, up, output, count, BLOCK: tl.constexpr):
    places = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    is_real = places < count
    values = tl.load(gate + places, mask=is_real, other=0.0).to(tl.float32)
    silu = (values * tl.sigmoid(values)).to(output.dtype.element_ty).to(tl.float32)
    factors = tl.load(up + places, mask=is_real, other=0.0).to(tl.float32)
    tl.store(output + places, (silu * factors).to(output.dtype.element_ty), mask=is_real)


# many parameters: a kernel is given its tensors and sizes one by one
@triton.jit
def _gate_silu_backward(gate, up, grad, grad_gate, grad_up, count, BLOCK: tl.constexpr):
    places = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    is_real = places < count
    kind = grad_gate.dtype.element_ty
    values = tl.load(gate + places, mask=is_real, other=0.0).to(tl.float32)
    factors = tl.load(up + places, mask=is_real, other=0.0).to(tl.float32)
    slopes = tl.load(grad + places, mask=is_real, other=0.0).to(tl.float32)
    sigmoid = tl.sigmoid(values)
    silu = (values * sigmoid).to(kind).to(tl.float32)
    tl.store(grad_up + places, (silu * slopes).to(kind), mask=is_real)
    outer = (slopes * factors).to(kind).to(tl.float32)
    result = outer * sigmoid * (1.0 + values * (1.0 - sigmoid))
    tl.store(grad_gate + places, result.to(kind), mask=is_real)


class TritonLayers:
    """The kernels of one dtype on a GPU (`kernels.layers.LayerKernels`).

    Args:
        dtype: fp32 or bf16.
        device_type: Where tensors are; `cpu` for Triton's interpreter.
    """

    def __init__(self, dtype: torch.dtype, *, device_type: str = "cuda") -> None:
        self.dtype = dtype
        self.device_type = device_type

    def takes(self, *tensors: torch.Tensor) -> bool:
        """Return whether the kernels can read tensors: plain ones of the dtype, on the device, contiguous."""
        return are_plain(tensors, self.dtype, self.device_type)

    def normalise(
        self, rows_NH: torch.Tensor, gain_H: torch.Tensor, epsilon: float, *, is_unit_offset: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the RMSNorm of rows [N, H] and what each was multiplied by, fp32 [N, 1]."""
        N, H = rows_NH.shape
        output = torch.empty_like(rows_NH)
        scales = rows_NH.new_empty(N, 1, dtype=torch.float32)
        if N:
            block = triton.next_power_of_2(H)
            _normalise[(N,)](
                rows_NH, gain_H, output, scales, H, epsilon, is_unit_offset, block, num_warps=_count_warps(block)
            )
        return output, scales

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
        N, H = rows_NH.shape
        P = min(N, _BACKWARD_PROGRAMS)
        grad_rows = torch.empty_like(rows_NH) if needs[0] else None
        sums_PH = gain_H.new_empty(P, H, dtype=torch.float32) if needs[1] else None
        if N:
            block = triton.next_power_of_2(H)
            _normalise_backward[(P,)](
                rows_NH, gain_H, scales_N1, grad_NH, grad_rows, sums_PH, N, H, is_unit_offset, *needs, block,
                num_warps=_count_warps(block),
            )  # fmt: skip
        return grad_rows, None if sums_PH is None else sums_PH.sum(0)

    def gate_silu(self, gate_NH: torch.Tensor, up_NH: torch.Tensor) -> torch.Tensor:
        """Return silu(gate) * up."""
        output = torch.empty_like(gate_NH)
        if count := gate_NH.numel():
            _gate_silu[(triton.cdiv(count, _GATE_BLOCK),)](gate_NH, up_NH, output, count, _GATE_BLOCK)
        return output

    def gate_silu_backward(
        self, gate_NH: torch.Tensor, up_NH: torch.Tensor, grad_NH: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the gradients of gate and up."""
        grad_gate, grad_up = torch.empty_like(gate_NH), torch.empty_like(up_NH)
        if count := gate_NH.numel():
            grid = (triton.cdiv(count, _GATE_BLOCK),)
            _gate_silu_backward[grid](gate_NH, up_NH, grad_NH, grad_gate, grad_up, count, _GATE_BLOCK)
        return grad_gate, grad_up


def _count_warps(block: int) -> int:
    return 4 if block <= 2048 else 8 if block <= 8192 else 16
