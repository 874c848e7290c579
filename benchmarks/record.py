"""What one measured run says of itself: one JSON line, the same for both sides.

Real tokens are tokens of rows, padding not counted. The first step is left out of the rate on both
sides, because it pays for allocations and kernels that are chosen once.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.models import BATCH_SIZES, SHAPES


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run of one side. Seconds are wall clock; `first_step_seconds` counts from the start of the process."""

    side: str
    model: str
    steps: int
    tokens: int
    scored_tokens: int
    timed_tokens: int
    timed_seconds: float
    first_step_seconds: float
    prepare_seconds: float
    train_seconds: float
    rows_tokenized: int
    final_loss: float
    peak_memory_bytes: int
    product_gflops: float
    machine: dict[str, object]
    versions: dict[str, str]

    @property
    def tokens_per_second(self) -> float:
        """Real tokens per second, without the first step."""
        return self.timed_tokens / self.timed_seconds

    def to_line(self) -> str:
        """Return the record as one JSON line."""
        return json.dumps(asdict(self) | {"tokens_per_second": self.tokens_per_second})


def seconds_since_start() -> float:
    """Return the seconds since this process was started, as told by the process that started it."""
    return time.time() - float(os.environ.get("BENCHMARK_STARTED", time.time()))


def parse_run_arguments(description: str | None) -> argparse.Namespace:
    """Return the arguments that each side's program takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--folder", type=Path, required=True, help="what benchmarks.models wrote")
    parser.add_argument("--model", choices=sorted(SHAPES), required=True)
    parser.add_argument("--steps", type=int, required=True, help="optimizer steps, the untimed first one included")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--work", type=Path, required=True, help="where the run may write; kept, it is a second start")
    parser.add_argument("--seed", type=int, default=0, help="of the order of rows; another one is another run")
    arguments = parser.parse_args()
    if arguments.steps < 2:
        parser.error("--steps: at least 2, because the first one is not timed")
    arguments.batch_size = BATCH_SIZES[arguments.model]
    return arguments
