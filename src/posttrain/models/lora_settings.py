"""The configuration of a LoRA adapter (arXiv 2106.09685), readable without loading torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from posttrain.core.config import Config


class LoraSettings(Config):
    """Shape and start of a LoRA adapter.

    Args:
        rank: Rank of the update.
        alpha: The update is scaled by alpha / rank; None means alpha = 2 * rank.
        dropout: Dropout on the adapter's input.
        targets: "all-linear" (every linear layer but the head) or names of modules (`q_proj`).
        init: Start of A: "kaiming" (uniform, as PEFT) or "gaussian" (standard deviation 1 / rank). B is zero.
    """

    rank: int = Field(16, ge=1, le=4096)
    alpha: float | None = Field(None, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    targets: Literal["all-linear"] | list[str] = "all-linear"
    init: Literal["kaiming", "gaussian"] = "kaiming"

    @field_validator("targets")
    @classmethod
    def _check_targets(cls, value: str | list[str]) -> str | list[str]:
        if not value:
            raise ValueError("targets is empty: name modules, or use 'all-linear'")
        return value

    @property
    def effective_alpha(self) -> float:
        """The alpha in force."""
        return self.alpha if self.alpha is not None else 2.0 * self.rank
