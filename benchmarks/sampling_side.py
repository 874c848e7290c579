"""What every side of the sampling benchmark does: load, first tokens, two passes; and what it says of itself.

The second pass counts, because the first pays for allocations and for kernels that are chosen once; both are in
the record. Tokens are those that were asked for: what a side draws beyond them, because a batch runs until its
longest sequence ends, is its own cost.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from benchmarks.machine import describe_machine, find_device, measure_product_rate, peak_memory_bytes
from benchmarks.models import SHAPES
from benchmarks.record import seconds_since_start
from benchmarks.sampling_work import WORKS, Work, read_prompts

Draw = Callable[[Work, int], int]
"""Draws a work with a seed and returns how many of the tokens asked for it drew."""


@dataclass(frozen=True, slots=True)
class SamplingRecord:
    """One run of one side, a JSON line. Seconds are wall clock.

    `load_seconds` counts from the start of the process until it can draw, `first_token_seconds` from the first call
    until every sequence has one token; `first_pass_seconds` and `timed_seconds` are of the two passes over the work.
    `prompt_tokens` counts each prompt once.
    """

    side: str
    model: str
    work: str
    sequences: int
    prompt_tokens: int
    timed_tokens: int
    first_pass_seconds: float
    timed_seconds: float
    first_token_seconds: float
    load_seconds: float
    peak_memory_bytes: int
    product_gflops: float
    machine: dict[str, object]
    versions: dict[str, str]

    def to_line(self) -> str:
        """Return the record as one JSON line, rates included."""
        return json.dumps(
            asdict(self)
            | {
                "tokens_per_second": self.timed_tokens / self.timed_seconds,
                "first_pass_tokens_per_second": self.timed_tokens / self.first_pass_seconds,
            }
        )


def parse_side_arguments(description: str | None, modes: tuple[str, ...]) -> argparse.Namespace:
    """Return the arguments that each side's program takes; `work` is the piece of work."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="models, and what benchmarks.sampling_work wrote")
    parser.add_argument("--model", choices=sorted(SHAPES), required=True)
    parser.add_argument("--work", choices=sorted(WORKS), default="main")
    parser.add_argument("--new-tokens", type=int, help="in place of the work's own number")
    parser.add_argument("--mode", choices=modes, default=modes[0])
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    return parser.parse_args()


def choose_work(arguments: argparse.Namespace) -> Work:
    """Return the work that a side's arguments name."""
    work = WORKS[arguments.work]
    return replace(work, new_tokens=arguments.new_tokens) if arguments.new_tokens else work


# many parameters: a side's program is measured once
def measure_side(
    side: str,
    arguments: argparse.Namespace,
    draw: Draw,
    versions: dict[str, str],
    *,
    find_peak_memory: Callable[[], int] | None = None,
) -> SamplingRecord:
    """Draw the work's first tokens, then the whole of it twice, and return the record.

    Raises:
        RuntimeError: A pass did not give the tokens that were asked for.
    """
    load_seconds = seconds_since_start()
    work, device = choose_work(arguments), find_device(arguments.device)
    asked_for = sum(map(sum, work.list_lengths()))
    passes = []
    for number, part in enumerate((replace(work, new_tokens=1, is_mixed=False), work, work)):
        start = time.perf_counter()
        tokens = draw(part, number)
        passes.append(time.perf_counter() - start)
        if tokens != (work.sequences if number == 0 else asked_for):
            raise RuntimeError(f"pass {number} gave {tokens} tokens, asked for {asked_for}")
    return SamplingRecord(
        side=side,
        model=arguments.model,
        work=arguments.work,
        sequences=work.sequences,
        prompt_tokens=sum(map(len, read_prompts(arguments.folder, work))),
        timed_tokens=asked_for,
        first_pass_seconds=passes[1],
        timed_seconds=passes[2],
        first_token_seconds=passes[0],
        load_seconds=load_seconds,
        peak_memory_bytes=find_peak_memory() if find_peak_memory is not None else peak_memory_bytes(device),
        product_gflops=measure_product_rate(device),
        machine=describe_machine(device),
        versions=versions,
    )
