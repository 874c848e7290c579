"""Objectives of unpaired feedback, where each completion alone is desirable or undesirable: KTO and BCO.

With r = log pi(y|x) - log ref(y|x) of a whole completion, S of them in a step:

| | loss of a desirable completion | of an undesirable one | its reference point |
| --- | --- | --- | --- |
| KTO | w_D (1 - sigma(beta (r - z))) | w_U (1 - sigma(beta (z - r))) | z = max(0, mean of log pi(y'|x) / ref(y'|x)) |
| BCO | -w_D log sigma(beta r - d) | -w_U log sigma(d - beta r) | d = (mean_D of beta r + mean_U of beta r) / 2 |

y' is a completion of another row: z estimates how far the policy has moved from the reference, KL(pi || ref), at
completions that are no feedback on x. Neither z nor d carries gradient. A step's loss is the sum over its completions
divided by S (`objectives.reduction`): the weights w scale losses and are no part of the divisor.

KTO saturates on both sides, so that a label that contradicts the policy strongly hardly moves it; BCO's gradient grows
to the whole w beta there. Where one label is rarer, Ethayarajh et al. advise w_D n_D / (w_U n_U) between 1 and 4/3
(`compute_balance`).

Known differences: z is the mean over the whole optimizer step and not of a micro-batch, and y' comes from the whole
data (`data.mismatched`), so that neither depends on how a step is cut up. d is a moving average that holds both labels'
means apart, so that each counts half however many rows it has, and it is that of the steps before: 0 in the first one.
BCO's weighting of undesirable rows by a classifier of prompts is not here. Shape letters: S completions, N their scored
tokens in one micro-batch.

Sources: KTO, Ethayarajh et al. 2024, "KTO: Model Alignment as Prospect Theoretic Optimization" (arXiv 2402.01306,
equations 7 and 8); BCO, Jung et al. 2024, "Binary Classifier Optimization for Large Language Model Alignment" (arXiv
2404.04656).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import logsigmoid


@dataclass(frozen=True, slots=True)
class KtoLoss:
    """KTO's loss: maps completions' log-probs [S] to losses [S], each in [0, its label's weight].

    Args:
        beta: How fast the value saturates with the log ratio, nats^-1, > 0.
        desirable_weight: w_D, >= 0.
        undesirable_weight: w_U, >= 0.

    Constants of a call, each [S]: `references`, nats; `is_desirable`, bool; `kl_point`, nats, >= 0, the same
    for all completions of a step.
    """

    beta: float = 0.1
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0

    def __call__(self, logprobs_S: torch.Tensor, constants: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the loss of each completion.

        Args:
            logprobs_S: Log-probs of whole completions under the policy, nats, <= 0, with gradient.
            constants: See the class.
        """
        log_ratios_S = logprobs_S - constants["references"]
        gains_S = self.beta * (log_ratios_S - constants["kl_point"].detach())
        is_desirable_S = constants["is_desirable"].bool()
        # 1 - sigma(u) = sigma(-u), without the cancellation
        losses_S = torch.sigmoid(torch.where(is_desirable_S, -gains_S, gains_S))
        return losses_S * _weigh(is_desirable_S, losses_S, self.desirable_weight, self.undesirable_weight)


@dataclass(frozen=True, slots=True)
class BcoLoss:
    """BCO's loss: maps completions' log-probs [S] to losses [S] >= 0, nats.

    Args:
        beta: Factor of the reward beta r, > 0.
        desirable_weight: w_D, >= 0.
        undesirable_weight: w_U, >= 0.

    Constants of a call, each [S]: `references`, nats; `is_desirable`, bool; `reward_shift`, d, the same for all
    completions of a step (`RewardShift.value`).
    """

    beta: float = 0.1
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0

    def __call__(self, logprobs_S: torch.Tensor, constants: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the loss of each completion.

        Args:
            logprobs_S: Log-probs of whole completions under the policy, nats, <= 0, with gradient.
            constants: See the class.
        """
        rewards_S = self.beta * (logprobs_S - constants["references"])
        logits_S = rewards_S - constants["reward_shift"].detach()
        is_desirable_S = constants["is_desirable"].bool()
        losses_S = -logsigmoid(torch.where(is_desirable_S, logits_S, -logits_S))
        return losses_S * _weigh(is_desirable_S, losses_S, self.desirable_weight, self.undesirable_weight)


def _weigh(is_desirable_S: torch.Tensor, like_S: torch.Tensor, desirable: float, undesirable: float) -> torch.Tensor:
    return torch.where(is_desirable_S, like_S.new_tensor(desirable), like_S.new_tensor(undesirable))


@dataclass(frozen=True, slots=True)
class UnpairedObjective:
    """A loss of completions as a coupled token objective (`kernels.coupled_logprobs`): it lies at their first tokens.

    Every scored token of a completion has the completion's weight, and lies in the same micro-batch as the others.
    Constants of a call, each [N]: `branches`, which completion of the micro-batch a token is of, without gaps from the
    first one of the call on; those of `loss`, at every token the same number as at the others of its completion.
    """

    loss: KtoLoss | BcoLoss

    is_coupled = True

    def find_groups(self, constants: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return which completion each token is of, [N]: its tokens share its loss."""
        return constants["branches"]

    def __call__(self, logprobs_N: torch.Tensor, constants: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the loss of each completion at its first token and 0 at the others, [N]."""
        sums_S, first_S = sum_completions(logprobs_N, constants)
        losses_S = self.loss(sums_S, {name: values[first_S] for name, values in constants.items()})
        return logprobs_N.new_zeros(len(logprobs_N)).index_put((first_S,), losses_S)


def sum_completions(
    logprobs_N: torch.Tensor, constants: Mapping[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the log-prob of each whole completion, and where its first scored token is, both [S].

    Args:
        logprobs_N: Log-probs of the scored tokens, nats.
        constants: Of these `branches`, as in `UnpairedObjective`.
    """
    branches_N = constants["branches"].long()
    branches_N = branches_N - branches_N.min() if len(branches_N) else branches_N
    count = int(branches_N.max()) + 1 if len(branches_N) else 0
    numbers_N = torch.arange(len(branches_N), device=branches_N.device)
    first_S = numbers_N.new_full((count,), len(branches_N)).scatter_reduce(0, branches_N, numbers_N, "amin")
    return logprobs_N.new_zeros(count).index_add(0, branches_N, logprobs_N), first_S


def compute_kl_point(total: float, count: int) -> float:
    """Return KTO's reference point z, nats, >= 0: the mean log ratio of mismatched completions, or 0 if it is negative.

    Args:
        total: Sum of log pi(y'|x) - log ref(y'|x) over the step's rows: all micro-batches, all ranks.
        count: How many there are, >= 1.
    """
    return max(0.0, total / count)


@dataclass(frozen=True, slots=True)
class RewardShift:
    """BCO's moving averages of the rewards beta r of each label; immutable, so that a checkpoint can hold it.

    Made by the stage, one a step; read as `value` by the next one. None: no completion of that label was seen.

    Example: averages 2.0 and -1.0 give a `value` of 0.5; after a step with means 4.0 and -1.0 under a decay of 0.9
    they are 2.2 and -1.0, and `value` is 0.6.
    """

    desirable: float | None = None
    undesirable: float | None = None

    @property
    def value(self) -> float:
        """The shift d: half the sum of the averages, 0 while a label has none."""
        if self.desirable is None or self.undesirable is None:
            return 0.0
        return (self.desirable + self.undesirable) / 2

    def update(self, desirable: tuple[float, int], undesirable: tuple[float, int], decay: float) -> RewardShift:
        """Return the averages after a step.

        Args:
            desirable: Sum of the rewards beta r over the step's desirable completions (all micro-batches, all ranks),
                and how many there are; of 0 the average stays.
            undesirable: The same of the others.
            decay: Weight of what was averaged before, in [0, 1); a label's first mean is taken as it is.
        """
        return RewardShift(_average(self.desirable, desirable, decay), _average(self.undesirable, undesirable, decay))

    def to_json(self) -> dict[str, Any]:
        """Return the averages as JSON-like values."""
        return {"desirable": self.desirable, "undesirable": self.undesirable}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> RewardShift:
        """Return the averages that `to_json` wrote."""
        return cls(values["desirable"], values["undesirable"])


def _average(before: float | None, found: tuple[float, int], decay: float) -> float | None:
    total, count = found
    if count == 0:
        return before
    return total / count if before is None else decay * before + (1 - decay) * (total / count)


def compute_balance(
    num_desirable: int, num_undesirable: int, desirable_weight: float, undesirable_weight: float
) -> float:
    """Return w_D n_D / (w_U n_U), how much all desirable rows weigh beside all undesirable ones; advised is 1 to 4/3.

    Args:
        num_desirable: n_D, >= 1.
        num_undesirable: n_U, >= 1.
        desirable_weight: w_D, >= 0.
        undesirable_weight: w_U, > 0.

    Source: arXiv 2402.01306, section 4.
    """
    return desirable_weight * num_desirable / (undesirable_weight * num_undesirable)
