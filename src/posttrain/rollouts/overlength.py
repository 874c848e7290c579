"""Completions that are too long: a soft punishment before the cap."""

from __future__ import annotations


def compute_overlong_penalty(num_tokens: int, max_tokens: int, buffer: int) -> float:
    """Return what length takes off a reward, in [-1, 0].

    0 up to max_tokens - buffer tokens, then falling in a straight line to -1 at the cap.

    Args:
        num_tokens: Tokens of the completion.
        max_tokens: The cap.
        buffer: Tokens before the cap in which length is punished, from 1 to below the cap.

    Source: Yu et al. 2025, "DAPO" (arXiv 2503.14476), equation 13, whose cap is the buffer's end.
    """
    free = max_tokens - buffer
    return 0.0 if num_tokens <= free else max(-1.0, (free - num_tokens) / buffer)
