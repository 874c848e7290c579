"""Attention over packed rows: documents laid end to end in one row, isolated without a mask tensor.

`register_packed_attention()` adds the back-end to transformers under `PACKED_ATTENTION`. It is a name
without a mask function, so transformers builds no mask, and extra keyword arguments of the model's
forward reach `packed_attention`: the caller passes `document_spans`.

On a CPU the flash kernel is called once a document on strided views (keys and values of grouped-query
attention un-repeated) and its backward likewise: no padding, no mask, no copies of keys or values. On
CUDA one variable-length flash call covers all documents. Shape letters: H query heads, K key/value
heads, T tokens of the row, L tokens of one document, D head size.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from posttrain.kernels.shared_prefix import Family, attend_families

PACKED_ATTENTION = "posttrain_packed"

# The CPU flash backward in bf16 has a fixed cost a document; up to this length fp32 is 1.1 to 9 times faster.
_FLOAT_BACKWARD_TOKENS = 512
_FLOAT_GROUP_TOKENS = 4096  # short documents are cast together, up to so many tokens

_flash_cpu = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_cpu_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


@dataclass(frozen=True, slots=True)
class DocumentSpans:
    """Where the documents of a packed row begin and end.

    Made by training and samplers from row lengths, read by `packed_attention`.

    Example: documents of 3 and 2 tokens have `starts = (0, 3, 5)`; `starts_device` is the same as an
    int32 tensor on the model's device, made once a micro-batch because each layer needs it on CUDA. With `families`,
    documents share prompts (`kernels.shared_prefix`) and `starts` are the families' own.
    """

    starts: tuple[int, ...]
    starts_device: torch.Tensor | None = None
    families: tuple[Family, ...] | None = None

    @classmethod
    def from_lengths(cls, lengths: Sequence[int], device: torch.device | str = "cpu") -> DocumentSpans:
        """Return the spans of documents with the given token counts."""
        starts = [0]
        for length in lengths:
            starts.append(starts[-1] + int(length))
        on_device = torch.tensor(starts, dtype=torch.int32, device=device) if str(device) != "cpu" else None
        return cls(tuple(starts), on_device)

    @property
    def max_length(self) -> int:
        """Tokens of the longest document."""
        return max(b - a for a, b in itertools.pairwise(self.starts))


# many parameters: transformers' attention interface has them
def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    document_spans: DocumentSpans | None = None,
    **unused: Any,
) -> tuple[torch.Tensor, None]:
    """Return causal attention within each document, and None in the place of attention weights.

    Args:
        module: The attention module (its `is_causal` must not be false).
        query: [1, H, T, D].
        key: [1, K, T, D], K divides H.
        value: [1, K, T, D], or another head size than keys have.
        attention_mask: Must be None: isolation comes from `document_spans`.
        dropout: Must be 0.
        scaling: Factor on the scores; 1/sqrt(D) if None.
        sliding_window: Keys a query sees, itself included; None is all before it.
        softcap: Scores are squashed to softcap * tanh(score / softcap) (Gemma 2, arXiv 2408.00118).
        document_spans: Where the documents begin and end.
        unused: Other arguments of transformers' interface; attention sinks (`s_aux`) are refused.

    Returns:
        Output of shape [1, T, H, D].

    Raises:
        ValueError: Something is asked for that this back-end cannot honour exactly.
    """
    if document_spans is None:
        raise ValueError("packed attention needs document_spans; use another attention back-end for generation")
    if attention_mask is not None or dropout or unused.get("s_aux") is not None:
        raise ValueError("packed attention honours neither masks nor dropout nor attention sinks")
    if not getattr(module, "is_causal", True):
        raise ValueError("packed attention is causal; this module is not")
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    if document_spans.families is not None:
        return _attend_shared(query, key, value, document_spans.families, scale, sliding_window, softcap), None
    if softcap is not None:
        return _per_document_softcap(query, key, value, document_spans, scale, sliding_window, softcap), None
    has_one_size = value.shape[-1] == query.shape[-1]  # latent attention (DeepSeek) has two; flash wants one
    if has_one_size and query.device.type == "cuda" and query.dtype in (torch.bfloat16, torch.float16):
        return _flash_cuda(query, key, value, document_spans, scale, sliding_window), None
    if has_one_size and query.device.type in ("cpu", "meta"):
        if query.shape[1] != key.shape[1] and not flash_cpu_takes_grouped_heads():
            key, value = (x.repeat_interleave(query.shape[1] // key.shape[1], 1) for x in (key, value))
        output = _PackedFlashCpu.apply(query, key, value, document_spans.starts, scale, sliding_window)
        return output, None
    return _per_document_sdpa(query, key, value, document_spans, scale, sliding_window), None


def _attend_shared(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    families: tuple[Family, ...],
    scale: float,
    window: int | None,
    softcap: float | None,
) -> torch.Tensor:
    """Documents that share prompts, where that is exact."""
    if softcap is not None:
        raise ValueError("soft-capped scores are for documents that share no prompt")
    is_flash = value.shape[-1] == query.shape[-1] and query.device.type == "cpu"
    if is_flash and query.shape[1] != key.shape[1] and not flash_cpu_takes_grouped_heads():
        key, value = (x.repeat_interleave(query.shape[1] // key.shape[1], 1) for x in (key, value))
    return attend_families(query, key, value, families, scale, window=window, is_flash=is_flash)


def register_packed_attention() -> str:
    """Add the back-end to transformers (again does nothing) and return its name."""
    from transformers import AttentionInterface

    AttentionInterface.register(PACKED_ATTENTION, packed_attention)
    return PACKED_ATTENTION


def choose_masked_attention(causal_lm: Any) -> str:
    """Return transformers' back-end that computes a model as it is defined, for single and padded rows.

    That is `sdpa`, but `eager` where an architecture has no sdpa or caps its attention scores, which sdpa cannot.
    """
    caps_scores = getattr(causal_lm.config.get_text_config(), "attn_logit_softcapping", None) is not None
    return "sdpa" if getattr(causal_lm, "_supports_sdpa", False) and not caps_scores else "eager"


@functools.cache
def flash_cpu_takes_grouped_heads() -> bool:
    """Return whether this torch's CPU flash kernel, forward and backward, takes fewer key than query heads."""
    query, key = torch.ones(1, 2, 2, 8), torch.ones(1, 1, 2, 8)
    try:
        out, lse = _flash_cpu(query, key, key, 0.0, True)
        grads = _flash_cpu_backward(out, query, key, key, out, lse, 0.0, True)
    except RuntimeError:
        return False
    return bool(out.shape == query.shape and grads[1].shape == key.shape)


