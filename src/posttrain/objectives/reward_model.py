"""Reward models: from pairs that somebody preferred one of, from ratings of attributes, from labels of steps.

| learned from | loss of a row |
| --- | --- |
| a pair, r_c and r_r the scores of chosen and rejected | -log sigma(r_c - r_r - m) + c (r_c + r_r)^2 |
| ratings t_k of K attributes | sum_k (r_k - t_k)^2 over those that are given |
| a step of a solution, y = 1 if it is right | -log sigma(r) if y = 1, -log sigma(-r) if y = 0 |

The pair's loss is the negative log-likelihood of Bradley and Terry's model (Biometrika 39 (1952), p. 324) as
InstructGPT has it (arXiv 2203.02155, equation 1), with the margin m of Llama 2 (arXiv 2307.09288, equation 2). Only
differences of scores decide it, so a shift of all scores of a prompt is free; the centring term c (Eisenstein et al.,
arXiv 2312.09244, section 3.1) takes that freedom away. Step labels: Lightman et al., arXiv 2305.20050, section 2.6.

Shape letters: P pairs, N rows of scores, K outputs of the head.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.nn.functional import logsigmoid, softplus

MARGIN, TARGET, IS_GIVEN, LABEL = "margin", "target", "is_given", "label"
"""Names of row constants: a pair's margin, an attribute's rating and whether there is one, a step's label."""


def compute_pairwise_losses(
    chosen_P: torch.Tensor, rejected_P: torch.Tensor, margins_P: torch.Tensor | None = None, centring: float = 0.0
) -> torch.Tensor:
    """Return each pair's loss, nats, -log sigma(r_c - r_r - m) + c (r_c + r_r)^2.

    Args:
        chosen_P: Scores of the completions that were preferred.
        rejected_P: Scores of the others.
        margins_P: By how much the chosen one should lead at least to be told apart, >= 0; None is 0.
        centring: c, >= 0.
    """
    lead_P = chosen_P - rejected_P
    if margins_P is not None:
        lead_P = lead_P - margins_P
    losses_P = -logsigmoid(lead_P)
    return losses_P + centring * (chosen_P + rejected_P).square() if centring else losses_P


def compute_regression_losses(
    scores_NK: torch.Tensor, targets_NK: torch.Tensor, is_given_NK: torch.Tensor
) -> torch.Tensor:
    """Return each row's squared error, summed over the attributes that are given.

    The total weight of a step is its number of ratings, so that the loss is a mean over ratings.

    Args:
        scores_NK: Outputs of the head.
        targets_NK: Ratings; what is not given may hold anything finite.
        is_given_NK: 1 where there is a rating, else 0.
    """
    return ((scores_NK - targets_NK).square() * is_given_NK).sum(-1)


def compute_step_losses(scores_N: torch.Tensor, labels_N: torch.Tensor) -> torch.Tensor:
    """Return each step's binary cross-entropy, nats: log(1 + e^r) - y r.

    Args:
        scores_N: Log-odds that the step is right.
        labels_N: 1 for right, 0 for wrong.
    """
    return softplus(scores_N) - labels_N * scores_N


class PairwiseObjective:
    """The loss of scores that lie as chosen, rejected, chosen, rejected: half of a pair's loss on each of its rows.

    `centring` as `compute_pairwise_losses`; the constant `margin` holds each row's margin, where there are any.
    """

    def __init__(self, centring: float = 0.0) -> None:
        self.centring = centring

    def __call__(self, scores_NK: torch.Tensor, constants: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the losses [N] of scores [N, 1]."""
        scores_P2 = scores_NK.reshape(-1, 2)
        margins_P = constants[MARGIN].reshape(-1, 2)[:, 0] if MARGIN in constants else None
        losses_P = compute_pairwise_losses(scores_P2[:, 0], scores_P2[:, 1], margins_P, self.centring)
        return (losses_P / 2).repeat_interleave(2)

    def count_hits(self, scores_NK: torch.Tensor, constants: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return 1 [N] on both rows of a pair that is ordered right, 1/2 of a tie, 0 of one ordered wrong."""
        del constants
        scores_P2 = scores_NK.reshape(-1, 2)
        return ((torch.sign(scores_P2[:, 0] - scores_P2[:, 1]) + 1) / 2).repeat_interleave(2)


class RegressionObjective:
    """The loss of ratings; the constants `target` and `is_given` are [N, K]."""

    def __call__(self, scores_NK: torch.Tensor, constants: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the losses [N] of scores [N, K]."""
        return compute_regression_losses(scores_NK, constants[TARGET], constants[IS_GIVEN])

    def count_hits(self, scores_NK: torch.Tensor, constants: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the share [N] of a row's ratings that lie on the side of 0 that the scores say."""
        is_given_NK = constants[IS_GIVEN]
        is_hit_NK = (scores_NK > 0) == (constants[TARGET] > 0)
        return (is_hit_NK * is_given_NK).sum(-1) / is_given_NK.sum(-1).clamp(min=1)


class StepObjective:
    """The loss of labelled steps; the constant `label` is [N]."""

    def __call__(self, scores_NK: torch.Tensor, constants: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the losses [N] of scores [N, 1]."""
        return compute_step_losses(scores_NK[:, 0], constants[LABEL])

    def count_hits(self, scores_NK: torch.Tensor, constants: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return 1 [N] where the more probable label is the given one, else 0."""
        return ((scores_NK[:, 0] > 0) == (constants[LABEL] > 0.5)).float()


RewardObjective = PairwiseObjective | RegressionObjective | StepObjective
"""What a reward model may be trained by."""
