"""A decode pass over Llama's descendants with compiled kernels between the products of weights.

The same layers as `models/lean_decoding.py` runs, in eight calls each: four products of weights, which read their
weights as they lie, and four kernels (`kernels/native_decoding.py`). It is used only where a probe shows that it
agrees with the model's own modules (`samplers/probing.py`).

Shape letters: B sequences, C hidden size, D head size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import embedding

from posttrain.kernels.cached_attention import Decode
from posttrain.kernels.native_decoding import HeadShape, NativeDecoding
from posttrain.models.lean_decoding import LeanDecoder, multiply


def find_head_shape(lean: LeanDecoder) -> HeadShape:
    """Return the shape of a backbone's heads, which is the same in all layers of one that can be run lean."""
    num_heads, num_kv_heads, size = lean.sizes
    return HeadShape(num_heads, num_kv_heads, size, size)


class NativeDecoder:
    """Runs decode passes with a backbone's own weights.

    Args:
        lean: The pass whose layers are run.
        kernels: Compiled for `find_head_shape(lean)` and the backbone's dtype.
    """

    def __init__(self, lean: LeanDecoder, kernels: NativeDecoding) -> None:
        self._backbone = lean.backbone
        self._layers = lean.layers
        self._kernels = kernels

    def __call__(self, ids_B: torch.Tensor, positions_B: torch.Tensor, step: Decode) -> torch.Tensor:
        """Return the last hidden states [B, C] of one new token of each sequence, whose keys and values are kept."""
        kernels = self._kernels
        embedded = embedding(ids_B, self._backbone.embed_tokens.weight)
        cos, sin = (x[0].T.contiguous() for x in self._backbone.rotary_emb(embedded[None], positions_B[None]))
        hidden = embedded.T.contiguous()
        delta: torch.Tensor | None = None
        for index, layer in enumerate(self._layers):
            first: Any
            second: Any
            first, second = layer.norms
            normed = kernels.add_and_normalise(hidden, delta, first.weight, first.variance_epsilon)
            norms: Any = layer.head_norms
            attended = kernels.attend(
                multiply(layer.qkv, normed),
                (cos, sin),
                None if norms is None else (norms[0].weight, norms[1].weight),
                step,
                index,
                scale=layer.scale,
                epsilon=0.0 if norms is None else norms[0].variance_epsilon,
                window=layer.window,
            )
            delta = multiply(layer.output, attended.T)
            normed = kernels.add_and_normalise(hidden, delta, second.weight, second.variance_epsilon)
            delta = multiply(layer.down, kernels.gate(multiply(layer.gate_up, normed)))
        last = self._backbone.norm
        return kernels.add_and_normalise(hidden, delta, last.weight, last.variance_epsilon).T
