"""A chunk's logits to log-probs and, in place, to the gradient, in Triton: three passes over the logits in all.

In torch the same takes an fp32 copy of the chunk and ten passes over it (`kernels/token_logprobs.py`). Imported
only where Triton is installed and a GPU is used. Shape letters: C rows of a chunk, V vocabulary.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

_BLOCK = 8192


# many parameters: a kernel is given its tensors and sizes one by one
@triton.jit
def _read(
    logits, targets, logprobs, is_argmax, entropies, totals, V, scale, WITH_ENTROPY: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    start = logits + row * V
    columns = tl.arange(0, BLOCK)
    largest = -float("inf")
    total = 0.0
    mean = 0.0
    for first in range(0, V, BLOCK):
        is_real = first + columns < V
        values = tl.load(start + first + columns, mask=is_real, other=-float("inf")).to(tl.float32) * scale
        higher = tl.maximum(largest, tl.max(values, 0))
        shares = tl.exp(values - higher)
        shrink = tl.exp(largest - higher)
        total = total * shrink + tl.sum(shares, 0)
        if WITH_ENTROPY:
            mean = mean * shrink + tl.sum(tl.where(shares > 0, shares * values, 0.0), 0)
        largest = higher
    chosen = tl.load(start + tl.load(targets + row)).to(tl.float32) * scale
    logsumexp = largest + tl.log(total)
    tl.store(logprobs + row, chosen - logsumexp)
    tl.store(is_argmax + row, (chosen >= largest).to(tl.float32))
    tl.store(totals + row, logsumexp)
    if WITH_ENTROPY:
        tl.store(entropies + row, logsumexp - mean / total)


# many parameters: a kernel is given its tensors and sizes one by one
@triton.jit
def _write(logits, targets, slopes, totals, V, scale, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    is_real = columns < V
    places = logits + row * V + columns
    values = tl.load(places, mask=is_real, other=0.0).to(tl.float32) * scale
    shares = tl.exp(values - tl.load(totals + row))
    is_target = columns == tl.load(targets + row)
    result = (tl.where(is_target, 1.0, 0.0) - shares) * (tl.load(slopes + row) * scale)
    tl.store(places, result.to(logits.dtype.element_ty), mask=is_real)


class TritonScores:
    """The kernels of a chunk's logits on a GPU (`kernels.score_kernels.ScoreKernels`)."""

    def takes(self, logits_CV: torch.Tensor) -> bool:
        """Return whether the kernels can read logits."""
        return logits_CV.is_contiguous()

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
        C, V = logits_CV.shape
        totals_C = logits_CV.new_empty(C, dtype=torch.float32)
        _read[(C,)](
            logits_CV, targets_C, figures[0], figures[1], figures[2], totals_C, V, scale, with_entropy, _BLOCK,
            num_warps=16,
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
        C, V = logits_CV.shape
        _write[(C, triton.cdiv(V, _BLOCK))](logits_CV, targets_C, slopes_C, totals_C, V, scale, _BLOCK, num_warps=8)
