"""Peak memory of an evaluation by log-likelihood, many items beside few: what lies in memory must not grow with them.

    python -m benchmarks.evaluation_memory MODEL ROWS.jsonl.gz --benchmark mmlu --items 140 14042

Each size is a process of its own, which measures the model from the command to the last figure. Fewer rows than there
are lie at even distances in the file, so that they are as long as all of them.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
from pathlib import Path

from benchmarks.evaluation_runs import measure, measure_sizes


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
        measure(arguments.model, *arguments.measure, task="rows")
        return
    command = [sys.executable, "-m", "benchmarks.evaluation_memory", arguments.model, str(arguments.rows), "--measure"]
    changes = json.loads(arguments.set)
    measure_sizes(
        command,
        arguments.items,
        arguments.repeats,
        lambda folder, count: write_suite(folder, arguments.rows, arguments.benchmark, count, changes),
    )


if __name__ == "__main__":
    main()
