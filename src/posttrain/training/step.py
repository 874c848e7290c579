"""One checked optimizer update from micro-batches: the only place that calls backward.

The step's total weight is known before its first forward pass, so each micro-batch's gradient is final
as it is summed. The update is taken only if loss and gradient norm are finite; else nothing is changed
and the error names the parameter and the rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from posttrain.core.errors import TrainingError
from posttrain.kernels.token_logprobs import TokenObjective, TokenScores
from posttrain.objectives.reduction import check_total, normalise_weights
from posttrain.training.batches import MicroBatch
from posttrain.training.distributed import Ranks
from posttrain.training.optimizer import MasterOptimizer
from posttrain.training.policy import ScoredPolicy


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one optimizer step measured, over all micro-batches and ranks.

    `loss` nats per trained token; `accuracy` share of trained tokens that are the argmax; `grad_norm`
    before clipping; `num_tokens` prompts included; `num_trained` scored tokens.
    """

    loss: float
    accuracy: float
    grad_norm: float
    num_tokens: int
    num_trained: int


@dataclass(frozen=True, slots=True)
class StepBatch:
    """One rank's micro-batches of a step, and the totals over all ranks."""

    micro_batches: Sequence[MicroBatch]
    total_weight: float
    num_tokens: int
    num_trained: int


class Updater:
    """Takes optimizer steps.

    Args:
        policy: What is trained.
        optimizer: Its optimizer.
        ranks: The processes that share the step (one, or torchrun's).
        objective: The token objective.
        max_grad_norm: Gradients are scaled down to this norm; None for no clipping.
        device: Where the policy computes.
        observe: Told of the figures of every micro-batch; it must not wait for the device.
        with_entropy: Whether entropies are among what is observed.
    """

    # many parameters: an updater is built once, of parts that have no other common home
    def __init__(
        self,
        policy: ScoredPolicy,
        optimizer: MasterOptimizer,
        ranks: Ranks,
        objective: TokenObjective,
        *,
        max_grad_norm: float | None,
        device: str = "cpu",
        observe: Callable[[MicroBatch, TokenScores], None] | None = None,
        with_entropy: bool = True,
    ) -> None:
        self.observe = observe
        self.with_entropy = observe is not None and with_entropy
        self.policy = policy
        self.optimizer = optimizer
        self.ranks = ranks
        self.objective = objective
        self.max_grad_norm = max_grad_norm
        self.device = device

    def accumulate(self, batch: StepBatch, *dropout_stream: int | str) -> torch.Tensor:
        """Run forward and backward over a step's micro-batches; gradients are left on the parameters.

        Micro-batch i of rank r is number i * ranks + r of the step, as `data.packing.deal` deals them.

        Returns:
            Sums over this rank's tokens, fp64 [2]: loss (already divided by the total) and argmax hits.
        """
        check_total(batch.total_weight)
        sums = torch.zeros(2, dtype=torch.float64, device=self.device)
        self.policy.train()
        for index, micro_batch in enumerate(batch.micro_batches):
            rows = micro_batch.to(self.device)
            weights = normalise_weights(rows.weights_N, batch.total_weight)
            # The number that the micro-batch has in the whole step: masks do not depend on how many ranks there are.
            number = index * self.ranks.count + self.ranks.rank
            with self.policy.seeded_dropout(*dropout_stream, number):
                scores = self.policy(rows, self.objective, weights, with_entropy=self.with_entropy)
                scores.loss.backward()
            if self.observe is not None:
                self.observe(rows, scores)
            sums += torch.stack([scores.loss.detach().double(), scores.is_argmax_N.sum().double()])
            if len(batch.micro_batches) > 1:
                self.optimizer.collect_gradients()
        return sums

    def update(self, batch: StepBatch, learning_rate: float, *dropout_stream: int | str) -> StepReport:
        """Take one optimizer step.

        Raises:
            TrainingError: The loss or a gradient is not finite; nothing was changed.
        """
        sums = self.ranks.sum(self.accumulate(batch, *dropout_stream))
        norm, norms = self.optimizer.compute_norm()
        figures = torch.cat([sums, norm.reshape(1).double().to(sums.device)]).tolist()  # the step's one synchronisation
        loss, hits, grad_norm = figures
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            names = self.optimizer.names_with_gradient()
            bad = [name for name, value in zip(names, norms.tolist(), strict=True) if not math.isfinite(value)]
            self.optimizer.drop_gradients()
            raise _not_finite(loss, bad, batch)
        scale = 1.0
        if self.max_grad_norm is not None and grad_norm > self.max_grad_norm:
            scale = self.max_grad_norm / (grad_norm + 1e-6)
        self.optimizer.apply(learning_rate, scale)
        return StepReport(loss, hits / max(1, batch.num_trained), grad_norm, batch.num_tokens, batch.num_trained)


def _not_finite(loss: float, bad: list[str], batch: StepBatch) -> TrainingError:
    rows = [row for micro_batch in batch.micro_batches for row in micro_batch.row_ids]
    shown = ", ".join(rows[:8]) + (f" and {len(rows) - 8} more" if len(rows) > 8 else "")
    where = f"{len(bad)} parameters, the first {bad[0]}" if bad else "no parameter"
    return TrainingError(
        f"loss {loss} and gradients that are not finite in {where}; rows of this step: {shown}",
        expected="finite numbers; the step was not taken and the last checkpoint is untouched",
        cure="lower the learning rate, use dtype: float32, or look at the rows with 'posttrain data show'",
        place=bad[0] if bad else "loss",
    )
