"""Two attention heads set up so that a fresh model looks back: the pair that copying in context is made of.

The first layer's first head attends from each token to the one before it and writes what that was into
the stream; the second layer's first head attends to the tokens whose predecessor equals the token at hand,
and raises their probability. Transformers grow such a pair by themselves (Olsson et al. 2022, "In-context
Learning and Induction Heads", arXiv 2209.11895), but late: without it the base had not begun to copy after
2 million tokens of its corpus. Training is free to change both heads, and does.

Shape letters: D hidden size, H head size, V vocabulary. Rotary positions turn pair k of a head (components
k and k + H/2) by theta^(-2k/H) radians a position, so a score of fixed vectors depends on the distance alone.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from posttrain.core.seeds import build_torch_generator

if TYPE_CHECKING:
    import torch

_CONSTANT = 8.0
"""Length of a direction that all embeddings share, in deviations of a component: what a head that looks at positions
alone can read. Tied to the output, it adds the same to every logit."""
_SHARPNESS = 6.0
"""By how many nats the token before outscores the token itself."""
_NUM_FAST_PAIRS, _FIRST_SLOW_PAIR = 4, 6
"""Pairs that turn fast tell neighbours apart; those that turn slowly carry what a token is."""
_MATCH, _RAISE = 1.5, 1.0
_FIRST, _SECOND = "model.layers.0.self_attn.", "model.layers.1.self_attn."


def add_induction(
    weights: dict[str, torch.Tensor], *, head_size: int, rope_theta: float, deviation: float, seed: int
) -> None:
    """Set up the two heads in a model's initial weights, in place.

    Args:
        weights: By their names in a Llama without grouped keys; embeddings_VD have entries of `deviation`.
        head_size: H.
        rope_theta: Base of the rotary positions.
        deviation: Standard deviation of the embedding's entries.
        seed: Decides what is drawn.
    """
    import torch

    embeddings_VD = weights["model.embed_tokens.weight"]
    hidden_size = embeddings_VD.shape[1]
    generator = build_torch_generator(seed, "seedling", "induction")
    constant_D = torch.randn(hidden_size, generator=generator)
    constant_D /= constant_D.norm()
    # Nothing of a token along the shared direction, so that every token has the same of it.
    embeddings_VD -= torch.outer(embeddings_VD @ constant_D, constant_D)
    embeddings_VD += _CONSTANT * deviation * constant_D

    half = head_size // 2
    speeds = rope_theta ** (-torch.arange(half) / half)
    # What a norm leaves of the shared direction, given the variance of the rest.
    seen = _CONSTANT / math.sqrt(1 + _CONSTANT**2 / hidden_size)
    key_H = torch.zeros(head_size)
    key_H[:_NUM_FAST_PAIRS] = 1.0
    query_H = torch.zeros(head_size)  # the key turned one position back
    query_H[:_NUM_FAST_PAIRS] = torch.cos(speeds[:_NUM_FAST_PAIRS])
    query_H[half : half + _NUM_FAST_PAIRS] = -torch.sin(speeds[:_NUM_FAST_PAIRS])
    gap = float((1 - torch.cos(speeds[:_NUM_FAST_PAIRS])).sum()) / math.sqrt(head_size)
    scale = math.sqrt(_SHARPNESS / gap) / seen
    weights[_FIRST + "q_proj.weight"][:head_size] = scale * torch.outer(query_H, constant_D)
    weights[_FIRST + "k_proj.weight"][:head_size] = scale * torch.outer(key_H, constant_D)

    slow = torch.arange(head_size) % half >= _FIRST_SLOW_PAIR
    read_HD = torch.randn(head_size, hidden_size, generator=generator) / math.sqrt(hidden_size)
    read_HD *= slow[:, None]
    write_DH = torch.randn(hidden_size, head_size, generator=generator) / math.sqrt(head_size)
    write_DH *= slow
    weights[_FIRST + "v_proj.weight"][:head_size] = read_HD
    weights[_FIRST + "o_proj.weight"][:, :head_size] = deviation * write_DH
    # The stream is now a token, the shared direction, and the token before: the norm divides by all three.
    shrink = math.sqrt(2 + _CONSTANT**2 / hidden_size)
    recover_HD = shrink * head_size / hidden_size * write_DH.T
    weights[_SECOND + "q_proj.weight"][:head_size] = _MATCH * shrink * read_HD
    weights[_SECOND + "k_proj.weight"][:head_size] = _MATCH * recover_HD
    weights[_SECOND + "o_proj.weight"][:, :head_size] = _RAISE * weights[_SECOND + "v_proj.weight"][:head_size].T
