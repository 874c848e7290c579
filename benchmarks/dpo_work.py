"""What both sides of the DPO benchmark do, and what one run says of itself. Imports nothing large.

A step trains on 8 pairs: a question, its worked answer as chosen and the next question's as
rejected. The reference's log-probs of all pairs are part of the work, whether they are computed before training or in
every step; a pair's time is its share of both.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.alternate import Record, summarise, summarise_ratios
from benchmarks.models import SHAPES
from benchmarks.rows import read_rows
from benchmarks.tables import format_spread, format_table

PAIRS = {"4m": 8, "135m": 8, "0.5b": 32, "1.2b": 32}
BETA = 0.1
LEARNING_RATE = 1e-6
TARGETS = {"pairs_per_second": 5.0, "peak_memory_bytes": 0.6}


@dataclass(frozen=True, slots=True)
class DpoRecord:
    """One run of one side, a JSON line. Seconds are wall clock; the first step is not timed.

    `reference_seconds` are those of a pass over all pairs before training, 0 where each step computes its own;
    `trained_tokens` are the completions' of a step; `first_loss` is ln 2 where the reference is the policy.
    """

    side: str
    model: str
    setting: str
    steps: int
    pairs: int
    trained_tokens: float
    reference_seconds: float
    timed_seconds: float
    first_step_seconds: float
    first_loss: float
    final_loss: float
    peak_memory_bytes: int
    product_gflops: float
    machine: dict[str, object]
    versions: dict[str, str]

    @property
    def step_seconds(self) -> float:
        """Seconds of a step, with its share of the reference pass."""
        return self.timed_seconds / (self.steps - 1) + self.reference_seconds / self.steps

    def to_line(self) -> str:
        """Return the record as one JSON line, with pairs a second."""
        rates = {"step_seconds": self.step_seconds, "pairs_per_second": self.pairs / self.step_seconds}
        return json.dumps(asdict(self) | rates)


def build_side_parser(description: str | None, settings: Sequence[str]) -> argparse.ArgumentParser:
    """Return the parser of the arguments that each side's program takes."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="what benchmarks.models wrote")
    parser.add_argument("--model", choices=sorted(SHAPES), required=True)
    parser.add_argument("--steps", type=int, required=True, help="steps, the untimed first one included")
    parser.add_argument("--setting", choices=settings, default=settings[0])
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--work", type=Path, required=True, help="where the run may write")
    return parser


def make_pairs(folder: Path, model: str, steps: int) -> list[dict[str, Any]]:
    """Return the pairs of a run: question, its own answer as chosen, the next one's as rejected."""
    rows = read_rows(folder / "rows.jsonl", PAIRS[model] * steps + 1)
    return [
        {"prompt": row["prompt"], "chosen": row["completion"], "rejected": rows[index + 1]["completion"]}
        for index, row in enumerate(rows[:-1])
    ]


def check_same_work(records: Mapping[str, Sequence[Record]], *, tolerance: float = 0.02) -> None:
    """Raise if the sides did not train on the same pairs from the same start.

    Raises:
        ValueError: Trained tokens differ by more than the tolerance (templates end turns differently by a token), or a
            first loss is not ln 2.
    """
    tokens = [run["trained_tokens"] for runs in records.values() for run in runs]
    losses = [run["first_loss"] for runs in records.values() for run in runs]
    if max(tokens) > min(tokens) * (1 + tolerance):
        raise ValueError(f"the sides trained on different work: {min(tokens)} to {max(tokens)} tokens a step")
    if max(abs(loss - 0.6931) for loss in losses) > 0.02:
        raise ValueError(f"first losses of {min(losses)} to {max(losses)}, expected ln 2")


def compare_sides(records: Mapping[str, Sequence[Record]]) -> dict[str, Any]:
    """Return the spreads of each side, and the ratios of every other one to `posttrain shared`."""
    keys = ("pairs_per_second", "step_seconds", "reference_seconds", "peak_memory_bytes", "product_gflops")
    ours = records["posttrain shared"]
    result: dict[str, Any] = {"sides": {}, "ratios": {}}
    for side, runs in records.items():
        result["sides"][side] = {key: summarise([run[key] for run in runs]).to_json() for key in keys}
        if side != "posttrain shared":
            result["ratios"][side] = {
                key: summarise_ratios([run[key] for run in ours], [run[key] for run in runs]).to_json()
                for key in ("pairs_per_second", "peak_memory_bytes")
            }
    return result


def format_comparison(comparison: Mapping[str, Any]) -> str:
    """Return the figures as a markdown table: a line a side, and one for each other side with its ratios."""
    lines = [
        [
            side,
            format_spread(figures["pairs_per_second"], digits=2),
            format_spread(figures["step_seconds"], digits=2),
            format_spread(figures["reference_seconds"], digits=2),
            format_spread(figures["peak_memory_bytes"], scale=1e-9, digits=2),
            format_spread(figures["product_gflops"]),
        ]
        for side, figures in comparison["sides"].items()
    ]
    for side, ratios in comparison["ratios"].items():
        speed, memory = (format_spread(ratios[key], digits=2) for key in ("pairs_per_second", "peak_memory_bytes"))
        is_peer = side.startswith("trl")
        faster = f"{speed} times faster" + (f"; asked {TARGETS['pairs_per_second']:g}" if is_peer else "")
        smaller = memory + (f"; asked {TARGETS['peak_memory_bytes']:g}" if is_peer else "")
        lines.append([f"ratio to {side}", faster, "", "", smaller, ""])
    header = [
        "side", "pairs/s, reference included", "seconds a step, with its share of the reference",
        "seconds of the reference pass", "peak memory, GB", "bf16 product, GFLOP/s",
    ]  # fmt: skip
    return format_table(header, lines)
