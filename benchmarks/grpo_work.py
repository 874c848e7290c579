"""What both sides of the GRPO benchmark do, and what one run says of itself. Imports nothing large.

A step draws 8 completions of at most 128 tokens of each of 8 problems at temperature 1, rewards them by a text's
characters, and takes one update without a KL. The policy has random weights: its stop token comes up once in some
4,096, so that nearly all completions have full length on both sides; what was really drawn is counted.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.alternate import Record, summarise, summarise_ratios
from benchmarks.models import SHAPES
from benchmarks.rows import read_rows
from benchmarks.tables import format_spread, format_table

PROBLEMS = 8
GROUP_SIZE = 8
COMPLETIONS = PROBLEMS * GROUP_SIZE
NEW_TOKENS = 128
LEARNING_RATE = 1e-6
TARGETS = {"step_seconds": 5.0, "peak_memory_bytes": 0.6}


@dataclass(frozen=True, slots=True)
class GrpoRecord:
    """One run of one side, a JSON line. Seconds are wall clock; the first step is not timed.

    `prompt_tokens` and `completion_tokens` are means over all steps, each prompt counted once a step; `reward` is that
    of the last step; `figures` are a case's own (`benchmarks.grpo_cases`).
    """

    side: str
    model: str
    setting: str
    steps: int
    prompt_tokens: float
    completion_tokens: float
    timed_seconds: float
    slowest_step_seconds: float
    first_step_seconds: float
    reward: float
    peak_memory_bytes: int
    product_gflops: float
    machine: dict[str, object]
    versions: dict[str, str]
    figures: dict[str, float] = field(default_factory=dict)

    def to_line(self) -> str:
        """Return the record as one JSON line, with seconds a step and completion tokens a second."""
        step_seconds = self.timed_seconds / (self.steps - 1)
        rate = self.completion_tokens / step_seconds
        return json.dumps(asdict(self) | {"step_seconds": step_seconds, "tokens_per_second": rate})


def build_side_parser(description: str | None, settings: Sequence[str]) -> argparse.ArgumentParser:
    """Return the parser of the arguments that each side's program takes."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="what benchmarks.models wrote")
    parser.add_argument("--model", choices=sorted(SHAPES), required=True)
    parser.add_argument("--steps", type=_count_steps, required=True, help="steps, the untimed first one included")
    parser.add_argument("--setting", choices=settings, default=settings[0])
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--work", type=Path, required=True, help="where the run may write")
    return parser


def _count_steps(text: str) -> int:
    steps = int(text)
    if steps < 2:
        raise argparse.ArgumentTypeError("at least 2, because the first one is not timed")
    return steps


def compute_reward(text: str) -> float:
    """Return a reward in [0, 6/7] that costs nothing and differs within nearly every group."""
    return sum(map(ord, text)) % 7 / 7


def reward_completions(completions: Sequence[Any], **columns: Any) -> list[float]:
    """Return the rewards of completions, each a text or a list of one message (TRL's signature)."""
    del columns
    return [compute_reward(one if isinstance(one, str) else one[0]["content"]) for one in completions]


def count_prompt_tokens(tokenizer: Any, folder: Path, steps: int) -> float:
    """Return the mean tokens of a step's prompts, each counted once."""
    texts = [
        tokenizer.apply_chat_template(row["prompt"], tokenize=False, add_generation_prompt=True)
        for row in read_rows(folder / "rows.jsonl", PROBLEMS * steps)
    ]
    return sum(len(tokenizer(text, add_special_tokens=False).input_ids) for text in texts) / steps


def count_operations(record: Record, parameters: int) -> float:
    """Return the matrix-product operations that a step needs, without attention.

    2 a weight to draw a token and 6 to train on it; a prompt is run once to draw from it and once to train behind it,
    and the head (tied to the embedding) is needed where a completion's token is drawn or scored.
    """
    shape = SHAPES[record["model"]]
    head = shape["vocab_size"] * shape["hidden_size"]
    body = parameters - head
    tokens = record["prompt_tokens"] + record["completion_tokens"]
    return 8.0 * (body * tokens + head * record["completion_tokens"])


def compute_share(record: Record, parameters: int) -> float:
    """Return the share of the machine's bf16 product rate, as measured in the same process, in [0, 1]."""
    return count_operations(record, parameters) / record["step_seconds"] / 1e9 / record["product_gflops"]


def check_same_work(records: Mapping[str, Sequence[Record]], *, tolerance: float = 0.02) -> None:
    """Raise if the sides drew different numbers of tokens.

    Raises:
        ValueError: A side's median of completion tokens a step is further than the tolerance from another's.
    """
    medians = [summarise([run["completion_tokens"] for run in runs]).median for runs in records.values()]
    if max(medians) > min(medians) * (1 + tolerance):
        raise ValueError(f"the sides drew different work: {medians} completion tokens a step")


def compare_sides(records: Mapping[str, Sequence[Record]], parameters: int) -> dict[str, Any]:
    """Return the spreads of each side, and the ratios of each peer: its seconds over ours, our memory over its.

    The side `posttrain` is ours; every other one is a peer.
    """
    keys = ("step_seconds", "tokens_per_second", "completion_tokens", "peak_memory_bytes", "product_gflops")
    result: dict[str, Any] = {"sides": {}, "ratios": {}}
    for side, runs in records.items():
        spreads = {key: summarise([run[key] for run in runs]).to_json() for key in keys}
        spreads["share"] = summarise([compute_share(run, parameters) for run in runs]).to_json()
        result["sides"][side] = spreads
        if side == "posttrain":
            continue
        ours = {key: [run[key] for run in records["posttrain"]] for key in keys}
        theirs = {key: [run[key] for run in runs] for key in keys}
        result["ratios"][side] = {
            "step_seconds": summarise_ratios(theirs["step_seconds"], ours["step_seconds"]).to_json(),
            "peak_memory_bytes": summarise_ratios(ours["peak_memory_bytes"], theirs["peak_memory_bytes"]).to_json(),
        }
    return result


def format_comparison(comparison: Mapping[str, Any]) -> str:
    """Return the figures as a markdown table: a line a side, and one a peer with its ratios and what is asked."""
    lines = [
        [
            side,
            format_spread(figures["step_seconds"], digits=2),
            format_spread(figures["tokens_per_second"]),
            format_spread(figures["completion_tokens"]),
            format_spread(figures["peak_memory_bytes"], scale=1e-9, digits=2),
            format_spread(figures["share"], scale=100, digits=1),
            format_spread(figures["product_gflops"]),
        ]
        for side, figures in comparison["sides"].items()
    ]
    for side, ratios in comparison["ratios"].items():
        speed, memory = (ratios[key] for key in ("step_seconds", "peak_memory_bytes"))
        faster = f"{format_spread(speed, digits=2)} times faster; asked {TARGETS['step_seconds']:g}"
        smaller = f"{format_spread(memory, digits=2)}; asked {TARGETS['peak_memory_bytes']:g}"
        lines.append([f"ratio to {side}", faster, "", "", smaller, "", ""])
    header = [
        "side", "seconds a step", "completion tokens/s", "completion tokens a step", "peak memory, GB",
        "needed share, %", "bf16 product, GFLOP/s",
    ]  # fmt: skip
    return format_table(header, lines)
