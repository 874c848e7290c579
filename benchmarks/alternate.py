"""Runs sides in turn, A B A B ..., each in a process of its own, and says what their figures are worth.

Alternating puts a machine's slow minutes on both sides alike, so ratios are taken round by round. This
module and its callers import nothing large: a child's peak memory would start at its parent's.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Spread:
    """A median with the least and the greatest value it stands for, and how many there were."""

    median: float
    low: float
    high: float
    count: int

    def to_json(self) -> dict[str, float | int]:
        """Return the fields as JSON."""
        return {"median": self.median, "low": self.low, "high": self.high, "count": self.count}


def summarise(values: Sequence[float]) -> Spread:
    """Return the median and range of values; there must be at least one."""
    return Spread(statistics.median(values), min(values), max(values), len(values))


def summarise_ratios(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """Return the median and range of ours / theirs, each taken within one round."""
    return summarise([mine / other for mine, other in zip(ours, theirs, strict=True)])


def compute_growth_exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Return b of the least-squares fit cost = a size^b: 1 is linear growth, 2 quadratic."""
    x = [math.log(size) for size in sizes]
    y = [math.log(cost) for cost in costs]
    return statistics.linear_regression(x, y).slope


def run_side(command: Sequence[str]) -> Record:
    """Run one side's command and return the JSON object on the last line that it prints.

    Raises:
        RuntimeError: The command failed or printed no JSON; the message holds the end of what it wrote.
    """
    environment = os.environ | {
        "BENCHMARK_STARTED": repr(time.time()),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    lines = done.stdout.strip().splitlines()
    if done.returncode == 0 and lines and lines[-1].startswith("{"):
        record: Record = json.loads(lines[-1])
        return record
    raise RuntimeError(f"{' '.join(command)}\nexit {done.returncode}\n{done.stdout[-1000:]}{done.stderr[-3000:]}")


def run_alternating(
    sides: Mapping[str, Callable[[int], Sequence[str]]], rounds: int, describe: Callable[[Record], str]
) -> dict[str, list[Record]]:
    """Run every side once in each round, in the order given.

    Args:
        sides: For each side, its command for a round (counted from 0).
        rounds: How many.
        describe: What to tell the user on stderr of a run that has ended.
    """
    records: dict[str, list[Record]] = {side: [] for side in sides}
    for number in range(rounds):
        for side, command in sides.items():
            record = run_side(command(number))
            records[side].append(record)
            print(f"round {number + 1}/{rounds}  {side:<10} {describe(record)}", file=sys.stderr, flush=True)
    return records
