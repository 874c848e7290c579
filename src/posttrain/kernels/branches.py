"""Attention over prefixes that several continuations share: each prefix is computed once.

A row holds groups end to end, a group is a prefix and its branches:

    [prefix a][branch a1][branch a2][prefix b][branch b1] ...

A token of a prefix sees the prefix up to itself; one of a branch sees its whole prefix and its branch up to itself.
`register_branch_attention()` adds the back-end to transformers under `BRANCH_ATTENTION`, as `kernels.attention` does
for documents. Shape letters: H query heads, K key/value heads, T tokens of the row, Q tokens of a group's branches,
G tokens of a group, D head size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

BRANCH_ATTENTION = "posttrain_branches"


@dataclass(frozen=True, slots=True)
class BranchSpans:
    """The groups of a row: the tokens of each prefix, and of each of its branches.

    Made by `models.branch_logprobs`, read by `branch_attention`.

    Example: a prefix of 5 tokens with branches of 2 and 0 tokens, and one of 3 without any, are
    `((5, (2, 0)), (3, ()))`: a row of 10 tokens.
    """

    groups: tuple[tuple[int, tuple[int, ...]], ...]
    _seen: dict[tuple[int, bool, int | None], torch.Tensor] = field(default_factory=dict, compare=False, repr=False)

    def find_positions(self) -> list[int]:
        """Return the position of every token of the row: a branch goes on where its prefix ends."""
        positions: list[int] = []
        for prefix, branches in self.groups:
            positions += range(prefix)
            for length in branches:
                positions += range(prefix, prefix + length)
        return positions

    def see(self, place: int, *, of_prefix: bool, window: int | None, device: torch.device) -> torch.Tensor:
        """Return which keys of a group its branches see [Q, G], or its prefix [G, G]; made once for all layers."""
        key = (place, of_prefix, window)
        if key not in self._seen:
            prefix, branches = self.groups[place]
            self._seen[key] = _see(prefix, () if of_prefix else branches, window, device)
        return self._seen[key]


# many parameters: transformers' attention interface has them
def branch_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    branch_spans: BranchSpans | None = None,
    **unused: Any,
) -> tuple[torch.Tensor, None]:
    """Return the attention of prefixes and branches, and None in the place of attention weights.

    Args:
        module: The attention module.
        query: [1, H, T, D].
        key: [1, K, T, D], K divides H.
        value: [1, K, T, D].
        attention_mask: Must be None: isolation comes from `branch_spans`.
        dropout: Must be 0.
        scaling: Factor on the scores; 1/sqrt(D) if None.
        sliding_window: Keys a query sees, itself included; None is all before it.
        branch_spans: Where prefixes and branches lie.
        unused: Other arguments of transformers' interface; attention sinks and capped scores are refused.

    Returns:
        Output of shape [1, T, H, D].

    Raises:
        ValueError: Something is asked for that this back-end cannot honour exactly.
    """
    if branch_spans is None:
        raise ValueError("branch attention needs branch_spans; use another attention back-end for generation")
    if attention_mask is not None or dropout or any(unused.get(name) is not None for name in ("s_aux", "softcap")):
        raise ValueError("branch attention honours neither masks nor dropout nor sinks nor capped scores")
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    output = query.new_empty(1, query.shape[2], query.shape[1], value.shape[-1])
    start = 0
    for place, (prefix, branches) in enumerate(branch_spans.groups):
        inner, end = start + prefix, start + prefix + sum(branches)
        own = None
        if sliding_window is not None and prefix > sliding_window:
            own = branch_spans.see(place, of_prefix=True, window=sliding_window, device=query.device)
        output[:, start:inner] = _attend(query, key, value, (start, inner, start), own, scale)
        if end > inner:
            seen = branch_spans.see(place, of_prefix=False, window=sliding_window, device=query.device)
            output[:, inner:end] = _attend(query, key, value, (inner, end, start), seen, scale)
        start = end
    return output, None


# many parameters: what attends to what, and how
def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    span: tuple[int, int, int],
    seen: torch.Tensor | None,
    scale: float,
) -> torch.Tensor:
    """Return the attention [1, T, H, D] of the tokens from `span[0]` to `span[1]` to those from `span[2]` on.

    `seen` says which of them; None: each token those up to itself.
    """
    start, end, first = span
    found = scaled_dot_product_attention(
        query[:, :, start:end],
        key[:, :, first:end],
        value[:, :, first:end],
        attn_mask=seen,
        is_causal=seen is None,
        scale=scale,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return found.transpose(1, 2)


def register_branch_attention() -> str:
    """Add the back-end to transformers (again does nothing) and return its name."""
    from transformers import AttentionInterface

    AttentionInterface.register(BRANCH_ATTENTION, branch_attention)
    return BRANCH_ATTENTION


def _see(prefix: int, branches: Sequence[int], window: int | None, device: torch.device) -> torch.Tensor:
    """Return which keys of a group its branches see [Q, G], or its prefix [G, G] where there are no branches."""
    positions, owners = list(range(prefix)), [-1] * prefix
    for number, length in enumerate(branches):
        positions += range(prefix, prefix + length)
        owners += [number] * length
    position_G, owner_G = torch.tensor(positions, device=device), torch.tensor(owners, device=device)
    asking = slice(prefix, None) if branches else slice(None)
    distance = position_G[asking, None] - position_G[None]
    is_mine = (owner_G[None] == -1) | (owner_G[None] == owner_G[asking, None])
    seen = is_mine & (distance >= 0)
    return seen if window is None else seen & (distance < window)


def run_branches(backbone: Callable[..., Any], ids_T: torch.Tensor, spans: BranchSpans) -> torch.Tensor:
    """Return last hidden states [T, H] of groups laid end to end.

    The model must use the branch attention back-end (`register_branch_attention`).
    """
    positions = torch.tensor(spans.find_positions(), device=ids_T.device)
    output = backbone(input_ids=ids_T[None], position_ids=positions[None], use_cache=False, branch_spans=spans)
    hidden_TH: torch.Tensor = output.last_hidden_state[0]
    return hidden_TH
