"""The keys of every stage that moves weights: optimizer, precision, adapters, memory, checkpoints."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pydantic import Field, model_validator

from posttrain.core.config import Config, display_field
from posttrain.models.lora_settings import LoraSettings

if TYPE_CHECKING:
    from posttrain.training.optimizer import AdamWSettings, MasterOptimizer


class TrainingKeys(Config):
    """Keys that stages share; each stage is a subclass with its own defaults where they differ."""

    micro_batch_tokens: int = Field(8192, ge=1, description="token budget of one forward pass on one rank")
    learning_rate: float = Field(1e-4, gt=0, lt=10)
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    warmup_fraction: float = Field(0.03, ge=0, lt=1)
    final_learning_rate_fraction: float = Field(0.0, ge=0, le=1)
    weight_decay: float = Field(0.0, ge=0, lt=1)
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.999, ge=0, lt=1)
    epsilon: float = Field(1e-8, gt=0)
    max_grad_norm: float | None = Field(1.0, gt=0)

    adapter: LoraSettings | None = None
    adapter_start: Literal["new", "continue", "stack", "merge"] | None = Field(
        None, description="what to do with adapters the policy has already; None: refuse to guess"
    )
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    activation_checkpointing: Literal["auto", "on", "off"] = "auto"
    packing: Literal["auto", "on", "off"] = "auto"

    checkpoint_every_steps: int = display_field(100, ge=1)
    log_every_steps: int = display_field(10, ge=1)
    callbacks: list[str] = Field(default_factory=list, description="file.py:Class or entry points")

    @model_validator(mode="after")
    def _check_training(self) -> TrainingKeys:
        if self.schedule == "constant" and self.final_learning_rate_fraction:
            raise ValueError("final_learning_rate_fraction belongs to the schedules linear and cosine")
        if self.adapter is None and self.adapter_start in ("new", "stack"):
            raise ValueError(f"adapter_start: {self.adapter_start} needs adapter: {{rank: ..., alpha: ...}}")
        return self

    @property
    def has_steps(self) -> bool:
        """Whether the stage moves its weights; one of 0 steps passes its policy on as it is."""
        return True

    @property
    def adamw(self) -> AdamWSettings:
        """The optimizer's own settings."""
        from posttrain.training.optimizer import AdamWSettings

        return AdamWSettings((self.beta1, self.beta2), self.epsilon, self.weight_decay)

    def build_optimizer(self, model: Any, *, ema_decay: float | None = None) -> MasterOptimizer:
        """Return the optimizer of a model's trainable parameters."""
        from posttrain.training.optimizer import MasterOptimizer

        return MasterOptimizer(model.named_parameters(), self.adamw, ema_decay=ema_decay)

    def compute_learning_rate(self, step: int, num_steps: int) -> float:
        """Return the learning rate of an optimizer step, counted from 0."""
        from posttrain.training.optimizer import compute_learning_rate

        return compute_learning_rate(
            step,
            peak=self.learning_rate,
            num_steps=num_steps,
            warmup_steps=self.count_warmup_steps(num_steps),
            schedule=self.schedule,
            final_fraction=self.final_learning_rate_fraction,
        )

    def count_warmup_steps(self, num_steps: int) -> int:
        """Return the steps of warm-up: the fraction of all steps, rounded up, but never all of them."""
        return min(math.ceil(self.warmup_fraction * num_steps), max(0, num_steps - 1))


class Passes(Protocol):
    """A configuration that says how long to train in steps, or in passes over its rows."""

    @property
    def steps(self) -> int | None:
        """Optimizer steps, None where `epochs` says."""

    @property
    def epochs(self) -> float | None:
        """Passes over the rows, None where `steps` says."""


def count_steps(config: Passes, steps_per_epoch: int) -> int:
    """Return the optimizer steps of a stage."""
    if config.steps is not None:
        return config.steps
    # 0.07 * 100 is a hair above 7 in floating point
    return math.ceil((config.epochs or 0) * steps_per_epoch - 1e-9)
