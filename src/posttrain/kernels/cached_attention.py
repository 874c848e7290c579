"""Attention of a sampler: new tokens against keys and values that are kept, in two kinds of pass.

`register_cached_attention()` adds the back-end to transformers under `CACHED_ATTENTION`, a name without a
mask function; the caller passes `cached_step`. A `Prefill` runs prompts, or pieces of them, laid end to end,
and keeps their keys and values. A `Decode` runs one new token for each of B sequences: two batched products
over grouped queries, which beat a flash kernel with one query row several times over. Sequences that were
drawn from one prompt share its keys and values: the queries of a whole group meet them in one product.

Shape letters: B sequences, T tokens of a pass, H query heads, K key/value heads, G = H / K, D head size,
R rows of a buffer, S tokens that a row holds, P groups, M sequences of a group, N tokens that are looked at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from posttrain.kernels.attention import DocumentSpans, packed_attention

CACHED_ATTENTION = "posttrain_cached"


@dataclass(frozen=True, slots=True)
class LayerCache:
    """One layer's keys and values, [R, K, S, D] each; a row belongs to a sequence or to a shared prompt."""

    keys: torch.Tensor
    values: torch.Tensor


@dataclass(frozen=True, slots=True)
class PromptPiece:
    """Tokens `start` to `start + length` of the prompt that fills `row` of the buffers from their beginning."""

    row: int
    start: int
    length: int


@dataclass(frozen=True, slots=True)
class Prefill:
    """A pass over prompts. Made by `samplers/kv_cache.py`, read by `cached_attention`.

    `layers` are the buffers to fill. Tokens behind the pieces, which `spans` know as one more document, are a filler:
    nothing of them is kept. Example: two whole prompts of 5 and 3 tokens for rows 0 and 4 have
    `pieces = [PromptPiece(0, 0, 5), PromptPiece(4, 0, 3)]` and T = 8.
    """

    layers: Sequence[LayerCache]
    pieces: Sequence[PromptPiece]
    spans: DocumentSpans

    @property
    def is_whole(self) -> bool:
        """Whether no piece has a beginning that earlier passes have run."""
        return all(piece.start == 0 for piece in self.pieces)


