"""What is measured over pairs: implicit rewards, absolute log-probs by token, and the alarm for when both fall.

Sums stay on the device until they are asked for; over several ranks the pairs are those of all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from posttrain.core import metrics as keys
from posttrain.core.errors import RefusedError
from posttrain.objectives.preference import PreferenceLoss, gather_branches
from posttrain.training.batches import MicroBatch
from posttrain.training.distributed import Ranks

if TYPE_CHECKING:
    from posttrain.kernels.token_logprobs import TokenScores

_SUMS = (
    "pairs", "loss", "chosen", "rejected", "right", "chosen_logps", "rejected_logps", "chosen_tokens",
    "rejected_tokens", "chosen_start", "rejected_start",
)  # fmt: skip


@dataclass(slots=True)
class PairFigures:
    """Sums over pairs since they were last collected.

    Args:
        loss: Says what a completion's implicit reward is.
        ranks: The processes whose pairs count.
        device: Where sums are kept.
    """

    loss: PreferenceLoss
    ranks: Ranks
    device: str
    _totals: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        self._totals = self._none()

    def _none(self) -> torch.Tensor:
        return torch.zeros(len(_SUMS), dtype=torch.float64, device=self.device)

    def observe(self, batch: MicroBatch, scores: TokenScores) -> None:
        """Take sums over the pairs of a micro-batch that was trained on."""
        self.add(batch, scores.logprobs_N)

    @torch.no_grad()
    def add(self, batch: MicroBatch, logprobs_N: torch.Tensor) -> None:
        """Take sums over the pairs of a micro-batch, from the log-probs of its scored tokens."""
        if not len(batch.targets_N):
            return
        chosen, rejected = gather_branches(logprobs_N, batch.constants)
        rewards = [self.loss.compute_rewards(branch) for branch in (chosen, rejected)]
        values = (
            torch.ones_like(chosen.policy_P),
            self.loss(chosen, rejected),
            *rewards,
            (rewards[0] > rewards[1]).float(),
            chosen.policy_P,
            rejected.policy_P,
            chosen.lengths_P,
            rejected.lengths_P,
            chosen.reference_P,
            rejected.reference_P,
        )
        self._totals = self._totals + torch.stack([value.double().sum() for value in values])

    def collect(self) -> dict[str, float]:
        """Return the sums by name over all ranks and begin anew; nothing where there was no pair; all ranks call it."""
        sums = self._add_up()
        self._totals = self._none()
        return sums if sums["pairs"] else {}

    def keep(self) -> dict[str, str]:
        """Return the sums to the last bit, as JSON can hold them; every rank must call it."""
        return {name: value.hex() for name, value in self._add_up().items()}

    def restore(self, kept: dict[str, str]) -> None:
        """Go on from what `keep` gave: the first rank has the sums of all."""
        if self.ranks.is_writer and all(name in kept for name in _SUMS):
            values = [float.fromhex(kept[name]) for name in _SUMS]
            self._totals = torch.tensor(values, dtype=torch.float64, device=self.device)

    def _add_up(self) -> dict[str, float]:
        return dict(zip(_SUMS, self.ranks.sum(self._totals.clone()).tolist(), strict=True))


def describe_pairs(sums: dict[str, float]) -> dict[str, float]:
    """Return sums over pairs as figures by metric key."""
    if not sums:
        return {}
    pairs = sums["pairs"]
    return {
        keys.LOSS: sums["loss"] / pairs,
        keys.REWARD_CHOSEN: sums["chosen"] / pairs,
        keys.REWARD_REJECTED: sums["rejected"] / pairs,
        keys.REWARD_MARGIN: (sums["chosen"] - sums["rejected"]) / pairs,
        keys.REWARD_ACCURACY: sums["right"] / pairs,
        keys.LOGPS_CHOSEN: sums["chosen_logps"] / sums["chosen_tokens"],
        keys.LOGPS_REJECTED: sums["rejected_logps"] / sums["rejected_tokens"],
    }


def describe_validation(sums: dict[str, float]) -> dict[str, float]:
    """Return sums over validation pairs as figures by metric key."""
    found = describe_pairs(sums)
    return {
        keys.VALIDATION_LOSS: found[keys.LOSS],
        keys.VALIDATION_REWARD_ACCURACY: found[keys.REWARD_ACCURACY],
        keys.VALIDATION_REWARD_MARGIN: found[keys.REWARD_MARGIN],
        keys.VALIDATION_LOGPS_CHOSEN: found[keys.LOGPS_CHOSEN],
        keys.VALIDATION_LOGPS_REJECTED: found[keys.LOGPS_REJECTED],
    }


@dataclass(slots=True)
class FallAlarm:
    """Raised where the log-probs of chosen *and* of rejected completions have fallen by more than is allowed.

    A loss of pairs sees differences alone: it is content where both branches become improbable, and probability goes
    to completions that nobody compared. What they have fallen by is taken from the reference's log-probs of the same
    rows; without a reference, from the first figures that were seen.

    Args:
        allowed: Nats a token; None: there is no alarm.
        may_stop: Whether an alarm stops the stage.
        has_reference: Whether rows have log-probs of a reference.
        stage: Whose alarm it is.
        note: Told once.
    """

    allowed: float | None
    may_stop: bool
    has_reference: bool
    stage: str
    note: Callable[[str], None]
    _start: tuple[float, float] | None = None
    _why: str | None = None

    @property
    def should_stop(self) -> bool:
        """Whether the stage must not go on."""
        return self.may_stop and self._why is not None

    def look(self, sums: dict[str, float]) -> dict[str, float]:
        """Look at sums over pairs; return how far log-probs have moved, by metric key."""
        if not sums:
            return {}
        tokens = (sums["chosen_tokens"], sums["rejected_tokens"])
        levels = (sums["chosen_logps"] / tokens[0], sums["rejected_logps"] / tokens[1])
        start = self._start
        if self.has_reference:
            start = (sums["chosen_start"] / tokens[0], sums["rejected_start"] / tokens[1])
        elif start is None:
            self._start = start = levels
        assert start is not None  # either way
        changes = (levels[0] - start[0], levels[1] - start[1])
        figures = {keys.LOGPS_CHOSEN_CHANGE: changes[0], keys.LOGPS_REJECTED_CHANGE: changes[1]}
        if self.allowed is None:
            return figures
        if self._why is None and max(changes) < -self.allowed:
            self._why = (
                f"the log-probs of chosen completions fell by {-changes[0]:.3f} nats a token and those of rejected "
                f"ones by {-changes[1]:.3f}, both by more than {self.allowed:g}: others gain what they lose"
            )
            self.note(f"alarm: {self._why}")
        return {**figures, keys.LOGPS_ALARM: float(self._why is not None)}

    def keep(self) -> dict[str, str]:
        """Return what is known, as JSON can hold it."""
        start = {} if self._start is None else {"start": " ".join(value.hex() for value in self._start)}
        return {**start, **({} if self._why is None else {"alarm": self._why})}

    def restore(self, kept: dict[str, str]) -> None:
        """Go on from what `keep` gave.

        Raises:
            RefusedError: The alarm was raised, and stops the stage.
        """
        if "start" in kept:
            chosen, rejected = (float.fromhex(value) for value in kept["start"].split())
            self._start = (chosen, rejected)
        self._why = kept.get("alarm")
        if self.should_stop:
            raise self.refuse()

    def refuse(self) -> RefusedError:
        """Return the error of a stage that an alarm stops."""
        return RefusedError(
            str(self._why),
            expected="log-probs that do not both fall (logps_drop), where 'on_alarm' is stop",
            cure="lower the learning rate, raise beta, add nll_coefficient, or take algorithm: ipo; or go on from the "
            "last checkpoint with on_alarm: warn",
            place=f"{self.stage}: on_alarm",
        )
