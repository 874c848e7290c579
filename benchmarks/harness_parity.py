"""The same tasks by this project and by lm-evaluation-harness's own back-end for transformers, on real rows.

    python -m benchmarks.harness_parity --documents 1000
    python -m benchmarks.harness_parity MODEL --documents 200 --tasks arc_easy_rows gsm8k_rows

Rows are ARC-Easy (multiple choice), TinyStories (likelihood of a word and of whole texts) and GSM8K (drawn answers),
from the folder that POSTTRAIN_DATA names. Both compute in float32 on the CPU; the harness takes one row at a time, so
that no padding moves its numbers. A difference of a metric above 1 is a share of it.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness_tasks import (
    CHOICES,
    DRAWN,
    LAST_WORD,
    ROLLING,
    build_task,
    compare,
    measure,
    measure_by_harness,
    write_task,
)
from benchmarks.tables import format_table

STORIES = Path("tiny-llama-stories260k") / "hf"
TASKS = ("arc_easy_rows", "story_words_rows", "stories_rows", "gsm8k_rows")


def write_real_tasks(folder: Path, data: Path) -> None:
    """Write the YAML of `TASKS` over the public rows below a folder of data."""
    stories = data / "text" / "tinystories_1000.jsonl.gz"
    choices = CHOICES.format(question="{{query}}", right="gold")
    write_task(folder, TASKS[0], "multiple_choice", data / "gates" / "arc_easy.jsonl.gz", choices)
    write_task(folder, TASKS[1], "loglikelihood", stories, LAST_WORD.format(words=40))
    write_task(folder, TASKS[2], "loglikelihood_rolling", stories, ROLLING.format())
    drawn = DRAWN.format(question="Question: {{question}}", target="{{answer.split('#### ')[1]}}", tokens=48)
    write_task(folder, TASKS[3], "generate_until", data / "math" / "gsm8k_test.jsonl", drawn)


def run_both(model: Path, data: Path, folder: Path, names: Sequence[str], documents: int) -> list[list[str]]:
    """Return a line a task: documents, seconds of both, and the largest differences."""
    write_real_tasks(folder, data)
    lines = []
    for name in names:
        began = time.perf_counter()
        ours = measure(model, folder, build_task(name, limit=documents)).measured[name.replace("_", "-")]
        between = time.perf_counter()
        theirs = measure_by_harness(model, folder, [name], limit=documents)
        ended = time.perf_counter()
        worst = compare({name: ours}, theirs, [name])
        first = ours.metrics[0]
        lines.append(
            [name, f"{len(ours.problem_ids):,}", f"{first['name']} {first['value']:.4f}", f"{worst['metrics']:.1e}",
             f"{worst['loglikelihoods']:.1e}", f"{between - began:.1f}", f"{ended - between:.1f}"]
        )  # fmt: skip
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?", help="a folder in Hugging Face format; none: stories260k")
    parser.add_argument("--documents", type=int, default=200)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--data", type=Path, default=os.environ.get("POSTTRAIN_DATA", "../shared/data"))
    arguments = parser.parse_args()
    data = Path(arguments.data).resolve()
    with tempfile.TemporaryDirectory() as folder:
        model = arguments.model or data / STORIES
        lines = run_both(model.resolve(), data, Path(folder), arguments.tasks, arguments.documents)
    columns = ["task", "documents", "item", "metrics differ", "nats differ", "seconds", "seconds of the harness"]
    print(format_table(columns, lines))


if __name__ == "__main__":
    main()
