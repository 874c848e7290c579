"""Items a second and peak memory of an evaluation: the lab's short questions, as `posttrain eval` measures them.

    python -m benchmarks.evaluation_speed ARTIFACT --items 1000 5000 20000

Each size is a process of its own that loads the policy, draws greedily, scores, and writes every item; its seconds hold
all of that, from the command to the last figure.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from pathlib import Path

from benchmarks.evaluation_runs import measure, measure_sizes
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("policy", help="an artifact")
    parser.add_argument("--items", type=int, nargs="+", default=[1000, 5000, 20000])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--measure", nargs=2, metavar=("SUITE", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.policy, *arguments.measure, task="questions", metric="correct")
        return
    command = [sys.executable, "-m", "benchmarks.evaluation_speed", arguments.policy, "--measure"]
    measure_sizes(command, arguments.items, arguments.repeats, write_suite)


if __name__ == "__main__":
    main()
