"""A chunk's logits to log-probs and, in place, to the gradient, in compiled C (`native_scores.c`), on a CPU.

In torch the same takes an fp32 copy and a dozen passes over it, tile by tile (`kernels/token_logprobs.py`). Shape
letters: C rows of a chunk, V vocabulary.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch

from posttrain.kernels.layers import are_plain

SOURCE = Path(__file__).with_suffix(".c")
HEADERS = (SOURCE.with_name("native_lanes.h"),)


class NativeScores:
    """The compiled kernels of one dtype (`kernels.score_kernels.ScoreKernels`).

    Args:
        library: `SOURCE` compiled for the dtype, with `BF16` defined for bf16 (`core.native_library`).
        dtype: fp32 or bf16.
    """

    def __init__(self, library: ctypes.CDLL, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self._library = library
        pointer, size, real = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
        library.read_scores.argtypes = [*[pointer] * 6, size, size, real]
        library.write_gradient.argtypes = [*[pointer] * 4, size, size, real]
        for function in (library.read_scores, library.write_gradient):
            function.restype = None

    def takes(self, logits_CV: torch.Tensor) -> bool:
        """Return whether the kernels can read logits: plain ones of the dtype, on the CPU, contiguous."""
        return are_plain((logits_CV,), self.dtype, "cpu")

    def read_chunk(
        self,
        logits_CV: torch.Tensor,
        targets_C: torch.Tensor,
        figures: torch.Tensor,
        scale: float,
        *,
        with_entropy: bool,
    ) -> torch.Tensor:
        """Fill the log-probs, whether the target is the argmax, and entropies; return the log-sum-exp, fp32 [C]."""
        totals_C = logits_CV.new_empty(len(logits_CV), dtype=torch.float32)
        self._library.read_scores(
            logits_CV.data_ptr(), targets_C.data_ptr(), figures[0].data_ptr(), figures[1].data_ptr(),
            figures[2].data_ptr() if with_entropy else None, totals_C.data_ptr(), *logits_CV.shape, scale,
        )  # fmt: skip
        return totals_C

    def write_gradient(
        self,
        logits_CV: torch.Tensor,
        targets_C: torch.Tensor,
        slopes_C: torch.Tensor,
        totals_C: torch.Tensor,
        scale: float,
    ) -> None:
        """Overwrite logits with slopes times the derivative of the targets' log-probs by the raw logits."""
        slopes = slopes_C.contiguous()
        self._library.write_gradient(
            logits_CV.data_ptr(), targets_C.data_ptr(), slopes.data_ptr(), totals_C.data_ptr(), *logits_CV.shape, scale
        )
