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


def read_chunk(
    logits_CV: torch.Tensor, targets_C: torch.Tensor, figures: torch.Tensor, scale: float, *, with_entropy: bool
) -> torch.Tensor:
    """Fill the log-probs, whether the target is the argmax, and entropies; return the log-sum-exp, fp32 [C].

    Args:
        logits_CV: Raw logits, contiguous; `scale` times them are the logits.
        targets_C: int64.
        figures: fp32 [>= 3, C] with rows of stride 1, to be filled; the third only with `with_entropy`.
        scale: The head's.
        with_entropy: Whether to compute entropies.
    """
    C, V = logits_CV.shape
    totals_C = logits_CV.new_empty(C, dtype=torch.float32)
    _read[(C,)](
        logits_CV, targets_C, figures[0], figures[1], figures[2], totals_C, V, scale, with_entropy, _BLOCK, num_warps=16
    )
    return totals_C


def write_gradient(
    logits_CV: torch.Tensor, targets_C: torch.Tensor, slopes_C: torch.Tensor, totals_C: torch.Tensor, scale: float
) -> None:
    """Overwrite logits with slopes times the derivative of the targets' log-probs by the raw logits.

    Args:
        logits_CV: As `read_chunk` was given them.
        targets_C: int64.
        slopes_C: Derivative of the loss by each log-prob, fp32.
        totals_C: What `read_chunk` returned.
        scale: The head's.
    """
    C, V = logits_CV.shape
    _write[(C, triton.cdiv(V, _BLOCK))](logits_CV, targets_C, slopes_C, totals_C, V, scale, _BLOCK, num_warps=8)
