"""Notes when steps end; a recipe's `callbacks` and the program that runs the recipe share the one `clock`."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Mapping
from typing import Any

from benchmarks.machine import find_device, peak_memory_bytes, synchronise
from benchmarks.record import seconds_since_start


class Clock:
    """A callback and a progress display in one: it sees steps, notes, and when training begins."""

    def __init__(self) -> None:
        self.training_began = 0.0
        self.reference_seconds = 0.0
        self._reference_began: float | None = None
        self.step_ends: list[float] = []
        self.losses: list[float] = []
        self.first_step_seconds = 0.0
        self.peak_memory_bytes = 0
        self.rows_tokenized: int | None = None

    @property
    def slowest_step_seconds(self) -> float:
        """Seconds of the slowest step but the first, of at least two."""
        return max(b - a for a, b in itertools.pairwise(self.step_ends))

    def on_step(self, step: int, metrics: Mapping[str, float], policy: Any) -> None:
        """Called by the training loop after every optimizer step."""
        del step, policy
        device = find_device("auto")
        synchronise(device)
        self.step_ends.append(time.perf_counter())
        self.losses.append(metrics["loss"])
        self.peak_memory_bytes = peak_memory_bytes(device)
        if len(self.step_ends) == 1:
            self.first_step_seconds = seconds_since_start()

    def start(self, title: str, total: int, *, unit: str = "step") -> None:
        """Called when something long begins."""
        del total, unit
        if title == "training":
            self.training_began = time.perf_counter()
        if title == "reference log-probs":
            self._reference_began = time.perf_counter()

    def note(self, text: str) -> None:
        """Called with plain lines for the user, one of which says how many rows were tokenized."""
        if found := re.search(r"([\d,]+) rows tokenized", text):
            self.rows_tokenized = int(found[1].replace(",", ""))

    def advance(self, amount: int = 1, **figures: float | str) -> None:
        """Shows nothing."""

    def finish(self) -> None:
        """Called when what was begun last is over."""
        if self._reference_began is not None:
            self.reference_seconds += time.perf_counter() - self._reference_began
            self._reference_began = None


clock = Clock()
