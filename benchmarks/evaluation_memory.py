"""Peak memory of an evaluation by log-likelihood, many items beside few: what lies in memory must not grow with them.

    python -m benchmarks.evaluation_memory MODEL ROWS.jsonl.gz --benchmark mmlu --items 140 14042

Each size is a process of its own, which measures the model from the command to the last figure. Fewer rows than there
are lie at even distances in the file, so that they are as long as all of them.
"""

from __future__ import annotations

import argparse
import gzip
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.tables import format_table
from posttrain.core.progress import SilentProgress


def write_suite(folder: Path, rows: Path, benchmark: str, count: int, changes: dict[str, object]) -> Path:
    """Write so many rows of a file in a benchmark's form, and a suite of one task over them."""
    opened = gzip.open if rows.suffix == ".gz" else open
    with opened(rows, "rb") as file:
        lines = file.read().splitlines(keepends=True)
    chosen = lines if count >= len(lines) else [lines[n * len(lines) // count] for n in range(count)]
    (folder / "rows.jsonl").write_bytes(b"".join(chosen))
    task = {"name": "rows", "benchmark": benchmark, "data": {"source": "rows.jsonl"}, **changes}
    suite = folder / "suite.yaml"
    suite.write_text(json.dumps({"schema": 1, "name": "rows", "evaluate": [task]}), encoding="utf-8")
    return suite


def measure(model: str, suite: Path, folder: Path) -> None:
    """Measure the model in this process and print seconds, peak memory and items."""
    began = time.perf_counter()
    from posttrain.pipeline.evaluating import EvaluationChoice, evaluate_model
    from posttrain.pipeline.suites import read_suites

    choice = EvaluationChoice(read_suites([str(suite)]), folder=folder)
    evaluated = evaluate_model(model, choice, SilentProgress(), lambda: False)
    figures = evaluated.measured["rows"].metrics[0]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": time.perf_counter() - began, "peak_mb": peak, **figures}, default=str))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a model")
    parser.add_argument("rows", type=Path, help="the published file, JSON Lines, plain or .gz")
    parser.add_argument("--benchmark", default="mmlu")
    parser.add_argument("--set", default="{}", metavar="JSON", help="other keys of the task")
    parser.add_argument("--items", type=int, nargs="+", default=[140, 14042])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--measure", nargs=2, metavar=("SUITE", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.model, *map(Path, arguments.measure))
        return
    lines = []
    for count in arguments.items:
        found = []
        for _ in range(arguments.repeats):
            with tempfile.TemporaryDirectory() as name:
                suite = write_suite(Path(name), arguments.rows, arguments.benchmark, count, json.loads(arguments.set))
                command = [sys.executable, "-m", "benchmarks.evaluation_memory", arguments.model, str(arguments.rows)]
                done = subprocess.run(
                    [*command, "--measure", str(suite), name], capture_output=True, text=True, check=False
                )
                if done.returncode:
                    sys.exit(done.stderr)
                found.append(json.loads(done.stdout.splitlines()[-1]))
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


if __name__ == "__main__":
    main()
