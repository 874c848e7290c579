"""The figures of sampling as markdown: rates, ratios within rounds, first tokens, memory, shares of the machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.alternate import Record, summarise, summarise_ratios
from benchmarks.models import SHAPES
from benchmarks.tables import format_spread, format_table

KEYS = (
    "tokens_per_second",
    "first_pass_tokens_per_second",
    "first_token_seconds",
    "load_seconds",
    "peak_memory_bytes",
    "product_gflops",
)


def count_sampling_operations(record: Record, parameters: int) -> float:
    """Return the matrix-product operations that a pass cannot do without, attention left out.

    2 x parameters x tokens drawn, and as much for each prompt once, without the (tied) head.
    """
    shape = SHAPES[record["model"]]
    head = shape["vocab_size"] * shape["hidden_size"]
    return 2.0 * parameters * record["timed_tokens"] + 2.0 * (parameters - head) * record["prompt_tokens"]


def compute_sampling_share(record: Record, parameters: int) -> float:
    """Return the share of the machine's bf16 product rate, as measured in the same process, in [0, 1]."""
    rate = count_sampling_operations(record, parameters) / record["timed_seconds"] / 1e9
    return rate / record["product_gflops"]


def compare_sampling(records: Mapping[str, Sequence[Record]], parameters: int) -> dict[str, Any]:
    """Return the spreads of each side, and of the ratios between the first side and every other."""
    sides = {
        side: {key: summarise([run[key] for run in runs]).to_json() for key in KEYS}
        | {"share": summarise([compute_sampling_share(run, parameters) for run in runs]).to_json()}
        for side, runs in records.items()
    }
    first, *others = records
    ratios = {
        side: {
            key: summarise_ratios([run[key] for run in records[first]], [run[key] for run in records[side]]).to_json()
            for key in ("tokens_per_second", "peak_memory_bytes")
        }
        for side in others
    }
    return {"sides": sides, "ratios": ratios}


def format_sampling(comparison: Mapping[str, Any]) -> str:
    """Return the sides as a markdown table, and below it a table of the first side's ratios to the others."""
    lines = [
        [
            side,
            format_spread(figures["tokens_per_second"]),
            format_spread(figures["first_pass_tokens_per_second"]),
            format_spread(figures["first_token_seconds"], digits=2),
            format_spread(figures["load_seconds"], digits=1),
            format_spread(figures["peak_memory_bytes"], scale=1e-9, digits=2),
            format_spread(figures["share"], scale=100, digits=1),
            format_spread(figures["product_gflops"]),
        ]
        for side, figures in comparison["sides"].items()
    ]
    header = [
        "side",
        "tokens/s",
        "tokens/s, first pass",
        "first tokens, s",
        "load, s",
        "peak memory, GB",
        "share, %",
        "bf16 product, GFLOP/s",
    ]
    table = format_table(header, lines)
    if not comparison["ratios"]:
        return table
    first = next(iter(comparison["sides"]))
    ratios = [
        [
            f"{first} / {side}",
            format_spread(figures["tokens_per_second"], digits=2),
            format_spread(figures["peak_memory_bytes"], digits=2),
        ]
        for side, figures in comparison["ratios"].items()
    ]
    return f"{table}\n\n{format_table(['ratio', 'tokens/s', 'peak memory'], ratios)}"


def check_same_prompts(records: Mapping[str, Sequence[Record]]) -> None:
    """Raise if sides were not given the same prompts for as many sequences.

    Raises:
        ValueError: They were not. How many tokens were drawn may differ, and rates be compared all the same.
    """
    found = {(run["prompt_tokens"], run["sequences"]) for runs in records.values() for run in runs}
    if len(found) != 1:
        raise ValueError(f"the sides were given different work, as prompt tokens and sequences: {sorted(found)}")


def compute_bytes_per_row(rows: Sequence[int], peaks: Sequence[float]) -> float:
    """Return the slope of peak memory over rows, from the least to the most of them."""
    (fewest, least), *_, (most, largest) = sorted(zip(rows, peaks, strict=True))
    return (largest - least) / (most - fewest)


def format_memory(peaks: Mapping[str, Mapping[int, float]]) -> str:
    """Return each side's peak memory by number of sequences as a markdown table."""
    rows = sorted({count for side in peaks.values() for count in side})
    lines = [
        [
            side,
            *(f"{figures[count] / 1e9:.2f}" if count in figures else "" for count in rows),
            f"{compute_bytes_per_row(list(figures), list(figures.values())) / 1e6:.2f}",
        ]
        for side, figures in peaks.items()
    ]
    header = ["peak memory, GB", *(f"{count} sequences" for count in rows), "MB a sequence"]
    return format_table(header, lines)