@dataclass(frozen=True, slots=True)
class SharedPrompts:
    """The part of a `Decode` that sequences of one group share.

    `layers` are the buffers of prompts, of which the first P rows are read up to N tokens. For each number of
    heads K, `row_of_member[K]` says which sequence and head, as b K + k, stands at each place p, k, m of the
    groups, flat [P * K * M], any where a place is empty; `member_of_row[K]` is the place of each sequence and
    head, flat [B * K]. `slots_B` is the row of each sequence's prompt and `lengths_B` its tokens, int64.
    """

    layers: Sequence[LayerCache]
    num_groups: int
    num_tokens: int
    slots_B: torch.Tensor
    lengths_B: torch.Tensor
    row_of_member: Mapping[int, torch.Tensor]
    member_of_row: Mapping[int, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Decode:
    """A pass over one new token of each of B sequences. Made by `samplers/kv_cache.py`, read by `cached_attention`.

    `layers`: the sequences' own buffers, sequence b in row b, of which `lengths_B` tokens are kept, int64.
    `num_tokens`: how far the buffers are read, N >= the longest and the new token. Compiled kernels need no more; for
    torch's operations `write_index` says for each number of heads K where the new keys go, flat [B * K], in buffers
    seen as [R * K * S, D], and `masks` for each sliding window (None: no window) what is added to scores, fp32
    [B, 1, 1, N'], 0 or -inf, where N' is N with the shared prompts' tokens before it.
    """

    layers: Sequence[LayerCache]
    lengths_B: torch.Tensor
    write_index: Mapping[int, torch.Tensor]
    num_tokens: int
    masks: Mapping[int | None, torch.Tensor]
    shared: SharedPrompts | None = None


def register_cached_attention() -> str:
    """Add the back-end to transformers (again does nothing) and return its name."""
    from transformers import AttentionInterface

    AttentionInterface.register(CACHED_ATTENTION, cached_attention)
    return CACHED_ATTENTION


# many parameters: transformers' attention interface has them
def cached_attention(
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
    cached_step: Prefill | Decode | None = None,
    **unused: Any,
) -> tuple[torch.Tensor, None]:
    """Return the attention output [1, T, H, D] of a prefill or decode pass, and None in the place of weights.

    Args:
        module: The attention module; its `layer_idx` chooses the buffers.
        query: [1, H, T, D]; T is B where one token of each sequence is run.
        key: [1, K, T, D], new ones; they are kept.
        value: [1, K, T, D], or another head size than keys have.
        attention_mask: Must be None.
        dropout: Must be 0.
        scaling: Factor on the scores; 1/sqrt(D) if None.
        sliding_window: Keys a query sees, itself included; None is all before it.
        softcap: Scores are squashed to softcap * tanh(score / softcap).
        cached_step: What kind of pass this is, and its buffers.
        unused: Other arguments of transformers' interface; attention sinks (`s_aux`) are refused.

    Raises:
        ValueError: Something is asked for that this back-end cannot honour exactly.
    """
    if cached_step is None:
        raise ValueError("cached attention needs cached_step; use another attention back-end elsewhere")
    _refuse(module, has_mask=attention_mask is not None or unused.get("s_aux") is not None, dropout=dropout)
    layer: Any = module.layer_idx
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    if isinstance(cached_step, Decode):
        rows = [x[0].transpose(0, 1) for x in (query, key, value)]
        output = attend_decode(
            rows[0], rows[1], rows[2], cached_step, layer, scale=scale, window=sliding_window, softcap=softcap
        )
        return output[None], None
    cache = cached_step.layers[layer]
    _keep(cache, key, value, cached_step)
    if cached_step.is_whole:
        return packed_attention(
            module,
            query,
            key,
            value,
            None,
            scaling=scale,
            sliding_window=sliding_window,
            softcap=softcap,
            document_spans=cached_step.spans,
        )
    return _attend_pieces(query, cache, cached_step, scale, sliding_window, softcap), None


def _refuse(module: torch.nn.Module, *, has_mask: bool, dropout: float) -> None:
    if has_mask or dropout:
        raise ValueError("cached attention honours neither masks nor dropout nor attention sinks")
    if not getattr(module, "is_causal", True):
        raise ValueError("cached attention is causal; this module is not")


def _keep(cache: LayerCache, key: torch.Tensor, value: torch.Tensor, step: Prefill) -> None:
    begin = 0
    for piece in step.pieces:
        end, tokens = begin + piece.length, slice(piece.start, piece.start + piece.length)
        cache.keys[piece.row, :, tokens] = key[0, :, begin:end]
        cache.values[piece.row, :, tokens] = value[0, :, begin:end]
        begin = end


# many parameters: one layer's tensors and constants
def _attend_pieces(
    query: torch.Tensor,
    cache: LayerCache,
    step: Prefill,
    scale: float,
    window: int | None,
    softcap: float | None,
) -> torch.Tensor:
    """Let each piece look at its own prompt's keys from the beginning, causally."""
    outputs = []
    begin = 0
    for piece in step.pieces:
        stop = piece.start + piece.length
        keys, values = (x[piece.row : piece.row + 1, :, :stop] for x in (cache.keys, cache.values))
        queries = query[:, :, begin : begin + piece.length]
        distance = torch.arange(piece.start, stop, device=query.device)[:, None] - torch.arange(
            stop, device=query.device
        )
        is_seen = distance >= 0 if window is None else (distance >= 0) & (distance < window)
        if softcap is None:
            groups = query.shape[1] != keys.shape[1]
            out = scaled_dot_product_attention(queries, keys, values, attn_mask=is_seen, scale=scale, enable_gqa=groups)
        else:
            repeats = query.shape[1] // keys.shape[1]
            keys, values = keys.repeat_interleave(repeats, 1), values.repeat_interleave(repeats, 1)
            scores = (queries @ keys.transpose(-1, -2)).float() * scale
            scores = (softcap * torch.tanh(scores / softcap)).masked_fill(~is_seen, float("-inf"))
            out = torch.softmax(scores, -1).to(values.dtype) @ values
        outputs.append(out.transpose(1, 2))
        begin += piece.length
    if begin < query.shape[2]:  # the filler's output is read by nobody
        outputs.append(query.new_zeros(1, query.shape[2] - begin, query.shape[1], cache.values.shape[-1]))
    return torch.cat(outputs, 1)


# many parameters: one layer's tensors and constants
def attend_decode(
    query_BHD: torch.Tensor,
    key_BKD: torch.Tensor,
    value_BKD: torch.Tensor,
    step: Decode,
    layer: int,
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
) -> torch.Tensor:
    """Keep the keys and values of one new token of each sequence, and return its attention output [B, H, D].

    Arguments as for `cached_attention`, with a row for each sequence; `value_BKD` may have another head size.
    """
    B, H, D = query_BHD.shape
    own, shared, mask = step.layers[layer], step.shared, step.masks[window]
    _, K, S, _ = own.keys.shape
    G, size = H // K, value_BKD.shape[-1]
    own.keys.view(-1, D).index_copy_(0, step.write_index[K], key_BKD.reshape(B * K, D))
    own.values.view(-1, size).index_copy_(0, step.write_index[K], value_BKD.reshape(B * K, size))
    grouped = query_BHD.reshape(B * K, G, D)
    keys = own.keys[:B].view(B * K, S, D)[:, : step.num_tokens]
    own_scores = torch.bmm(grouped, keys.transpose(1, 2)).view(B, K, G, -1)
    count = shared.num_tokens if shared is not None else 0
    scores = torch.empty(B, K, G, count + step.num_tokens, dtype=torch.float32, device=query_BHD.device)
    _scale(own_scores, mask[..., count:], scale, softcap, scores[..., count:])
    if shared is not None:
        _scale(_score_shared(grouped, shared, layer, K), mask[..., :count], scale, softcap, scores[..., :count])
    weights = torch.softmax(scores, -1)
    own_weights = weights[..., count:].to(value_BKD.dtype).reshape(B * K, G, -1)
    output = torch.bmm(own_weights, own.values[:B].view(B * K, S, size)[:, : step.num_tokens])
    if shared is not None:
        part = weights[..., :count].to(value_BKD.dtype).reshape(B * K, G * count)
        output = output + _weigh_shared(part, shared, layer, K, G)
    return output.view(B, H, size)


def _scale(scores: torch.Tensor, mask: torch.Tensor, scale: float, softcap: float | None, out: torch.Tensor) -> None:
    """Write scaled, capped and masked scores, in fp32."""
    if softcap is None:
        torch.add(mask, scores, alpha=scale, out=out)
    else:
        torch.add(mask, torch.tanh(scores.float() * (scale / softcap)), alpha=softcap, out=out)


def _score_shared(grouped: torch.Tensor, shared: SharedPrompts, layer: int, K: int) -> torch.Tensor:
    """Return the scores [B, K, G, N] of the sequences' queries [B * K, G, D] against their groups' prompts."""
    keys = shared.layers[layer].keys[: shared.num_groups]
    P, _, S, D = keys.shape
    G, N = grouped.shape[1], shared.num_tokens
    members = grouped.view(-1, G * D).index_select(0, shared.row_of_member[K]).view(P * K, -1, D)
    scores = torch.bmm(members, keys.view(P * K, S, D)[:, :N].transpose(1, 2))
    return scores.view(-1, G * N).index_select(0, shared.member_of_row[K]).view(-1, K, G, N)


def _weigh_shared(weights: torch.Tensor, shared: SharedPrompts, layer: int, K: int, G: int) -> torch.Tensor:
    """Return the part [B * K, G, D] of the output that comes from the groups' prompts; weights are [B * K, G * N]."""
    values = shared.layers[layer].values[: shared.num_groups]
    P, _, S, D = values.shape
    N = shared.num_tokens
    members = weights.index_select(0, shared.row_of_member[K]).view(P * K, -1, N)
    output = torch.bmm(members, values.view(P * K, S, D)[:, :N])
    return output.view(-1, G * D).index_select(0, shared.member_of_row[K]).view(-1, G, D)
