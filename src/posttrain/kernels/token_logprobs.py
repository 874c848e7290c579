"""Hidden states to log-probs of chosen tokens, chunk by chunk: no tensor of [tokens, vocabulary] exists.

`score_tokens` is for losses that are weighted sums over tokens (SFT, policy gradients). In each chunk
of rows it forms the logits, their log-sum-exp and the chosen log-probs in fp32, asks the objective for
its derivative by the log-probs, and overwrites the logits with the gradient at once:

    d loss / d logits[n, v] = (w_n dl_n/dlogp_n) (1[v = target_n] - p[n, v])

so that the head costs three matrix products and no recomputation, and no gradient of the head is
formed when it is frozen. `coupled_logprobs` is for losses of whole completions and pairs. Shape letters: N scored
rows, C rows of a chunk, H hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch

from posttrain.kernels.score_kernels import ScoreKernels, find_score_kernels
from posttrain.kernels.truncation import find_largest_tokens

TokenObjective = Callable[[torch.Tensor, Mapping[str, torch.Tensor]], torch.Tensor]
"""Maps (policy log-probs [C], row constants each [C]) to a loss [C]; must act on each row alone."""

CHUNK_ROWS = 512  # least rows of a chunk
GPU_CHUNK_ROWS = 2048  # a GPU's products and sums of the head's gradient pay only with more
CHUNK_ELEMENTS = 1 << 22  # small vocabularies take more rows: fewer products, and fewer sums of the head's gradient
_ROW_MULTIPLE = 64
_BLOCK_TOKENS = 128
_TILE_ELEMENTS = 1 << 18  # fp32 elements of one tile: 1 MiB, so that every pass after the first stays in cache


@dataclass(frozen=True, slots=True)
class Head:
    """How the last hidden state becomes logits.

    logits = scale * (hidden @ weight.T + bias), then softcap * tanh(logits / softcap) if `softcap`.
    Made by `models/heads.py`, read here. `weight` is [V, H], `bias` [V] or None. `kernels` score its logits on a CPU
    where no cap is set; None is torch.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None
    kernels: ScoreKernels | None = None


@dataclass(frozen=True, slots=True)
class TokenScores:
    """What scoring gives: a loss to differentiate, and per-row figures that carry no gradient.

    `loss` is a scalar, the weighted sum; `logprobs_N` nats in fp32 under the full distribution;
    `is_argmax_N` whether the target has the largest logit; `entropies_N` nats, or None if not asked for.
    """

    loss: torch.Tensor
    logprobs_N: torch.Tensor
    is_argmax_N: torch.Tensor
    entropies_N: torch.Tensor | None


