"""Whether a model's keys and values can be managed by the house's engine: found out by running it.

A recording back-end says what each attention layer keeps of a token. Then a short prompt is run three ways, in
one pass, in pieces and token by token, for two sequences at once: the hidden states must agree. An architecture
that carries state outside of attention, shares keys over layers, or does not take registered attention fails,
and is sampled from by transformers' own cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from posttrain.kernels.attention import DocumentSpans, packed_attention
from posttrain.kernels.cached_attention import CACHED_ATTENTION, Decode, PromptPiece, register_cached_attention
from posttrain.samplers.graphs import DecodePass, run_backbone
from posttrain.samplers.kv_cache import CacheSizes, KvCache, LayerShape, SharedRows

_RECORDING = "posttrain_recording"
_PROBE_IDS = (7, 3, 11, 2, 5, 13, 1, 9, 4, 8, 6, 10)
_PROBE_PIECE = 7
_NUM_DECODED = 4
_TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 0.06, torch.float16: 0.01}


class UnmanagedCacheError(Exception):
    """The engine cannot keep this model's keys and values; the text says why."""


@torch.inference_mode()
def probe_layers(causal_lm: Any, backbone: Callable[..., Any]) -> list[LayerShape]:
    """Return what each attention layer keeps of a token, and leave the model on cached attention.

    Raises:
        UnmanagedCacheError: The model cannot be run by the engine.
    """
    if not getattr(causal_lm, "_supports_attention_backend", False):
        raise UnmanagedCacheError(f"{type(causal_lm).__name__} does not take a registered attention")
    shapes = _record_shapes(causal_lm, backbone)
    causal_lm.set_attn_implementation(register_cached_attention())
    if causal_lm.config._attn_implementation != CACHED_ATTENTION:
        raise UnmanagedCacheError(f"{type(causal_lm).__name__} does not take a registered attention")
    check_decode(causal_lm, backbone, shapes, partial(run_backbone, backbone))
    return shapes


@torch.inference_mode()
def check_decode(
    causal_lm: Any,
    backbone: Callable[..., Any],
    shapes: Sequence[LayerShape],
    decode: DecodePass,
    *,
    has_masks: bool = True,
) -> None:
    """Check that a decode pass agrees with the backbone's passes over whole rows.

    Args:
        causal_lm: The model.
        backbone: Its backbone, on cached attention.
        shapes: Of its layers.
        decode: The pass.
        has_masks: Whether it needs masks (`KvCache`).

    Raises:
        UnmanagedCacheError: It does not.
    """
    weight = next(causal_lm.parameters())
    cache = KvCache(shapes, weight.dtype, weight.device, budget_bytes=1 << 30, has_masks=has_masks)
    try:
        _compare_passes(backbone, decode, cache, causal_lm.config.get_text_config().vocab_size)
    except (ValueError, TypeError, RuntimeError, KeyError) as error:
        raise UnmanagedCacheError(f"a probe of cached attention failed: {error}") from error


def _record_shapes(causal_lm: Any, backbone: Callable[..., Any]) -> list[LayerShape]:
    from transformers import AttentionInterface

    seen: dict[int, LayerShape] = {}
    repeated = []

    def attend(module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, **rest: Any) -> Any:
        index = getattr(module, "layer_idx", None)
        if index is None or index in seen:
            repeated.append(index)
        else:
            seen[index] = LayerShape(key.shape[1], key.shape[-1], value.shape[-1], rest.get("sliding_window"))
        return packed_attention(module, query, key, value, mask, **rest)

    AttentionInterface.register(_RECORDING, attend)
    causal_lm.set_attn_implementation(_RECORDING)
    config = causal_lm.config.get_text_config()
    ids = torch.tensor([_PROBE_IDS[:4]], device=next(causal_lm.parameters()).device) % config.vocab_size
    positions = torch.arange(4, device=ids.device)[None]
    spans = DocumentSpans.from_lengths([4], ids.device)
    try:
        backbone(input_ids=ids, position_ids=positions, use_cache=False, document_spans=spans)
    except (ValueError, TypeError, RuntimeError) as error:
        raise UnmanagedCacheError(f"a probe of packed attention failed: {error}") from error
    layers = config.num_hidden_layers
    if repeated or sorted(seen) != list(range(layers)):
        raise UnmanagedCacheError(f"attention was called for layers {sorted(seen)} of {layers}, each once expected")
    return [seen[index] for index in range(layers)]


def _compare_passes(backbone: Callable[..., Any], decode: DecodePass, cache: KvCache, vocabulary: int) -> None:
    """Raise unless one pass, pieces, and token by token with shared and own prompts give the same hidden states."""
    device = cache.device
    ids = torch.tensor(_PROBE_IDS, device=device) % vocabulary
    count = len(_PROBE_IDS)
    prompt = count - _NUM_DECODED

    def run(tokens: torch.Tensor, positions: Sequence[int], step: Any) -> torch.Tensor:
        positions_T = torch.tensor(positions, device=device)
        if isinstance(step, Decode):
            return decode(tokens, positions_T, step).float()
        return run_backbone(backbone, tokens, positions_T, step).float()

    cache.cut(CacheSizes(2, 64, 1, 32))
    whole = run(ids, range(count), cache.build_prefill([PromptPiece(1, 0, count)], is_shared=False))
    found = []
    for start, stop in ((0, _PROBE_PIECE), (_PROBE_PIECE, prompt)):
        piece = cache.build_prefill([PromptPiece(0, start, stop - start)], is_shared=False)
        found.append(run(ids[start:stop], range(start, stop), piece))
    cache.begin_row(0, prompt)
    one = torch.ones(1, dtype=torch.int64, device=device)
    for position in range(prompt, count):
        step = cache.build_decode(one * position, position)
        found.append(run(ids[position : position + 1], [position], step))
    run(ids[:prompt], range(prompt), cache.build_prefill([PromptPiece(0, 0, prompt)], is_shared=True))
    two = torch.arange(2, device=device)
    shared = SharedRows(1, prompt, two, two, two * 0, one.repeat(2) * prompt)
    pairs = []
    for row in range(2):
        cache.begin_row(row, 0)
    for position in range(prompt, count):
        step = cache.build_decode(one.repeat(2) * (position - prompt), position - prompt, shared)
        pairs.append(run(ids[position].repeat(2), [position] * 2, step))
    cache.release()
    pieces = torch.cat(found)
    differences = [pieces - whole, *((pair - whole[prompt + i]) for i, pair in enumerate(pairs))]
    largest = max(float(difference.abs().max()) for difference in differences)
    allowed = _TOLERANCE.get(cache.dtype, 2e-5) * max(1.0, float(whole.abs().max()))
    if not largest <= allowed:
        raise ValueError(f"token by token differs from one pass by {largest:.3g}, more than {allowed:.3g}")
