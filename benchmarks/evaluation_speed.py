"""Items a second and peak memory of an evaluation: the lab's short questions, as `posttrain eval` measures them.

    python -m benchmarks.evaluation_speed ARTIFACT --items 1000 5000 20000

Each size is a process of its own that loads the policy, draws greedily, scores, and writes every item; its seconds hold
all of that, from the command to the last figure.
"""

from __future__ import annotations

import argparse
import itertools
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
from posttrain.lab.source import question_row
from posttrain.lab.tasks import ANSWER_GROUPS, choose_skills, generate_questions
from posttrain.lab.world import WORLD_SEED, build_world


def write_suite(folder: Path, count: int) -> Path:
    """Write so many questions and a suite of one task over them."""
    questions = generate_questions(choose_skills(ANSWER_GROUPS), build_world(), "held_out", count, WORLD_SEED)
    rows = [json.dumps(question_row(question)) for question in itertools.islice(questions, count)]
    (folder / "questions.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    task = {"name": "questions", "data": {"source": "questions.jsonl"}, "scorer": "lab", "max_new_tokens": 96}
    suite = folder / "suite.yaml"
    suite.write_text(json.dumps({"schema": 1, "name": "short", "evaluate": [task]}), encoding="utf-8")
    return suite


def measure(policy: str, suite: str, folder: str) -> None:
    """Measure the policy in this process and print seconds, peak memory and items."""
    began = time.perf_counter()
    from posttrain.pipeline.evaluating import EvaluationChoice, evaluate_model
    from posttrain.pipeline.suites import read_suite

    choice = EvaluationChoice(read_suite(suite), folder=Path(folder))
    evaluated = evaluate_model(policy, choice, SilentProgress(), lambda: False)
    [figures] = [one for one in evaluated.measured["questions"].metrics if one["name"] == "correct"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": time.perf_counter() - began, "peak_mb": peak, **figures}, default=str))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("policy", help="an artifact")
    parser.add_argument("--items", type=int, nargs="+", default=[1000, 5000, 20000])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--measure", nargs=2, metavar=("SUITE", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.policy, *arguments.measure)
        return
    lines = []
    for count in arguments.items:
        found = []
        for _ in range(arguments.repeats):
            with tempfile.TemporaryDirectory() as name:
                suite = write_suite(Path(name), count)
                command = [sys.executable, "-m", "benchmarks.evaluation_speed", arguments.policy, "--measure"]
                done = subprocess.run([*command, str(suite), name], capture_output=True, text=True, check=True)
                found.append(json.loads(done.stdout.splitlines()[-1]))
        seconds = [one["seconds"] for one in found]
        middle = statistics.median(seconds)
        lines.append(
            [
                f"{found[0]['n']:,}",
                f"{middle:.1f} ({min(seconds):.1f} to {max(seconds):.1f})",
                f"{count / middle:.0f}",
                f"{statistics.median(one['peak_mb'] for one in found):.0f}",
                f"{100 * found[0]['value']:.1f}",
            ]
        )
        print(lines[-1], flush=True)
    print(format_table(["items", "seconds", "items/s", "peak MB", "correct %"], lines))


if __name__ == "__main__":
    main()
