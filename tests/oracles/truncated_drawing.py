"""The distribution that truncated drawing has, token by token, by sorting. Shape letters: see the package."""

from __future__ import annotations

import torch


def truncate(
    next_XFV: torch.Tensor, *, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> torch.Tensor:
    """Return log-probs of the next token after temperature, top-k and top-p in this order, -inf of what is left out.

    Top-p keeps the fewest most probable tokens that reach p of what top-k left. No two tokens may be equally probable.
    """
    scores_XFV = (next_XFV / temperature).log_softmax(-1)
    ranked_XFV, order_XFV = scores_XFV.sort(-1, descending=True)
    if top_k is not None:
        ranked_XFV[..., top_k:] = -torch.inf
    if top_p is not None:
        shares_XFV = ranked_XFV.softmax(-1)
        before_XFV = shares_XFV.cumsum(-1) - shares_XFV
        ranked_XFV[before_XFV >= top_p] = -torch.inf
    return torch.full_like(scores_XFV, -torch.inf).scatter(-1, order_XFV, ranked_XFV).log_softmax(-1)
