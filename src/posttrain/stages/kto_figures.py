"""What is measured over unpaired rows: loss, implicit rewards and absolute log-probs by token of either label.

Desirable completions are called chosen and undesirable ones rejected, as in the figures of pairs. Sums stay on the
device until they are asked for; over several ranks the rows are those of all.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from posttrain.core import metrics as keys
from posttrain.objectives.kto import BcoLoss, KtoLoss, sum_completions
from posttrain.training.batches import MicroBatch
from posttrain.training.distributed import Ranks

if TYPE_CHECKING:
    from posttrain.kernels.token_logprobs import TokenScores

_SUMS = ("rows", "loss", "rewards", "logps", "tokens", "start")
_LABELS = ("rejected", "chosen")
_NAMES = tuple(f"{label}_{name}" for label in _LABELS for name in _SUMS)


@dataclass(slots=True)
class UnpairedFigures:
    """Sums over completions since they were last collected, by label.

    Args:
        loss: Says what a completion's loss is; its beta scales rewards.
        ranks: The processes whose rows count.
        device: Where sums are kept.
    """

    loss: KtoLoss | BcoLoss
    ranks: Ranks
    device: str
    _totals: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        self._totals = self._none()

    def _none(self) -> torch.Tensor:
        return torch.zeros(len(_LABELS), len(_SUMS), dtype=torch.float64, device=self.device)

    def observe(self, batch: MicroBatch, scores: TokenScores) -> None:
        """Take sums over the completions of a micro-batch that was trained on."""
        self.add(batch, scores.logprobs_N)

    @torch.no_grad()
    def add(self, batch: MicroBatch, logprobs_N: torch.Tensor) -> None:
        """Take sums over the completions of a micro-batch, from the log-probs of its scored tokens."""
        if not len(batch.targets_N):
            return
        sums_S, first_S = sum_completions(logprobs_N, batch.constants)
        lengths_S, _ = sum_completions(torch.ones_like(logprobs_N), batch.constants)
        constants = {name: values[first_S] for name, values in batch.constants.items()}
        references_S = constants["references"]
        rewards_S = self.loss.beta * (sums_S - references_S)
        values = (
            torch.ones_like(sums_S),
            self.loss(sums_S, constants),
            rewards_S,
            sums_S,
            lengths_S,
            references_S,
        )
        totals = self._none().index_add_(0, constants["is_desirable"].long(), torch.stack(values, 1).double())
        self._totals = self._totals + totals

    def collect(self) -> dict[str, float]:
        """Return the sums by name over all ranks and begin anew; nothing where there was no row; all ranks call it."""
        sums = self._add_up()
        self._totals = self._none()
        return sums if sums["chosen_rows"] + sums["rejected_rows"] else {}

    def keep(self) -> dict[str, str]:
        """Return the sums to the last bit, as JSON can hold them; every rank must call it."""
        return {name: value.hex() for name, value in self._add_up().items()}

    def restore(self, kept: dict[str, str]) -> None:
        """Go on from what `keep` gave: the first rank has the sums of all."""
        if self.ranks.is_writer and all(name in kept for name in _NAMES):
            values = torch.tensor([float.fromhex(kept[name]) for name in _NAMES], dtype=torch.float64)
            self._totals = values.view(len(_LABELS), len(_SUMS)).to(self.device)

    def _add_up(self) -> dict[str, float]:
        totals = self.ranks.sum(self._totals.clone()).flatten().tolist()
        return dict(zip(_NAMES, totals, strict=True))


def has_both_labels(sums: dict[str, float]) -> bool:
    """Return whether sums are over rows of either label."""
    return bool(sums) and sums["chosen_rows"] > 0 and sums["rejected_rows"] > 0


def describe_unpaired(sums: dict[str, float]) -> dict[str, float]:
    """Return sums over unpaired rows as figures by metric key; of a label without rows there are none."""
    if not sums:
        return {}
    rows = sums["chosen_rows"] + sums["rejected_rows"]
    figures = {keys.LOSS: (sums["chosen_loss"] + sums["rejected_loss"]) / rows}
    for label, reward, logps in (
        ("chosen", keys.REWARD_CHOSEN, keys.LOGPS_CHOSEN),
        ("rejected", keys.REWARD_REJECTED, keys.LOGPS_REJECTED),
    ):
        if sums[f"{label}_rows"]:
            figures[reward] = sums[f"{label}_rewards"] / sums[f"{label}_rows"]
            figures[logps] = sums[f"{label}_logps"] / sums[f"{label}_tokens"]
    if has_both_labels(sums):
        figures[keys.REWARD_MARGIN] = figures[keys.REWARD_CHOSEN] - figures[keys.REWARD_REJECTED]
    return figures


def describe_unpaired_validation(sums: dict[str, float]) -> dict[str, float]:
    """Return sums over validation rows, of both labels, as figures by metric key."""
    found = describe_unpaired(sums)
    return {
        keys.VALIDATION_LOSS: found[keys.LOSS],
        keys.VALIDATION_REWARD_MARGIN: found[keys.REWARD_MARGIN],
        keys.VALIDATION_LOGPS_CHOSEN: found[keys.LOGPS_CHOSEN],
        keys.VALIDATION_LOGPS_REJECTED: found[keys.LOGPS_REJECTED],
    }
