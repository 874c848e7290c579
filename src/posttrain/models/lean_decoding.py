"""A decode pass over Llama's descendants in as few operations as it takes.

One token of each of a few dozen sequences is so little arithmetic that a small model's pass is mostly the
calling of it: modules, keyword arguments, a dozen small operations for each norm and rotation. This pass reads
the layers' own weights (stacked by `models/stacking.py`) and does the same in about a third of the calls.
It is used only where a probe shows that it agrees with the model's own modules (`samplers/probing.py`).

Shape letters: B sequences, H query heads, K key/value heads, D head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.functional import embedding, layer_norm, linear, silu

from posttrain.kernels.cached_attention import Decode, attend_decode
from posttrain.models.stacking import Stack

_LAYER_PARTS = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
_BACKBONE_PARTS = {"embed_tokens", "layers", "norm", "rotary_emb"}
_ATTENTION_PARTS = {"q_proj", "k_proj", "v_proj", "o_proj"}


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer's weights as a decode pass uses them. Made by `build_lean_decoder`."""

    qkv: Stack
    output: nn.Linear
    gate_up: Stack
    down: nn.Linear
    norms: tuple[nn.Module, nn.Module]
    head_norms: tuple[nn.Module, nn.Module] | None
    scale: float
    window: int | None


class LeanDecoder:
    """Runs decode passes with a backbone's own weights; made by `build_lean_decoder`."""

    def __init__(self, backbone: Any, layers: Sequence[Layer], sizes: tuple[int, int, int]) -> None:
        self.backbone = backbone
        self.layers = layers
        self.sizes = sizes
        """Query heads, key/value heads, head size."""

    def __call__(self, ids_B: torch.Tensor, positions_B: torch.Tensor, step: Decode) -> torch.Tensor:
        """Return the last hidden states of one new token of each sequence, whose keys and values are kept."""
        H, K, D = self.sizes
        B = len(ids_B)
        hidden = embedding(ids_B, self.backbone.embed_tokens.weight)
        cos, sin = (x[0, :, None] for x in self.backbone.rotary_emb(hidden[None], positions_B[None]))
        # rotate_half(x) * sin is x with its halves swapped times sin with its first half negated.
        sin = torch.cat([-sin[..., : D // 2], sin[..., D // 2 :]], -1)
        for index, layer in enumerate(self.layers):
            normed = _normalise(hidden, layer.norms[0])
            mixed = linear(normed, layer.qkv.weight, layer.qkv.bias).view(B, H + 2 * K, D)
            rotated, value = mixed[:, : H + K], mixed[:, H + K :]
            if layer.head_norms is not None:
                parts = (rotated[:, :H], rotated[:, H:])
                rotated = torch.cat([_normalise(x, n) for x, n in zip(parts, layer.head_norms, strict=True)], 1)
            rotated = torch.addcmul(rotated * cos, torch.roll(rotated, D // 2, -1), sin)
            attended = attend_decode(
                rotated[:, :H], rotated[:, H:], value, step, index, scale=layer.scale, window=layer.window
            )
            hidden = hidden + linear(attended.view(B, H * D), layer.output.weight, layer.output.bias)
            normed = _normalise(hidden, layer.norms[1])
            # Features by sequences: weights are read as they lie; the other way round they are laid out anew.
            gate, up = multiply(layer.gate_up, normed.T).chunk(2)
            hidden = hidden + multiply(layer.down, silu(gate).mul_(up)).T
        return _normalise(hidden, self.backbone.norm)


def build_lean_decoder(backbone: Any, windows: Sequence[int | None]) -> LeanDecoder | None:
    """Return a lean decode pass, or None for a backbone that is not built as Llama is.

    Args:
        backbone: Of a model whose siblings are stacked (`models.stacking.stack_linears`).
        windows: Each layer's sliding window.
    """
    if {name for name, _ in backbone.named_children()} != _BACKBONE_PARTS:
        return None
    norms = [module for module in backbone.modules() if type(module).__name__.endswith("Norm")]
    if not all(hasattr(norm, "variance_epsilon") and hasattr(norm, "weight") for norm in norms):
        return None
    config = backbone.config.get_text_config()
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    layers = [_read_layer(layer, window) for layer, window in zip(backbone.layers, windows, strict=True)]
    known = [layer for layer in layers if layer is not None]
    if len(known) < len(layers):
        return None
    return LeanDecoder(backbone, known, (config.num_attention_heads, config.num_key_value_heads, size))


def _read_layer(layer: Any, window: int | None) -> Layer | None:
    if {name for name, _ in layer.named_children()} != _LAYER_PARTS:
        return None
    attention, mlp = layer.self_attn, layer.mlp
    children = {name for name, _ in attention.named_children()}
    if children - {"q_norm", "k_norm"} != _ATTENTION_PARTS or not hasattr(attention, "scaling"):
        return None
    qkv = getattr(attention.q_proj, "stack", None)
    gate_up = getattr(getattr(mlp, "gate_proj", None), "stack", None)
    if not (isinstance(qkv, Stack) and isinstance(gate_up, Stack) and "SiLU" in type(mlp.act_fn).__name__):
        return None
    head_norms = (attention.q_norm, attention.k_norm) if "q_norm" in children else None
    return Layer(
        qkv=qkv,
        output=attention.o_proj,
        gate_up=gate_up,
        down=mlp.down_proj,
        norms=(layer.input_layernorm, layer.post_attention_layernorm),
        head_norms=head_norms,
        scale=float(attention.scaling),
        window=window,
    )


def multiply(layer: Any, features: torch.Tensor) -> torch.Tensor:
    """Return the output [out, B] of a linear layer or a stack of them, of its input [in, B]."""
    output = layer.weight @ features
    return output if layer.bias is None else output.add_(layer.bias[:, None])


def _normalise(hidden: torch.Tensor, norm: Any) -> torch.Tensor:
    size = hidden.shape[-1]
    # The mean of x and -x is 0 and their variance is the mean square: one kernel in place of seven.
    mirrored = layer_norm(torch.cat([hidden, -hidden], -1), (2 * size,), None, None, norm.variance_epsilon)
    return mirrored[..., :size] * norm.weight
