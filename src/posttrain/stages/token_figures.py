"""What is measured over the scored tokens of updates: KL, entropy, clipping, how far the sampler is from the trainer.

Sums stay on the device until they are asked for; over several ranks the tokens are those of all.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from posttrain.core import metrics as keys
from posttrain.objectives.kl import estimate_kl
from posttrain.objectives.policy_gradient import PolicyGradient
from posttrain.training.batches import MicroBatch
from posttrain.training.distributed import Ranks

if TYPE_CHECKING:
    from posttrain.kernels.token_logprobs import TokenScores

_COUNT, _RATIOS, _SQUARES, _LARGEST = "tokens", "ratios", "squares", "largest"


@dataclass(slots=True)
class TokenFigures:
    """Sums over the scored tokens since they were last collected.

    Args:
        objective: Says which tokens are held back.
        ranks: The processes whose tokens count.
        device: Where sums are kept.
    """

    objective: PolicyGradient
    ranks: Ranks
    device: str
    _names: tuple[str, ...] = field(default=(), init=False)
    _totals: torch.Tensor | None = field(default=None, init=False)
    _largest: torch.Tensor | None = field(default=None, init=False)

    def observe(self, batch: MicroBatch, scores: TokenScores) -> None:
        """Take sums over the scored tokens of a micro-batch, without waiting for the device."""
        if not len(batch.targets_N):
            return
        logprobs_N, constants = scores.logprobs_N, batch.constants
        below_N, above_N = self.objective.find_clipped(logprobs_N, constants)
        mismatch_N = (logprobs_N - constants["sampler_logprobs"]).float()
        ratios_N = mismatch_N.exp()
        sums = {
            _COUNT: torch.ones_like(logprobs_N),
            keys.CLIP_LOW: below_N.float(),
            keys.CLIP_HIGH: above_N.float(),
            keys.SAMPLER_MISMATCH: mismatch_N.abs(),
            _RATIOS: ratios_N,
            _SQUARES: ratios_N.square(),
        }
        if scores.entropies_N is not None:
            sums[keys.ENTROPY] = scores.entropies_N
        if "reference_logprobs" in constants:
            sums[keys.KL] = estimate_kl(logprobs_N, constants["reference_logprobs"])
        totals, largest = torch.stack([values.double().sum() for values in sums.values()]), mismatch_N.abs().max()
        self._names = tuple(sums)
        self._totals = totals if self._totals is None else self._totals + totals
        self._largest = largest if self._largest is None else torch.maximum(self._largest, largest)

    def collect(self) -> dict[str, float]:
        """Return the figures by metric key and begin anew; every rank must call it."""
        sums = self._add_up()
        self._names, self._totals, self._largest = (), None, None
        if not sums:
            return {}
        count, largest = sums.pop(_COUNT), sums.pop(_LARGEST)
        ratios, squares = sums.pop(_RATIOS), sums.pop(_SQUARES)
        figures = {name: total / count for name, total in sums.items()}
        return figures | {keys.EFFECTIVE_SAMPLE_SIZE: ratios**2 / (count * squares), keys.LARGEST_MISMATCH: largest}

    def keep(self) -> dict[str, str]:
        """Return the sums to the last bit, infinite ones too, as JSON can hold them; every rank must call it."""
        return {name: value.hex() for name, value in self._add_up().items()}

    def restore(self, kept: dict[str, str]) -> None:
        """Go on from what `keep` gave: the first rank has the sums of all."""
        sums = {name: float.fromhex(value) for name, value in kept.items()}
        if not sums or not self.ranks.is_writer:
            return
        self._largest = torch.tensor(sums.pop(_LARGEST), dtype=torch.float32, device=self.device)
        self._names = tuple(sums)
        self._totals = torch.tensor(list(sums.values()), dtype=torch.float64, device=self.device)

    def _add_up(self) -> dict[str, float]:
        """Return the sums over all ranks, and the largest mismatch; nothing where no token was scored."""
        shares = [share for share in self.ranks.gather(self._read) if share]
        if not shares:
            return {}
        found = {name: sum(share[name] for share in shares) for name in shares[0] if name != _LARGEST}
        return found | {_LARGEST: max(share[_LARGEST] for share in shares)}

    def _read(self) -> dict[str, float]:
        if self._totals is None or self._largest is None:
            return {}
        return dict(zip(self._names, self._totals.tolist(), strict=True)) | {_LARGEST: float(self._largest)}
