"""Figures as markdown: medians with their range, ratios within rounds, shares of the machine's product rate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.alternate import Record, Spread, summarise, summarise_ratios
from benchmarks.models import SHAPES


def count_operations(record: Record, parameters: int) -> dict[str, float]:
    """Return the matrix-product operations of a run's timed steps, forward and backward, without attention.

    `nominal` is the usual 6 x parameters x tokens; `needed` counts the (tied) embedding only where the
    head scores a token, which is the work that has to be done.
    """
    shape = SHAPES[record["model"]]
    head = shape["vocab_size"] * shape["hidden_size"]
    scored_share = record["scored_tokens"] / record["tokens"]
    tokens = record["timed_tokens"]
    return {
        "nominal": 6.0 * parameters * tokens,
        "needed": 6.0 * tokens * (parameters - head + head * scored_share),
    }


def compute_share(record: Record, parameters: int, kind: str) -> float:
    """Return the share of the machine's bf16 product rate, as measured in the same process, in [0, 1]."""
    rate = count_operations(record, parameters)[kind] / record["timed_seconds"] / 1e9
    return rate / record["product_gflops"]


def compare_sides(records: Mapping[str, Sequence[Record]], parameters: int) -> dict[str, Any]:
    """Return the spreads of each side, and of the ratios between ours and the peer's."""
    result: dict[str, Any] = {}
    for side, runs in records.items():
        result[side] = {
            "tokens_per_second": summarise([run["tokens_per_second"] for run in runs]).to_json(),
            "peak_memory_bytes": summarise([run["peak_memory_bytes"] for run in runs]).to_json(),
            "first_step_seconds": summarise([run["first_step_seconds"] for run in runs]).to_json(),
            "product_gflops": summarise([run["product_gflops"] for run in runs]).to_json(),
            "share_nominal": summarise([compute_share(run, parameters, "nominal") for run in runs]).to_json(),
            "share_needed": summarise([compute_share(run, parameters, "needed") for run in runs]).to_json(),
            "final_loss": summarise([run["final_loss"] for run in runs]).to_json(),
        }
    if {"posttrain", "trl"} <= set(records):
        ours, theirs = records["posttrain"], records["trl"]
        result["ratios"] = {
            key: summarise_ratios([run[key] for run in ours], [run[key] for run in theirs]).to_json()
            for key in ("tokens_per_second", "peak_memory_bytes")
        }
    return result


def format_spread(spread: Mapping[str, float], *, scale: float = 1.0, digits: int = 0, unit: str = "") -> str:
    """Return `median (low to high)` in a unit."""
    median, low, high = (spread[key] * scale for key in ("median", "low", "high"))
    return f"{median:,.{digits}f}{unit} ({low:,.{digits}f} to {high:,.{digits}f})"


def format_table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Return a markdown table."""
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def format_comparison(model: str, comparison: Mapping[str, Any]) -> str:
    """Return one model's figures as a markdown table, one line a side, and a line of ratios."""
    lines = []
    for side in (side for side in comparison if side != "ratios"):
        figures = comparison[side]
        lines.append(
            [
                f"{side}, {model}",
                format_spread(figures["tokens_per_second"]),
                format_spread(figures["peak_memory_bytes"], scale=1e-9, digits=2),
                format_spread(figures["share_nominal"], scale=100, digits=1),
                format_spread(figures["share_needed"], scale=100, digits=1),
                format_spread(figures["product_gflops"]),
            ]
        )
    if "ratios" in comparison:
        speed, memory = (comparison["ratios"][key] for key in ("tokens_per_second", "peak_memory_bytes"))
        lines.append([f"ratio, {model}", format_spread(speed, digits=2), format_spread(memory, digits=2), "", "", ""])
    header = ["side", "real tokens/s", "peak memory, GB", "6PN share, %", "needed share, %", "bf16 product, GFLOP/s"]
    return format_table(header, lines)


def check_same_work(records: Mapping[str, Sequence[Record]], *, tolerance: float = 0.02) -> Spread:
    """Return how many real tokens the runs had, and raise if the sides did not do the same work.

    Raises:
        ValueError: Token counts differ by more than the tolerance (templates end turns differently by a token).
    """
    tokens = summarise([run["tokens"] for runs in records.values() for run in runs])
    if tokens.high > tokens.low * (1 + tolerance):
        raise ValueError(f"the sides trained on different work: {tokens.low} to {tokens.high} real tokens")
    return tokens