class _PackedFlashCpu(torch.autograd.Function):
    """The CPU flash kernel over documents, forward and backward, writing into one buffer each."""

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        starts: tuple[int, ...],
        scale: float,
        window: int | None,
    ) -> torch.Tensor:
        _, H, T, D = query.shape
        output = query.new_empty(1, T, H, D)
        logsumexps = []
        for a, b in itertools.pairwise(starts):
            mask = _window_mask(b - a, window, query)
            out, logsumexp = _flash_cpu(
                query[:, :, a:b], key[:, :, a:b], value[:, :, a:b], 0.0, mask is None, attn_mask=mask, scale=scale
            )
            output[:, a:b] = out.transpose(1, 2)
            logsumexps.append(logsumexp)
        ctx.save_for_backward(query, key, value, output, *logsumexps)
        ctx.starts, ctx.scale, ctx.window = starts, scale, window
        return output

    @staticmethod
    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[Any, ...]:
        query, key, value, output, *logsumexps = ctx.saved_tensors
        grad_query, grad_key, grad_value = (_empty_like_transposed(x) for x in (query, key, value))
        out, grad_out = output.transpose(1, 2), grad_output.transpose(1, 2)
        index = 0
        for starts in _group_documents(ctx.starts):
            first, last = starts[0], starts[-1]
            rows = [x[:, :, first:last] for x in (grad_out, query, key, value, out)]
            if starts[1] - first <= _FLOAT_BACKWARD_TOKENS:
                rows = [x.float() for x in rows]
            for a, b in itertools.pairwise(starts):
                mask = _window_mask(b - a, ctx.window, rows[1])
                document = [x[:, :, a - first : b - first] for x in rows]
                grads = _flash_cpu_backward(
                    *document, logsumexps[index], 0.0, mask is None, attn_mask=mask, scale=ctx.scale
                )
                for buffer, grad in zip((grad_query, grad_key, grad_value), grads, strict=True):
                    buffer[:, :, a:b] = grad
                index += 1
        return grad_query, grad_key, grad_value, None, None, None


