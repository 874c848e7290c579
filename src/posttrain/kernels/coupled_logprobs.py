"""Log-probs for losses of whole completions or pairs, whose tokens are coupled; in chunks as in `token_logprobs`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch

from posttrain.kernels.score_kernels import find_score_kernels
from posttrain.kernels.token_logprobs import (
    Head,
    TokenObjective,
    TokenScores,
    compute_row_logprobs,
    count_chunk_rows,
    score_tokens,
)

_WEIGHTS = "weights of rows"  # beside the constants that an objective names


@runtime_checkable
class CoupledObjective(Protocol):
    """A token objective whose losses may depend on other rows' log-probs, within groups of consecutive rows."""

    @property
    def is_coupled(self) -> bool:
        """Whether they do."""

    def find_groups(self, constants: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return which group each row is of, int64 [N], never falling."""

    def __call__(self, logprobs_N: torch.Tensor, constants: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the losses of whole groups, [N]."""


# many parameters: those of score_tokens
def score_coupled_tokens(
    hidden_NH: torch.Tensor,
    head: Head,
    targets_N: torch.Tensor,
    weights_N: torch.Tensor,
    objective: TokenObjective,
    groups_N: torch.Tensor,
    constants: Mapping[str, torch.Tensor] | None = None,
    *,
    with_entropy: bool = False,
) -> TokenScores:
    """Return what `score_tokens` does for an objective whose losses depend on other rows' log-probs too.

    Chunks end where groups do, so that an objective sees whole groups and the head costs three products here too. A
    group that is much longer than a chunk, or logits that are read tile by tile, cost a fourth: all log-probs are
    computed first, and the objective's derivative by them weights a second pass, which forms the logits anew.

    Args:
        hidden_NH: As of `score_tokens`, as are all others.
        head: Weight, bias, scale and soft cap.
        targets_N: Token ids.
        weights_N: Factors of each row's loss.
        objective: Maps (log-probs, constants) of whole groups to their losses, coupled within a group in any way.
        groups_N: int64, never falling: which group a row is of.
        constants: Row constants by name, each [N].
        with_entropy: Also compute each row's entropy.
    """
    bounds = _bound_groups(groups_N, count_chunk_rows(head.weight.shape[0], head.weight.device.type))
    if bounds is not None and _reads_whole_chunks(hidden_NH, head):
        weighted, ones_N = {**(constants or {}), _WEIGHTS: weights_N}, torch.ones_like(weights_N)
        return score_tokens(
            hidden_NH, head, targets_N, ones_N, _Weighted(objective), weighted, with_entropy=with_entropy, bounds=bounds
        )
    leaf_N = compute_row_logprobs(hidden_NH.detach(), head, targets_N).logprobs_N.requires_grad_()
    with torch.enable_grad():
        total = (objective(leaf_N, constants or {}) * weights_N).sum()
        (slopes_N,) = torch.autograd.grad(total, leaf_N)
    scores = score_tokens(hidden_NH, head, targets_N, slopes_N, _take_logprobs, with_entropy=with_entropy)
    # The value is the objective's, the gradient that of the slopes times the log-probs.
    loss = scores.loss - scores.loss.detach() + total.detach()
    return TokenScores(loss, scores.logprobs_N, scores.is_argmax_N, scores.entropies_N)


@dataclass(frozen=True, slots=True)
class _Weighted:
    """An objective whose losses are weighted before it is differentiated, since a group's rows share them."""

    objective: TokenObjective

    def __call__(self, logprobs_C: torch.Tensor, constants: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return self.objective(logprobs_C, constants) * constants[_WEIGHTS]


def _bound_groups(groups_N: torch.Tensor, chunk_rows: int) -> list[int] | None:
    """Return where chunks of whole groups end, 0 before them; None where one would be twice as long as a chunk."""
    lengths = torch.unique_consecutive(groups_N, return_counts=True)[1].tolist()
    bounds, end = [0], 0
    for length in lengths:
        if end + length - bounds[-1] > chunk_rows and end > bounds[-1]:
            bounds.append(end)
        end += length
        if end - bounds[-1] > 2 * chunk_rows:
            return None
    return [*bounds, end]


def _reads_whole_chunks(hidden_NH: torch.Tensor, head: Head) -> bool:
    """Return whether a chunk's log-probs are all known before its gradient is written."""
    return hidden_NH.device.type != "cpu" or (
        head.softcap is None and find_score_kernels(hidden_NH, head.kernels) is not None
    )


def _take_logprobs(logprobs_C: torch.Tensor, constants: Mapping[str, torch.Tensor]) -> torch.Tensor:
    del constants
    return logprobs_C
