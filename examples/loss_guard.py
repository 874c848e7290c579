"""A callback: it ends a run whose loss has left the lowest one so far far behind, and lists the checkpoints."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from posttrain.core.errors import RefusedError

FACTOR = 3.0


class LossGuard:
    """Remembers the lowest loss since this process began; a resumed run begins to remember anew."""

    def __init__(self) -> None:
        self.lowest = float("inf")

    def on_step(self, step: int, metrics: Mapping[str, float], policy: Any) -> None:
        """Called after every step, before its checkpoint, with `loss`, `grad_norm` and `learning_rate`."""
        loss = metrics["loss"]
        if loss > FACTOR * self.lowest:
            raise RefusedError(
                f"the loss is {loss:.3g} after step {step}; it had been {self.lowest:.3g}",
                expected=f"at most {FACTOR:g} times the lowest",
                cure="lower learning_rate, or look at the data",
            )
        self.lowest = min(self.lowest, loss)

    def on_save(self, step: int, folder: Path) -> None:
        """Called after every checkpoint."""
        with (folder.parent.parent / "saved.txt").open("a") as file:
            file.write(f"{step} {self.lowest:.4f}\n")
