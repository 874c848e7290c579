"""The planned memory of every stage meets the peak that is measured, on a model made on the spot."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.memory_plan import OF_PAIRS, measure, write_pairs
from benchmarks.models import prepare


@pytest.mark.invariants
@pytest.mark.parametrize(
    ("stage", "least", "most"), [*((stage, 0.8, 1.25) for stage in ("sft", *OF_PAIRS)), ("grpo", 0.9, 1.5)]
)
def test_the_planned_memory_meets_the_measured_peak(tmp_path: Path, stage: str, least: float, most: float) -> None:
    """Rows are known; what `grpo` draws is planned as long as it may become."""
    prepare(tmp_path, ["4m"])
    write_pairs(tmp_path, 800)
    settings = {"dtype": "float32", "activation_checkpointing": "off", "micro_batch_tokens": 8192}
    found = measure(tmp_path, stage, "4m", settings)
    assert least < found["ratio"] < most