def count_chunk_rows(vocabulary: int, device_type: str = "cpu") -> int:
    """Return how many rows' logits exist at once, a multiple of 64: more of a small vocabulary.

    At least 512 on a CPU and 2,048 on a GPU.
    """
    least = GPU_CHUNK_ROWS if device_type == "cuda" else CHUNK_ROWS
    return max(least, CHUNK_ELEMENTS // vocabulary // _ROW_MULTIPLE * _ROW_MULTIPLE)


# many parameters: what a loss of tokens is made of
def score_tokens(
    hidden_NH: torch.Tensor,
    head: Head,
    targets_N: torch.Tensor,
    weights_N: torch.Tensor,
    objective: TokenObjective,
    constants: Mapping[str, torch.Tensor] | None = None,
    *,
    with_entropy: bool = False,
    bounds: Sequence[int] | None = None,
) -> TokenScores:
    """Return the weighted sum of a token objective, differentiable by hidden states and head.

    Args:
        hidden_NH: Last hidden states of the scored rows, fp32 or bf16.
        head: Weight, bias, scale and soft cap.
        targets_N: Token ids, int64, in [0, V).
        weights_N: fp32 factors of each row's loss; the denominator is in them already
            (`objectives.reduction`).
        objective: See `TokenObjective`.
        constants: Row constants by name, each [N].
        with_entropy: Also compute each row's entropy.
        bounds: Where chunks begin and the last one ends, 0 to N, rising; by default every `count_chunk_rows` rows.
    """
    if bounds is None:
        count = len(targets_N)
        bounds = [*range(0, count, count_chunk_rows(head.weight.shape[0], head.weight.device.type)), count]
    loss, logprobs, is_argmax, entropies = _ScoreTokens.apply(
        hidden_NH, head.weight, head.bias, targets_N, weights_N, objective, dict(constants or {}), head, with_entropy,
        bounds,
    )  # fmt: skip
    return TokenScores(loss, logprobs, is_argmax, entropies if with_entropy else None)


class _ScoreTokens(torch.autograd.Function):
    # many parameters: autograd functions take their inputs one by one
    @staticmethod
    def forward(
        ctx: Any,
        hidden_NH: torch.Tensor,
        weight_VH: torch.Tensor,
        bias_V: torch.Tensor | None,
        targets_N: torch.Tensor,
        weights_N: torch.Tensor,
        objective: TokenObjective,
        constants: dict[str, torch.Tensor],
        head: Head,
        with_entropy: bool,
        bounds: Sequence[int],
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        needs_grad = needs_hidden or needs_weight or needs_bias
        N = hidden_NH.shape[0]
        num_chunks = len(bounds) - 1
        figures = hidden_NH.new_empty((4, N), dtype=torch.float32)  # logprob, is_argmax, entropy, loss
        grad_hidden = torch.empty_like(hidden_NH) if needs_hidden else None
        # One chunk's product is exact enough in the weight's dtype; a sum over chunks is kept in fp32.
        grad_weight: torch.Tensor | None = None
        grad_bias = torch.zeros_like(bias_V, dtype=torch.float32) if needs_bias and bias_V is not None else None
        for start, end in pairwise(bounds):
            rows, count = slice(start, end), end - start
            hidden = _pad_rows(hidden_NH[rows])
            logits = hidden @ weight_VH.T
            if bias_V is not None:
                logits += bias_V
            row_constants = {name: values[rows] for name, values in constants.items()}
            _score_chunk(
                logits[:count], targets_N[rows], weights_N[rows], objective, row_constants, head,
                figures[:, rows], needs_grad, with_entropy,
            )  # fmt: skip
            if not needs_grad:
                continue
            logits[count:] = 0
            if grad_hidden is not None:
                grad_hidden[rows] = (logits @ weight_VH)[:count]
            if needs_weight:
                product = logits.T @ hidden
                if num_chunks == 1:
                    grad_weight = product
                elif grad_weight is None:
                    grad_weight = product.float()
                else:
                    grad_weight.add_(product)
            if grad_bias is not None:
                grad_bias += logits.sum(0, dtype=torch.float32)
        if grad_weight is not None:
            grad_weight = grad_weight.to(weight_VH.dtype)
        elif needs_weight:
            grad_weight = torch.zeros_like(weight_VH)
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
        ctx.bias_dtype = bias_V.dtype if bias_V is not None else None
        loss = (figures[3] * weights_N).sum()
        logprobs, is_argmax, entropies = figures[0], figures[1].bool(), figures[2]
        ctx.mark_non_differentiable(logprobs, is_argmax, entropies)
        return loss, logprobs, is_argmax, entropies

    @staticmethod
    def backward(ctx: Any, grad_loss: torch.Tensor, *unused: Any) -> tuple[Any, ...]:
        grads = list(ctx.saved_tensors)
        if grad_loss.device.type != "cpu" or float(grad_loss) != 1.0:
            grads = [grad * grad_loss.to(grad.dtype) if grad is not None else None for grad in grads]
        if grads[2] is not None:
            grads[2] = grads[2].to(ctx.bias_dtype)
        return *grads, None, None, None, None, None, None, None


@dataclass(frozen=True, slots=True)
class RowLogprobs:
    """Log-probs of chosen tokens, and of the most probable ones where they are asked for.

    Made by `compute_row_logprobs`. Nats in fp32 under the full distribution; `top_ids_NK` int64, most probable
    first and the lowest id of equals before the others.

    Example: logits `[0, ln 3]`, target 0 and one token asked for: `logprobs_N = [ln 0.25]`, `top_ids_NK = [[1]]`,
    `top_logprobs_NK = [[ln 0.75]]`.
    """

    logprobs_N: torch.Tensor
    top_ids_NK: torch.Tensor | None = None
    top_logprobs_NK: torch.Tensor | None = None


@torch.no_grad()
def compute_row_logprobs(
    hidden_NH: torch.Tensor, head: Head, targets_N: torch.Tensor, *, temperature: float = 1.0, num_top: int = 0
) -> RowLogprobs:
    """Return log-probs of chosen tokens without a gradient, chunk by chunk as `score_tokens` does.

    log softmax(logits / temperature) at the target and at the K most probable tokens.

    Args:
        hidden_NH: Last hidden states of the scored rows, in the head's dtype.
        head: Weight, bias, scale and soft cap.
        targets_N: Token ids, int64, in [0, V).
        temperature: Logits are divided by it, > 0.
        num_top: How many of the most probable tokens to give of each row, at most V of them.
    """
    N, V, K = hidden_NH.shape[0], head.weight.shape[0], min(num_top, head.weight.shape[0])
    device = hidden_NH.device
    result = RowLogprobs(
        torch.empty(N, device=device),
        torch.empty(N, K, dtype=torch.int64, device=device) if K else None,
        torch.empty(N, K, device=device) if K else None,
    )
    chunk_rows = count_chunk_rows(V, device.type)
    for start in range(0, N, chunk_rows):
        rows = slice(start, min(start + chunk_rows, N))
        logits = (_pad_rows(hidden_NH[rows]) @ head.weight.T)[: rows.stop - rows.start]
        if head.bias is not None:
            logits += head.bias
        _fill_row_logprobs(logits, head, targets_N[rows], temperature, result, rows)
    return result


def _fill_row_logprobs(
    logits_CV: torch.Tensor,
    head: Head,
    targets_C: torch.Tensor,
    temperature: float,
    result: RowLogprobs,
    rows: slice,
) -> None:
    """Fill one chunk's rows of the result, on a CPU tile by tile."""
    C, V = logits_CV.shape
    is_compiled = head.softcap is None and result.top_ids_NK is None
    kernels = find_score_kernels(logits_CV, head.kernels) if is_compiled else None
    if kernels is not None:
        figures = logits_CV.new_empty((3, C), dtype=torch.float32)
        kernels.read_chunk(logits_CV, targets_C, figures, head.scale / temperature, with_entropy=False)
        result.logprobs_N[rows] = figures[0]
        return
    # Whole blocks, among which the most probable tokens are found; what is behind the vocabulary is never one.
    width = -(-V // _BLOCK_TOKENS) * _BLOCK_TOKENS if result.top_ids_NK is not None else V
    tile_rows = min(C, max(1, _TILE_ELEMENTS // width)) if logits_CV.device.type == "cpu" else C
    buffer = logits_CV.new_full((tile_rows, width), float("-inf"), dtype=torch.float32)
    for start in range(0, C, tile_rows):
        tile = slice(start, min(start + tile_rows, C))
        filled = slice(rows.start + tile.start, rows.start + tile.stop)
        scores = buffer[: tile.stop - tile.start]
        values = scores[:, :V]
        values.copy_(logits_CV[tile])
        _apply_scale_and_cap(values, head)
        if temperature != 1.0:
            values.div_(temperature)
        chosen = values.gather(1, targets_C[tile, None])
        if result.top_ids_NK is not None and result.top_logprobs_NK is not None:
            ids, top = find_largest_tokens(scores, result.top_ids_NK.shape[1], _BLOCK_TOKENS)
            result.top_ids_NK[filled], result.top_logprobs_NK[filled] = ids, top
        largest = values.amax(1, keepdim=True)
        log_totals = values.sub_(largest).exp_().sum(1, keepdim=True).log_()
        result.logprobs_N[filled] = (chosen - largest - log_totals)[:, 0]
        if result.top_logprobs_NK is not None:
            result.top_logprobs_NK[filled] -= largest + log_totals


def _pad_rows(hidden_CH: torch.Tensor) -> torch.Tensor:
    """Round a chunk's rows up with zeros, since a matrix-product kernel is compiled and kept for every shape."""
    missing = -len(hidden_CH) % _ROW_MULTIPLE
    return torch.nn.functional.pad(hidden_CH, (0, 0, 0, missing)) if missing else hidden_CH


# many parameters: one chunk of each of score_tokens' own
def _score_chunk(
    logits_CV: torch.Tensor,
    targets_C: torch.Tensor,
    weights_C: torch.Tensor,
    objective: TokenObjective,
    constants: Mapping[str, torch.Tensor],
    head: Head,
    figures: torch.Tensor,
    needs_grad: bool,
    with_entropy: bool,
) -> None:
    """Fill `figures` [4, C] and, if a gradient is needed, overwrite the logits with it; in torch tile by tile."""
    C, V = logits_CV.shape
    kernels = find_score_kernels(logits_CV, head.kernels) if head.softcap is None else None
    if kernels is not None:
        totals_C = kernels.read_chunk(logits_CV, targets_C, figures, head.scale, with_entropy=with_entropy)
        if needs_grad:
            figures[3], slopes = _differentiate(objective, figures[0], constants)
            kernels.write_gradient(logits_CV, targets_C, slopes * weights_C, totals_C, head.scale)
        else:
            figures[3] = objective(figures[0], constants)
        return
    tile_rows = max(1, _TILE_ELEMENTS // V) if logits_CV.device.type == "cpu" else C
    buffer = logits_CV.new_empty((min(tile_rows, C), V), dtype=torch.float32)
    for start in range(0, C, tile_rows):
        rows = slice(start, min(start + tile_rows, C))
        values = buffer[: rows.stop - rows.start]
        values.copy_(logits_CV[rows])
        tanh = _apply_scale_and_cap(values, head)
        targets = targets_C[rows, None]
        chosen = values.gather(1, targets)
        largest = values.amax(1, keepdim=True)
        values.sub_(largest)
        shifted = values.clone() if with_entropy else None
        values.exp_()
        total = values.sum(1, keepdim=True)
        logprobs = (chosen - largest - total.log())[:, 0]
        figures[0, rows] = logprobs
        figures[1, rows] = (chosen >= largest)[:, 0].float()
        if shifted is not None:
            figures[2, rows] = (total.log() - (values * shifted).sum(1, keepdim=True) / total)[:, 0]
        row_constants = {name: constant[rows] for name, constant in constants.items()}
        if not needs_grad:
            figures[3, rows] = objective(logprobs, row_constants)
            continue
        figures[3, rows], slopes = _differentiate(objective, logprobs, row_constants)
        slopes = (slopes * weights_C[rows])[:, None]
        values.mul_(-slopes / total)
        values.scatter_add_(1, targets, slopes)
        if tanh is not None:
            values.mul_(1 - tanh * tanh)
        if head.scale != 1.0:
            values.mul_(head.scale)
        logits_CV[rows] = values.to(logits_CV.dtype)


def _differentiate(
    objective: TokenObjective, logprobs_C: torch.Tensor, constants: Mapping[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return an objective's loss [C] and its derivative by the log-probs [C]."""
    with torch.enable_grad():
        leaf = logprobs_C.detach().requires_grad_()
        losses = objective(leaf, constants)
        (slopes,) = torch.autograd.grad(losses.sum(), leaf)
    return losses.detach(), slopes


def _apply_scale_and_cap(values: torch.Tensor, head: Head) -> torch.Tensor | None:
    """Scale and soft-cap raw logits in place; return the tanh that the cap's derivative needs."""
    if head.scale != 1.0:
        values.mul_(head.scale)
    if head.softcap is None:
        return None
    tanh = torch.tanh(values / head.softcap)
    torch.mul(tanh, head.softcap, out=values)
    return tanh
