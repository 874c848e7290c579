"""A policy's backbone with a head of scores, in training form, and the micro-batches that it reads.

`ScoredRewardModel(micro_batch, objective, weights)` returns the weighted loss and the scores, as `ScoredPolicy` does
with log-probs, so that `training.step.Updater` trains either. Shape letters: T tokens of the micro-batch, N tokens that
are read, K outputs, H hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from posttrain.kernels.layouts import Layout, run_padded
from posttrain.kernels.readings import Reading, lay_out_readings
from posttrain.kernels.token_logprobs import Head, TokenObjective, TokenScores
from posttrain.objectives.reward_model import RewardObjective
from posttrain.training.batches import MicroBatch
from posttrain.training.policy import ScoredPolicy


class ScoredRewardModel(ScoredPolicy):
    """Wraps a causal LM, with or without adapters, whose own head stays out of it, and a head of scores.

    Args:
        model: The transformers or PEFT model.
        backbone: The part of it that maps ids to hidden states.
        score: The head, [K, H] in float32.
        layout: Packed where exact, else padded.
    """

    def __init__(self, model: nn.Module, backbone: nn.Module, score: nn.Linear, layout: Layout) -> None:
        super().__init__(model, backbone, lambda _: Head(score.weight), layout)
        self.score = score

    def forward(
        self, batch: MicroBatch, objective: TokenObjective, weights_N: torch.Tensor, *, with_entropy: bool = False
    ) -> TokenScores:
        """Return the weighted loss of a micro-batch; `logprobs_N` of the result are the scores [N, K].

        Args:
            batch: The rows; `scored_N` are the tokens that are read.
            objective: One of `objectives.reward_model`.
            weights_N: Weights with the denominator in them.
            with_entropy: Not asked for here.
        """
        del with_entropy
        hidden_TH = self.compute_hidden(batch)
        hidden_NH = hidden_TH.index_select(0, batch.scored_N).float()
        scores_NK = nn.functional.linear(hidden_NH, self.score.weight.float())
        if not len(batch.scored_N):  # keeps sharded parameters in the backward pass
            zero = hidden_TH.float().sum() * 0 + self.score.weight.float().sum() * 0
            return TokenScores(zero, scores_NK.detach(), torch.empty(0, device=hidden_TH.device), None)
        reward_objective: RewardObjective = objective  # type: ignore[assignment]  # what this module is trained by
        loss = (reward_objective(scores_NK, batch.constants) * weights_N).sum()
        hits_N = reward_objective.count_hits(scores_NK.detach(), batch.constants)
        return TokenScores(loss, scores_NK.detach(), hits_N, None)

    def compute_hidden(self, batch: MicroBatch) -> torch.Tensor:
        """Return the last hidden states [T, H] of a micro-batch, rows end to end."""
        if self.layout != "single":
            return super().compute_hidden(batch)
        rows = batch.ids_T.split(list(batch.lengths))
        return torch.cat([run_padded(self._backbone[0], row, (len(row),)) for row in rows])


@dataclass(frozen=True, slots=True)
class RewardRow:
    """A prompt with its completions as they are trained on: what is read of each, with which weight and constants.

    Made by a stage, read by `build_reward_batch`.

    Args:
        reading: Prompt, completions, and the tokens that are read.
        weights: fp32, one for each token that is read, in order.
        constants: By name, one number or K numbers for each token that is read.
        row_id: What an error names it by.
    """

    reading: Reading
    weights: npt.NDArray[np.float32]
    constants: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    row_id: str = ""


def build_reward_batch(rows: Sequence[RewardRow], *, is_shared: bool, has_filler: bool = True) -> MicroBatch:
    """Lay prompts and their completions end to end.

    Args:
        rows: At least one; all of one objective.
        is_shared: Whether a prompt stands once before all its completions (`models.heads.is_sharing_exact`).
        has_filler: Whether a row that is never read rounds up the number of tokens (packed rows).
    """
    laid_out = lay_out_readings([row.reading for row in rows], is_shared=is_shared, has_filler=has_filler)

    def gather(values: Sequence[npt.NDArray[Any]]) -> torch.Tensor:
        return torch.from_numpy(np.concatenate(values).astype(np.float32))

    return MicroBatch(
        ids_T=torch.from_numpy(laid_out.ids_T),
        lengths=laid_out.lengths,
        scored_N=torch.from_numpy(laid_out.reads_R),
        targets_N=torch.empty(0, dtype=torch.int64),
        weights_N=gather([row.weights for row in rows]),
        row_ids=tuple(row.row_id for row in rows),
        families=laid_out.families,
        constants={name: gather([row.constants[name] for row in rows]) for name in rows[0].constants},
    )
