"""What a stage will cost, as far as it is known before it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self

import numpy as np
import numpy.typing as npt

from posttrain.data.mixing import RowOrder
from posttrain.models.lora_settings import LoraSettings

_ROWS_COUNTED = 1_000_000


@dataclass(frozen=True, slots=True)
class StageCost:
    """What one round of a stage costs; None is unknown.

    `learning_rates` are those of the first, middle and last step; `tokens` counts prompts too. A study draws `answers`
    and asks for `verdicts` on them, of all scorers together.
    """

    steps: int | None = None
    tokens: int | None = None
    learning_rates: list[float] | None = None
    memory_bytes: int | None = None
    seconds: float | None = None
    answers: int | None = None
    verdicts: int | None = None


class TrainingConfig(Protocol):
    """A configuration of a stage that moves weights, as far as its cost depends on it."""

    @property
    def micro_batch_tokens(self) -> int:
        """Token budget of a forward pass."""

    @property
    def dtype(self) -> Literal["bfloat16", "float32"]:
        """The precision of the passes."""

    @property
    def adapter(self) -> LoraSettings | None:
        """The adapter that it begins, if any."""

    @property
    def adapter_start(self) -> str | None:
        """What becomes of the adapters that are there."""

    @property
    def activation_checkpointing(self) -> Literal["auto", "on", "off"]:
        """Whether activations are computed again in the backward pass."""

    @property
    def packing(self) -> Literal["auto", "on", "off"]:
        """Whether rows are laid end to end."""

    @property
    def max_grad_norm(self) -> float | None:
        """Where gradients are clipped."""

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy with other values."""

    def compute_learning_rate(self, step: int, num_steps: int) -> float:
        """Return the learning rate of a step, counted from 0."""


def list_learning_rates(config: TrainingConfig, steps: int) -> list[float]:
    """Return the learning rates of the first, middle and last of some steps."""
    return [config.compute_learning_rate(step, steps) for step in ([0, steps // 2, steps - 1] if steps else [])]


def count_tokens(order: RowOrder, lengths: Sequence[npt.NDArray[np.int64]], steps: int) -> int:
    """Return how many tokens, prompts included, a number of steps sees.

    The first million rows are counted, and what comes after them in proportion.

    Args:
        order: Says which rows each step takes.
        lengths: Tokens of every row, for each source.
        steps: Steps from the first.
    """
    counted = min(steps, max(1, _ROWS_COUNTED // order.batch_size))
    tokens = sum(int(lengths[source][row]) for step in range(counted) for source, row in order.rows_of_step(step))
    return round(tokens * steps / counted) if counted else 0
