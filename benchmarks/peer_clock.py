"""When the steps of a transformers trainer end. Runs in the peer's environment, and imports nothing of our package."""

from __future__ import annotations

import time
from typing import Any

import torch
from transformers import TrainerCallback

from benchmarks.machine import peak_memory_bytes, synchronise
from benchmarks.record import seconds_since_start


class StepClock(TrainerCallback):
    """Notes when each step has ended, and the memory held by then."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.ends: list[float] = []
        self.first_step_seconds = 0.0
        self.peak_memory_bytes = 0

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Called by the trainer after each optimizer step."""
        synchronise(self.device)
        self.ends.append(time.perf_counter())
        self.peak_memory_bytes = peak_memory_bytes(self.device)
        if len(self.ends) == 1:
            self.first_step_seconds = seconds_since_start()
