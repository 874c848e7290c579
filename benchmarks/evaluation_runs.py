"""Runs an evaluation of growing numbers of items, each size in processes of its own, and prints what each took."""

from __future__ import annotations

import json
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.alternate import run_side
from benchmarks.tables import format_table
from posttrain.core.progress import SilentProgress


def measure(model: str, suite: str, folder: str, *, task: str, metric: str | None = None) -> None:
    """Measure a suite's task in this process; print seconds, peak memory and a metric's figures (None: the first)."""
    began = time.perf_counter()
    from posttrain.pipeline.evaluating import EvaluationChoice, evaluate_model
    from posttrain.pipeline.suites import read_suites

    choice = EvaluationChoice(read_suites([suite]), folder=Path(folder))
    evaluated = evaluate_model(model, choice, SilentProgress(), lambda: False)
    figures = next(one for one in evaluated.measured[task].metrics if metric in (None, one["name"]))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": time.perf_counter() - began, "peak_mb": peak, **figures}, default=str))


def measure_sizes(
    command: Sequence[str], counts: Sequence[int], repeats: int, write_suite: Callable[[Path, int], Path]
) -> None:
    """Print a table of seconds, items a second, peak memory and the metric for each number of items.

    Args:
        command: Calls `measure` with a suite's file and a folder, which are put behind it.
        counts: Numbers of items.
        repeats: Processes for each.
        write_suite: Writes a suite of so many items into a folder, and returns its file.
    """
    lines = []
    for count in counts:
        found = []
        for _ in range(repeats):
            with tempfile.TemporaryDirectory() as name:
                found.append(run_side([*command, str(write_suite(Path(name), count)), name]))
        seconds, peaks = ([one[key] for one in found] for key in ("seconds", "peak_mb"))
        middle = statistics.median(seconds)
        lines.append(
            [
                f"{found[0]['n']:,}",
                f"{middle:.1f} ({min(seconds):.1f} to {max(seconds):.1f})",
                f"{count / middle:.0f}",
                f"{statistics.median(peaks):.1f} ({min(peaks):.1f} to {max(peaks):.1f})",
                f"{100 * found[0]['value']:.2f}",
            ]
        )
        print(lines[-1], flush=True)
    print(format_table(["items", "seconds", "items/s", "peak MB", "value %"], lines))
