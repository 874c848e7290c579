"""Which tokens survive top-k, top-p and min-p, as one cut on each row's scores, so that no ids are sorted.

Scores are logits over temperature, less the row's largest, so at most 0; a token's weight is the exponential
of its score. Tokens above the cut survive. Of those that equal the cut of top-p, only as many survive as p
needs, the lowest ids first (transformers leaves it to an unstable sort which).
Shape letters: R rows, V tokens of a row (a multiple of S), N blocks of a row, S tokens of a block, C candidates,
K most probable tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from posttrain.core.sampling import SamplingSettings

# Smaller scores weigh as much as this one: where results underflow, MKL's exp is 100 times as slow.
LEAST_SCORE = -87.0
_MIN_CANDIDATES = 256


@dataclass(frozen=True, slots=True)
class Cuts:
    """What truncation leaves out of each row.

    Made by `cut_scores`, read by drawing. Scores below `least_R1` are left out, and of those that equal it all
    but the first `num_equal_RN` of each block (None: none of them).

    Example: scores `[-1, 0, -1, -1]` in one block, of which top-p keeps two tokens, have `least_R1=[[-1]]` and
    `num_equal_RN=[[1]]`: the first two tokens survive.
    """

    least_R1: torch.Tensor
    num_equal_RN: torch.Tensor | None = None

    def find_left_out(self, scores_RS: torch.Tensor, blocks_R1: torch.Tensor) -> torch.Tensor:
        """Return which tokens are left out of one block of each row, bool [R, S]."""
        is_out_RS = scores_RS < self.least_R1
        if self.num_equal_RN is None:
            return is_out_RS
        is_equal_RS = scores_RS == self.least_R1
        return is_out_RS | (is_equal_RS & (is_equal_RS.cumsum(1) > self.num_equal_RN.gather(1, blocks_R1)))


def weigh(scores: torch.Tensor, *, out: torch.Tensor) -> torch.Tensor:
    """Return the exponentials of scores, at least that of `LEAST_SCORE`; `out` may be the scores themselves."""
    return torch.clamp(scores, min=LEAST_SCORE, out=out).exp_()


def sum_blocks(weights_RV: torch.Tensor, block_tokens: int) -> torch.Tensor:
    """Return the sum of every block of tokens, [R, N]."""
    return weights_RV.view(len(weights_RV), weights_RV.shape[1] // block_tokens, block_tokens).sum(-1)


def cut_scores(
    buffers: torch.Tensor, V: int, sums_RN: torch.Tensor, settings: SamplingSettings
) -> tuple[torch.Tensor, Cuts | None]:
    """Return the weights of blocks that top-k, top-p and min-p leave, applied in this order, and the cuts.

    Top-k keeps all that equal the k-th largest score. Top-p keeps the fewest largest that reach p of what top-k
    left, min-p those that weigh at least min_p of the largest: log(min_p) is their least score.

    Args:
        buffers: fp32 [3, R, N * S]: scores, their weights, and room; overwritten.
        V: Tokens of a row; what follows them is padding.
        sums_RN: The weights of blocks before any cut.
        settings: Of which the three are read.
    """
    scores_RV, weights_RV, spare_RV = buffers
    block_tokens = scores_RV.shape[1] // sums_RN.shape[1]
    cuts_R1: torch.Tensor | None = None
    candidates_RC: torch.Tensor | None = None
    num_kept_R1: torch.Tensor | None = None
    if settings.top_k is not None and settings.top_k < V:
        candidates_RC = _sort_largest(scores_RV[:, :V], settings.top_k)
        cuts_R1 = candidates_RC[:, -1:]
    if settings.top_p is not None:
        left_RN = sums_RN
        if cuts_R1 is not None:
            left_RN = sum_blocks(torch.ge(scores_RV, cuts_R1, out=spare_RV).mul_(weights_RV), block_tokens)
        targets_R1 = settings.top_p * left_RN.sum(1, keepdim=True, dtype=torch.float64)
        least_R1, num_kept_R1 = _find_nucleus(scores_RV[:, :V], candidates_RC, targets_R1)
        cuts_R1 = least_R1 if cuts_R1 is None else torch.maximum(cuts_R1, least_R1)
    if settings.min_p is not None:
        least = math.log(settings.min_p)
        if cuts_R1 is None:
            cuts_R1 = torch.full_like(scores_RV[:, :1], least)
        elif num_kept_R1 is not None:
            num_kept_R1 = torch.where(cuts_R1 < least, V, num_kept_R1)
        cuts_R1 = cuts_R1.clamp(min=least)
    if cuts_R1 is None:
        return sums_RN, None
    return _sum_survivors(buffers, block_tokens, cuts_R1, num_kept_R1)


def _sort_largest(scores_RV: torch.Tensor, count: int) -> torch.Tensor:
    """Return the `count` largest values of each row, largest first."""
    V = scores_RV.shape[1]
    if scores_RV.device.type != "cpu":
        return scores_RV.topk(count).values if count < V else scores_RV.sort(descending=True).values
    # numpy's partition and sort of values alone are 5 to 20 times as fast as torch's, which carry indices.
    values = scores_RV.numpy()
    part = np.partition(values, V - count, axis=1)[:, V - count :] if count < V else values
    return torch.from_numpy(np.sort(part, axis=1)).flip(1)


def _find_nucleus(
    scores_RV: torch.Tensor, candidates_RC: torch.Tensor | None, targets_R1: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the smallest score and the number of the fewest largest tokens whose weights reach the targets.

    Args:
        scores_RV: Without padding.
        candidates_RC: The largest of them, sorted, if they are there already.
        targets_R1: float64, sums of weights.
    """
    V = scores_RV.shape[1]
    if scores_RV.device.type != "cpu":
        least_R1, counts_R1, _ = _cut_sorted(_sort_largest(scores_RV, V), targets_R1)
        return least_R1, counts_R1
    if candidates_RC is None:
        candidates_RC = _sort_largest(scores_RV, min(V, max(_MIN_CANDIDATES, V // 32)))
    least_R1, counts_R1, is_covered_R = _cut_sorted(candidates_RC, targets_R1)
    if candidates_RC.shape[1] < V and not bool(is_covered_R.all()):
        rest = (~is_covered_R).nonzero()[:, 0]
        least_R1[rest], counts_R1[rest], _ = _cut_sorted(_sort_largest(scores_RV[rest], V), targets_R1[rest])
    return least_R1, counts_R1


def _cut_sorted(sorted_RC: torch.Tensor, targets_R1: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the score at which cumulated weights reach the targets, how many those are, and whether they do."""
    cumulative_RC = weigh(sorted_RC, out=torch.empty_like(sorted_RC)).cumsum(1, dtype=torch.float64)
    counts_R1 = (cumulative_RC[:, :-1] < targets_R1).sum(1, keepdim=True) + 1
    return sorted_RC.gather(1, counts_R1 - 1), counts_R1, cumulative_RC[:, -1] >= targets_R1[:, 0]


def _sum_survivors(
    buffers: torch.Tensor, block_tokens: int, cuts_R1: torch.Tensor, num_kept_R1: torch.Tensor | None
) -> tuple[torch.Tensor, Cuts]:
    """Return the weights of blocks above the cut, with as many of the tokens that equal it as are kept."""
    scores_RV, weights_RV, spare_RV = buffers
    if num_kept_R1 is None:
        kept_RV = torch.ge(scores_RV, cuts_R1, out=spare_RV).mul_(weights_RV)
        return sum_blocks(kept_RV, block_tokens), Cuts(cuts_R1)
    above_RV = torch.gt(scores_RV, cuts_R1, out=spare_RV)
    num_above_R1 = sum_blocks(above_RV, block_tokens).sum(1, keepdim=True)
    sums_RN = sum_blocks(above_RV.mul_(weights_RV), block_tokens)
    # Counts below 2^24 are exact in fp32.
    equal_RN = sum_blocks(torch.eq(scores_RV, cuts_R1, out=spare_RV), block_tokens)
    before_RN = equal_RN.cumsum(1) - equal_RN
    kept_RN = torch.minimum((num_kept_R1 - num_above_R1 - before_RN).clamp_(min=0), equal_RN)
    sums_RN += kept_RN * cuts_R1.exp()
    return sums_RN, Cuts(cuts_R1, kept_RN)


def find_largest_tokens(scores_RV: torch.Tensor, K: int, block_tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and scores [R, K] of the largest, the lowest id of equals first, found in the K best blocks."""
    positions_V = torch.arange(scores_RV.shape[1], device=scores_RV.device)
    ids, scores = positions_V.expand_as(scores_RV), scores_RV
    num_blocks = scores_RV.shape[1] // block_tokens
    if num_blocks > K:
        maxima_RN = scores_RV.view(len(scores_RV), num_blocks, block_tokens).amax(-1)
        best_RK = _order(maxima_RN, positions_V[:num_blocks]).topk(K, sorted=False).indices
        ids = (best_RK[:, :, None] * block_tokens + positions_V[:block_tokens]).flatten(1)
        scores = scores_RV.gather(1, ids)
    order_RK = _order(scores, ids).topk(K).indices
    return ids.gather(1, order_RK), scores.gather(1, order_RK)


def _order(values: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Return int64 keys that sort like fp32 values, and among equals the lowest id as the largest."""
    bits = (values + 0.0).view(torch.int32).long()  # + 0.0 makes -0.0 equal to 0.0
    return (torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits) << 32) - ids
