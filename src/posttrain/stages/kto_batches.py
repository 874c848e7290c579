"""From unpaired rows to the micro-batches of a step, with the reference point that its losses are taken against.

Shape letters: R rows of a source, S completions of a micro-batch, N scored tokens of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch

from posttrain.core import metrics as keys
from posttrain.objectives.kto import RewardShift, compute_kl_point, sum_completions
from posttrain.stages.preference_batches import PairBatches, Place, References, compute_token_logprobs
from posttrain.training.batches import MicroBatch
from posttrain.training.policy import ScoredPolicy
from posttrain.training.step import StepBatch

Labels = Sequence[npt.NDArray[np.bool_]]
"""Whether rows are desirable, of each source [R]."""


@dataclass(frozen=True, slots=True)
class KlSamples:
    """What KTO's reference point is estimated from: each row's prompt with the completion of another row.

    Made by the stage, read by `KtoBatches`. `references` are the reference's log-probs of these completions.
    """

    batches: PairBatches
    references: References


@dataclass(slots=True)
class KtoBatches:
    """Lays out the steps of a stage and holds what their losses are taken against.

    Args:
        batches: Lays rows out.
        labels: Theirs.
        references: The reference's log-probs of their completions.
        policy: What is trained; read for KTO's point, with dropout off.
        device: Where it computes.
        beta: The losses' own.
        shift_decay: Of BCO's moving averages (`objectives.kto.RewardShift`).
        kl_samples: What KTO's point is estimated from; None: the losses are BCO's.
    """

    batches: PairBatches
    labels: Labels
    references: References
    policy: ScoredPolicy
    device: str
    beta: float
    shift_decay: float
    kl_samples: KlSamples | None = None
    shift: RewardShift = field(default_factory=RewardShift)
    _rewards: torch.Tensor = field(init=False)
    _points: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._rewards = self._none()

    def _none(self) -> torch.Tensor:
        return torch.zeros(2, 2, dtype=torch.float64, device=self.device)

    def build_step(self, places: Sequence[Place]) -> StepBatch:
        """Return this rank's micro-batches of a step, with the totals of all ranks and the step's reference point.

        Args:
            places: The rows of the whole step, the same on every rank.
        """
        point = self.settle().value if self.kl_samples is None else self.measure_kl_point(places)
        self._points.append(point)
        step = self.batches.build_step(places, self.references)
        owned = [own for own, _ in self.batches.build_micro_batches(places)]
        parts = [self._complete(own, part, point) for own, part in zip(owned, step.micro_batches, strict=True)]
        return replace(step, micro_batches=parts)

    def iterate(self, places: Sequence[Place], point: float) -> Iterator[MicroBatch]:
        """Yield this rank's micro-batches of some rows, to be measured against a given point."""
        for own, part in self.batches.build_micro_batches(places, self.references):
            yield self._complete(own, part, point)

    def _complete(self, own: Sequence[Place], part: MicroBatch, point: float) -> MicroBatch:
        """Return a micro-batch with label and reference point at every scored token."""
        if not own:
            return part
        labels_S = torch.tensor([bool(self.labels[source][row]) for source, row in own])
        name = "reward_shift" if self.kl_samples is None else "kl_point"
        added = {
            "is_desirable": labels_S[part.constants["branches"].long()].float(),
            name: torch.full(part.targets_N.shape, point, dtype=torch.float32),
        }
        return replace(part, constants={**part.constants, **added})

    def measure_kl_point(self, places: Sequence[Place]) -> float:
        """Return KTO's reference point at the policy as it is, over some rows in whatever parts; all ranks call it."""
        assert self.kl_samples is not None
        total = torch.zeros(1, dtype=torch.float64, device=self.device)
        was_training = self.policy.training
        self.policy.eval()
        try:
            for _, micro_batch in self.kl_samples.batches.build_micro_batches(places):
                total += compute_token_logprobs(self.policy, micro_batch.to(self.device)).double().sum()
        finally:
            self.policy.train(was_training)
        reference = sum(float(self.kl_samples.references[source][row].sum()) for source, row in places)
        return compute_kl_point(float(self.batches.ranks.sum(total)) - reference, len(places))

    @torch.no_grad()
    def observe(self, batch: MicroBatch, logprobs_N: torch.Tensor) -> None:
        """Take the rewards beta r of a micro-batch that was trained on into the step's sums, for BCO's shift."""
        if self.kl_samples is not None or not len(batch.targets_N):
            return
        sums_S, first_S = sum_completions(logprobs_N, batch.constants)
        rewards_S = self.beta * (sums_S - batch.constants["references"][first_S])
        counted_SK = torch.stack([rewards_S, torch.ones_like(rewards_S)], 1).double()
        self._rewards.index_add_(0, batch.constants["is_desirable"][first_S].long(), counted_SK)

    def settle(self) -> RewardShift:
        """Take the rewards of the last step into BCO's shift and return it; a second time does nothing. All ranks."""
        (bad, num_bad), (good, num_good) = self.batches.ranks.sum(self._rewards).tolist()
        self._rewards = self._none()
        self.shift = self.shift.update((good, int(num_good)), (bad, int(num_bad)), self.shift_decay)
        return self.shift

    def collect_point(self) -> dict[str, float]:
        """Return the mean reference point of the steps since it was last asked for, by metric key."""
        points, self._points = self._points, []
        name = keys.REWARD_SHIFT if self.kl_samples is None else keys.KL_POINT
        return {name: sum(points) / len(points)} if points else {}

    def keep(self) -> dict[str, str]:
        """Return points and shift to the last bit, as JSON can hold them; every rank must call it."""
        shift = self.settle().to_json()
        return {
            "points": json.dumps([value.hex() for value in self._points]),
            "shift": json.dumps({name: None if value is None else value.hex() for name, value in shift.items()}),
        }

    def restore(self, kept: dict[str, str]) -> None:
        """Go on from what `keep` gave."""
        if "points" in kept:
            self._points = [float.fromhex(value) for value in json.loads(kept["points"])]
            shift = {k: None if v is None else float.fromhex(v) for k, v in json.loads(kept["shift"]).items()}
            self.shift = RewardShift.from_json(shift)
