"""RMSNorm and the gated SiLU unit in compiled C (`native_layers.c`), for training on a CPU.

Shape letters: N rows (any leading dimensions), H hidden size.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch

from posttrain.kernels.layers import are_plain

SOURCE = Path(__file__).with_suffix(".c")
HEADERS = (SOURCE.with_name("native_lanes.h"),)


class NativeLayers:
    """The compiled kernels of one dtype.

    Args:
        library: `SOURCE` compiled for the dtype, with `BF16` defined for bf16 (`core.native_library`).
        dtype: fp32 or bf16.
    """

    def __init__(self, library: ctypes.CDLL, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self._library = library
        pointer, size, real, flag = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float, ctypes.c_int
        library.normalise.argtypes = [*[pointer] * 4, size, size, real, flag]
        library.normalise_backward.argtypes = [*[pointer] * 6, size, size, flag]
        library.gate_silu.argtypes = [*[pointer] * 3, size, size, size]
        library.gate_silu_backward.argtypes = [*[pointer] * 5, size, size, size]
        for function in (library.normalise, library.gate_silu, library.gate_silu_backward):
            function.restype = None
        library.normalise_backward.restype = ctypes.c_int

    def takes(self, *tensors: torch.Tensor) -> bool:
        """Return whether the kernels can read tensors: plain ones of the dtype, on the CPU, contiguous."""
        return are_plain(tensors, self.dtype, "cpu")

    def normalise(
        self, rows_NH: torch.Tensor, gain_H: torch.Tensor, epsilon: float, *, is_unit_offset: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the RMSNorm of rows [N, H] and what each was multiplied by, fp32 [N, 1]."""
        output = torch.empty_like(rows_NH)
        scales = rows_NH.new_empty(rows_NH.shape[0], 1, dtype=torch.float32)
        self._library.normalise(
            rows_NH.data_ptr(), gain_H.data_ptr(), output.data_ptr(), scales.data_ptr(), *rows_NH.shape, epsilon,
            is_unit_offset,
        )  # fmt: skip
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
        """Return the gradients of rows and gain (fp32), None for one that is not needed.

        Raises:
            MemoryError: There is none for the sums over rows.
        """
        grad_rows = torch.empty_like(rows_NH) if needs[0] else None
        grad_gain = torch.empty_like(gain_H, dtype=torch.float32) if needs[1] else None
        outputs = (None if x is None else x.data_ptr() for x in (grad_rows, grad_gain))
        inputs = (x.data_ptr() for x in (rows_NH, gain_H, scales_N1, grad_NH))
        if self._library.normalise_backward(*inputs, *outputs, *rows_NH.shape, is_unit_offset):
            raise MemoryError("no memory for the gradient of a norm")
        return grad_rows, grad_gain

    def gate_silu(self, gate_NH: torch.Tensor, up_NH: torch.Tensor) -> torch.Tensor:
        """Return silu(gate) * up."""
        output = torch.empty_like(gate_NH)
        H = gate_NH.shape[-1]
        self._library.gate_silu(gate_NH.data_ptr(), up_NH.data_ptr(), output.data_ptr(), gate_NH.numel() // H, H, H)
        return output

    def gate_silu_backward(
        self, gate_NH: torch.Tensor, up_NH: torch.Tensor, grad_NH: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the gradients of gate and up."""
        grad_gate, grad_up = torch.empty_like(gate_NH), torch.empty_like(up_NH)
        H = gate_NH.shape[-1]
        tensors = (gate_NH, up_NH, grad_NH, grad_gate, grad_up)
        self._library.gate_silu_backward(*(x.data_ptr() for x in tensors), gate_NH.numel() // H, H, H)
        return grad_gate, grad_up
