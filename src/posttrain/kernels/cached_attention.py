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

    `layers` are the buffers of prompts, of which the first P rows are read up to N tokens. `row_of_member_PM`
    is the sequence in each place of a group, flat [P * M], any where a place is empty; `member_of_row_B` is
    each sequence's place. `masks` as in `Decode`, [B, 1, 1, N].
    """

    layers: Sequence[LayerCache]
    num_groups: int
    num_tokens: int
    row_of_member_PM: torch.Tensor
    member_of_row_B: torch.Tensor
    masks: Mapping[int | None, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Decode:
    """A pass over one new token of each of B sequences. Made by `samplers/kv_cache.py`, read by `cached_attention`.

    `layers`: the sequences' own buffers, sequence b in row b. `write_index`: for each number of heads K, where
    the new keys go, flat [B * K], in buffers seen as [R * K * S, D]. `num_tokens`: how far the buffers are read,
    N >= the longest. `masks`: for each sliding window (None: no window) what is added to scores, fp32
    [B, 1, 1, N], 0 or -inf.
    """

    layers: Sequence[LayerCache]
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
    if attention_mask is not None or dropout or unused.get("s_aux") is not None:
        raise ValueError("cached attention honours neither masks nor dropout nor attention sinks")
    if not getattr(module, "is_causal", True):
        raise ValueError("cached attention is causal; this module is not")
    layer: Any = module.layer_idx
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    if isinstance(cached_step, Decode):
        return _decode(query, key, value, cached_step, layer, scale, sliding_window, softcap), None
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
def _decode(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    step: Decode,
    layer: int,
    scale: float,
    window: int | None,
    softcap: float | None,
) -> torch.Tensor:
    _, H, B, D = query.shape
    own = step.layers[layer]
    _, K, S, _ = own.keys.shape
    size = value.shape[-1]
    for buffer, new in ((own.keys, key), (own.values, value)):
        rows = new[0].transpose(0, 1).reshape(B * K, new.shape[-1])
        buffer.view(-1, new.shape[-1]).index_copy_(0, step.write_index[K], rows)
    grouped = query[0].transpose(0, 1).reshape(B * K, H // K, D)
    keys = own.keys[:B].view(B * K, S, D)[:, : step.num_tokens]
    scores = torch.bmm(grouped, keys.transpose(1, 2)).view(B, K, H // K, -1)
    mask = step.masks[window]
    if step.shared is not None:
        scores = torch.cat([_score_shared(grouped, step.shared, layer, B), scores], -1)
        mask = torch.cat([step.shared.masks[window], mask], -1)
    if softcap is None:
        scores = torch.add(mask, scores, alpha=scale)  # fp32, as the mask is
    else:
        scores = torch.add(mask, torch.tanh(scores.float() * (scale / softcap)), alpha=softcap)
    weights = torch.softmax(scores, -1).to(value.dtype)
    values = own.values[:B].view(B * K, S, size)[:, : step.num_tokens]
    count = step.shared.num_tokens if step.shared is not None else 0
    output = torch.bmm(weights[..., count:].reshape(B * K, H // K, -1), values).view(B, K, H // K, size)
    if step.shared is not None:
        output = output + _weigh_shared(weights[..., :count], step.shared, layer)
    return output.reshape(1, B, H, size)


def _score_shared(grouped: torch.Tensor, shared: SharedPrompts, layer: int, B: int) -> torch.Tensor:
    """Return the scores [B, K, G, N] of the sequences' queries against their groups' prompts."""
    keys = shared.layers[layer].keys[: shared.num_groups]
    P, K, S, D = keys.shape
    G = grouped.shape[1]
    members = grouped.view(B, K, G, D).index_select(0, shared.row_of_member_PM)
    members = members.view(P, -1, K, G, D).transpose(1, 2).reshape(P * K, -1, D)
    scores = torch.bmm(members, keys.view(P * K, S, D)[:, : shared.num_tokens].transpose(1, 2))
    scores = scores.view(P, K, -1, G, shared.num_tokens).transpose(1, 2).flatten(0, 1)
    return scores.index_select(0, shared.member_of_row_B)


def _weigh_shared(weights: torch.Tensor, shared: SharedPrompts, layer: int) -> torch.Tensor:
    """Return the part [B, K, G, D] of the output that comes from the groups' prompts."""
    values = shared.layers[layer].values[: shared.num_groups]
    P, K, S, D = values.shape
    G = weights.shape[2]
    members = weights.index_select(0, shared.row_of_member_PM).view(P, -1, K, G, shared.num_tokens)
    members = members.transpose(1, 2).reshape(P * K, -1, shared.num_tokens)
    output = torch.bmm(members, values.view(P * K, S, D)[:, : shared.num_tokens])
    return output.view(P, K, -1, G, D).transpose(1, 2).flatten(0, 1).index_select(0, shared.member_of_row_B)