def _group_documents(starts: tuple[int, ...]) -> list[list[int]]:
    """Return the starts cut into groups: short documents together, to be cast at once; a long one alone."""
    groups: list[list[int]] = []
    was_long = True
    for a, b in itertools.pairwise(starts):
        is_long = b - a > _FLOAT_BACKWARD_TOKENS
        if is_long or was_long or b - groups[-1][0] > _FLOAT_GROUP_TOKENS:
            groups.append([a, b])
        else:
            groups[-1].append(b)
        was_long = is_long
    return groups


def _empty_like_transposed(tensor: torch.Tensor) -> torch.Tensor:
    """Return an empty [1, H, T, D] view of [1, T, H, D] memory, which the projections' backward reads in place."""
    _, heads, tokens, size = tensor.shape
    return tensor.new_empty(1, tokens, heads, size).transpose(1, 2)


def _window_mask(length: int, window: int | None, like: torch.Tensor) -> torch.Tensor | None:
    """Return an additive [L, L] mask of a causal sliding window, or None where plain causal is the same."""
    if window is None or length <= window:
        return None
    rows = torch.arange(length, device=like.device)
    distance = rows[:, None] - rows[None, :]
    hidden = (distance < 0) | (distance >= window)
    return torch.zeros(length, length, dtype=like.dtype, device=like.device).masked_fill_(hidden, float("-inf"))


def _flash_cuda(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    spans: DocumentSpans,
    scale: float,
    window: int | None,
) -> torch.Tensor:
    """One variable-length flash call; autograd knows its backward."""
    starts = spans.starts_device
    if starts is None:
        starts = torch.tensor(spans.starts, dtype=torch.int32, device=query.device)
    rows = [x[0].transpose(0, 1) for x in (query, key, value)]  # [T, heads, D]
    limits = {} if window is None else {"window_size_left": window - 1, "window_size_right": 0}
    result = torch.ops.aten._flash_attention_forward(
        *rows, starts, starts, spans.max_length, spans.max_length, 0.0, True, False, scale=scale, **limits
    )
    return result[0][None]


def _per_document_sdpa(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    spans: DocumentSpans,
    scale: float,
    window: int | None,
) -> torch.Tensor:
    """Any device and dtype: one `scaled_dot_product_attention` call a document."""
    outputs = []
    for a, b in itertools.pairwise(spans.starts):
        mask = _window_mask(b - a, window, query)
        out = scaled_dot_product_attention(
            query[:, :, a:b],
            key[:, :, a:b],
            value[:, :, a:b],
            attn_mask=mask,
            is_causal=mask is None,
            scale=scale,
            enable_gqa=query.shape[1] != key.shape[1],
        )
        outputs.append(out.transpose(1, 2))
    return torch.cat(outputs, 1)


def _per_document_softcap(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    spans: DocumentSpans,
    scale: float,
    window: int | None,
    softcap: float,
) -> torch.Tensor:
    """Soft-capped scores, which no flash kernel here takes: explicit products, one document at a time."""
    groups = query.shape[1] // key.shape[1]
    outputs = []
    for a, b in itertools.pairwise(spans.starts):
        keys, values = (x[:, :, a:b].repeat_interleave(groups, 1) for x in (key, value))
        scores = softcap * torch.tanh(query[:, :, a:b] @ keys.transpose(-1, -2) * scale / softcap)
        rows = torch.arange(b - a, device=query.device)
        distance = rows[:, None] - rows[None, :]
        hidden = (distance < 0) | (distance >= (window or b - a))
        weights = torch.softmax(scores.masked_fill(hidden, float("-inf")), -1, dtype=torch.float32).to(query.dtype)
        outputs.append((weights @ values).transpose(1, 2))
    return torch.cat(outputs, 1)
